"""The free coordinate frame of an unposed reconstruction: upright, centred, of a convenient size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ltgs.io.posed import PosedPhoto

Array = NDArray[np.float64]

MEDIAN_DEPTH = 4.0
"""Scene units from a photo to what it sees, in the median, after normalisation: a room then measures about as many
units as metres, and a pixel's footprint (about 0.004 units) stays far above the half-precision limits of web viewers."""


@dataclass(frozen=True)
class Similarity:
    """b = scale * rotation @ a + translation."""

    scale: float
    rotation: Array
    translation: Array

    def inverse(self) -> Similarity:
        """The similarity that maps b back to a."""
        back = self.rotation.T
        return Similarity(1 / self.scale, back, -(back @ self.translation) / self.scale)

    def points(self, xyz: Array) -> Array:
        """Map [N, 3] points."""
        return self.scale * np.asarray(xyz, float) @ self.rotation.T + self.translation

    def camera(self, cam_from_a: Array) -> Array:
        """Map a [4, 4] cam_from_a to cam_from_b, keeping it rigid (camera units become b's units)."""
        out = np.eye(4)
        out[:3, :3] = cam_from_a[:3, :3] @ self.rotation.T
        out[:3, 3] = self.scale * cam_from_a[:3, 3] - out[:3, :3] @ self.translation
        return out

    def posed(self, photos: Mapping[str, PosedPhoto]) -> dict[str, PosedPhoto]:
        """Map every photo's pose."""
        return {name: replace(p, cam_from_world=self.camera(p.cam_from_world)) for name, p in photos.items()}


def camera_center(cam_from_world: Array) -> Array:
    """[3] centre of a [4, 4] pose."""
    return -cam_from_world[:3, :3].T @ cam_from_world[:3, 3]


def up_direction(poses: Array) -> Array:
    """Unit vector that points up in the world, guessed from how people hold cameras.

    Args:
        poses: [C, 4, 4] cam_from_world.

    The image's horizontal axis is level in most photos, so up is the direction most orthogonal to all of these axes. It is
    used only if the axes span a plane clearly and it agrees with the mean of the cameras' own up vectors; otherwise that
    mean is the answer.
    """
    right, own_up = poses[:, 0, :3], -poses[:, 1, :3]
    mean_up = own_up.sum(0)
    norm = np.linalg.norm(mean_up)
    mean_up = mean_up / norm if norm > 1e-6 * len(poses) else own_up[0]
    _, sigma, axes = np.linalg.svd(right)
    spread = np.zeros(3)
    spread[: len(sigma)] = sigma
    level = axes[2] * (1.0 if axes[2] @ mean_up >= 0 else -1.0)
    if spread[1] > 3 * spread[2] and spread[1] > 0.1 * spread[0] and level @ mean_up > 0.7:
        return level
    return mean_up


def normalising_similarity(poses: Array, xyz: Array, median_depth: float) -> Similarity:
    """World z up, origin at the median point, MEDIAN_DEPTH from photos to points.

    Args:
        poses: [C, 4, 4] cam_from_world. xyz: [P, 3], P >= 1. median_depth: in the input's units.
    """
    up = up_direction(poses)
    # The first camera's viewing direction, made horizontal, becomes +y: a fixed heading makes runs comparable.
    forward = poses[0, 2, :3] - (poses[0, 2, :3] @ up) * up
    if np.linalg.norm(forward) < 1e-3:
        forward = poses[0, 1, :3] - (poses[0, 1, :3] @ up) * up
    forward /= np.linalg.norm(forward)
    rotation = np.stack([np.cross(forward, up), forward, up])
    scale = MEDIAN_DEPTH / median_depth
    return Similarity(scale, rotation, -scale * np.median(xyz @ rotation.T, axis=0))
