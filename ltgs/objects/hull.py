"""Where in space new content can be: the visual hull of the change masks, in front of the surfaces already known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ltgs.core.cameras import Camera
from ltgs.core.decisions import DecisionRecorder
from ltgs.core.views import ComparedView

Array = NDArray[np.float64]


@dataclass(frozen=True)
class HullConfig:
    """Visual hull by ray sampling."""

    pixel_step: int = 2
    """Every n-th mask pixel casts a ray."""
    depth_samples: int = 160
    """Samples along a ray, uniform in inverse depth between `near_share` of the surface depth and the surface."""
    near_share: float = 0.45
    """Nearest sample relative to the known surface's depth along the ray."""
    surface_margin: float = 0.015
    """How far behind the known surface a sample may lie, relative to its depth (depth error of the scene)."""
    grow_px: int = 2
    """Dilation of the masks when samples of other views are tested, pixels (pose and mask error)."""
    link_px: float = 4.0
    """Samples closer than this many pixels' footprint are one instance."""
    min_pixels: float = 4e-4
    """Smallest instance, mask pixels in its best view relative to the image area."""
    min_second: float = 1e-4
    """The same in the second best view, if the visit has several photos."""
    min_score: float = 0.85
    """Mean change score of an instance's pixels, each capped at 2; a strong change of light alone reaches 0.8 in
    places, a can of the colour of its table 0.88."""
    min_score_hole: float = 0.7
    """The same inside the hole of something that left, where little is known of what it hid."""
    min_score_single: float = 1.1
    """`min_score` if there is only one photo, which nothing confirms: things had 1.19 and more, errors of the scene up to 1.01."""
    min_score_known: float = 0.7
    """The same of content that is only asked whether a known object explains it: a plain thing before a plain wall."""

    def in_hole(self) -> HullConfig:
        """The configuration for content in a hole."""
        return replace(self, min_score=self.min_score_hole, min_score_single=self.min_score_hole)


@dataclass(frozen=True)
class HullInstance:
    """New content: a blob of hull samples."""

    points: Array
    """[M, 3] samples, scene units."""
    pixels: tuple[NDArray[np.bool_], ...]
    """Per view the [H, W] mask pixels its samples came from (all False where it was not seen)."""
    num_views: int
    """Views in which it covers mask pixels."""
    is_part: bool = False
    """It was cut out of a larger instance, which stands for itself as well."""
    is_weak: bool = False
    """It differs too little to be something new; a known object may still explain it."""
    ground: Array | None = None
    """[4] the plane that it stands on, normal upwards and offset, where that alone tells how far it is (see `objects.ground`)."""

    @cached_property
    def centroid(self) -> Array:
        """[3] median of the samples."""
        return np.median(self.points, axis=0)

    @property
    def area_px(self) -> int:
        """Mask pixels over all views."""
        return int(sum(m.sum() for m in self.pixels))


def project(camera: Camera, points: Array) -> tuple[Array, Array]:
    """[M, 3] world points -> pixel coordinates [M, 2] and depth [M] (pixels are meaningless where depth <= 0)."""
    local = points @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    depth = local[:, 2]
    uv = local @ camera.K.T
    return uv[:, :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth)[:, None], depth


def unproject(camera: Camera, rows: NDArray, columns: NDArray, depth: Array) -> Array:
    """World points [M, ..., 3] seen at the centres of pixels [M], at depths [M, ...] along +z."""
    rays = camera.rays(np.stack([columns + 0.5, rows + 0.5], 1))
    return camera.in_world(rays.reshape(len(rays), *[1] * (depth.ndim - 1), 3) * depth[..., None])


def seen_points(view: ComparedView, pixels: NDArray[np.bool_]) -> Array:
    """[M, 3] the known surface at some pixels [H, W]."""
    rows, columns = np.nonzero(pixels)
    return unproject(view.camera, rows, columns, view.depth[rows, columns].astype(np.float64))


def in_image(camera: Camera, uv: Array, depth: Array) -> NDArray[np.bool_]:
    """[M] bool: in front of the camera and inside its image."""
    return (depth > 1e-6) & (uv[:, 0] >= 0) & (uv[:, 0] < camera.width) & (uv[:, 1] >= 0) & (uv[:, 1] < camera.height)


