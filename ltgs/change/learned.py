"""Learned witnesses of change, optional: DINOv2 features as a third cue, SAM 2 outlines for instances. Off unless folders are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.change.evidence import EvidenceConfig, change_mask
from ltgs.change.harmonise import robust_scale
from ltgs.change.learned_models import DINO_TYPES, SAM_TYPES, DinoFeatures, ModelFolder, SamMasks, feature_distance, open_folder
from ltgs.core.views import ComparedView
from ltgs.errors import UsageError

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
_ROUNDING = 1e-5
"""Cosine distances below this are rounding of single precision."""


@dataclass(frozen=True)
class LearnedConfig:
    """Local model folders and how far they are trusted. No published weights were at hand to tune these numbers with."""

    dino: str | None = None
    """Folder of DINOv2 (config.json, model.safetensors); None = no feature cue."""
    sam: str | None = None
    """Folder of SAM 2; None = outlines stay those of the change mask."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes CUDA if there is a device."""
    share: float = 0.5
    """Weight of the feature cue next to the weight-free score; it hardly reacts to light but sees whole patches only."""
    level: float = 3.0
    """Standard deviations of the logarithmic feature distance that weigh as much as score 1, and most."""
    floor: float = 0.5
    """Smallest standard deviation of the logarithmic distance: unchanged pixels are taken to vary by a factor of 1.6 at least."""
    max_side: int = 1036
    """Long side of the images given to DINOv2, pixels: twice that of its last training stage (518)."""
    min_iou: float = 0.5
    """An outline is taken if it overlaps the weight-free mask at least this much; so its area is within 1/2 and 2 times the mask's."""

    def __post_init__(self) -> None:
        if self.dino == "" or self.sam == "":
            raise ValueError("update.learned: an empty folder name. Leave the setting out, or give the model's folder.")
        if not (0 <= self.share <= 0.7 and self.level > 0 and self.floor > 0 and self.max_side >= 14 and 0 <= self.min_iou <= 1):
            # With a share above 0.75 features alone would pass the lower threshold of `change_mask`.
            raise ValueError(
                "update.learned: share must be in [0, 0.7], level and floor positive, max_side at least 14, min_iou in [0, 1]."
            )


@dataclass(frozen=True)
class Outline:
    """What became of one mask."""

    mask: Mask
    """[H, W]"""
    iou: float
    """Overlap of SAM 2's best outline with the weight-free mask; 0 where there was nothing to prompt with."""
    taken: bool
    """The mask is SAM 2's; otherwise it is the weight-free one."""


def check_learned(config: LearnedConfig) -> None:
    """Look at the folders before hours are spent on what needs them.

    Raises:
        MissingDependency: transformers is not installed.
        UsageError: CUDA is asked for and absent.
        InputError, FormatError: a folder is not what it should be.
    """
    _folders(config)
    _device(config)


def _folders(config: LearnedConfig) -> tuple[ModelFolder | None, ModelFolder | None]:
    dino = None if config.dino is None else open_folder(config.dino, DINO_TYPES, what="DINOv2")
    sam = None if config.sam is None else open_folder(config.sam, SAM_TYPES, what="SAM 2")
    return dino, sam


def _device(config: LearnedConfig) -> str:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("update.learned.device=cuda: torch sees no CUDA device. Use auto or cpu.")
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


