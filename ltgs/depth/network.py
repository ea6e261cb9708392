"""Trained stereo networks from weight files: which network a file is for, and its disparity as a `StereoResult`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ltgs.depth.fill import background_fill
from ltgs.depth.fuse import STRIP_MARGIN, StereoConfig, check_prior, match_stereo, photos_of, semi_global, strips
from ltgs.depth.net.config import NET_PRESETS, NetConfig, paper_config, raft_stereo_config
from ltgs.depth.net.depth_anything import SIZES, guess_size
from ltgs.depth.net.heads import FusionHeads
from ltgs.depth.net.loaders import MONO_PREFIX, load_authors, load_raft_stereo, load_tensors
from ltgs.depth.net.model import MonoPrior, StereoFusionNet
from ltgs.depth.pictures import Photo
from ltgs.depth.priors import DepthAnything, load_depth_anything
from ltgs.depth.sgm import TwoWay, consistent
from ltgs.depth.types import DisparityRange, Map, Mask, Source, StereoResult
from ltgs.errors import FormatError, UsageError
from ltgs.io.weights import read_weights

STRIP_PIXELS = 1_500_000
"""Photos are given to a network in strips of about this size; bounds the memory."""


@dataclass(frozen=True)
class StereoNetwork:
    """A network with its weights."""

    name: str
    """For reports: network and where its weights come from."""
    module: nn.Module
    """`StereoFusionNet`, or `FusionHeads` on top of semi-global matching."""
    encoder: DepthAnything | None = None
    """Frozen monocular encoder, for networks that need one."""

    @property
    def takes_prior(self) -> bool:
        """It fuses a prior map itself; otherwise the weight-free fusion does it afterwards."""
        return isinstance(self.module, FusionHeads) or (isinstance(self.module, StereoFusionNet) and self.module.refinement is not None)

    @property
    def needs_encoder(self) -> bool:
        """Its context comes from a monocular encoder."""
        return isinstance(self.module, StereoFusionNet) and self.module.config.context == "mono"


def load_network(
    path: Path | str, *, preset: str | None = None, published_sign: bool = False, mono: Path | str | None = None
) -> StereoNetwork:
    """The network that a weight file is for, with its weights.

    Files of `ltgs depth train` name their network; the authors' and RAFT-Stereo's files are told by the names of their layers.

    Args:
        path: safetensors file.
        preset: "paper", "small", "raft_stereo" or "heads", for files that do not say.
        published_sign: of the training settings, for files that do not say.
        mono: file or folder of Depth Anything V2, for networks whose file does not hold their monocular encoder.

    Raises:
        InputError, FormatError: a file cannot be read or does not fit; UsageError: an encoder is needed and missing, or the preset
            is unknown or contradicts the file.
        MissingDependency: the encoder needs the transformers package.
    """
    tensors, header = read_weights(path)
    known = (*NET_PRESETS, "heads")
    if preset is not None and preset not in known:
        raise UsageError(f"there is no network {preset}. Choose one of {', '.join(known)}.")
    named = header.get("network")
    if named is not None and preset not in (None, named):
        raise UsageError(f"{path}: these weights are for the network {named}, not {preset}. Leave the preset out.")
    made = _published(tensors, path) if (preset or named) is None else _own(preset or str(named), tensors, header, published_sign, path)
    if made.needs_encoder and made.encoder is None:
        if mono is None:
            raise UsageError(f"{path}: this network needs Depth Anything V2 as well. Pass its weights with --mono.")
        made = StereoNetwork(made.name, made.module, load_depth_anything(weights_file(mono)))
    return made


def weights_file(path: Path | str) -> Path:
    """A weight file, or the only one of a folder.

    Raises:
        UsageError: a folder with none or several.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.safetensors"))
    if len(found) != 1:
        raise UsageError(f"{path}: holds {len(found)} .safetensors files; name one of them.")
    return found[0]


def _own(
    name: str, tensors: Mapping[str, Tensor], header: Mapping[str, str], published_sign: bool, path: Path | str
) -> StereoNetwork:
    """Weights of this project's training."""
    if name not in (*NET_PRESETS, "heads"):
        raise FormatError(f"{path}: is for a network {name!r} that this version does not know.")
    module: nn.Module = FusionHeads() if name == "heads" else StereoFusionNet(_config(name, header, published_sign, path))
    load_tensors(module, tensors).require_complete(str(path))
    return StereoNetwork(f"{name} network, {Path(path).name}", module.eval())


def _config(name: str, header: Mapping[str, str], published_sign: bool, path: Path | str) -> NetConfig:
    make: Any = NET_PRESETS[name]
    if name == "small":
        return NET_PRESETS["small"]()
    try:
        sign = published_sign or bool(json.loads(header.get("record", "{}")).get("config", {}).get("published_sign", False))
    except (ValueError, AttributeError) as error:
        raise FormatError(f"{path}: its training record is damaged ({error}).") from error
    config: NetConfig = make(published_sign=sign)
    return config


def _published(tensors: Mapping[str, Tensor], path: Path | str) -> StereoNetwork:
    """Weights of a published model, told by layers that only it has."""
    names = {name.removeprefix("module.") for name in tensors}
    file = Path(path).name
    if {"modulater.conv1.0.weight", "cnet.layer1.0.weight"} <= names:
        net = StereoFusionNet(paper_config(published_sign=True))
        report, mono = load_authors(net, tensors)
        report.require_complete(str(path))
        return StereoNetwork(f"paper network, {file}", net.eval(), _encoder(mono, path) if mono else None)
    if "update_block.flow_head.conv1.weight" in names:
        net = StereoFusionNet(raft_stereo_config())
        load_raft_stereo(net, tensors).require_complete(str(path))
        return StereoNetwork(f"RAFT-Stereo, {file}", net.eval())
    raise FormatError(
        f"{path}: does not say which network it is for, and its layers are neither the authors' nor RAFT-Stereo's (first: "
        f"{', '.join(sorted(names)[:3])}). Name the network with --config, or check the file."
    )


