"""Photos with known cameras to a dense point cloud: pairs, depth per view, agreement of pairs, one point per voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.depth.pairs import PairConfig, ViewPair, choose_stereo_pairs
from ltgs.depth.pictures import as_array
from ltgs.depth.types import Map, Mask, Source
from ltgs.depth.views import ViewDepth, ViewDepthConfig, measure_view
from ltgs.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PointsConfig:
    """How views become points."""

    pairs: PairConfig = field(default_factory=PairConfig)
    view: ViewDepthConfig = field(default_factory=ViewDepthConfig)
    min_confidence: float = 0.5
    """Less trusted matches are dropped."""
    stride: int = 2
    """Every so many pixels of a view become a point."""
    agree: float = 1.0
    """Largest reprojected disparity difference between two pairs, pixels."""
    min_agreement: int = 2
    """Pairs that must measure a point alike where so many see it; a point that only one pair sees is kept."""
    voxel: float | None = None
    """Side of a voxel, scene units; None = twice the spacing of the points at their median depth."""
    keep_prior: bool = False
    """Also make points of pixels whose depth comes from the known scene."""


@dataclass(frozen=True)
class StereoPoints:
    """P points in the world."""

    xyz: Array
    """[P, 3] scene units."""
    rgb: NDArray[np.uint8]
    """[P, 3]"""
    sigma: NDArray[np.float64]
    """[P] standard deviation along the ray, scene units."""
    support: NDArray[np.int64]
    """[P] measurements merged into the point."""
    pairs: tuple[ViewPair, ...]
    """Pairs that were measured."""
    refused: dict[tuple[int, int], str]
    """Pairs that were not used, with the reason."""

    def __len__(self) -> int:
        return len(self.xyz)


@dataclass(frozen=True)
class _Cloud:
    xyz: Array
    rgb: NDArray[np.uint8]
    sigma: NDArray[np.float64]


def stereo_points(
    photos: Sequence[Any], cameras: Sequence[Camera], *, depths: Sequence[Any] | None = None, depth_valid: Sequence[Any] | None = None,
    wheres: Sequence[Any] | None = None, groups: Sequence[int] | None = None, typical_depth: float | None = None,
    config: PointsConfig | None = None, progress: Progress = silent,
) -> StereoPoints:
    """Points of what the photos show.

    Args:
        photos: [V] photos, each [H, W, 3] uint8 or floats in [0, 1] (array or tensor).
        cameras: [V] their pinhole cameras.
        depths: [V] depth along z of the known scene from each camera, [H, W] scene units (NaN or not positive = unknown), or None.
        depth_valid: [V] [H, W] where it may be trusted; pass False inside of change masks.
        wheres: [V] [H, W] pixels that are wanted, e.g. change masks; None = all.
        groups: [V] only photos of one group are paired; pass the visit for things that move between visits.
        typical_depth: depth of the surfaces, scene units; needed without `depths` to choose the pairs.
        config: settings.
        progress: reports.

    Returns:
        Points with colours and deviations; empty if no pair is usable, with the reasons in `refused`.

    Raises:
        ValueError: neither `depths` nor `typical_depth` is given, or lists differ in length.
    """
    config = config or PointsConfig()
    if depths is None and typical_depth is None:
        raise ValueError("stereo_points needs depths or typical_depth to choose pairs.")
    for name, values in (("photos", photos), ("depths", depths), ("depth_valid", depth_valid), ("wheres", wheres), ("groups", groups)):
        if values is not None and len(values) != len(cameras):
            raise ValueError(f"{name} must have one entry per camera, got {len(values)} for {len(cameras)} cameras.")
    known = [typical_depth if depths is None or d is None else as_array(d) for d in (depths or [None] * len(cameras))]
    masks = [None if wheres is None or w is None else as_array(w).astype(bool) for w in (wheres or [None] * len(cameras))]
    surfaces = [np.nan if k is None else k for k in known]
    pairs = choose_stereo_pairs(cameras, surfaces, wheres=masks, groups=groups, config=config.pairs)
    views: list[tuple[ViewPair, ViewDepth]] = []
    refused: dict[tuple[int, int], str] = {}
    for done, pair in enumerate(pairs):
        i, j = pair.first, pair.second
        prior = None if depths is None else depths[i]
        valid = None if depth_valid is None else depth_valid[i]
        try:
            view = measure_view((photos[i], photos[j]), (cameras[i], cameras[j]), depth=prior, depth_valid=valid, config=config.view)
            views.append((pair, view))
        except InputError as error:
            refused[i, j] = str(error)
        progress(ProgressEvent("depth", done + 1, len(pairs), f"{cameras[i].name} with {cameras[j].name}"))
    clouds = [_cloud(pair, view, cameras, masks, views, config) for pair, view in views]
    merged = _merge(clouds, views, config)
    return StereoPoints(*merged, tuple(p for p, _ in views), refused)


def _cloud(
    pair: ViewPair, view: ViewDepth, cameras: Sequence[Camera], masks: Sequence[Mask | None], views: Sequence[tuple[ViewPair, ViewDepth]],
    config: PointsConfig,
) -> _Cloud:
    """Points of one view that pass the filters."""
    wanted = (view.source == Source.STEREO) & (view.confidence >= config.min_confidence)
    if config.keep_prior:
        wanted |= view.source == Source.PRIOR
    thinned = np.zeros_like(wanted)
    thinned[:: config.stride, :: config.stride] = True
    wanted &= thinned & np.isfinite(view.depth)
    points = view.pair.left.surface(view.depth)[wanted]
    rgb, sigma = view.rgb[wanted], view.sigma[wanted].astype(np.float64)
    keep = np.ones(len(points), bool)
    mask = masks[pair.first]
    if mask is not None:
        keep &= _lookup(points, cameras[pair.first], mask.astype(np.float32)) > 0.5
    seen = agreeing = np.zeros(len(points), int)
    for other, witness in views:
        # The same two photos the other way round repeat their mistakes.
        if {other.first, other.second} != {pair.first, pair.second}:
            says, alike = _agreement(points, witness, config.agree, same_place=other.first == pair.first)
            seen, agreeing = seen + says, agreeing + alike
    keep &= agreeing >= np.minimum(config.min_agreement - 1, seen)
    return _Cloud(points[keep], rgb[keep], sigma[keep])


def _lookup(points: Array, camera: Camera, values: Map) -> Map:
    """[P] nearest pixel of an image of the camera; NaN outside of it."""
    local = points @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    uv = local @ camera.K.T
    with np.errstate(divide="ignore", invalid="ignore"):
        column, row = np.floor(uv[:, 0] / uv[:, 2]), np.floor(uv[:, 1] / uv[:, 2])
    inside = (local[:, 2] > 0) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    out = np.full(len(points), np.nan, np.float32)
    out[inside] = values[row[inside].astype(int), column[inside].astype(int)]
    return out


def _agreement(
    points: Array, witness: ViewDepth, tolerance: float, *, same_place: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per point: does another pair have a say about it, and does it measure the same?

    A witness at another place that measures something nearer may be looking at what hides the point and says nothing; one at the same
    place looks along the same ray and always has a say.
    """
    camera = witness.pair.left
    matched = np.where(witness.source == Source.STEREO, witness.depth, np.float32(np.nan))
    measured = witness.pair.disparity(_lookup(points, camera, matched))
    z = points @ camera.cam_from_world[2, :3] + camera.cam_from_world[2, 3]
    difference = witness.pair.disparity(z) - measured
    with np.errstate(invalid="ignore"):
        alike = np.abs(difference) <= tolerance
        says = np.isfinite(difference) if same_place else alike | (difference > tolerance)
    return says.astype(int), alike.astype(int)


