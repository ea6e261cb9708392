"""Which two photos make a good stereo pair: enough parallax, enough overlap, no epipole in view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.depth.types import Map

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PairConfig:
    """Limits for pairs; angles in degrees."""

    min_angle: float = 3.0
    """Between the two rays to a common point; below it depth is too uncertain."""
    max_angle: float = 20.0
    """Above it surfaces look too different to match."""
    best_angle: float = 8.0
    max_axes: float = 30.0
    """Between the viewing directions."""
    min_overlap: float = 0.5
    """Share of the first view's surface that the second one may see."""
    max_forward: float = 0.6
    """Cosine of baseline and viewing direction; keeps the epipole out of the photos."""
    max_scale: float = 1.5
    """Ratio of the distances to the common surface."""
    partners: int = 3
    """Pairs per view at most."""


@dataclass(frozen=True)
class ViewPair:
    """A reference view and its partner, by position in the list of cameras."""

    first: int
    second: int
    angle: float
    """Median angle between the rays, degrees."""
    overlap: float
    """Share of the first view's samples inside of the second photo."""
    score: float
    """Larger is better."""


def sample_points(camera: Camera, depth: Map | float, where: NDArray[np.bool_] | None = None, *, count: int = 400) -> Array:
    """[P, 3] world points on the surface a camera sees, on a regular grid of pixels.

    Args:
        camera: the view.
        depth: [H, W] along z (NaN or not positive = unknown), or one depth for all pixels; scene units.
        where: [H, W] only these pixels, e.g. those of a new object.
        count: about so many points.
    """
    rows, columns = np.mgrid[0 : camera.height, 0 : camera.width]
    z = np.broadcast_to(np.asarray(depth, np.float64), rows.shape)
    with np.errstate(invalid="ignore"):
        chosen = np.flatnonzero((np.isfinite(z) & (z > 0) & (True if where is None else where)).ravel())
    chosen = chosen[:: max(1, len(chosen) // count)]
    # A stride that divides the width would sample a few columns only.
    chosen = np.random.default_rng(0).permutation(chosen)[:count] if len(chosen) > count else chosen
    pixels = np.stack([columns.ravel()[chosen] + 0.5, rows.ravel()[chosen] + 0.5], 1)
    return camera.in_world(camera.rays(pixels) * z.ravel()[chosen][:, None])


def judge_pair(first: Camera, second: Camera, points: Array, config: PairConfig) -> tuple[float, float, float] | None:
    """Angle in degrees, overlap and score of a pair; None if a limit is broken.

    Args:
        first, second: cameras.
        points: [P, 3] points the first camera sees.
        config: limits.
    """
    between = second.center - first.center
    length = float(np.linalg.norm(between))
    if len(points) == 0 or length < 1e-9:
        return None
    axes = first.cam_from_world[2, :3], second.cam_from_world[2, :3]
    view = axes[0] + axes[1]
    if np.degrees(np.arccos(np.clip(axes[0] @ axes[1], -1, 1))) > config.max_axes:
        return None
    if abs(view @ between) > config.max_forward * length * np.linalg.norm(view):
        return None
    local = points @ second.cam_from_world[:3, :3].T + second.cam_from_world[:3, 3]
    uv = local @ second.K.T
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = uv[:, 0] / uv[:, 2], uv[:, 1] / uv[:, 2]
    seen = (local[:, 2] > 0) & (x >= 0) & (x < second.width) & (y >= 0) & (y < second.height)
    overlap = float(seen.mean())
    if overlap < config.min_overlap:
        return None
    rays = points[seen] - first.center, points[seen] - second.center
    norms = [np.linalg.norm(r, axis=1) for r in rays]
    angle = float(np.degrees(np.median(np.arccos(np.clip((rays[0] * rays[1]).sum(1) / (norms[0] * norms[1]), -1, 1)))))
    # What the image shows is size in pixels: distance over focal length.
    ratio = float(np.median(norms[0] / norms[1])) * second.K[0, 0] / first.K[0, 0]
    if not config.min_angle <= angle <= config.max_angle or not 1 / config.max_scale <= ratio <= config.max_scale:
        return None
    return angle, overlap, overlap * float(np.exp(-np.abs(np.log(angle / config.best_angle))))


def choose_stereo_pairs(
    cameras: Sequence[Camera], depths: Sequence[Map | float], *, wheres: Sequence[NDArray[np.bool_] | None] | None = None,
    groups: Sequence[int] | None = None, config: PairConfig | None = None,
) -> list[ViewPair]:
    """The best partners of every view, each pair once per reference view.

    Args:
        cameras: V views.
        depths: [V] depth of the surface each view sees, a map or one number; a view whose depth is unknown gets no partner.
        wheres: [V] pixels that matter per view, e.g. new objects.
        groups: [V] only views of one group are paired, e.g. of one visit.
        config: limits.

    Returns:
        At most `config.partners` pairs per view, best first per view, in order of the views.
    """
    config = config or PairConfig()
    out: list[ViewPair] = []
    for i, camera in enumerate(cameras):
        points = sample_points(camera, depths[i], None if wheres is None else wheres[i])
        found = []
        for j, other in enumerate(cameras):
            if j == i or (groups is not None and groups[i] != groups[j]):
                continue
            verdict = judge_pair(camera, other, points, config)
            if verdict is not None:
                found.append(ViewPair(i, j, *verdict))
        out += sorted(found, key=lambda p: (-p.score, p.second))[: config.partners]
    return out