def _encoder(tensors: Mapping[str, Tensor], path: Path | str) -> DepthAnything:
    size = guess_size(tensors)
    if size is None:
        raise FormatError(f"{path}: its {MONO_PREFIX} layers are not Depth Anything V2 of the sizes {', '.join(SIZES)}.")
    encoder = DepthAnything(SIZES[size])
    encoder.load(tensors).require_complete(str(path))
    return encoder


def mono_prior(encoder: DepthAnything, left: Any) -> Map:
    """Relative inverse depth of a photo at its own size, [H, W], larger = nearer.

    Args:
        encoder: see `load_depth_anything`. left: the photo, any form that `match_stereo` takes.
    """
    photo, _ = photos_of(left, left)
    with torch.inference_mode():
        depth = encoder(_tensor(photo)).inverse_depth
        full = torch.nn.functional.interpolate(depth, photo.shape[:2], mode="bicubic", align_corners=False)
    return np.asarray(full[0, 0].numpy(), np.float32)


def match_network(
    network: StereoNetwork, left: Any, right: Any, *, prior: Any = None, prior_valid: Any = None,
    disparity_range: DisparityRange | tuple[int, int] | None = None, check: bool = True, config: StereoConfig | None = None,
) -> StereoResult:
    """`match_stereo` with a trained network; takes the same arguments and refuses the same pairs.

    The network runs in both directions; pixels on which both agree count as matched. A network without a fusion of its own leaves
    the prior to the weight-free registration and arbitration.

    Raises:
        InputError: see `match_stereo`; UsageError: a prior map for a network that makes its own, or none for heads.
    """
    module = network.module
    if prior is not None and network.needs_encoder:
        raise UsageError("This network makes its own prior with Depth Anything V2. Leave --prior out.")
    if prior is None and isinstance(module, FusionHeads):
        raise UsageError("Heads fuse semi-global matches with a prior. Pass --prior or --mono, or use --method sgm.")
    photos = photos_of(left, right)
    known = None if prior is None else check_prior(prior, prior_valid, photos[0].shape[:2])
    fused: list[Map] = []

    def matcher(greys: tuple[Photo, Photo], search: DisparityRange) -> TwoWay:
        if isinstance(module, FusionHeads):
            assert known is not None
            both = semi_global(greys, search, config.sgm if config else None)
            fused.append(_run_heads(module, photos, both, known))
            return both
        forward = _run(network, photos, known if network.takes_prior else None)
        fused.append(forward)
        mirrored = _run(network, (_mirror(photos[1]), _mirror(photos[0])), None)
        backward = np.ascontiguousarray(mirrored[:, ::-1])
        return TwoWay(forward, backward, consistent(forward, backward))

    own = network.takes_prior and (known is not None or network.needs_encoder)
    result = match_stereo(
        *photos, prior=None if own else prior, prior_valid=None if own else prior_valid, disparity_range=disparity_range, check=check,
        config=replace(config or StereoConfig(), straighten=False), matcher=matcher,
    )
    return _own_fusion(result, fused[0], known) if own else result


def _own_fusion(result: StereoResult, fused: Map, known: tuple[Map, Mask] | None) -> StereoResult:
    """The network's fused disparity with the labels of the check: unconfirmed pixels come from the prior."""
    from_prior = (result.source != Source.STEREO) & (True if known is None else known[1])
    source = np.where(from_prior, Source.PRIOR, result.source).astype(np.uint8)
    return replace(result, disparity=fused, valid=np.isfinite(fused), source=source)


def _run(network: StereoNetwork, photos: tuple[Photo, Photo], known: tuple[Map, Mask] | None) -> Map:
    """Disparity of the left view, strip by strip."""
    height, width = photos[0].shape[:2]
    pieces = []
    for rows, core in strips(height, width, STRIP_PIXELS, 2 * STRIP_MARGIN):
        prior: Any = network.encoder if network.needs_encoder else None
        if known is not None:
            prior = MonoPrior(_map(np.where(known[1], known[0], np.nan)[rows]), _map(known[1][rows]))
        with torch.inference_mode():
            out = network.module(_tensor(photos[0][rows]), _tensor(photos[1][rows]), prior)
        pieces.append(out.disparity[0, 0].numpy()[core])
    return np.concatenate(pieces).astype(np.float32)


def _run_heads(module: FusionHeads, photos: tuple[Photo, Photo], both: TwoWay, known: tuple[Map, Mask]) -> Map:
    height, width = photos[0].shape[:2]
    valid = both.consistent
    filled = background_fill(both.left, valid) if valid.any() else np.zeros_like(both.left)
    pieces = []
    for rows, core in strips(height, width, STRIP_PIXELS, 2 * STRIP_MARGIN):
        maps = [_map(x[rows]) for x in (filled, valid, known[0], known[1])]
        with torch.inference_mode():
            out = module(_tensor(photos[0][rows]), _tensor(photos[1][rows]), *maps)
        pieces.append(out.fused[0, 0].numpy()[core])
    return np.concatenate(pieces).astype(np.float32)


def _mirror(photo: Photo) -> Photo:
    return np.ascontiguousarray(photo[:, ::-1])


def _tensor(photo: Photo) -> Tensor:
    """[1, 3, H, W] in 0..255."""
    return torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1))).float()[None]


def _map(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))[None, None]