def _merge(
    clouds: Sequence[_Cloud], views: Sequence[tuple[ViewPair, ViewDepth]], config: PointsConfig
) -> tuple[Array, NDArray[np.uint8], NDArray[np.float64], NDArray[np.int64]]:
    """One point per voxel: the mean weighted by inverse variance."""
    if not clouds or not sum(len(c.xyz) for c in clouds):
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), np.zeros(0, np.int64)
    xyz = np.concatenate([c.xyz for c in clouds])
    rgb = np.concatenate([c.rgb for c in clouds]).astype(np.float64)
    sigma = np.concatenate([c.sigma for c in clouds])
    side = config.voxel
    if side is None:
        spacing = [np.nanmedian(v.depth) * config.stride / v.pair.focal for _, v in views if np.isfinite(v.depth).any()]
        side = 2 * float(np.median(spacing))
    if not side > 0:
        raise ValueError(f"the side of a voxel must be positive, got {side}.")
    return merge_voxels(xyz, rgb, sigma, side)


def merge_voxels(
    xyz: Array, rgb: Array, sigma: NDArray[np.float64], side: float
) -> tuple[Array, NDArray[np.uint8], NDArray[np.float64], NDArray[np.int64]]:
    """Merge the points of each voxel.

    Args:
        xyz: [N, 3]. rgb: [N, 3] 0..255. sigma: [N] standard deviations, positive. side: scene units.

    Returns:
        [P, 3] means weighted by inverse variance, [P, 3] uint8 colours, [P] deviations of the means (never below the smallest of the
        voxel over the square root of its count), [P] counts; in order of the voxels.
    """
    cells = np.floor(xyz / side).astype(np.int64)
    _, index = np.unique(cells, axis=0, return_inverse=True)
    index = index.ravel()
    count = np.bincount(index)
    weight = 1 / np.maximum(sigma, 1e-12) ** 2
    total = np.bincount(index, weight)
    mean = np.stack([np.bincount(index, weight * xyz[:, k]) / total for k in range(3)], 1)
    colour = np.stack([np.bincount(index, weight * rgb[:, k]) / total for k in range(3)], 1)
    return mean, np.clip(np.rint(colour), 0, 255).astype(np.uint8), 1 / np.sqrt(total), count
