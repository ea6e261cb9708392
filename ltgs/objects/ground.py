"""What something stands on that a single photo shows: it bounds how near and how far the thing can be.

One photo says nothing about depth but through what is known already: the surface that is seen right beneath a thing carries it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.views import ComparedView
from ltgs.imaging.masks import grown
from ltgs.objects.backing import Model
from ltgs.objects.hull import HullInstance, in_image, project, seen_points, unproject
from ltgs.objects.support import fitted_plane

log = logging.getLogger("ltgs.objects")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class GroundConfig:
    """The ground beneath a thing."""

    gap: float = 0.008
    """How far below an outline the ground is looked at, relative to the longer side of the photo."""
    least: int = 12
    """Pixels that must show it there."""
    ring: float = 0.5
    """Width of the surroundings that the plane is fitted to, relative to the root of the outline's area."""
    flat: float = 0.1
    """Distance from the ground's height within which points belong to it, relative to the thing's size."""
    share: float = 0.6
    """Share of the pixels below the outline that must."""
    level: float = 0.985
    """Least cosine between the normal of the fitted plane and the vertical; else the ground is taken for level."""
    steep: float = 0.97
    """Cosine between the viewing direction and the vertical from which no outline has a lower edge."""
    slack: float = 0.04
    """How far above or below the ground an object's lowest points may be found, relative to its radius."""
    lowest: float = 0.03
    """Share of an object's points that may lie lower than what it stands on: they are errors."""
    depth: float = 1.0
    """How deep a thing is, relative to how wide it looks."""
    kept: int = 20
    """Samples along the lines of sight that must remain: else the ground was not what the thing stands on."""


def ground_beneath(
    view: ComparedView, mask: NDArray[np.bool_], up: Array, *, config: GroundConfig | None = None
) -> Array | None:
    """The level plane that is seen right below an outline.

    Args:
        view: a photo and what is known of its place, without the thing.
        mask: [H, W] the thing's pixels.
        up: [3] unit, the vertical.

    Returns:
        [4] unit normal, upwards, and offset: normal @ x + offset is a point's height above it; None if what is seen there is
        not level, or too little is known of it.
    """
    config = config or GroundConfig()
    down = _down_in_photo(view, mask, up, config)
    if down is None:
        return None
    known, size = (view.alpha > 0.7) & ~grown(mask, 2), np.sqrt(mask.sum())
    below = _seen_below(view, mask, known, down, config)
    if below is None:
        return None
    height = float(np.median(below @ up))
    tolerance = config.flat * size / view.camera.K[0, 0] * float(np.median(_depths(view, below)))
    if np.mean(np.abs(below @ up - height) <= tolerance) < config.share:
        return None
    around = np.concatenate([below, seen_points(view, grown(mask, max(3, round(config.ring * size))) & known)])
    around = around[np.abs(around @ up - height) <= tolerance]
    plane = fitted_plane(around)
    plane *= np.sign(plane[:3] @ up) or 1.0
    return plane if plane[:3] @ up >= config.level else np.append(up, -height)


def standing_on(
    points: Array, view: ComparedView, mask: NDArray[np.bool_], ground: Array, *, margin_px: int, config: GroundConfig | None = None
) -> Array:
    """The samples of a thing's hull [M, 3] where it can be if it stands on a plane [4].

    What is seen in a photo and reaches down to the ground has its foot inside its outline, and is about as deep as wide. What the
    photo cuts off is taken to end there.

    Args:
        mask: [H, W] the thing's pixels. margin_px: their error.
    """
    config = config or GroundConfig()
    normal, camera = ground[:3], view.camera
    feet = points - (points @ normal + ground[3])[:, None] * normal
    uv, depth = project(camera, feet)
    inside = in_image(camera, uv, depth)
    columns, rows = np.clip(uv, 0, [camera.width - 1, camera.height - 1]).astype(int).T
    stands = inside & grown(mask, margin_px)[rows, columns]
    if not stands.any():
        return points[:0]
    points, feet = points[stands], feet[stands]
    ahead = np.median(points, axis=0) - camera.center
    ahead -= ahead @ normal * normal
    ahead /= max(float(np.linalg.norm(ahead)), 1e-9)
    far = feet @ ahead
    nearest = float(np.quantile(far, 0.02))
    front = feet[far <= np.quantile(far, 0.1)]
    width = _width_px(mask, _down_in_photo(view, mask, normal, config)) * float(np.median(_depths(view, front))) / camera.K[0, 0]
    return points[far <= nearest + config.depth * width]


def grounded(
    instances: Sequence[HullInstance], views: Sequence[ComparedView], up: Array, *, margin_px: int, config: GroundConfig | None = None
) -> list[HullInstance]:
    """Instances of new content; if there is only one photo, reduced to where they stand, where the ground beneath them is seen."""
    if len(views) != 1:
        return list(instances)
    return [_grounded(i, views[0], up, margin_px, config or GroundConfig()) for i in instances]


def _grounded(instance: HullInstance, view: ComparedView, up: Array, margin_px: int, config: GroundConfig) -> HullInstance:
    (mask,) = instance.pixels
    ground = ground_beneath(view, mask, up, config=config)
    if ground is None:
        return instance
    points = standing_on(instance.points, view, mask, ground, margin_px=margin_px, config=config)
    log.info("content at %s stands on %s: %d of %d samples remain", instance.centroid, ground, len(points), len(instance.points))
    return replace(instance, points=points, ground=ground) if len(points) >= config.kept else instance


