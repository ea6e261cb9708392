"""State dicts of published models into this network: names and shapes are translated, and every key is accounted for.

Nothing is matched by silence: a report lists what was loaded, what the network still lacks, what the file has beyond it, and which
shapes differ; `LoadReport.require_complete` turns any of them into an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ltgs.depth.net.model import StereoFusionNet
from ltgs.errors import FormatError
from ltgs.io.weights import read_weights

Tensors = dict[str, Tensor]
MONO_PREFIX = "cnet.depth_anything."
"""Where the authors' checkpoints keep the frozen monocular encoder."""


@dataclass
class LoadReport:
    """What became of every key."""

    loaded: list[str] = field(default_factory=list)
    """Keys of the network that got a value."""
    missing: list[str] = field(default_factory=list)
    """Keys of the network without a value in the file."""
    unexpected: list[str] = field(default_factory=list)
    """Keys of the file that the network has no place for."""
    mismatched: list[str] = field(default_factory=list)
    """Keys whose shapes differ, with both shapes."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Keys of the file that are known not to be needed, with the reason."""

    @property
    def complete(self) -> bool:
        """Every key of the network was loaded and every key of the file was used or is known to be needless."""
        return not (self.missing or self.unexpected or self.mismatched)

    def summary(self, limit: int = 8) -> str:
        """Counts and the first names of each list."""
        parts = [f"{len(self.loaded)} loaded", f"{len(self.dropped)} not needed"]
        for title, names in (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.mismatched)):
            if names:
                more = f" and {len(names) - limit} more" if len(names) > limit else ""
                parts.append(f"{len(names)} {title}: {', '.join(names[:limit])}{more}")
        return "; ".join(parts)

    def require_complete(self, where: str) -> LoadReport:
        """Itself, if complete.

        Raises:
            FormatError: some key does not match.
        """
        if not self.complete:
            raise FormatError(f"{where}: these weights are for another network ({self.summary()}). Choose the matching preset.")
        return self


def load_tensors(net: nn.Module, tensors: Mapping[str, Tensor], dropped: dict[str, str] | None = None) -> LoadReport:
    """Copy tensors of equal name and shape into the network; values take the network's type and device.

    Counters of batch norms (`num_batches_tracked`) may be absent: frozen statistics do not use them.
    """
    report = LoadReport(dropped=dict(dropped or {}))
    own = net.state_dict()
    accepted: Tensors = {}
    for name, value in tensors.items():
        if name not in own:
            report.unexpected.append(name)
        elif own[name].shape != value.shape:
            report.mismatched.append(f"{name} {list(value.shape)} instead of {list(own[name].shape)}")
        else:
            accepted[name] = value
    differing = {entry.split(" ")[0] for entry in report.mismatched}
    missing = [n for n in own if n not in accepted and n not in differing and not n.endswith("num_batches_tracked")]
    with torch.no_grad():
        for name, value in accepted.items():
            own[name].copy_(value)
    report.loaded, report.missing = sorted(accepted), missing
    return report


def load_own(net: nn.Module, path: Path | str) -> tuple[LoadReport, dict[str, str]]:
    """Weights written by this project's training: the report, complete, and the text header.

    Raises:
        InputError, FormatError: the file cannot be read, or is for another network.
    """
    tensors, header = read_weights(path)
    return load_tensors(net, tensors).require_complete(str(path)), header


def load_authors(net: StereoFusionNet, tensors: Mapping[str, Tensor]) -> tuple[LoadReport, Tensors]:
    """The authors' checkpoint (Yao et al., ICCV 2025) into the `paper` preset with the published sign.

    Returns:
        report, and the tensors of the monocular encoder with Depth Anything V2's own names (see `depth_anything_names`).

    Raises:
        ValueError: the network's recurrent state has the other sign.
    """
    _need_published_sign(net)
    plain = _without_prefix(tensors)
    mono = {name.removeprefix(MONO_PREFIX): value for name, value in plain.items() if name.startswith(MONO_PREFIX)}
    rest = {name: value for name, value in plain.items() if not name.startswith(MONO_PREFIX)}
    rest, dropped = _drop_needless(rest)
    for name in [n for n in rest if n.startswith("lbp_encoder.lbp_conv")]:
        dropped[name] = "the ordering map has no parameters here"
        del rest[name]
    return load_tensors(net, rest, dropped), mono


def load_raft_stereo(net: StereoFusionNet, tensors: Mapping[str, Tensor]) -> LoadReport:
    """RAFT-Stereo's checkpoint (Lipson et al., 3DV 2021) into the `raft_stereo` preset, or into any network that shares its parts.

    Its state is a flow of two channels whose vertical one is always zero: the vertical inputs and outputs are left out, and the
    encoded motion keeps its layout (126 features, flow x, flow y there; 127 features, state here) by a feature that is always zero.

    Raises:
        ValueError: the network's recurrent state has the other sign.
        FormatError: the flow layers do not have RAFT-Stereo's shapes.
    """
    _need_published_sign(net)
    rest, dropped = _drop_needless(_without_prefix(tensors))
    return load_tensors(net, _one_channel(rest), dropped)


def _need_published_sign(net: StereoFusionNet) -> None:
    if net.config.disparity_sign != -1:
        raise ValueError("published weights expect a negative-disparity state: build the network with published_sign=True.")


def _without_prefix(tensors: Mapping[str, Tensor]) -> Tensors:
    """Names without the prefix that torch's data parallelism adds."""
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _drop_needless(tensors: Mapping[str, Tensor]) -> tuple[Tensors, dict[str, str]]:
    """Leave out `norm3`, a second name of the norm inside of `downsample`, where both hold the same numbers."""
    kept, dropped = dict(tensors), {}
    for name in tensors:
        twin = name.replace(".norm3.", ".downsample.1.")
        if twin != name and twin in tensors and torch.equal(tensors[twin], tensors[name]):
            dropped[name] = f"second name of {twin}"
            del kept[name]
    return kept, dropped


def _one_channel(tensors: Tensors) -> Tensors:
    out: Tensors = {}
    motion = _motion_channels(tensors)
    for name, value in tensors.items():
        new = name.replace("update_block.flow_head.", "update_block.disp_head.")
        if new == "update_block.disp_head.conv2.weight" or new == "update_block.disp_head.conv2.bias":
            value = value[:1]
        elif new == "update_block.encoder.convf1.weight":
            value = value[:, :1]
        elif new.startswith("update_block.encoder.conv."):
            value = torch.cat([value, torch.zeros_like(value[:1])])
        elif new.startswith("update_block.gru08.conv") and new.endswith(".weight"):
            value = _swap_flow(value, motion)
        out[new] = value
    return out


def _motion_channels(tensors: Tensors) -> int:
    """Number of encoded-motion features beside the flow, proven against the layers around."""
    conv, head = tensors.get("update_block.encoder.conv.weight"), tensors.get("update_block.flow_head.conv2.weight")
    first = tensors.get("update_block.encoder.convf1.weight")
    if conv is None or head is None or first is None or head.shape[0] != 2 or first.shape[1] != 2:
        raise FormatError("These weights have no two-channel flow layers, so they are not RAFT-Stereo's. Check the file.")
    return int(conv.shape[0])


def _swap_flow(weight: Tensor, motion: int) -> Tensor:
    """Inputs [hidden, features, flow x, flow y, ...] -> [hidden, features, zero feature, flow x, ...]."""
    x = weight.shape[0] + motion
    out = weight.clone()
    out[:, x], out[:, x + 1] = weight[:, x + 1], weight[:, x]
    return out
