"""From which sides photos have seen an object, and how much of a picture of it shows sides that none has seen.

A template looks right from where it was photographed. Its other sides are what happens to lie there: backs of Gaussians that paint
the front, dark specks. Their colours say nothing about a pose; where the object ends does.
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
from ltgs.render.lift import lift_to_gaussians

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SidesConfig:
    """What counts as seen."""

    seen: tuple[float, float] = (-0.17, 0.5)
    """Cosine between the direction from which photos saw a Gaussian, in the mean, and that from which it is looked at: up to the first it
    is unseen, from the second on seen."""
    around: tuple[float, float] = (0.3, 0.6)
    """Length of the mean of the unit vectors to these photos: up to the first the Gaussian was seen from all around, from the second on
    from one side."""
    hidden: float = 0.1
    """A Gaussian of which every photo shows less than this share is as good as unseen."""
    reach: float = 0.97
    """What stands nearer to a photo than this share of the object's depth hides it."""


@dataclass(frozen=True)
class Sighting:
    """A photo that shows an object at a place."""

    camera: Camera
    world_from_object: Array
    """[4, 4]"""
    depth: NDArray[np.float32] | None = None
    """[H, W] of the scene then, 0 where unknown; None = nothing stood before the object."""


def seen_sides(
    template: Gaussians, sightings: Sequence[Sighting], *, config: SidesConfig | None = None, backend: str = "auto"
) -> Tensor | None:
    """How well each Gaussian is known, as a function of the direction from which it is looked at.

    Returns:
        [N, 4] (a, b) in the object's frame: from the unit direction d, a . d + b is 1 for seen and 0 for unseen sides (and may lie
        beyond both); None if no photo shows the object.
    """
    config = config or SidesConfig()
    toward, total = np.zeros((len(template), 3)), np.zeros(len(template))
    largest = np.zeros(len(template))
    for sighting in sightings:
        found = _seen_by(template, sighting, config, backend)
        if found is None:
            continue
        weight, share, direction = found
        toward += weight[:, None] * direction
        total += weight
        largest = np.maximum(largest, share)
    if not total.any():
        return None
    length = np.linalg.norm(toward, axis=1)
    one_sided = np.clip((length / np.maximum(total, 1e-12) - config.around[0]) / (config.around[1] - config.around[0]), 0, 1)
    known = np.clip(largest / config.hidden, 0, 1)
    low, high = config.seen
    slope = toward / np.maximum(length, 1e-12)[:, None] / (high - low)
    a = (known * one_sided)[:, None] * slope
    b = known * (1 - one_sided - one_sided * low / (high - low))
    return torch.as_tensor(np.concatenate([a, b[:, None]], 1), dtype=torch.float32)


def _seen_by(template: Gaussians, sighting: Sighting, config: SidesConfig, backend: str) -> tuple[Array, Array, Array] | None:
    """What one photo shows of each Gaussian: its area [N], the share of it [N] and the unit direction to the photo [N, 3]."""
    camera, pose = sighting.camera, sighting.world_from_object
    placed = template.transformed(torch.as_tensor(pose, dtype=torch.float32))
    means = placed.means.double().numpy()
    depth = (means @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3])[:, 2]
    if np.median(depth) <= 0:
        return None
    with torch.no_grad():
        out = render(placed, stack_cameras([camera]), backend=backend)  # type: ignore[arg-type]
    assert out.depth is not None
    shown = out.alpha[0, ..., 0].numpy() > 0.05
    if sighting.depth is not None:
        shown &= (sighting.depth == 0) | (sighting.depth > config.reach * out.depth[0, ..., 0].numpy())
    if not shown.any():
        return None
    pixels = lift_to_gaussians(placed, [camera], [shown[..., None].astype(np.float32)], regions=[shown], backend=backend)[0, :, 0]
    per_pixel = (np.maximum(depth, 1e-9) / camera.K[0, 0]) ** 2
    weight = pixels.double().numpy() * per_pixel
    sides = torch.sort(placed.scales, dim=1).values[:, 1:].double().prod(1).numpy()
    whole = 2 * np.pi * sides * placed.opacities.double().numpy() + 0.3 * per_pixel
    direction = (camera.center - means) @ pose[:3, :3]
    return weight, weight / whole, direction / np.linalg.norm(direction, axis=1, keepdims=True)


def unseen(sides: Tensor, alpha: Tensor, towards: Tensor) -> Tensor:
    """How much of a picture's pixels shows sides of an object that no photo has seen.

    Args:
        sides: [P, h, w, 4] alpha-weighted sums of what `seen_sides` returns. alpha: [P, h, w, 1] how much the object covers.
        towards: [P, 3] unit directions from the object to the cameras, in its own frame.

    Returns:
        [P, h, w] in [0, alpha]
    """
    seen = sides[..., 3] + (sides[..., :3] * towards[:, None, None]).sum(-1)
    return alpha[..., 0] - torch.minimum(seen.clamp_min(0), alpha[..., 0])
