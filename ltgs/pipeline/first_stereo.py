"""Stereo between the first visit's photos: more points to start training from, and depths to hold it to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.depth.agree import DepthView
from ltgs.depth.pairs import PairConfig, choose_stereo_pairs
from ltgs.depth.rig import RigConfig, fuse_rig
from ltgs.depth.sparse import sparse_prior
from ltgs.depth.types import Map, Source
from ltgs.depth.views import measure_view
from ltgs.errors import InputError
from ltgs.optim.guide import DepthGuide
from ltgs.optim.initialize import TrainingPhoto

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FirstStereoConfig:
    """Stereo between the photos of the first visit; measured where `points` or `train.depth_weight` asks for it."""

    points: bool = False
    """Start from measured points instead of pixels with interpolated depth."""
    partners: int = 2
    """Photos that each photo is matched with."""
    stride: int = 3
    """Every so many pixels of a photo become a point."""
    min_confidence: float = 0.5
    """Less trusted matches are dropped."""
    floor: float = 0.25
    """Standard deviation of a match with confidence 1, pixels."""

    def words(self, depth_weight: float) -> str:
        """What training used of it, for the record of the visit; empty if nothing.

        Args:
            depth_weight: see `TrainConfig.depth_weight`.
        """
        used = [name for name, on in (("points to start from", self.points), ("depths to hold to", depth_weight > 0)) if on]
        return f"; stereo between the photos for {' and '.join(used)}" if used else ""


@dataclass(frozen=True)
class FirstStereo:
    """What the photos of the first visit measure of each other."""

    views: tuple[DepthView, ...]
    """Per photo; all NaN without a usable partner."""
    certainty: tuple[Map, ...]
    """Per photo [H, W] in [0, 1]; 0 where nothing was measured."""
    pairs: int
    refused: tuple[str, ...]
    """Pairs that were left out, with the reason."""

    def guided(self, photos: Sequence[TrainingPhoto]) -> list[TrainingPhoto]:
        """The photos with their measured depths."""
        out = []
        for photo, view, certainty in zip(photos, self.views, self.certainty, strict=True):
            guide = DepthGuide((1 / view.depth).astype(np.float32), certainty) if certainty.any() else None
            out.append(replace(photo, guide=guide))
        return out

    def points(self, photos: Sequence[TrainingPhoto], stride: int, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """At most `count` points [M, 3] that no more photos look through than measure, and their colours [M, 3] in [0, 1]."""
        xyz, rgb = fuse_rig(self.views, [p.rgb for p in photos], RigConfig(stride=stride))
        keep = np.sort(rng.permutation(len(xyz))[: max(0, count)])
        return xyz[keep], rgb[keep] / 255.0


def measure_first_visit(
    photos: Sequence[TrainingPhoto], xyz: Array, config: FirstStereoConfig | None = None, *, progress: Progress = silent
) -> FirstStereo:
    """Depth of every photo from its best partners.

    Args:
        photos: posed photos of one visit.
        xyz: [P, 3] points of structure from motion: they choose the partners, bound the search and are the prior.
        config: settings.
        progress: reports.
    """
    config = config or FirstStereoConfig()
    cameras, known = [p.camera for p in photos], [_sparse_depth(p, xyz) for p in photos]
    depth = [np.full(k.shape, np.nan, np.float32) for k in known]
    sigma, certainty = [d.copy() for d in depth], [np.zeros(d.shape, np.float32) for d in depth]
    refused = []
    pairs = choose_stereo_pairs(cameras, known, config=PairConfig(partners=config.partners))
    for done, pair in enumerate(pairs):
        a, b = pair.first, pair.second
        progress(ProgressEvent("stereo", done + 1, len(pairs), f"{cameras[a].name} with {cameras[b].name}"))
        try:
            found = measure_view((photos[a].rgb, photos[b].rgb), (cameras[a], cameras[b]), depth=known[a])
        except InputError as error:
            refused.append(str(error))
            continue
        there, source = found.at_view(cameras[a])
        trust = found.warped(found.confidence, cameras[a])
        new = (source == Source.STEREO) & (trust >= config.min_confidence) & (trust > certainty[a])
        off = found.pair.depth_deviation(np.where(new, there, 1), config.floor / np.maximum(trust, config.min_confidence))
        depth[a][new], sigma[a][new], certainty[a][new] = there[new], off[new], trust[new]
    views = tuple(DepthView(c, d, s) for c, d, s in zip(cameras, depth, sigma, strict=True))
    return FirstStereo(views, tuple(certainty), len(pairs), tuple(refused))


def _sparse_depth(photo: TrainingPhoto, xyz: Array) -> Map:
    """[H, W] depth between sparse points, NaN where they say nothing."""
    try:
        inverse, known = sparse_prior(xyz, photo.camera)
    except InputError:
        return np.full(photo.rgb.shape[:2], np.nan, np.float32)
    return np.where(known, 1 / np.where(known, inverse, 1), np.nan).astype(np.float32)
