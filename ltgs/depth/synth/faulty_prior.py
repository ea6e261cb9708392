"""A stand-in for monocular depth: right about most orderings, wrong in the ways in which such networks are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ltgs.depth.synth.draw import Draw
from ltgs.depth.synth.photometric import gaussian_blur


@dataclass(frozen=True)
class PriorFaults:
    """How strong each fault is; zero everywhere gives an affine map of inverse depth."""

    gamma: float = 0.25
    """Largest deviation of the exponent from 1."""
    warp: float = 0.12
    """Amplitude of smooth multiplicative errors."""
    blur: float = 2.0
    """Largest standard deviation, pixels at a width of 448."""
    wrong_scale: float = 0.15
    """Chance that an object's depth is scaled by 0.6 to 1.6."""
    miss_thin: float = 0.5
    """Chance that thin things are absent."""
    pictures: float = 0.3
    """Chance of a relief where there is only a picture on a surface."""


EXACT = PriorFaults(0, 0, 0, 0, 0, 0)


def faulty_prior(depth: Tensor, depth_without_thin: Tensor, index: Tensor, draw: Draw, faults: PriorFaults) -> Tensor:
    """Relative inverse depth with an unknown positive scale, a shift and faults.

    Args:
        depth, depth_without_thin: [H, W] metres, with all things and without the thin ones.
        index: [H, W] primitive at each pixel.

    Returns:
        [1, H, W]; large is near.
    """
    missed = draw.chance(faults.miss_thin)
    inverse = 1 / (depth_without_thin if missed else depth)
    inverse = inverse / inverse.max()
    for i in index.unique().tolist():
        # The room (0) keeps its scale; all others may be misjudged as a whole.
        if i and draw.chance(faults.wrong_scale):
            inverse = torch.where(index == i, inverse * draw.log_uniform(0.6, 1.6), inverse)
    if draw.chance(faults.pictures):
        inverse = inverse * (1 + _relief(depth.shape, draw).to(inverse.device))
    inverse = inverse.clamp_min(1e-4) ** (1 + faults.gamma * draw.uniform(-1, 1))
    inverse = inverse * (1 + faults.warp * _smooth(depth.shape, draw).to(inverse.device))
    out = inverse[None]
    sigma = faults.blur * draw.uniform(0, 1) * depth.shape[1] / 448
    if sigma > 0.15:
        out = gaussian_blur(out[None], sigma)[0]
    return draw.log_uniform(0.1, 50) * out + draw.uniform(-5, 5)


def _smooth(shape: torch.Size, draw: Draw) -> Tensor:
    """[H, W] smooth field within [-1, 1]."""
    coarse = 2 * draw.tensor(1, 1, 4, 5) - 1
    return F.interpolate(coarse, tuple(shape), mode="bilinear", align_corners=True)[0, 0]


def _relief(shape: torch.Size, draw: Draw) -> Tensor:
    """[H, W] bumps inside of one random rectangle, zero elsewhere."""
    h, w = shape
    top, left = draw.integer(0, max(1, h * 2 // 3)), draw.integer(0, max(1, w * 2 // 3))
    bottom, right = top + draw.integer(h // 8, h // 3 + 1), left + draw.integer(w // 8, w // 3 + 1)
    out = torch.zeros(h, w)
    out[top:bottom, left:right] = 0.2 * _smooth(torch.Size((bottom - top, right - left)), draw)[: h - top, : w - left]
    return out
