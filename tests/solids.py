"""Small solids of Gaussians with known places and poses: boxes with a print, and plain ones."""

from __future__ import annotations

import numpy as np
import torch

from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import make_rigid, so3_exp

FACES = np.array([[0.8, 0.1, 0.1], [0.1, 0.2, 0.8], [0.1, 0.7, 0.2], [0.9, 0.8, 0.1], [0.9, 0.4, 0.0], [0.6, 0.1, 0.7]])
"""[6, 3] colours of the sides of a box: -x, +x, -y, +y, -z, +z."""


def gaussians(points: np.ndarray, colours: np.ndarray, size: float, opacity_logit: float = 4.0) -> Gaussians:
    """Opaque round Gaussians of one size."""
    n = len(points)
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    sh = (torch.as_tensor(colours, dtype=torch.float32)[:, None] - 0.5) / 0.28209479
    return Gaussians(
        torch.as_tensor(points, dtype=torch.float32), quats, torch.full((n, 3), float(np.log(size))), torch.full((n,), opacity_logit),
        sh,
    )


def textured(points: np.ndarray, palette: np.ndarray, cell: float, seed: int) -> np.ndarray:
    """Blocky random colours, constant within cells, so that there is structure at the scale of several pixels."""
    rng = np.random.default_rng(seed)
    keys = np.floor(points / cell + 1e-6).astype(int)
    _, index = np.unique(keys, axis=0, return_inverse=True)
    return palette[rng.integers(0, len(palette), index.max() + 1)][index.ravel()]


def box(size=(0.26, 0.16, 0.2), seed: int = 3, *, faces: np.ndarray = FACES, count: int = 2600) -> Gaussians:
    """A box shell standing on z = 0, its six faces of different colours."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.5, 0.5, (count, 3))
    axis = rng.integers(0, 3, len(points))
    sign = np.where(rng.random(len(points)) < 0.5, -0.5, 0.5)
    points[np.arange(len(points)), axis] = sign
    colours = faces[axis * 2 + (sign > 0)] * textured(points, np.array([[1.0] * 3, [0.55] * 3]), 0.34, seed)
    return gaussians((points + [0, 0, 0.5]) * size, colours, 0.011)


def cylinder(mark: np.ndarray | None = None, *, radius: float = 0.1, height: float = 0.28) -> Gaussians:
    """The wall and the lid of a cylinder on z = 0, in two bands of colour; the wall and lid on one side may have a third [3].

    The Gaussians lie in rings, so that without that mark nothing but the colour of single pixels tells its turns apart.
    """
    angles = np.arange(28) * (2 * np.pi / 28)
    rings = [(radius, z) for z in np.linspace(0, height, 18)] + [(r, height) for r in np.linspace(0, radius, 7)]
    points = np.concatenate([np.stack([r * np.cos(angles), r * np.sin(angles), np.full(28, z)], 1) for r, z in rings])
    colours = np.where(points[:, 2:] > 0.68 * height, [[0.8, 0.2, 0.1]], [[0.2, 0.3, 0.7]])
    if mark is not None:
        colours[points[:, 1] > 0] = mark
    return gaussians(points, colours, 0.12 * radius)


def ball(radius: float = 0.12) -> Gaussians:
    """A sphere of one colour around the origin."""
    z = np.linspace(-1, 1, 900)
    angles = np.pi * (1 + np.sqrt(5)) * np.arange(900)
    points = np.stack([np.sqrt(1 - z**2) * np.cos(angles), np.sqrt(1 - z**2) * np.sin(angles), z], 1)
    return gaussians(radius * points, np.tile([0.8, 0.2, 0.1], (900, 1)), 0.12 * radius)


def standing(x: float, y: float, yaw_deg: float = 0.0) -> np.ndarray:
    """[4, 4] pose of a solid on z = 0, turned about the vertical."""
    rotation = so3_exp(torch.tensor([0, 0, np.radians(yaw_deg)], dtype=torch.float64)).numpy()
    return make_rigid(rotation, np.array([x, y, 0.0]))


def at(part: Gaussians, x: float, y: float, yaw_deg: float = 0.0) -> Gaussians:
    """A solid standing at a place."""
    return part.transformed(torch.as_tensor(standing(x, y, yaw_deg), dtype=torch.float32))
