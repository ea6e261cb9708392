"""What stands right before a camera although other photos hardly saw it: found by how many pixels it covers, layer by layer.

Training leaves large, faint Gaussians where no photo looked, at the border of what a few photos show. Seen from there they cover all
that is behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.render import render
from ltgs.render.lift import lift_to_gaussians, pixels_covered

Image = NDArray[np.float32]
REFERENCE = 640 * 480
"""Pixels of the pictures for which `NearConfig.min_px` is meant."""


@dataclass(frozen=True)
class NearConfig:
    """When something is in the way of what is known behind it."""

    ratio: float = 3.0
    """It covers this many times the pixels that it covers in all other photos together."""
    min_px: float = 20.0
    """Pixels that it covers at least, at 640x480."""
    layers: int = 6
    """Most layers that are taken away one after the other: what was hidden by one may be in the way as well."""
    altered: float = 0.03
    """Colour or alpha that its absence must change in a pixel for the pixel to count."""
    min_share: float = 0.005
    """Least share of such pixels in the picture; less does no harm."""
    known: float = 0.5
    """Least share of these pixels that the scene behind it still covers: a hole explains nothing."""
    each_known: float = 0.25
    """Least share of its own pixels that each part of it must have there."""
    solid_alpha: float = 0.9
    """Pixels covered by this much are known."""
    front: float = 0.7
    """Its depth relative to that of what is known behind it, at most; nearer to it, it is a part of it."""


@dataclass(frozen=True)
class Unveiled:
    """A picture with and without what is in the way."""

    near: Tensor
    """[N] bool, what is in the way."""
    veiled: Sequence[Image]
    """[H, W, 3] colours and [H, W] alpha with it."""
    clear: Sequence[Image]
    """The same without it."""
    known: NDArray[np.bool_]
    """[H, W] pixels that it alters and that the scene behind it covers."""


def unveil(
    gaussians: Gaussians,
    weight: Tensor,  # [N] pixels that each Gaussian covers in all other photos; inf where it is in nobody's way for sure
    camera: Camera,
    *,
    gone: Tensor,  # [N] bool, what is not there
    config: NearConfig,
    pixel: float = 1.0,
    backend: str = "auto",
) -> Unveiled | None:
    """What is in the way of a camera; None if nothing is, if it is too little to matter, or if nothing is known behind it.

    Args:
        pixel: area of a pixel of the camera, in pixels of the photos of `weight`.
    """
    near = _near(gaussians, weight, camera, gone, config, pixel, backend)
    if not near.any():
        return None
    *veiled, _ = _drawn(gaussians[~gone], camera, backend)
    *clear, behind = _drawn(gaussians[~(gone | near)], camera, backend)
    _, known = _altered(veiled, clear, config)
    near = _before(gaussians, near, known, behind, camera, config, backend)
    *clear, _ = _drawn(gaussians[~(gone | near)], camera, backend)
    altered, known = _altered(veiled, clear, config)
    if altered.mean() < config.min_share or known.sum() < config.known * altered.sum():
        return None
    return Unveiled(near, veiled, clear, known)


def _altered(
    veiled: Sequence[Image], clear: Sequence[Image], config: NearConfig
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[H, W] pixels that differ without what is in the way, and those of them that the scene behind it covers."""
    altered = (np.abs(clear[0] - veiled[0]).max(-1) > config.altered) | (veiled[1] - clear[1] > config.altered)
    return altered, altered & (clear[1] > config.solid_alpha)


def _before(
    gaussians: Gaussians, near: Tensor, known: NDArray[np.bool_], behind: Image, camera: Camera, config: NearConfig, backend: str
) -> Tensor:
    """[N] bool: what of it stands well before known pixels [H, W]; at the border of what was seen it may be all there is.

    Args:
        behind: [H, W] depth of what is behind it.
    """
    own = near.nonzero()[:, 0]
    image = np.stack([known, known * behind], -1).astype(np.float32)
    shares, depths, whole = lift_to_gaussians(gaussians[own], [camera], [image], backend=backend)[0].T
    pose = torch.as_tensor(camera.cam_from_world, dtype=gaussians.means.dtype)
    depth = gaussians.means[own] @ pose[2, :3] + pose[2, 3]
    out = near.clone()
    out[own] = (shares >= config.each_known * whole.clamp_min(1e-6)) & (depth * shares < config.front * depths)
    return out


def _near(
    gaussians: Gaussians, weight: Tensor, camera: Camera, gone: Tensor, config: NearConfig, pixel: float, backend: str
) -> Tensor:
    """[N] bool: what covers far more of a picture than of all photos, layer by layer."""
    near = torch.zeros_like(gone)
    least = config.min_px * camera.width * camera.height / REFERENCE
    for _ in range(config.layers):
        rows = (~(gone | near)).nonzero()[:, 0]
        covered = pixels_covered(gaussians[rows], [camera], backend=backend)[0]
        layer = (pixel * covered > config.ratio * weight[rows]) & (covered > least)
        if not layer.any():
            break
        near[rows[layer]] = True
    return near


def _drawn(gaussians: Gaussians, camera: Camera, backend: str) -> tuple[Image, Image, Image]:
    """[H, W, 3] colours, [H, W] alpha and [H, W] depth."""
    with torch.no_grad():
        out = render(gaussians, stack_cameras([camera]), backend=backend)  # type: ignore[arg-type]
    return np.clip(out.rgb[0].numpy(), 0, 1), out.alpha[0, ..., 0].numpy(), out.depth[0, ..., 0].numpy()
