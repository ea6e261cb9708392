"""Two posed photos to a pair that can be matched along rows, and disparity back to depth.

Any relative position works: the new x axis points from the first camera to the second, so that the first photo is always the left
one. A pair taken one above the other is turned by a quarter, one taken from right to left by a half.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.depth.types import DisparityRange, Map, Mask
from ltgs.errors import InputError

Array = NDArray[np.float64]
MAX_SLANT = 1.3
"""Tangent of the largest angle between a ray and the rectified axis, in x and in y; farther out pixels are stretched, not seen."""
MIN_SHARE = 0.4
"""Smallest share of a photo, and of the rows, that must remain."""
MAX_FORWARD = 0.7
"""Largest cosine between the baseline and the common viewing direction; beyond it the epipole comes near the photos."""


@dataclass(frozen=True)
class RectifiedPair:
    """Two virtual cameras with one orientation and one row of pixels for one row of pixels."""

    left: Camera
    """At the first photo's centre."""
    right: Camera
    """At the second photo's centre; same K but for the column of its principal point."""
    left_from: Array
    """[3, 3] first photo's pixel = left_from @ rectified pixel, homogeneous, first pixel centre at (0.5, 0.5)."""
    right_from: Array
    """[3, 3] the same for the second photo."""

    @property
    def focal(self) -> float:
        """Pixels."""
        return float(self.left.K[0, 0])

    @property
    def baseline(self) -> float:
        """Distance of the centres, scene units."""
        return float(np.linalg.norm(self.right.center - self.left.center))

    @property
    def offset(self) -> float:
        """Disparity of points at infinity, pixels."""
        return float(self.left.K[0, 2] - self.right.K[0, 2])

    def depth(self, disparity: Map) -> Map:
        """[...] disparity in pixels to depth along z of the rectified cameras, scene units; NaN at or behind infinity."""
        shift = np.asarray(disparity, np.float64) - self.offset
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(shift > 0, self.focal * self.baseline / shift, np.nan).astype(np.float32)

    def disparity(self, depth: Map) -> Map:
        """[...] depth along z of the rectified cameras to disparity; NaN where the depth is not positive and finite."""
        z = np.asarray(depth, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((z > 0) & np.isfinite(z), self.focal * self.baseline / z + self.offset, np.nan).astype(np.float32)

    def depth_deviation(self, depth: Map, pixels: float | Map) -> Map:
        """Standard deviation of depth, scene units, for one of disparity: Z^2 sigma / (f B)."""
        return (np.asarray(depth, np.float64) ** 2 * pixels / (self.focal * self.baseline)).astype(np.float32)

    def search_range(self, near: float, far: float, margin: float = 0.2) -> DisparityRange:
        """The disparities of depths between `near` and `far` (scene units), widened by `margin` of the depths at both ends."""
        if not 0 < near <= far:
            raise ValueError(f"depths must satisfy 0 < near <= far, got {near} and {far}.")
        scale = self.focal * self.baseline
        low, high = scale / (far * (1 + margin)) + self.offset, scale / (near * (1 - margin)) + self.offset
        return DisparityRange(int(np.floor(low)) - 2, int(np.ceil(high)) + 3)


def rectify_cameras(first: Camera, second: Camera) -> RectifiedPair:
    """Find the rectified cameras of two pinhole cameras.

    Args:
        first, second: cameras at different places that look in similar directions.

    Returns:
        Cameras whose images cover what both photos can share, at the mean of their focal lengths.

    Raises:
        InputError: the cameras stand at one place, look apart, or one stands in front of the other.
    """
    between = second.center - first.center
    length = float(np.linalg.norm(between))
    axes = [c.cam_from_world[2, :3] for c in (first, second)]
    names = f"{first.name} and {second.name}"
    if length <= 1e-12 * max(1.0, float(np.abs(first.center).max())):
        raise InputError(f"{names} were taken from one place, so that they hold no depth. Choose another pair.")
    x = between / length
    view = axes[0] + axes[1]
    if np.linalg.norm(view) < 1.0:
        raise InputError(f"{names} look in different directions (more than 120 degrees apart). Choose another pair.")
    view /= np.linalg.norm(view)
    if abs(view @ x) > MAX_FORWARD:
        raise InputError(f"One of {names} stands in front of the other; depth cannot be measured along the way. Choose another pair.")
    z = view - (view @ x) * x
    z /= np.linalg.norm(z)
    rotation = np.stack([x, np.cross(z, x), z])
    focal = float(np.mean([c.K[i, i] for c in (first, second) for i in (0, 1)]))
    boxes = [_seen(c, rotation, focal) for c in (first, second)]
    if any(b is None for b in boxes):
        raise InputError(f"{names} cannot be rectified: too much of a photo looks along the line between them. Choose another pair.")
    left_box, right_box = (b for b in boxes if b is not None)
    top, bottom = max(left_box[1], right_box[1]), min(left_box[3], right_box[3])
    width = int(np.ceil(max(left_box[2] - left_box[0], right_box[2] - right_box[0])))
    height = int(np.floor(bottom - top))
    if height < MIN_SHARE * min(left_box[3] - left_box[1], right_box[3] - right_box[1]) or min(width, height) < 16:
        raise InputError(f"{names} share too few rows after rectification ({max(height, 0)}). Choose another pair.")
    cameras = [_virtual(c, rotation, focal, -box[0], -top, width, height) for c, box in ((first, left_box), (second, right_box))]
    maps = [c.K @ c.cam_from_world[:3, :3] @ rotation.T @ np.linalg.inv(v.K) for c, v in zip((first, second), cameras, strict=True)]
    return RectifiedPair(cameras[0], cameras[1], maps[0], maps[1])


def _virtual(camera: Camera, rotation: Array, focal: float, cx: float, cy: float, width: int, height: int) -> Camera:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ camera.center
    K = np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]])
    return replace(camera, width=width, height=height, K=K, cam_from_world=pose)


