"""Surfaces of new content from a handful of photos of one moment, whatever the angles between them: sweep, cross-check, points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.depth.agree import DepthView, count_votes, look_up
from ltgs.depth.points import merge_voxels
from ltgs.depth.sweep import SweepConfig, SweepView, Swept, sweep_patch
from ltgs.depth.types import Map, Mask

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceConfig:
    """From photos and masks to trusted depth."""

    sweep: SweepConfig = field(default_factory=SweepConfig)
    min_pixels: float = 4e-4
    """Smallest connected region that is measured, as a share of the photo."""
    sources: int = 4
    """Other photos per region at most."""
    angles: tuple[float, float] = (2.0, 100.0)
    """Smallest and largest angle between the rays of two photos to the region, degrees."""
    best_angle: float = 30.0
    """Photos nearest to this angle are preferred where there are more than `sources`."""
    beyond: float = 0.05
    """Content may stand this far behind the known surface, as a share of its depth."""
    min_score: float = 0.3
    """Correlation below which a pixel is dropped."""
    lone_score: float = 0.75
    """Correlation that a pixel needs which no other photo's depth confirms."""
    agree: float = 3.0
    """Largest difference of two photos' depths, pixels of motion of the match."""


@dataclass(frozen=True)
class SurfaceDepth:
    """What the photos measure in one view; maps have the photo's size [H, W]."""

    depth: Map
    """[H, W] along z, scene units; NaN where nothing was measured or nothing confirms it."""
    sigma: Map
    """[H, W] standard deviation, scene units; NaN as above."""
    score: Map
    """[H, W] correlation; -1 as above."""
    support: NDArray[np.int64]
    """[H, W] other photos whose depth agrees."""
    focal: float
    """Of the finest region that was measured, pixels of its working resolution: depth over focal is the spacing of measurements."""

    @property
    def measured(self) -> Mask:
        """[H, W] there is a depth."""
        return np.isfinite(self.depth)


@dataclass(frozen=True)
class SurfacePoints:
    """P points on surfaces, ready to seed Gaussians."""

    xyz: Array
    """[P, 3] scene units."""
    rgb: Array
    """[P, 3] in [0, 1]."""
    spacing: Array
    """[P] distance to the neighbours, scene units."""
    sigma: Array
    """[P] standard deviation along the ray, scene units."""
    support: NDArray[np.int64]
    """[P] measurements merged into the point."""

    def __len__(self) -> int:
        return len(self.xyz)

    def merged(self, side: float) -> SurfacePoints:
        """One point per voxel of a side, scene units."""
        xyz, rgb, sigma, _ = merge_voxels(self.xyz, 255 * self.rgb, self.sigma, side)
        cells = np.unique(np.floor(self.xyz / side).astype(np.int64), axis=0, return_inverse=True)[1].ravel()
        support = np.bincount(cells, self.support).astype(np.int64)
        return SurfacePoints(xyz, rgb / 255.0, np.full(len(xyz), side), sigma, support)


def measure_surfaces(
    views: Sequence[SweepView], wheres: Sequence[Mask], *, typical_depth: float | None = None, config: SurfaceConfig | None = None,
    progress: Progress = silent,
) -> list[SurfaceDepth]:
    """Depth of new content in every photo of a moment.

    Args:
        views: photos of one visit with known surfaces and with masks of where unknown content may be seen.
        wheres: per view [H, W] the pixels that are wanted: the change mask, or one object's part of it.
        typical_depth: depth of the place, scene units, for views without known surfaces.
        config: settings.
        progress: reports.

    Returns:
        One entry per view; a photo whose wanted pixels no other photo shows has none measured.

    Raises:
        ValueError: the lists differ in length, or a view has neither known surfaces nor `typical_depth`.
    """
    config = config or SurfaceConfig()
    if len(views) != len(wheres):
        raise ValueError(f"wheres must have one entry per view, got {len(wheres)} for {len(views)} views.")
    raw = []
    for index, (view, where) in enumerate(zip(views, wheres, strict=True)):
        others = [v for v in views if v is not view]
        raw.append(_measure_view(view, others, where, typical_depth, config))
        progress(ProgressEvent("depth", index + 1, len(views), view.camera.name))
    return [_confirmed(i, views, raw, config) for i in range(len(views))]


def _measure_view(
    view: SweepView, others: Sequence[SweepView], where: Mask, typical_depth: float | None, config: SurfaceConfig
) -> SurfaceDepth:
    """Sweep every connected region of the wanted pixels."""
    shape = where.shape
    depth, sigma = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    score, focal = np.full(shape, -1, np.float32), 0.0
    # Regions that touch at a corner, or nearly, are one.
    count, labels = cv2.connectedComponents(cv2.dilate(where.astype(np.uint8), np.ones((3, 3), np.uint8)))
    for label in range(1, count):
        region = (labels == label) & where
        if region.sum() < config.min_pixels * region.size:
            continue
        farthest = _farthest(view, region, typical_depth, config)
        near_by = _choose_sources(view.camera, others, region, farthest, config)
        swept = sweep_patch(view, near_by, region, farthest=farthest, config=config.sweep) if near_by else None
        if swept is not None:
            rows, columns, inside = _at_photo(view.camera, swept, region)
            depth[rows, columns], sigma[rows, columns] = swept.depth[inside], swept.sigma[inside]
            score[rows, columns] = swept.score[inside]
            focal = max(focal, float(swept.camera.K[0, 0]))
    return SurfaceDepth(depth, sigma, score, np.zeros(shape, np.int64), focal)


