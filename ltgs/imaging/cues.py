"""The residual cues by which a render is judged against a photo; the same ones while training and when looking for change."""

from __future__ import annotations

import torch
from torch import Tensor

from ltgs.imaging.ssim import ssim_map


def residual_cues(shown: Tensor, photo: Tensor) -> Tensor:
    """[H, W, 3] twice -> [H, W, 2]: mean absolute colour difference and 1 - SSIM (11x11 window), both in [0, ~1]."""
    colour = (shown - photo).abs().mean(-1)
    structure = (1 - ssim_map(shown.clamp(0, 1), photo)).mean(-1).reshape(colour.shape)
    return torch.stack([colour, structure.clamp(0, 2)], -1)
