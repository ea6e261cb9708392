"""Do depth maps of several cameras agree about a point?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.depth.types import Map

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DepthView:
    """A camera and what was measured from it."""

    camera: Camera
    depth: Map
    """[H, W] along z, scene units; NaN where nothing was measured."""
    sigma: Map
    """[H, W] standard deviation, scene units; NaN as above."""


def look_up(points: Array, view: DepthView) -> tuple[Array, Array, Array]:
    """Per point [M, 3]: its depth in the camera, and depth and deviation measured at its pixel (NaN where there is none)."""
    camera = view.camera
    local = points @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    z = local[:, 2]
    uv = local @ camera.K.T
    with np.errstate(divide="ignore", invalid="ignore"):
        columns, rows = np.floor(uv[:, 0] / z), np.floor(uv[:, 1] / z)
    inside = (z > 0) & (columns >= 0) & (columns < camera.width) & (rows >= 0) & (rows < camera.height)
    at = rows[inside].astype(int), columns[inside].astype(int)
    there, sigma = np.full(len(points), np.nan), np.full(len(points), np.nan)
    there[inside], sigma[inside] = view.depth[at], view.sigma[at]
    return z, there, sigma


def count_votes(
    points: Array, sigma: Array, others: Sequence[DepthView], deviations: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many other views measured each point, and how many looked through it.

    A view that measured something nearer may be looking at what hides the point and says nothing.

    Args:
        points: [M, 3] world points. sigma: [M] their standard deviations along the ray.
        others: views that vote.
        deviations: largest difference that counts as the same, in units of the larger of both deviations.

    Returns:
        [M] agreeing and [M] contradicting views.
    """
    agree, against = np.zeros(len(points), np.int64), np.zeros(len(points), np.int64)
    for view in others:
        z, there, other_sigma = look_up(points, view)
        tolerance = deviations * np.maximum(sigma, other_sigma)
        with np.errstate(invalid="ignore"):
            agree += np.abs(z - there) <= tolerance
            against += there > z + tolerance
    return agree, against
