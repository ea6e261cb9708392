"""The coordinate frame shown in the browser: the scene recentred and scaled, with an up direction and a first view.

viser sends covariances as 16-bit floats. Their smallest normal number is 6.1e-5, so standard deviations below 0.008
lose precision and those below 2.4e-4 become zero; above 255 they overflow. Scaling every scene so that its first
visit's cameras span a radius of `VIEW_RADIUS` puts a Gaussian of one thousandth of that radius at 0.01.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.core.scene import Scene
from ltgs.core.se3 import invert_rigid

Array = NDArray[np.float64]
VIEW_RADIUS = 10.0
DEFAULT_FOV_RAD = math.radians(60.0)


@dataclass(frozen=True)
class ViewFrame:
    """view = scale * (world - origin); directions are the same in both frames."""

    origin: Array
    """[3] world point shown at the centre of the view frame, scene units."""
    scale: float
    """View units per scene unit."""
    up: Array
    """[3] unit, mean upward direction of the photos."""

    def to_view(self, points: Array) -> Array:
        """[..., 3] world points to view points."""
        return (np.asarray(points, dtype=np.float64) - self.origin) * self.scale

    def to_world(self, points: Array) -> Array:
        """[..., 3] view points to world points."""
        return np.asarray(points, dtype=np.float64) / self.scale + self.origin

    def pose_to_view(self, world_from_object: Array) -> Array:
        """[4, 4] pose of an object in the world to view_from_object, where the object's points are scaled as well."""
        pose = np.array(world_from_object, dtype=np.float64)
        pose[:3, 3] = self.to_view(pose[:3, 3])
        return pose


@dataclass(frozen=True)
class ViewPose:
    """A camera in the view frame, OpenCV axes."""

    view_from_camera: Array
    """[4, 4] rigid."""
    fov_rad: float
    """Vertical field of view."""
    distance: float
    """Distance in front of the camera to orbit around, view units."""

    @property
    def position(self) -> Array:
        return self.view_from_camera[:3, 3]

    @property
    def look_at(self) -> Array:
        return self.position + self.view_from_camera[:3, 2] * self.distance

    def orbit_up(self, scene_up: Array) -> Array:
        """[3] up direction that shows the same picture but stays as close to the scene's up as it can.

        Orbit controls turn around the up direction, so a slightly tilted photo should not tilt the whole orbit.
        """
        right, own_up = self.view_from_camera[:3, 0], -self.view_from_camera[:3, 1]
        projected = scene_up - float(scene_up @ right) * right
        norm = float(np.linalg.norm(projected))
        return own_up if norm < 0.05 or float(own_up @ projected) < 0.05 * norm else projected / norm


def vertical_fov(camera: Camera) -> float:
    """Vertical field of view of a stored camera in radians."""
    return 2 * math.atan2(camera.height / 2, float(camera.K[1, 1]))


def sample_points(scene: Scene, count: int = 20000) -> Array:
    """[M, 3] finite centres of visible background Gaussians, evenly thinned to at most `count`."""
    background = scene.chronology.static_background.detach()
    if len(background) == 0:
        return np.zeros((0, 3))
    step = max(1, len(background) // count)
    points = background.means[::step].cpu().double().numpy()
    solid = background.opacities[::step].cpu().numpy() > 0.1
    finite = np.isfinite(points).all(1)
    return points[finite & solid] if (finite & solid).any() else points[finite]


def make_view_frame(scene: Scene) -> ViewFrame:
    """Choose centre, scale and up from the first visit's cameras, else from the Gaussians."""
    cameras = [p.camera for p in scene.photos() if p.camera is not None]
    first = [c for c in cameras if c.time == 0] or cameras
    points = sample_points(scene)
    origin, spread = np.zeros(3), 0.0
    if len(points):
        origin = np.median(points, axis=0)
        spread = float(np.median(np.linalg.norm(points - origin, axis=1)))
    radius = 0.0
    if first:
        centers = np.array([c.center for c in first])
        radius = float(np.linalg.norm(centers - centers.mean(0), axis=1).max())
        origin = centers.mean(0) if len(points) == 0 else origin
    # One camera, or cameras that hardly moved, say nothing about the size of the place; its Gaussians do.
    size = max(radius, 0.5 * spread)
    if not size > 0:
        size = 1.0
    return ViewFrame(origin, VIEW_RADIUS / size, _mean_up(first))


def _mean_up(cameras: list[Camera]) -> Array:
    if not cameras:
        return np.array([0.0, -1.0, 0.0])  # OpenCV axes: image down is +y.
    total = -np.sum([c.cam_from_world[1, :3] for c in cameras], axis=0)
    norm = float(np.linalg.norm(total))
    # Photos in all orientations cancel out; the first one then decides.
    return total / norm if norm > 0.2 * len(cameras) else -cameras[0].cam_from_world[1, :3]


def pose_of_camera(camera: Camera, frame: ViewFrame, points: Array) -> ViewPose:
    """A stored camera in the view frame, orbiting around the median depth of the points it sees."""
    world_from_camera = invert_rigid(camera.cam_from_world)
    local = points @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    distance = VIEW_RADIUS / frame.scale
    front = local[local[:, 2] > 1e-6 / frame.scale]
    if len(front):
        pixels = front @ camera.K.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        inside = ((pixels >= 0) & (pixels <= [camera.width, camera.height])).all(1)
        if inside.any():
            distance = float(np.median(front[inside, 2]))
    return ViewPose(frame.pose_to_view(world_from_camera), vertical_fov(camera), distance * frame.scale)


def first_view(scene: Scene, frame: ViewFrame) -> ViewPose:
    """The view to open with: the first visit's photo that sees most of the scene's middle, else an overview."""
    points = sample_points(scene)
    cameras = [p.camera for p in scene.photos() if p.camera is not None]
    first = [c for c in cameras if c.time == 0] or cameras
    if first:
        best = max(first, key=lambda c: _seen_fraction(c, points))
        return pose_of_camera(best, frame, points)
    side = np.cross(frame.up, [0.0, 0.0, 1.0] if abs(frame.up[2]) < 0.9 else [1.0, 0.0, 0.0])
    away = side / np.linalg.norm(side) + 0.5 * frame.up
    return looking_at(np.zeros(3), away / np.linalg.norm(away), 2.5 * VIEW_RADIUS, frame.up, DEFAULT_FOV_RAD)


def _seen_fraction(camera: Camera, points: Array) -> float:
    if len(points) == 0:
        return 0.0
    sample = points[:: max(1, len(points) // 2000)]
    local = sample @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    pixels = local @ camera.K.T
    depth = np.maximum(pixels[:, 2:], 1e-9)
    inside = ((pixels[:, :2] / depth >= 0) & (pixels[:, :2] / depth <= [camera.width, camera.height])).all(1)
    return round(float((inside & (local[:, 2] > 0)).mean()), 2)  # Rounded, so that near ties go to the first photo.


def looking_at(target: Array, away: Array, distance: float, up: Array, fov_rad: float) -> ViewPose:
    """A camera `distance` from `target` in the unit direction `away`, upright with respect to `up`."""
    forward = -np.asarray(away, dtype=np.float64)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-6:
        right = np.cross(forward, np.eye(3)[int(np.argmin(np.abs(forward)))])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = np.asarray(target, dtype=np.float64) - forward * distance
    return ViewPose(pose, fov_rad, distance)
