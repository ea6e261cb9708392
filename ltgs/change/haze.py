"""Haze: Gaussians of the first visit that no photo of it saw from near, and that a later photo must look through.

Training leaves large, faint Gaussians where no photo looked, at the border of what a few photos show. A photo taken from there looks
through them: its light would be fitted to them, and what they hide would be neither seen to leave nor seen to stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.change.compare import Shot
from ltgs.change.harmonise import HarmoniseConfig, fit_colour
from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.render import render
from ltgs.render.lift import lift_to_gaussians

Image = NDArray[np.float32]


@dataclass(frozen=True)
class HazeConfig:
    """When something before a photo is haze."""

    ratio: float = 3.0
    """It covers this many times the pixels that it covers in all photos of the first visit together."""
    min_px: float = 20.0
    """Pixels of the photo that it covers at least, at 640x480."""
    layers: int = 6
    """Most layers that are taken away one after the other: what was hidden by one may be haze as well."""
    altered: float = 0.03
    """Colour or alpha that its absence must change in a pixel for the pixel to count."""
    min_share: float = 0.005
    """Least share of such pixels in the photo; less does no harm."""
    known: float = 0.5
    """Least share of these pixels that the scene behind it still covers: a hole explains nothing."""
    improved: float = 0.8
    """The median error of those pixels falls to this share or less: what was known behind it is what the photo shows."""
    solid_alpha: float = 0.9
    """Pixels covered by this much are known."""


def find_haze(
    gaussians: Gaussians,
    weight: Tensor,  # [N] pixels that each Gaussian covers in all photos of the first visit; inf where it is no haze for sure
    shots: Sequence[Shot],
    *,
    harmonise: HarmoniseConfig | None = None,
    config: HazeConfig | None = None,
    backend: str = "auto",
) -> Tensor:
    """[N] bool: the Gaussians that are haze before one of the photos.

    They cover much of a photo although the first visit's photos hardly saw them, and without them the scene explains the photo
    better. Content that is seen from near for the first time leaves a hole, or a worse picture, and is none.
    """
    config = config or HazeConfig()
    haze = torch.zeros(len(gaussians), dtype=torch.bool)
    for shot in shots:
        near = _near(gaussians, haze, weight, shot.camera, config, backend)
        if near.any() and _in_the_way(gaussians, haze, near, shot, harmonise, config, backend):
            haze |= near
    return haze


def _near(gaussians: Gaussians, gone: Tensor, weight: Tensor, camera: Camera, config: HazeConfig, backend: str) -> Tensor:
    """[N] bool: what covers far more of a photo than of all photos before, layer by layer."""
    near = torch.zeros_like(gone)
    least = config.min_px * camera.width * camera.height / (640 * 480)
    image: Image = np.ones((camera.height, camera.width, 1), np.float32)
    for _ in range(config.layers):
        rows = (~(gone | near)).nonzero()[:, 0]
        covered = lift_to_gaussians(gaussians[rows], [camera], [image], backend=backend)[0, :, -1]
        layer = (covered > config.ratio * weight[rows]) & (covered > least)
        if not layer.any():
            break
        near[rows[layer]] = True
    return near


def _in_the_way(
    gaussians: Gaussians, gone: Tensor, near: Tensor, shot: Shot, harmonise: HarmoniseConfig | None, config: HazeConfig, backend: str
) -> bool:
    """Whether a photo is explained better without some Gaussians, each state under the light that suits it best."""
    rgb, alpha = _drawn(gaussians[~gone], shot.camera, backend)
    clear, behind = _drawn(gaussians[~(gone | near)], shot.camera, backend)
    altered = (np.abs(clear - rgb).max(-1) > config.altered) | (alpha - behind > config.altered)
    known = altered & (behind > config.solid_alpha)
    if altered.mean() < config.min_share or known.sum() < config.known * altered.sum():
        return False
    errors = []
    for image, covered in ((rgb, alpha), (clear, behind)):
        fit = fit_colour(image, shot.photo, covered > config.solid_alpha, config=harmonise)
        errors.append(float(np.median(np.abs(fit.apply(image) - shot.photo).mean(-1)[known])))
    return errors[1] <= config.improved * errors[0]


def _drawn(gaussians: Gaussians, camera: Camera, backend: str) -> tuple[Image, Image]:
    """[H, W, 3] colours and [H, W] alpha."""
    with torch.no_grad():
        out = render(gaussians, stack_cameras([camera]), backend=backend, with_depth=False)  # type: ignore[arg-type]
    return np.clip(out.rgb[0].numpy(), 0, 1), out.alpha[0, ..., 0].numpy()