def _farthest(view: SweepView, region: Mask, typical_depth: float | None, config: SurfaceConfig) -> float:
    """Largest depth at which content of a region can be: what is behind it, or around it where nothing is known there."""
    if view.surface is not None:
        known = np.isfinite(view.surface) & (view.surface > 0)
        for where in (region & known, known):
            if where.any():
                return float(np.quantile(view.surface[where], 0.98)) * (1 + config.beyond)
    if typical_depth is None:
        raise ValueError("measure_surfaces needs typical_depth for views without known surfaces.")
    return 1.5 * typical_depth


def _choose_sources(
    camera: Camera, others: Sequence[SweepView], region: Mask, farthest: float, config: SurfaceConfig
) -> list[SweepView]:
    """Photos that look at the region from a usable angle, the best ones if there are many."""
    rows, columns = np.nonzero(region)
    ray = camera.rays(np.array([columns.mean() + 0.5, rows.mean() + 0.5]))
    # Where along the ray the content stands is unknown; near the known surface is near enough to choose photos.
    centre = camera.in_world(ray * 0.9 * farthest)
    found = []
    for index, other in enumerate(others):
        a, b = centre - camera.center, centre - other.camera.center
        angle = float(np.degrees(np.arccos(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))))
        if config.angles[0] <= angle <= config.angles[1]:
            found.append((abs(angle - config.best_angle), index))
    return [others[i] for _, i in sorted(found)[: config.sources]]


def _at_photo(camera: Camera, swept: Swept, region: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp], tuple[NDArray[np.intp], ...]]:
    """Rows and columns of a region in the photo, and the patch's pixel for each."""
    rows, columns = np.nonzero(region)
    K, patch = camera.K, swept.camera
    x = ((columns + 0.5 - K[0, 2]) / K[0, 0] * patch.K[0, 0] + patch.K[0, 2]).astype(np.intp).clip(0, patch.width - 1)
    y = ((rows + 0.5 - K[1, 2]) / K[1, 1] * patch.K[1, 1] + patch.K[1, 2]).astype(np.intp).clip(0, patch.height - 1)
    return rows, columns, (y, x)


def _confirmed(index: int, views: Sequence[SweepView], raw: Sequence[SurfaceDepth], config: SurfaceConfig) -> SurfaceDepth:
    """Keep what another photo's depth confirms, or what none contradicts and the photos match very well."""
    own = raw[index]
    where = np.isfinite(own.depth) & (own.score >= config.min_score)
    points = views[index].camera.surface(own.depth)[where]
    others = [DepthView(v.camera, r.depth, r.sigma) for k, (v, r) in enumerate(zip(views, raw, strict=True)) if k != index]
    # Half a pixel of the match is one sigma.
    agree, against = count_votes(points, own.sigma[where].astype(np.float64), others, 2 * config.agree)
    keep = (agree > 0) & (agree >= against) | (agree == 0) & (against == 0) & (own.score[where] >= config.lone_score)
    kept = where.copy()
    kept[where] = keep
    support = np.zeros(where.shape, np.int64)
    support[where] = agree
    nothing = np.float32(np.nan)
    return SurfaceDepth(
        np.where(kept, own.depth, nothing), np.where(kept, own.sigma, nothing), np.where(kept, own.score, np.float32(-1)),
        np.where(kept, support, 0), own.focal,
    )


def surface_points(
    views: Sequence[SweepView], depths: Sequence[SurfaceDepth], *, colours: Sequence[NDArray[np.floating]] | None = None
) -> SurfacePoints:
    """One point per place that the photos measured.

    Args:
        views: the photos. depths: of `measure_surfaces`, for the same photos.
        colours: per view [H, W, 3] in [0, 1] to colour the points with, e.g. in another light; None = the photos'.

    Returns:
        Points merged per voxel of the measurements' spacing.
    """
    xyz, rgb, sigma, steps = [np.zeros((0, 3))], [np.zeros((0, 3))], [np.zeros(0)], [np.zeros(0)]
    for index, (view, found) in enumerate(zip(views, depths, strict=True)):
        where = found.measured
        if not where.any():
            continue
        paint = view.rgb / 255.0 if colours is None else np.asarray(colours[index], np.float64)
        xyz.append(view.camera.surface(found.depth)[where])
        rgb.append(paint[where])
        sigma.append(found.sigma[where].astype(np.float64))
        steps.append(found.depth[where].astype(np.float64) / found.focal)
    everything = np.concatenate(xyz)
    side = float(np.median(np.concatenate(steps))) if len(everything) else 0.0
    points = SurfacePoints(
        everything, np.concatenate(rgb), np.full(len(everything), side), np.concatenate(sigma), np.ones(len(everything), np.int64)
    )
    return points.merged(side) if len(everything) else points


def looked_through(points: Array, views: Sequence[SweepView], depths: Sequence[SurfaceDepth], *, slack: float = 3.0) -> NDArray[np.int64]:
    """[M] number of photos that measured something behind a point: the point is in the air.

    Args:
        points: [M, 3] world points. views, depths: as for `surface_points`.
        slack: standard deviations by which the measurement must lie behind.
    """
    count = np.zeros(len(points), np.int64)
    for view, found in zip(views, depths, strict=True):
        z, there, sigma = look_up(points, DepthView(view.camera, found.depth, found.sigma))
        with np.errstate(invalid="ignore"):
            count += there > z + slack * sigma
    return count