def _ray_samples(view: ComparedView, config: HullConfig) -> tuple[Array, NDArray[np.int64]]:
    """Samples [R, S, 3] along the rays of the mask pixels and the pixels' (row, column) [R, 2]."""
    rows, columns = np.nonzero(view.mask)
    keep = (rows % config.pixel_step == 0) & (columns % config.pixel_step == 0)
    rows, columns = rows[keep], columns[keep]
    # Where the scene is a hole the depth of the surroundings bounds the ray.
    typical = float(np.median(view.depth[view.alpha > 0.5])) if (view.alpha > 0.5).any() else 1.0
    surface = np.where(view.alpha[rows, columns] > 0.5, view.depth[rows, columns], typical * 1.5)
    steps = np.linspace(1 / config.near_share, 1 / (1 + config.surface_margin), config.depth_samples)
    world = unproject(view.camera, rows, columns, surface[:, None] / steps[None])
    return world, np.stack([rows, columns], 1)


def consistent_samples(
    views: Sequence[ComparedView], config: HullConfig
) -> tuple[Array, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Ray samples that no other view contradicts and at least one confirms (with a single view: all samples near the surface).

    Returns:
        points [M, 3], source view [M], source pixel (row, column) [M, 2], number of confirming views [M].
    """
    kernel = np.ones((2 * config.grow_px + 1,) * 2, np.uint8)
    grown = [cv2.dilate(v.mask.astype(np.uint8), kernel) > 0 for v in views]
    points, sources, pixels, confirmed = [], [], [], []
    for i, view in enumerate(views):
        if not view.mask.any():
            continue
        world, rowcol = _ray_samples(view, config)
        flat = world.reshape(-1, 3)
        agree = np.zeros(len(flat), np.int64)
        contradicted = np.zeros(len(flat), bool)
        for j, other in enumerate(views):
            if j == i:
                continue
            visible, in_mask, unchanged = _test_samples(flat, other, grown[j], config)
            agree += visible & in_mask
            contradicted |= visible & unchanged & ~in_mask
        good = ~contradicted & ((agree >= 1) if len(views) > 1 else True)
        index = np.flatnonzero(good)
        points.append(flat[index])
        sources.append(np.full(len(index), i))
        pixels.append(rowcol[index // config.depth_samples])
        confirmed.append(agree[index])
    if not points:
        return np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    return np.concatenate(points), np.concatenate(sources), np.concatenate(pixels), np.concatenate(confirmed)


def _test_samples(
    points: Array, view: ComparedView, grown: NDArray[np.bool_], config: HullConfig
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Per point: in the image and not behind the known surface; inside the change mask; where capture and render agree.

    An undecided pixel neither confirms nor contradicts.
    """
    uv, depth = project(view.camera, points)
    inside = in_image(view.camera, uv, depth)
    columns = np.clip(uv[:, 0], 0, view.camera.width - 1).astype(int)
    rows = np.clip(uv[:, 1], 0, view.camera.height - 1).astype(int)
    surface = np.where(view.alpha[rows, columns] > 0.5, view.depth[rows, columns], np.inf)
    hidden = depth > surface * (1 + 2 * config.surface_margin)
    return inside & ~hidden, grown[rows, columns], view.agreed[rows, columns]


_LINKS = np.array([o for o in np.ndindex(5, 5, 5) if 0 < ((np.array(o) - 2) ** 2).sum() <= 8]) - 2
"""[L, 3] offsets of the grid cells that belong together: centres at most sqrt(8) cells apart."""


def cluster_points(points: Array, radius: float) -> NDArray[np.int64]:
    """Connected components of the graph that links points closer than `radius` (scene units). Labels [M] from 0.

    Points are merged to cells of half the radius first; two cells are linked if they are at most sqrt(8) cells apart.
    """
    if len(points) == 0:
        return np.zeros(0, np.int64)
    cells = np.floor(points / (radius * 0.5)).astype(np.int64)
    cells -= cells.min(axis=0) - 2
    stride = np.array([(cells[:, 1].max() + 3) * (cells[:, 2].max() + 3), cells[:, 2].max() + 3, 1])
    keys, inverse = np.unique(cells @ stride, return_inverse=True)
    near = np.abs(_LINKS).max(1) == 1
    label = _components(keys, np.arange(len(keys)), _LINKS[near] @ stride, np.arange(len(keys)))
    # Most cells touch the largest component; a longer link always ends at a cell that does not belong to it.
    rest = np.flatnonzero(label != np.bincount(label).argmax())
    return _components(keys, rest, _LINKS[~near] @ stride, label)[label][inverse.ravel()]


def _components(keys: NDArray[np.int64], rows: NDArray[np.int64], steps: NDArray[np.int64], label: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join the labels [K] of cells that lie one of the steps from the given rows.

    Args:
        keys: [K] sorted numbers of the cells.

    Returns:
        [number of labels] the joined label of each label.
    """
    links = [np.zeros((2, 0), np.int64)]
    for step in steps.tolist():
        wanted = keys[rows] + step
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hit = keys[at] == wanted
        links.append(np.stack([label[rows[hit]], label[at[hit]]]))
    count = int(label.max()) + 1
    one, other = np.concatenate(links, axis=1)
    graph = coo_matrix((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def hull_instances(
    views: Sequence[ComparedView], *, config: HullConfig | None = None, record: DecisionRecorder | None = None, weak: bool = False
) -> list[HullInstance]:
    """Instances of new content, best supported first.

    Args:
        weak: also those that differ too little to be something new, marked and at the end.

    Blobs that only re-explain mask pixels already taken by better supported blobs (crossings of rays of two different
    objects) are dropped.
    """
    config = config or HullConfig()
    points, sources, pixels, confirmed = consistent_samples(views, config)
    if len(points) == 0:
        return []
    footprint = np.median([np.median(v.depth[v.mask & (v.alpha > 0.5)]) / v.camera.K[0, 0]
                           for v in views if (v.mask & (v.alpha > 0.5)).any()] or [1.0])
    labels = cluster_points(points, config.link_px * float(footprint) * config.pixel_step / 2)
    instances = []
    for label in np.unique(labels):
        own = labels == label
        masks = []
        for i, view in enumerate(views):
            mask = np.zeros(view.mask.shape, np.uint8)
            rowcol = pixels[own & (sources == i)]
            mask[rowcol[:, 0], rowcol[:, 1]] = 1
            # The subsampled pixel grid is filled up to the full mask again.
            filled = cv2.dilate(mask, np.ones((2 * config.pixel_step - 1,) * 2, np.uint8))
            masks.append((filled > 0) & view.mask)
        weight = confirmed[own] + 1
        strong = own.nonzero()[0][weight >= np.quantile(weight, 0.5)]
        instances.append(HullInstance(points[strong], tuple(masks), sum(bool(m.any()) for m in masks)))
    instances.sort(key=lambda inst: (-inst.num_views, -inst.area_px))
    kept, faint = _drop_crossings(instances, views, config, record)
    return [*kept, *faint] if weak else kept


def _drop_crossings(
    instances: list[HullInstance], views: Sequence[ComparedView], config: HullConfig, record: DecisionRecorder | None = None
) -> tuple[list[HullInstance], list[HullInstance]]:
    """The instances that stand for themselves, and weak ones; these claim no pixels."""
    taken = [np.zeros(v.mask.shape, bool) for v in views]
    least = config.min_score if len(views) > 1 else config.min_score_single
    kept, weak = [], []
    for instance in instances:
        fresh = [m & ~t for m, t in zip(instance.pixels, taken, strict=True)]
        areas = sorted((float(f.mean()) for f in fresh), reverse=True)
        share = sum(f.sum() for f in fresh) / max(1, instance.area_px)
        if areas[0] < config.min_pixels or share < 0.4 or (len(areas) > 1 and areas[1] < config.min_second):
            if record is not None and max(float(m.mean()) for m in instance.pixels) >= config.min_pixels:
                lone = areas[0] >= config.min_pixels and share >= 0.4
                record.verdict(instance, "dropped" if lone else "covered", reason="fewer than two photos show enough of it" if lone else "")
            continue
        scores = np.concatenate([np.minimum(v.score[m], 2) for v, m in zip(views, instance.pixels, strict=True)])
        # Pixels of a hole have no score: there is nothing known to differ from.
        scores = scores[scores > 0]
        if len(scores) and scores.mean() < least:
            if record is not None:
                reason = f"its pixels differ too little: mean score {scores.mean():.2f}, {least:.2f} are needed"
                record.verdict(instance, "dropped", reason=reason)
            if scores.mean() >= config.min_score_known:
                weak.append(replace(instance, is_weak=True))
            continue
        kept.append(instance)
        taken = [t | m for t, m in zip(taken, instance.pixels, strict=True)]
    return kept, weak


def seen_empty(
    points: Array, cameras: Sequence[Camera], depths: Sequence[NDArray[np.float32]], *, margin: float = 0.02
) -> NDArray[np.int64]:
    """[M] number of earlier photos that looked through a point at something behind it.

    Content where nobody looked before may have been there all along: it is newly seen, not new.

    Args:
        depths: per camera [H, W] depth of the scene at that time, 0 where unknown.
        margin: how much farther the surface must lie, relative to the point's depth.
    """
    count = np.zeros(len(points), np.int64)
    for camera, depth in zip(cameras, depths, strict=True):
        uv, z = project(camera, points)
        inside = in_image(camera, uv, z)
        columns = np.clip(uv[:, 0], 0, camera.width - 1).astype(int)
        rows = np.clip(uv[:, 1], 0, camera.height - 1).astype(int)
        count += inside & (depth[rows, columns] > z * (1 + margin))
    return count
