"""Sparse points with known depth, from structure from motion, as a dense prior: planes between neighbouring points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import Delaunay, cKDTree

from ltgs.core.cameras import Camera
from ltgs.depth.types import Map, Mask
from ltgs.errors import InputError

Array = NDArray[np.float64]
MIN_POINTS = 12
"""Fewer points in view are no prior."""
NEIGHBOURS = 8
"""Points in the picture with which a point is compared to see whether it is hidden."""
HIDDEN = 1.25
"""Depth over the smallest depth among the neighbours from which on a point counts as hidden by them."""
MAX_RATIO = 1.15
"""Largest ratio of depths within a triangle; beyond it the triangle spans two surfaces and says nothing."""
MAX_SIDE = 0.2
"""Longest side of a triangle, as a share of the photo's longer side."""


def sparse_prior(points: Array, camera: Camera) -> tuple[Map, Mask]:
    """Inverse depth between points that a camera sees.

    Inverse depth is linear in the image on a plane, so the triangles between neighbouring points are planes in space. Triangles that
    are long, or whose corners differ in depth, are left out.

    Args:
        points: [P, 3] world points, scene units; some may be hidden or wrong.
        camera: the left camera of a rectified pair.

    Returns:
        [H, W] inverse depth (per scene unit; 0 where unknown), and [H, W] where it is known.

    Raises:
        InputError: fewer than 12 points lie in front of the camera and inside its photo.
    """
    local = np.asarray(points, np.float64) @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    local = local[local[:, 2] > 1e-9]
    uv = local @ camera.K.T
    uv = uv[:, :2] / uv[:, 2:]
    inside = (uv[:, 0] >= 0) & (uv[:, 0] < camera.width) & (uv[:, 1] >= 0) & (uv[:, 1] < camera.height)
    uv, z = uv[inside], local[inside, 2]
    uv, first = np.unique(uv, axis=0, return_index=True)
    z = z[first]
    if len(uv) >= MIN_POINTS:
        shown = ~_hidden(uv, z)
        uv, z = uv[shown], z[shown]
    if len(uv) < MIN_POINTS:
        raise InputError(
            f"{camera.name or 'The camera'}: only {len(uv)} known points lie in view, {MIN_POINTS} are needed for a prior. "
            "Check that the camera belongs to the points' scene, or leave the prior out."
        )
    return _interpolate(uv, 1 / z, camera)


def _hidden(uv: Array, z: Array) -> NDArray[np.bool_]:
    """[P] points clearly behind most of their neighbours in the picture."""
    _, near = cKDTree(uv).query(uv, k=min(NEIGHBOURS + 1, len(uv)))
    return z > HIDDEN * np.median(z[near[:, 1:]], axis=1)


def _interpolate(uv: Array, inverse: Array, camera: Camera) -> tuple[Map, Mask]:
    triangles = Delaunay(uv)
    corners = triangles.simplices
    ratio = inverse[corners].max(1) / inverse[corners].min(1)
    sides = uv[corners] - uv[np.roll(corners, 1, axis=1)]
    good = (ratio <= MAX_RATIO) & (np.linalg.norm(sides, axis=2).max(1) <= MAX_SIDE * max(camera.width, camera.height))
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    pixels = np.stack([u.ravel(), v.ravel()], 1)
    which = triangles.find_simplex(pixels)
    known = (which >= 0) & good[which]
    values = np.zeros(len(pixels), np.float32)
    values[known] = LinearNDInterpolator(triangles, inverse)(pixels[known])
    return values.reshape(u.shape), known.reshape(u.shape)