def _seen(camera: Camera, rotation: Array, focal: float) -> tuple[float, float, float, float] | None:
    """Bounding box (x0, y0, x1, y1) of what the photo shows within MAX_SLANT, relative to the principal point; None if that is little."""
    along = np.linspace(0, 1, 33)
    grid = np.stack(np.meshgrid(along * camera.width, along * camera.height), -1).reshape(-1, 2)
    rays = camera.rays(grid) @ camera.cam_from_world[:3, :3] @ rotation.T
    kept = (np.abs(rays[:, :2]) < MAX_SLANT * rays[:, 2:]).all(1)
    if kept.mean() < MIN_SHARE:
        return None
    plane = focal * rays[kept, :2] / rays[kept, 2:]
    (x0, y0), (x1, y1) = plane.min(0), plane.max(0)
    return float(x0), float(y0), float(x1), float(y1)


def pixel_map(camera: Camera, mapping: Array) -> tuple[Map, Map]:
    """Where the pixels of `camera` lie in the other image, in OpenCV's indices (first pixel centre at 0)."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    x, y, w = (mapping[i, 0] * u + mapping[i, 1] * v + mapping[i, 2] for i in range(3))
    return (x / w - 0.5).astype(np.float32), (y / w - 0.5).astype(np.float32)


def warp_photo(rgb: NDArray[np.uint8], camera: Camera, mapping: Array) -> tuple[NDArray[np.uint8], Mask]:
    """A photo as a rectified camera sees it.

    Args:
        rgb: [H, W, 3] uint8.
        camera: `left` or `right` of a pair. mapping: `left_from` or `right_from`.

    Returns:
        [h, w, 3] uint8 and [h, w] where it comes from inside of the photo.
    """
    x, y = pixel_map(camera, mapping)
    height, width = rgb.shape[:2]
    out = cv2.remap(rgb, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    return np.asarray(out, np.uint8), inside


def warp_depth(depth: Map, original: Camera, camera: Camera, mapping: Array) -> Map:
    """A depth map of the original view as depth along z of the rectified camera at the same centre.

    Inverse depth is interpolated, which is exact on planes; a pixel without depth spoils its neighbours only.

    Args:
        depth: [H, W] along z of `original`, scene units; NaN or not positive = unknown.
        original: the photo's camera. camera, mapping: see `warp_photo`.

    Returns:
        [h, w] scene units, NaN where unknown.
    """
    x, y = pixel_map(camera, mapping)
    inverse = np.where((depth > 0) & np.isfinite(depth), 1 / np.maximum(depth, 1e-12), np.nan).astype(np.float32)
    sampled = cv2.remap(inverse, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan"))
    turn = camera.cam_from_world[:3, :3] @ original.cam_from_world[:3, :3].T @ np.linalg.inv(original.K)
    along = turn[2, 0] * (x + 0.5) + turn[2, 1] * (y + 0.5) + turn[2, 2]
    return (along / np.asarray(sampled, np.float32)).astype(np.float32)


def depth_at_original(depth: Map, original: Camera, camera: Camera, mapping: Array) -> Map:
    """The inverse of `warp_depth`: rectified depth as depth along z of the original view, [H, W], NaN where unknown."""
    return warp_depth(depth, camera, original, np.asarray(np.linalg.inv(mapping), np.float64))