def base_points(means: Array, ground: Array, *, share: float = 0.3) -> Array:
    """[B, 3] the lower part of an object's points [M, 3], brought down to the plane [4] that it stands on.

    What lies on the plane was left out when the object was cut out: its own lowest points are above its base.
    """
    height = means @ ground[:3] + ground[3]
    lower = height <= np.quantile(height, share)
    return means[lower] - height[lower, None] * ground[:3]


class Stand:
    """Holds an object on the plane that it stands on while its pose is looked for."""

    def __init__(self, ground: Array, eye: Array, model: Model, *, config: GroundConfig | None = None) -> None:
        """Prepare.

        Args:
            ground: [4] the plane. eye: [3] where the photo was taken.
        """
        config = config or GroundConfig()
        self.normal, self.offset = torch.as_tensor(ground[:3], dtype=torch.float32), float(ground[3])
        self.eye = torch.as_tensor(eye, dtype=torch.float32)
        self.model, self.slack, self.lowest = model, config.slack * model.radius, config.lowest

    @classmethod
    def of(
        cls, instance: HullInstance, views: Sequence[ComparedView], model: Model, *, config: GroundConfig | None = None
    ) -> Stand | None:
        """What holds an object that is looked for at an instance; None if the ground there is not known, or need not be."""
        return None if instance.ground is None else cls(instance.ground, views[0].camera.center, model, config=config)

    def clearance(self, poses: Tensor) -> Tensor:
        """[P] height of an object's lowest points above the plane at poses [P, 4, 4]; negative below."""
        along = poses[:, :3, :3].transpose(1, 2) @ self.normal
        low = torch.quantile(along @ self.model.seen.means.T, self.lowest, dim=1)
        if self.model.base is not None:
            low = torch.minimum(low, torch.quantile(along @ self.model.base.T, self.lowest, dim=1))
        return low + poses[:, :3, 3] @ self.normal + self.offset

    def settled(self, poses: Tensor) -> Tensor:
        """[P, 4, 4] poses brought down or up to the plane; differentiable."""
        height = self.clearance(poses)
        lift = height - height.clamp(-self.slack, self.slack)
        return _shifted_poses(poses, -lift[:, None] * self.normal)

    def cast(self, poses: Tensor, middle: Tensor) -> Tensor:
        """[P, 4, 4] poses moved along the line of sight to their middle [3] until the object stands on the plane."""
        ray = poses[:, :3, :3] @ middle + poses[:, :3, 3] - self.eye
        fall = ray @ self.normal
        share = torch.where(fall < -0.05 * ray.norm(dim=1), -self.clearance(poses) / fall, torch.zeros_like(fall))
        return _shifted_poses(poses, share.clamp(-0.7, 1.0)[:, None] * ray)


def _shifted_poses(poses: Tensor, shift: Tensor) -> Tensor:
    top = torch.cat([poses[:, :3, :3], (poses[:, :3, 3] + shift)[..., None]], 2)
    return torch.cat([top, poses[:, 3:]], 1)


def _down_in_photo(view: ComparedView, mask: NDArray[np.bool_], up: Array, config: GroundConfig) -> Array | None:
    """[2] unit (column, row): the direction in a photo in which things fall, where the mask is; None if seen from right above."""
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        return None
    along = unproject(view.camera, rows.mean(keepdims=True), columns.mean(keepdims=True), np.ones(1))[0] - view.camera.center
    if abs(along @ up) > config.steep * np.linalg.norm(along):
        return None
    uv, _ = project(view.camera, view.camera.center + along - np.array([[0.0], [0.05]]) * np.linalg.norm(along) * up)
    return (uv[1] - uv[0]) / np.linalg.norm(uv[1] - uv[0])


def _width_px(mask: NDArray[np.bool_], down: Array | None) -> float:
    """How wide a mask is across the direction in which things fall, pixels."""
    across = np.array([1.0, 0.0]) if down is None else np.array([-down[1], down[0]])
    low, high = np.quantile(np.stack(np.nonzero(mask)[::-1], 1) @ across, (0.02, 0.98))
    return float(high - low)


def _shifted(mask: NDArray[np.bool_], step: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[H, W] a mask moved by (columns, rows)."""
    rows, columns = np.nonzero(mask)
    rows, columns = rows + step[1], columns + step[0]
    inside = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
    out = np.zeros_like(mask)
    out[rows[inside], columns[inside]] = True
    return out


def _seen_below(
    view: ComparedView, mask: NDArray[np.bool_], known: NDArray[np.bool_], down: Array, config: GroundConfig
) -> Array | None:
    """[M, 3] what is known right below a mask; where a hole is there, further below."""
    gap = max(3.0, config.gap * max(mask.shape))
    for factor in (1, 2, 4, 8):
        below = _shifted(mask, np.round(down * gap * factor).astype(int)) & known
        if below.sum() >= config.least:
            return seen_points(view, below)
    return None


def _depths(view: ComparedView, points: Array) -> Array:
    """[M] depth of points [M, 3] along +z."""
    return project(view.camera, points)[1]
