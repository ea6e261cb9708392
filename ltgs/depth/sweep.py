"""Depth of a patch from photos that stand far apart: planes of several orientations are swept through space.

Rectified pairs match square windows that move along rows, which fails from about twenty degrees between two photos on: a window of one
photo covers another shape in the other. Here the other photos are warped by the homography of a plane; if the plane is near to the
surface in place and direction, the windows agree whatever the angle (Gallup et al., CVPR 2007, "Real-time plane-sweeping stereo with
multiple sweeping directions"). What the photos say about occupancy bounds the search: a place that shows known content in another
photo is empty (Kutulakos and Seitz, IJCV 2000).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.depth.paths import aggregate_paths
from ltgs.depth.types import Map, Mask
from ltgs.imaging.boxes import bounding_box, grown

Array = NDArray[np.float64]
Volume = NDArray[np.float32]
_CENTRE = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
"""OpenCV's indices (first pixel centre at 0) to pixels (first pixel centre at 0.5)."""


@dataclass(frozen=True)
class SweepConfig:
    """Sweep of one patch; lengths are pixels of the working resolution."""

    window: int = 7
    """Side of the matching window."""
    tilts: tuple[float, ...] = (0.0, 35.0, 60.0)
    """Angles between the planes' normals and the viewing direction, degrees."""
    around: int = 6
    """Directions of each tilt but 0."""
    max_slant: float = 78.0
    """Largest angle between a plane's normal and the direction to a photo that may see it, degrees."""
    near_share: float = 0.2
    """Nearest depth that is searched, as a share of the farthest."""
    step: float = 1.5
    """Largest motion of a match between two planes."""
    planes: tuple[int, int] = (16, 128)
    """Fewest and most depths."""
    coarse: int = 64
    """Depths at which the occupied range is looked for."""
    max_pixels: int = 2000
    """Patches with more wanted pixels are worked on at a reduced size."""
    noise: float = 2.0
    """Standard deviation of the photos, 8-bit levels; windows with less texture match badly everywhere."""
    slack: float = 0.03
    """Relative depth by which a point must lie behind a known surface to count as hidden by it."""
    small_step: float = 0.05
    """Penalty of a step to the next depth between neighbours, in units of correlation."""
    large_step: float = 0.3
    """The same for larger steps."""


