"""Things side by side that the photos show as one: new content that hangs together by a neck, old sets that touch or share a support."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull, Delaunay, QhullError, cKDTree
from torch import Tensor

from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.objects.hull import HullInstance, in_image, project

log = logging.getLogger("ltgs.objects")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class SplitConfig:
    """Cutting at necks."""

    cells: int = 48
    """Most grid cells along the longest side of an instance; fewer where its points are too few to fill them."""
    levels: tuple[float, ...] = (0.25, 0.4, 0.55, 0.7)
    """Depths below the surface, relative to the greatest, at which the inside is looked at: what falls apart there is parts."""
    min_share: float = 0.15
    """Smallest part, share of the instance's points."""
    max_parts: int = 4
    """Most parts of one instance."""
    min_pixels: float = 4e-4
    """Smallest part, pixels in its best photo relative to the image area."""
    attached: float = 0.06
    """A whole thing: so many of what goes on beside it, relative to what it is made of; the sets that new objects merely hid had
    .10 and more in eight rooms, or were flat."""
    ends: float = 0.2
    """What goes on beside a thing is part of it if no more goes on beside that, and it is at most so much of it: where its lid has the
    colour of what stands there now, the photos do not ask for the lid."""
    attached_unseen: float = 0.12
    """The same if there is only one photo: what of the thing lies on its far side goes on beside what the photo shows."""
    rises: float = 1.6
    """Height of a whole thing, in units of the gap up to which Gaussians belong together."""
    bottom: float = 0.15
    """Lowest share of its height, up to which what goes on beside it may be what it stands on."""
    least: int = 60
    """Gaussians that it is made of."""
    body_slack: float = 1.1
    """What does not hang together with a thing belongs to it inside its box, enlarged so much."""
    solid_cells: int = 40
    """Grid cells along the longest side of a thing of which the inside is looked at."""
    full: float = 0.55
    """Share of its convex hull that each of several things that touch fills: a box and a ball had .70 and .85, the halves of a bowl .32."""
    level: float = 0.25
    """Things that stand side by side: their lowest points differ in height by less than this share of the lower one's height, or by less
    than a link if they are apart."""
    overlap: float = 0.2
    """Share of a thing that may, seen from above, lie within the outline of another one from which it is apart."""


def split_instance(instance: HullInstance, views: Sequence[ComparedView], config: SplitConfig | None = None) -> list[HullInstance]:
    """The parts of an instance, largest first; empty if it does not fall apart.

    Its hull is filled into a grid; the first level of depth below its surface at which several large pieces remain tells the
    parts, and every point belongs to the nearest piece. It also falls apart where a photo shows several regions.
    """
    return [part for parts in partings(instance, views, config) for part in parts]


def partings(instance: HullInstance, views: Sequence[ComparedView], config: SplitConfig | None = None) -> list[list[HullInstance]]:
    """The parts of an instance, largest first, in every way in which it falls apart (see `split_instance`)."""
    config = config or SplitConfig()
    out: list[list[HullInstance]] = []
    for labels in (_labels(instance.points, config), _regions(instance, views, config)):
        parts = [_part(instance, labels == k, views) for k in range(1, int(labels.max(initial=0)) + 1)]
        large = [p for p in parts if max(float(m.mean()) for m in p.pixels) >= config.min_pixels]
        if len(large) > 1:
            out.append(sorted(large, key=lambda p: -p.area_px))
    return out


def stand_level(parts: Sequence[HullInstance], up: Array, config: SplitConfig | None = None) -> bool:
    """Whether all parts of an instance stand on the same level: one beside the other, none on top."""
    return all(_level([np.quantile(p.points @ up, (0.02, 0.98)) for p in parts], config or SplitConfig()))


def _regions(instance: HullInstance, views: Sequence[ComparedView], config: SplitConfig) -> NDArray[np.int64]:
    """[M] number of the part of each point, 1, 2, ..., told by the regions of each photo that it falls into; 0 for small parts."""
    labels = np.zeros(len(instance.points), np.int64)
    for view, pixels in zip(views, instance.pixels, strict=True):
        count, regions, stats, _ = cv2.connectedComponentsWithStats(pixels.astype(np.uint8), connectivity=8)
        large = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= config.min_share * max(int(pixels.sum()), 1)]
        if not 2 <= len(large) <= config.max_parts:
            continue
        nearest = ndimage.distance_transform_edt(~np.isin(regions, large), return_distances=False, return_indices=True)
        uv, depth = project(view.camera, instance.points)
        seen = in_image(view.camera, uv, depth)
        columns, rows = uv[seen].astype(int).T
        own = regions[tuple(nearest)][rows, columns]
        labels[seen] = labels[seen] * (count + 1) + own
    _, labels = np.unique(labels, return_inverse=True)
    sizes = np.bincount(labels)
    kept = np.flatnonzero(sizes >= config.min_share * len(labels))
    if not 2 <= len(kept) <= config.max_parts:
        return np.zeros(len(labels), np.int64)
    return np.where(np.isin(labels, kept), np.searchsorted(kept, labels) + 1, 0).astype(np.int64)