class LearnedCues:
    """The loaded networks of one visit, with what they have seen already."""

    def __init__(self, config: LearnedConfig, *, evidence: EvidenceConfig | None = None) -> None:
        """Load what the configuration names.

        Args:
            evidence: how a score becomes a mask; the weight-free one.

        Raises:
            see `check_learned`.
        """
        self.config, self.evidence = config, evidence or EvidenceConfig()
        dino, sam = _folders(config)
        device = _device(config)
        self.dino = None if dino is None else DinoFeatures(dino, device=device, max_side=config.max_side)
        self.sam = None if sam is None else SamMasks(sam, device=device)
        self.tried, self.taken = 0, 0
        # The photo is kept beside what was made of it, so that its id cannot pass to another array.
        self._features: dict[int, tuple[Image, Tensor]] = {}
        self._embeddings: dict[int, tuple[Image, list[Tensor]]] = {}

    def rescore(self, view: ComparedView) -> ComparedView:
        """A compared view with the features' distance in its score and mask; the view itself without DINOv2."""
        if self.dino is None:
            return view
        key = id(view.photo)
        if key not in self._features:
            self._features[key] = (view.photo, self.dino.features(view.photo))
        distance = feature_distance(self._features[key][1], self.dino.features(view.shown), view.photo.shape[:2])
        known = view.alpha > self.evidence.min_alpha
        score = combined_score(view.score, feature_score(distance, known & ~view.mask, config=self.config), known, self.config.share)
        return replace(view, score=score, mask=change_mask(score, config=self.evidence))

    def outlines(self, photo: Image, masks: Sequence[Mask]) -> list[Outline]:
        """The instances of one photo ([H, W] each, may be empty) with outlines by SAM 2 where these agree with the masks."""
        seen = [i for i, m in enumerate(masks) if m.any()]
        out = [Outline(m, 0.0, False) for m in masks]
        if self.sam is None or not seen:
            return out
        if id(photo) not in self._embeddings:
            self._embeddings[id(photo)] = (photo, self.sam.embed(photo))
        proposals = self.sam.candidates(self._embeddings[id(photo)][1], [masks[i] for i in seen])
        for i, candidates in zip(seen, proposals, strict=True):
            others = np.any([masks[j] for j in seen if j != i], axis=0) if len(seen) > 1 else np.zeros_like(masks[i])
            out[i] = choose_outline(masks[i], candidates & ~(others & ~masks[i]), self.config.min_iou)
        self.tried += len(seen)
        self.taken += sum(o.taken for o in out)
        return out

    def method(self, weight_free: Mapping[str, str]) -> dict[str, str]:
        """How changes and objects were found, for the record of the visit."""
        out = dict(weight_free)
        if self.dino is not None:
            width = int(self.dino.model.config.hidden_size)
            cue = f"DINOv2 feature distance ({self.dino.folder.name}, {width} channels)"
            out["change"] = f"learned: {out['change'].removeprefix('weight-free: ')} + {cue}"
        if self.sam is not None:
            kept = self.tried - self.taken
            rest = f", {kept} stayed weight-free (overlap below {self.config.min_iou:g})" if kept else ""
            outlines = f"SAM 2 outlines ({self.sam.folder.name}): {self.taken} of {self.tried} masks{rest}"
            out["objects"] = f"learned: {out['objects'].removeprefix('weight-free: ')} + {outlines}"
        return out


def feature_score(distance: Image, unchanged: Mask, *, config: LearnedConfig | None = None) -> Image:
    """[H, W] in [-1, 1], how far a feature distance stands out of the photo's own unchanged pixels; 1 weighs as much as score 1.

    What distance to expect was not measured while the scene was trained: a photo's unchanged pixels are its own reference, by the
    median and spread of the distance's logarithm, since distances vary by factors: they are large wherever the render is a little
    blurred. Negative where photo and render are more alike than usual. Bounded, because a patch beside a changed one differs too:
    features confirm or doubt what the cues see pixel by pixel, alone they mark nothing.

    Args:
        distance: [H, W] cosine distances.
        unchanged: [H, W] known pixels without weight-free change; all pixels serve if hardly any is marked.
    """
    config = config or LearnedConfig()
    logarithm = np.log(np.maximum(distance, 0) + _ROUNDING)
    reference = logarithm[unchanged] if unchanged.sum() >= 50 else logarithm.ravel()
    excess = logarithm - float(np.median(reference))
    std = max(robust_scale(reference - float(np.median(reference))), config.floor)
    return np.clip(excess / std / config.level, -1, 1).astype(np.float32)


def combined_score(score: Image, features: Image, known: Mask, share: float) -> Image:
    """[H, W] weight-free score and feature score as one, of the same spread; 0 where the scene is unknown."""
    total = (score + np.float32(share) * features) / np.float32(np.sqrt(1 + share**2))
    return np.where(known, np.clip(total, 0, 10), 0).astype(np.float32)


def choose_outline(mask: Mask, candidates: NDArray[np.bool_], min_iou: float) -> Outline:
    """The candidate ([K, H, W]) that overlaps a mask most, if that is enough; otherwise the mask itself.

    The weight-free mask decides which of several readings (a part, the whole, more) is meant.
    """
    both = (candidates & mask).sum((1, 2))
    iou = both / np.maximum((candidates | mask).sum((1, 2)), 1)
    best = int(iou.argmax())
    taken = bool(iou[best] >= min_iou and both[best] > 0)
    return Outline(candidates[best] if taken else mask, float(iou[best]), taken)
