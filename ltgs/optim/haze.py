"""Haze that training has left between the cameras: seen from beside them it would cover what their photos show.

There is no photo from there. What few photos saw, each of them hardly, and stands right before a viewpoint near theirs, in front of what
is known, is taken for an error of the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Camera
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import make_rigid, so3_exp, so3_log
from ltgs.imaging.undistort import working_size
from ltgs.render.haze import NearConfig, unveil

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ClearConfig(NearConfig):
    """Haze of a first visit."""

    most_photos: float = 3.0
    """What more photos saw is no haze."""
    most_share: float = 0.11
    """Nor is what a larger share of the photos saw: of eight photos around a place each shows much that no other one does."""
    neighbours: int = 4
    """Viewpoints lie half way between a camera and so many nearest ones."""
    reach: float = 1.0
    """Others lie beside, above, before and behind a camera, this far in units of the median distance of neighbours."""
    size: int = 320
    """Longer side of the pictures from there, pixels."""
    most_views: int = 300
    """Most viewpoints."""


def clear_of_haze(
    gaussians: Gaussians,
    weight: Tensor,  # [N] pixels that each Gaussian covers in all photos
    num_views: Tensor,  # [N] photos that see it
    cameras: Sequence[Camera],
    *,
    config: ClearConfig | None = None,
    backend: str = "auto",
) -> Tensor:
    """[N] bool: the Gaussians that are no haze before viewpoints near the cameras."""
    config = config or ClearConfig()
    most = min(config.most_photos, config.most_share * len(cameras))
    weight = torch.where(num_views <= most, weight, torch.inf)
    haze = torch.zeros(len(gaussians), dtype=torch.bool)
    for camera in viewpoints(cameras, config):
        width, height = working_size(camera.width, camera.height, config.size)
        small, pixel = camera.resized(width, height), camera.width * camera.height / (width * height)
        found = unveil(gaussians, weight, small, gone=haze, config=config, pixel=pixel, backend=backend)
        if found is not None:
            haze |= found.near
    return ~haze


def viewpoints(cameras: Sequence[Camera], config: ClearConfig) -> list[Camera]:
    """Cameras between neighbours and around every one; none if there are fewer than two."""
    if len(cameras) < 2:
        return []
    centers = np.array([c.center for c in cameras])
    apart = np.linalg.norm(centers[:, None] - centers[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    step = config.reach * float(np.median(apart.min(1)))
    out, done = [], set()
    for i, camera in enumerate(cameras):
        rotation = camera.cam_from_world[:3, :3]
        out += [_at(camera, rotation, centers[i] + sign * step * axis) for axis in rotation for sign in (-1, 1)]
        for j in np.argsort(apart[i], kind="stable")[: min(config.neighbours, len(cameras) - 1)]:
            pair = (min(i, int(j)), max(i, int(j)))
            if pair not in done:
                done.add(pair)
                turn = so3_log(cameras[j].cam_from_world[:3, :3] @ rotation.T)
                half = so3_exp(torch.as_tensor(turn / 2)).numpy() @ rotation
                out.append(_at(camera, half, (centers[i] + centers[j]) / 2))
    every = -(-len(out) // config.most_views)
    return out[::every]


def _at(camera: Camera, rotation: Array, center: Array) -> Camera:
    return replace(camera, cam_from_world=make_rigid(rotation, -rotation @ center))