def _labels(points: Array, config: SplitConfig) -> NDArray[np.int64]:
    """[M] number of the part of each point, 1, 2, ...; all 0 if there is only one."""
    nothing = np.zeros(len(points), np.int64)
    if len(points) < 50:
        return nothing
    low = points.min(axis=0)
    cell = float((points.max(axis=0) - low).max()) / min(config.cells, round(len(points) ** (1 / 3)))
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
    return HullInstance(points, tuple(masks), sum(bool(m.any()) for m in masks), is_part=True, ground=instance.ground)


def side_by_side(
    own: Gaussians,  # [M] in the world
    beneath: NDArray[np.bool_],  # [M] those that belong to what they stand on
    link: float,
    *,
    up: Array,  # [3] unit
    config: SplitConfig | None = None,
) -> list[Tensor]:
    """Rows [M] of the things that stand apart once what they stand on is left out; all rows as one if there is only one thing.

    Args:
        link: gap between the ellipsoids of two Gaussians, scene units, up to which they belong together.

    What they stand on, and scattered rest, goes with the nearest thing.
    """
    config = config or SplitConfig()
    everything, rest = [torch.arange(len(own))], np.flatnonzero(~beneath)
    if len(rest) < 2:
        return everything
    labels, points = linked(own[torch.from_numpy(rest)], link), own.means.double().numpy()
    sizes, height = np.bincount(labels), points @ up
    things = [rest[labels == k] for k in np.flatnonzero(sizes >= max(config.min_share * len(rest), config.least))]
    spans = [np.quantile(height[t], (0.02, 0.98)) for t in things]
    # What is flat sinks into what it stands on by as much as its own height.
    slack = link if _are_apart([points[t] for t in things], up, config) else 0.0
    things = [t for t, level in zip(things, _level(spans, config, slack), strict=True) if level]
    if not 2 <= len(things) <= config.max_parts:
        return everything
    nearest = np.argmin([cKDTree(points[t]).query(points)[0] for t in things], axis=0)
    return [torch.from_numpy(np.flatnonzero(nearest == k)) for k in range(len(things))]