@dataclass(frozen=True)
class SweepView:
    """One photo with what is known about it."""

    camera: Camera
    rgb: NDArray[np.uint8]
    """[H, W, 3]"""
    content: Mask | None = None
    """[H, W] where something may be seen that is not part of the known scene; None = everywhere."""
    surface: Map | None = None
    """[H, W] depth along z of the known scene, scene units; NaN or not positive = unknown."""

    def resized(self, scale: float) -> SweepView:
        """The view at a reduced size."""
        width, height = (max(8, round(side * scale)) for side in (self.camera.width, self.camera.height))
        if (width, height) == (self.camera.width, self.camera.height):
            return self
        return SweepView(
            self.camera.resized(width, height), np.asarray(cv2.resize(self.rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8),
            None if self.content is None else _nearest(self.content, width, height) > 0,
            None if self.surface is None else _nearest(self.surface, width, height),
        )


@dataclass(frozen=True)
class Swept:
    """Depth of a patch of the reference view; maps have the patch's size at working resolution."""

    camera: Camera
    """Of the patch."""
    where: Mask
    """[h, w] wanted pixels."""
    depth: Map
    """[h, w] along z, scene units; NaN where nothing is wanted or no other photo may see the place."""
    score: Map
    """[h, w] correlation with the photo that agrees best, -1..1; -1 where the depth is NaN."""
    sigma: Map
    """[h, w] standard deviation of the depth, scene units: half a pixel of the match."""


@dataclass(frozen=True)
class _Source:
    """Another photo as seen from the patch."""

    view: SweepView
    image: Map
    """[H, W, 3] float32"""
    turn: Array
    """[3, 3] camera of the patch to camera of the source."""
    shift: Array
    """[3]"""

    @property
    def centre(self) -> Array:
        """[3] in the camera of the patch."""
        return -self.turn.T @ self.shift


def sweep_patch(
    reference: SweepView, sources: Sequence[SweepView], where: Mask, *, farthest: float, config: SweepConfig | None = None
) -> Swept | None:
    """Depth of some pixels of a photo from other photos of the same moment.

    Args:
        reference: the photo.
        sources: photos that show the same content, from other places.
        where: [H, W] wanted pixels of the reference, best a connected region.
        farthest: largest depth that is searched, scene units.
        config: settings.

    Returns:
        Depth of the bounding box of `where`; None if no place along the rays agrees with what the other photos show.

    Raises:
        ValueError: nothing is wanted, there is no source, or `farthest` is not positive.
    """
    config = config or SweepConfig()
    if not where.any() or not sources or not farthest > 0:
        raise ValueError("sweep_patch needs wanted pixels, another photo, and a positive farthest depth.")
    patch, image, wanted, scale = _cut(reference, where, config)
    rays = patch.rays()
    others = [_source(patch, reference.camera, s, scale, farthest) for s in sources]
    ends = 1 / farthest, 1 / (farthest * config.near_share)
    inverse = np.linspace(*ends, config.coarse)
    possible, _ = _occupancy(rays, others, inverse, config)
    found = np.flatnonzero((possible & wanted).any((1, 2)))
    if len(found) == 0:
        return None
    low, high = inverse[max(0, found[0] - 1)], inverse[min(config.coarse - 1, found[-1] + 1)]
    inverse = np.linspace(low, high, _count(rays[wanted].mean(0), others, low, high, config))
    possible, seen = _occupancy(rays, others, inverse, config)
    score = _scores(image, wanted, patch, rays, others, inverse, seen, config)
    return _choose(score, possible, wanted, inverse, patch, config)


def _cut(reference: SweepView, where: Mask, config: SweepConfig) -> tuple[Camera, Map, Mask, float]:
    """Camera, photo and wanted pixels of the bounding box at working resolution, and its scale."""
    rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    margin = config.window // 2 + 1
    top, bottom = max(0, rows[0] - margin), min(where.shape[0], rows[-1] + 1 + margin)
    left, right = max(0, columns[0] - margin), min(where.shape[1], columns[-1] + 1 + margin)
    scale = min(1.0, float(np.sqrt(config.max_pixels / where.sum())))
    width, height = max(8, round((right - left) * scale)), max(8, round((bottom - top) * scale))
    K = reference.camera.K.copy()
    K[:2, 2] -= left, top
    cropped = replace(reference.camera, width=int(right - left), height=int(bottom - top), K=K)
    image = cv2.resize(reference.rgb[top:bottom, left:right], (width, height), interpolation=cv2.INTER_AREA)
    wanted = _nearest(where[top:bottom, left:right], width, height) > 0
    return cropped.resized(width, height), np.asarray(image, np.float32), wanted, scale


def _source(patch: Camera, reference: Camera, view: SweepView, scale: float, farthest: float) -> _Source:
    """A source at the resolution at which it shows the farthest surface about as large as the patch does."""
    turn = view.camera.cam_from_world[:3, :3] @ patch.cam_from_world[:3, :3].T
    shift = view.camera.cam_from_world[:3, 3] - turn @ patch.cam_from_world[:3, 3]
    middle = patch.rays(np.array([patch.width / 2, patch.height / 2]))
    away = max(float((turn @ middle * farthest + shift)[2]), 0.1 * farthest)
    scale = min(1.0, scale * float(reference.K[0, 0] / view.camera.K[0, 0]) * away / farthest)
    small = view.resized(scale)
    return _Source(small, small.rgb.astype(np.float32), turn, shift)


def _count(ray: Array, others: Sequence[_Source], low: float, high: float, config: SweepConfig) -> int:
    """Depths between two inverse depths such that the fastest match moves by one step."""
    travel = []
    for s in others:
        ends = [s.view.camera.K @ (s.turn @ ray / iv + s.shift) for iv in (low, high)]
        if all(e[2] > 0 for e in ends):
            travel.append(float(np.linalg.norm(ends[0][:2] / ends[0][2] - ends[1][:2] / ends[1][2])))
    return int(np.clip(np.ceil(max(travel, default=0.0) / config.step) + 1, *config.planes))


def _occupancy(rays: Array, others: Sequence[_Source], inverse: Array, config: SweepConfig) -> tuple[Mask, Mask]:
    """[D, h, w] places that no source shows to be empty and some source may see; [S, D, h, w] which sources may see them."""
    free = np.ones((len(inverse), *rays.shape[:2]), bool)
    seen = np.zeros((len(others), *free.shape), bool)
    for j, s in enumerate(others):
        turned = rays @ s.turn.T
        height, width = s.view.rgb.shape[:2]
        for k, iv in enumerate(inverse):
            local = turned / iv + s.shift
            z = local[..., 2]
            uv = local @ s.view.camera.K.T
            front = np.where(z > 1e-9, z, 1)
            x, y = (uv[..., 0] / front - 0.5).astype(np.float32), (uv[..., 1] / front - 0.5).astype(np.float32)
            inside = (z > 1e-9) & (x >= -0.5) & (y >= -0.5) & (x <= width - 0.5) & (y <= height - 0.5)
            shows = inside
            if s.view.content is not None:
                shows = inside & (cv2.remap(s.view.content.astype(np.uint8), x, y, cv2.INTER_NEAREST) > 0)
            hidden = np.zeros_like(inside)
            if s.view.surface is not None:
                there = cv2.remap(np.asarray(s.view.surface, np.float32), x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
                with np.errstate(invalid="ignore"):
                    hidden = inside & (there > 0) & (z > there * (1 + config.slack))
            free[k] &= ~(inside & ~shows & ~hidden)
            seen[j, k] = shows & ~hidden
    return free & seen.any(0), seen


def plane_normals(view: Array, tilts: Sequence[float], around: int) -> Array:
    """[M, 3] unit normals that face a viewer.

    Args:
        view: [3] viewing direction.
        tilts: angles between normal and the direction to the viewer, degrees.
        around: directions of each tilt but 0, evenly around the viewing direction.
    """
    towards = -np.asarray(view, np.float64) / np.linalg.norm(view)
    first = np.cross(towards, np.eye(3)[np.abs(towards).argmin()])
    first /= np.linalg.norm(first)
    second = np.cross(towards, first)
    out = []
    for tilt in np.radians(tilts):
        for turn in 2 * np.pi * np.arange(around if tilt > 0 else 1) / around:
            out.append(np.cos(tilt) * towards + np.sin(tilt) * (np.cos(turn) * first + np.sin(turn) * second))
    return np.array(out)


class _Window:
    """Correlation of the reference patch with warped photos over windows of wanted pixels; colours count together."""

    def __init__(self, image: Map, wanted: Mask, side: int, noise: float) -> None:
        self.side, self.floor = side, np.float32(image.shape[2] * noise**2)
        self.weight = wanted.astype(np.float32)
        self.weighted = image * self.weight[..., None]
        self.share = np.maximum(self._sum(self.weight), np.float32(1e-6))
        self.mean = self._sum(self.weighted) / self.share[..., None]
        energy = self._sum(_dot(self.weighted, image)) / self.share
        self.variance = np.maximum(energy - _dot(self.mean, self.mean), 0) + self.floor

    def _sum(self, values: Map) -> Map:
        return np.asarray(cv2.blur(values, (self.side, self.side), borderType=cv2.BORDER_CONSTANT), np.float32)

    def correlation(self, other: Map, box: tuple[slice, slice]) -> Map:
        """With a warped photo that covers a box of the patch."""
        weight, share = self.weight[box], self.share[box]
        mean = self._sum(other * weight[..., None]) / share[..., None]
        energy = self._sum(_dot(other, other) * weight) / share
        product = self._sum(_dot(self.weighted[box], other)) / share
        variance = np.maximum(energy - _dot(mean, mean), 0) + self.floor
        return (product - _dot(self.mean[box], mean)) / np.sqrt(self.variance[box] * variance)


def _dot(first: NDArray[np.floating], second: NDArray[np.floating]) -> Map:
    """[H, W] sum of products over the channels of [H, W, 3]."""
    a, b = first.reshape(-1, 3), second.reshape(-1, 3)
    return np.asarray(a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2], np.float32).reshape(first.shape[:2])


def _scores(
    image: Map, wanted: Mask, patch: Camera, rays: Array, others: Sequence[_Source], inverse: Array, seen: Mask, config: SweepConfig
) -> Volume:
    """[D, h, w] correlation at each depth: the best orientation per source, the mean of the better half of the sources."""
    window = _Window(image, wanted, config.window, config.noise)
    best = np.full((len(others), len(inverse), *wanted.shape), -1, np.float32)
    axis = rays[wanted].mean(0)
    for normal in plane_normals(axis, config.tilts, config.around):
        # A ray meets the plane normal . X = offset at depth offset / (normal . ray); relative to the axis that is 1 / slope.
        slope = rays @ normal / float(normal @ axis)
        usable = wanted & (rays @ normal < -0.05 * np.linalg.norm(rays, axis=-1))
        if not usable.any():
            continue
        step = inverse[1] - inverse[0]
        first = inverse[0] / float(slope[usable].max())
        count = int(np.ceil((inverse[-1] / float(slope[usable].min()) - first) / step)) + 1
        offsets = first + step * np.arange(count)
        index = (inverse[:, None, None] / np.where(usable, slope, 1) - first) / step
        nearest = np.clip(np.rint(index), 0, count - 1).astype(np.int32)
        boxes = [_box(usable & (slope * o >= inverse[0] - step) & (slope * o <= inverse[-1] + step), config.window) for o in offsets]
        for j, source in enumerate(others):
            volume = np.full((count, *wanted.shape), -1, np.float32)
            for k, box, warped in _warps(source, patch, normal, float(normal @ axis) / offsets, axis, boxes, config):
                volume[k][box] = window.correlation(warped, box)
            np.maximum(best[j], np.where(usable, np.take_along_axis(volume, nearest, 0), -1), out=best[j])
    best = np.where(seen, best, -1)
    return np.sort(best, axis=0)[::-1][: max(1, len(others) // 2)].mean(0)


def _box(active: Mask, window: int) -> tuple[slice, slice] | None:
    """Bounding box of the active pixels with the context of a window."""
    box = bounding_box(active)
    return None if box is None else grown(box, window // 2, active.shape)


def _warps(
    source: _Source, patch: Camera, normal: Array, distances: Array, axis: Array, boxes: Sequence[tuple[slice, slice] | None],
    config: SweepConfig,
) -> Iterator[tuple[int, tuple[slice, slice], Map]]:
    """The source photo warped by each plane normal . X = distance (negative: it faces the patch), where it faces the source."""
    least = np.cos(np.radians(config.max_slant))
    before, after = np.linalg.inv(patch.K) @ _CENTRE, np.linalg.inv(_CENTRE) @ source.view.camera.K
    turning, moving = after @ source.turn @ before, after @ np.outer(source.shift, normal) @ before
    towards = source.centre - axis * (distances / float(normal @ axis))[:, None]
    facing = towards @ normal >= least * np.linalg.norm(towards, axis=1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for k, (distance, box) in enumerate(zip(distances, boxes, strict=True)):
        if box is None or not facing[k]:
            continue
        mapping = turning + moving / distance
        mapping[:, 2] += mapping[:, 0] * box[1].start + mapping[:, 1] * box[0].start
        size = box[1].stop - box[1].start, box[0].stop - box[0].start
        warped = cv2.warpPerspective(source.image, mapping, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        yield k, box, np.asarray(warped, np.float32)


def _choose(score: Volume, possible: Mask, wanted: Mask, inverse: Array, patch: Camera, config: SweepConfig) -> Swept:
    """Smooth over neighbours, take the best depth of every pixel, and interpolate between planes."""
    cost = np.where(wanted, np.where(possible, 1 - score, np.float32(2)), np.float32(0)).astype(np.float32)
    total = aggregate_paths(cost, wanted, config.small_step, config.large_step)
    # What another photo shows to be empty cannot be chosen, however smooth it would be.
    total = np.where(possible, total, np.float32(np.inf))
    pick = total.argmin(0)
    known = wanted & possible.any(0)
    inner = np.clip(pick, 1, len(inverse) - 2)
    below, at, above = (np.take_along_axis(total, (inner + o)[None], 0)[0] for o in (-1, 0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        bend = below - 2 * at + above
        fraction = np.where((inner == pick) & np.isfinite(bend) & (bend > 1e-6), 0.5 * (below - above) / bend, 0).clip(-0.5, 0.5)
    step = inverse[1] - inverse[0]
    depth = np.where(known, 1 / (inverse[0] + (pick + fraction) * step), np.nan)
    chosen = np.where(known, np.take_along_axis(score, pick[None], 0)[0], -1)
    sigma = depth**2 * 0.5 * step
    return Swept(patch, wanted, depth.astype(np.float32), chosen.astype(np.float32), sigma.astype(np.float32))


def _nearest(values: NDArray[np.generic], width: int, height: int) -> Map:
    source = values.astype(np.float32) if values.dtype == bool else values
    return np.asarray(cv2.resize(np.asarray(source, np.float32), (width, height), interpolation=cv2.INTER_NEAREST), np.float32)
