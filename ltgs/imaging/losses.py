"""The photometric loss shared by training and refinement."""

from __future__ import annotations

from torch import Tensor

from ltgs.imaging.ssim import ssim


def photometric_loss(render: Tensor, target: Tensor, ssim_weight: float = 0.2) -> Tensor:
    """(1 - w) L1 + w (1 - SSIM), as in 3D Gaussian splatting.

    Args:
        render, target: [H, W, 3] or [C, H, W, 3]; gradients flow to `render`.
        ssim_weight: w in [0, 1].
    """
    return (1 - ssim_weight) * (render - target).abs().mean() + ssim_weight * (1 - ssim(render, target))