def filled(points: Array, empty: Callable[[Array], NDArray[np.bool_]], *, config: SplitConfig | None = None) -> Array:
    """[S, 3] samples of the inside of a thing: a grid in the convex hull of its points [M, 3], but for what is known to be empty.

    Args:
        empty: whether places [K, 3] are, for instance because photos looked through them.
    """
    config = config or SplitConfig()
    low, high = np.quantile(points, 0.02, axis=0), np.quantile(points, 0.98, axis=0)
    cell = float((high - low).max()) / config.solid_cells
    core = points[np.all((points >= low - cell) & (points <= high + cell), axis=1)]
    if len(core) < 20 or np.linalg.matrix_rank(core - core[0], tol=cell) < 3:
        return points[:0]
    axes = [np.arange(a - cell, b + 2 * cell, cell) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    grid = grid[Delaunay(core[ConvexHull(core).vertices]).find_simplex(grid) >= 0]
    return grid[~empty(grid)]


def touching_things(points: Array, solid: Array, *, up: Array, config: SplitConfig | None = None) -> list[NDArray[np.int64]]:
    """Rows of the points [M, 3] of each of several things that stand side by side and touch; all rows as one if there is only one.

    Args:
        solid: [S, 3] samples of their inside (see `filled`), which fall apart at necks.
    """
    config = config or SplitConfig()
    labels = _labels(solid, replace(config, cells=config.solid_cells))
    parts = [solid[labels == k] for k in range(1, int(labels.max(initial=0)) + 1)]
    spans = [np.quantile(p @ up, (0.02, 0.98)) for p in parts]
    if len(parts) < 2 or not all(_level(spans, config)) or min(_fullness(p) for p in parts) < config.full:
        return [np.arange(len(points))]
    nearest = np.argmin([cKDTree(p).query(points)[0] for p in parts], axis=0)
    return [np.flatnonzero(nearest == k) for k in range(len(parts))]


def _fullness(samples: Array) -> float:
    """Share of their convex hull that the samples [S, 3] of a regular grid fill; 0 if they are flat."""
    axes = [np.unique(np.round(samples[:, k], 9)) for k in range(3)]
    if min(len(a) for a in axes) < 3:
        return 0.0
    cell = min(float(np.diff(a).min()) for a in axes)
    # The cells reach half a step beyond their middles.
    corners = samples[ConvexHull(samples).vertices, None] + 0.5 * cell * np.array(list(product((-1, 1), repeat=3)))
    return len(samples) * cell**3 / float(ConvexHull(corners.reshape(-1, 3)).volume)


def _are_apart(things: Sequence[Array], up: Array, config: SplitConfig) -> bool:
    """Whether things [M, 3] stand beside each other: seen from above, hardly anything of one lies within the outline of another."""
    axes = np.linalg.svd(up[None])[2][1:]
    shadows = [t @ axes.T for t in things]
    try:
        outlines = [Delaunay(s[ConvexHull(s).vertices]) for s in shadows]
    except QhullError:
        return False
    pairs = [(s, o) for i, s in enumerate(shadows) for k, o in enumerate(outlines) if i != k]
    return all(float((o.find_simplex(s) >= 0).mean()) <= config.overlap for s, o in pairs)


def _level(spans: Sequence[Array], config: SplitConfig, slack: float = 0.0) -> list[bool]:
    """Which of several things with these [2] lowest and highest heights stand as low as the lowest one.

    Args:
        slack: difference of their lowest points that is allowed however low they are.
    """
    floor = min((low for low, _ in spans), default=0.0)
    lowest = min((top - low for low, top in spans), default=0.0)
    return [bool(low - floor <= max(config.level * lowest, slack)) for low, _ in spans]


def main_body(own: Gaussians, link: float, *, config: SplitConfig | None = None) -> Tensor:
    """[M] bool: which Gaussians of a thing hang together; scattered ones that were taken away with it are left out.

    Args:
        link: gap between the ellipsoids of two Gaussians, scene units, up to which they belong together.
    """
    config = config or SplitConfig()
    if len(own) < config.least:
        return torch.ones(len(own), dtype=torch.bool)
    labels, points = linked(own, link), own.means.double().numpy()
    sizes = np.bincount(labels)
    large = np.isin(labels, np.flatnonzero(sizes >= config.min_share * sizes.max()))
    low, high = np.quantile(points[large], (0.02, 0.98), axis=0)
    inside = np.all(np.abs(points - (low + high) / 2) <= 0.5 * config.body_slack * (high - low), axis=1)
    return torch.from_numpy(large | inside)


def is_whole(
    points: Array,  # [M, 3] in the world
    beneath: NDArray[np.bool_],  # [M] those that belong to what they stand on
    others: Array,  # [K, 3] what else is there
    link: float,
    *,
    up: Array,  # [3] unit
    config: SplitConfig | None = None,
) -> bool:
    """Whether points make up a thing: they rise from what they stand on, and nothing of it goes on beside them.

    Args:
        link: distance, scene units, up to which points belong together.
    """
    config = config or SplitConfig()
    own = points[~beneath]
    if len(own) < config.least:
        return False
    low, high = np.quantile(own @ up, (0.02, 0.98))
    near = others[others @ up > low + config.bottom * (high - low)]
    beside = _beside(own, near, link, most=config.ends * len(own))
    log.debug("a thing of %d at %s: rises by %.1f links, %s go on", len(own), np.median(own, axis=0), (high - low) / link, beside)
    ended = beside[-1] == 0 and sum(beside) <= config.ends * len(own)
    return high - low >= config.rises * link and (beside[0] <= config.attached * len(own) or ended)


def _beside(own: Array, rest: Array, link: float, *, most: float) -> list[int]:
    """How many points [K, 3] lie within a distance of a thing's [M, 3], how many more within it of these, and so on.

    Ends with the first 0, or when they are more than `most` together.
    """
    counts, added = [], own
    while True:
        hit = np.isfinite(cKDTree(added).query(rest, distance_upper_bound=link)[0]) if len(rest) else np.zeros(0, bool)
        counts.append(int(hit.sum()))
        if counts[-1] == 0 or sum(counts) > most:
            return counts
        added, rest = rest[hit], rest[~hit]


def linked(gaussians: Gaussians, radius: float) -> NDArray[np.int64]:
    """[M] labels of Gaussians whose ellipsoids (one standard deviation, middle axis) come closer than `radius`.

    A plain surface is made of few large Gaussians, whose centres are far apart.
    """
    points = gaussians.means.double().numpy()
    reach = gaussians.scales.double().sort(dim=1).values[:, 1].numpy()
    reach = np.minimum(reach, np.quantile(reach, 0.95))
    pairs = cKDTree(points).query_pairs(radius + 2 * float(reach.max()), output_type="ndarray").reshape(-1, 2)
    gap = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1) - reach[pairs].sum(1)
    near = pairs[gap < radius]
    graph = coo_matrix((np.ones(len(near)), (near[:, 0], near[:, 1])), shape=(len(points), len(points)))
    return connected_components(graph, directed=False)[1].astype(np.int64)
