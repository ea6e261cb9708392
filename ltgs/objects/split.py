"""Parts of new content that hang together by a neck: two things side by side whose outlines touch in the photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ltgs.core.views import ComparedView
from ltgs.objects.hull import HullInstance, in_image, project

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SplitConfig:
    """Cutting at necks."""

    cells: int = 48
    """Grid cells along the longest side of an instance."""
    levels: tuple[float, ...] = (0.25, 0.4, 0.55, 0.7)
    """Depths below the surface, relative to the greatest, at which the inside is looked at: what falls apart there is parts."""
    min_share: float = 0.15
    """Smallest part, share of the instance's points."""
    max_parts: int = 4
    """Most parts of one instance."""
    min_pixels: float = 4e-4
    """Smallest part, pixels in its best photo relative to the image area."""


def split_instance(instance: HullInstance, views: Sequence[ComparedView], config: SplitConfig | None = None) -> list[HullInstance]:
    """The parts of an instance, largest first; empty if it does not fall apart.

    Its hull is filled into a grid; the first level of depth below its surface at which several large pieces remain tells the
    parts, and every point belongs to the nearest piece.
    """
    config = config or SplitConfig()
    labels = _labels(instance.points, config)
    parts = [_part(instance, labels == k, views) for k in range(1, int(labels.max(initial=0)) + 1)]
    large = [p for p in parts if max(float(m.mean()) for m in p.pixels) >= config.min_pixels]
    return sorted(large, key=lambda p: -p.area_px) if len(large) > 1 else []


def _labels(points: Array, config: SplitConfig) -> NDArray[np.int64]:
    """[M] number of the part of each point, 1, 2, ...; all 0 if there is only one."""
    nothing = np.zeros(len(points), np.int64)
    if len(points) < 50:
        return nothing
    low = points.min(axis=0)
    cell = float((points.max(axis=0) - low).max()) / config.cells
    index = np.floor((points - low) / max(cell, 1e-12)).astype(np.int64) + 2
    filled = np.zeros(index.max(axis=0) + 3, bool)
    filled[tuple(index.T)] = True
    filled = ndimage.binary_closing(filled, iterations=1)
    depth = ndimage.distance_transform_edt(filled)
    for level in config.levels:
        pieces, count = ndimage.label(depth > level * depth.max())
        if count < 2:
            continue
        nearest = ndimage.distance_transform_edt(pieces == 0, return_distances=False, return_indices=True)
        owner = pieces[tuple(nearest)][tuple(index.T)]
        sizes = np.bincount(owner, minlength=count + 1)
        large = np.flatnonzero(sizes >= config.min_share * len(points))
        if not 2 <= len(large) <= config.max_parts:
            continue
        pieces[~np.isin(pieces, large)] = 0
        nearest = ndimage.distance_transform_edt(pieces == 0, return_distances=False, return_indices=True)
        owner = pieces[tuple(nearest)][tuple(index.T)]
        return np.searchsorted(large, owner).astype(np.int64) + 1
    return nothing


def _part(instance: HullInstance, own: NDArray[np.bool_], views: Sequence[ComparedView]) -> HullInstance:
    """The instance reduced to some of its points, and to the pixels that these fall on."""
    points = instance.points[own]
    masks = []
    for view, pixels in zip(views, instance.pixels, strict=True):
        uv, depth = project(view.camera, points)
        seen = in_image(view.camera, uv, depth)
        mask = np.zeros(pixels.shape, np.uint8)
        mask[uv[seen, 1].astype(int), uv[seen, 0].astype(int)] = 1
        masks.append((cv2.dilate(mask, np.ones((5, 5), np.uint8)) > 0) & pixels)
    return HullInstance(points, tuple(masks), sum(bool(m.any()) for m in masks), is_part=True)
