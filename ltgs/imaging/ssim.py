"""Structural similarity (Wang et al. 2004) with an 11x11 Gaussian window of sigma 1.5, fused forward and backward on the CPU."""

from __future__ import annotations

from types import ModuleType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ltgs.native import KernelsUnavailable, kernels

WINDOW = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2
Padding = Literal["same", "valid"]


def ssim(a: Tensor, b: Tensor, *, padding: Padding = "same") -> Tensor:
    """Mean structural similarity; differentiable in `a`, and in `b` on the torch path.

    Args:
        a, b: [H, W, 3] or [C, H, W, 3] in [0, 1], same shape.
        padding: "same" pads with zeros as 3D Gaussian splatting does while training; "valid" counts only windows inside the
            image, which is what skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, data_range=1) averages.

    Raises:
        ValueError: shapes differ, or the image is smaller than the window with padding="valid".
    """
    a4, b4 = _batched(a, b, padding)
    module = native_kernels(a4, b4)
    if module is not None:
        return _FusedSsim.apply(a4, b4.detach(), padding == "valid", module)
    return _torch_map(a4, b4, padding).mean()


def ssim_map(a: Tensor, b: Tensor, *, padding: Padding = "same") -> Tensor:
    """Per-pixel, per-channel similarity in the shape of the input ("valid": 10 rows and columns fewer)."""
    a4, b4 = _batched(a, b, padding)
    module = native_kernels(a4, b4)
    if module is not None and padding == "same" and not (a4.requires_grad and torch.is_grad_enabled()):
        images, height, width, channels = a4.shape
        out = torch.empty_like(a4, memory_format=torch.contiguous_format)
        module.ssim_forward(
            a4.detach().contiguous(), b4.detach().contiguous(), images, height, width, channels, False, out, None,
            torch.get_num_threads(),
        )
    else:
        out = _torch_map(a4, b4, padding)
    return out[0] if a.ndim == 3 else out


def _batched(a: Tensor, b: Tensor, padding: str) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape or a.ndim not in (3, 4):
        raise ValueError(f"ssim needs two images of one shape [H, W, 3] or [C, H, W, 3], got {list(a.shape)} and {list(b.shape)}.")
    if padding not in ("same", "valid"):
        raise ValueError(f"padding must be 'same' or 'valid', got {padding!r}.")
    if padding == "valid" and min(a.shape[-3:-1]) < WINDOW:
        raise ValueError(f"padding='valid' needs images of at least {WINDOW}x{WINDOW} pixels, got {list(a.shape[-3:-1])}.")
    return (a[None], b[None]) if a.ndim == 3 else (a, b)


def native_kernels(a: Tensor, b: Tensor) -> ModuleType | None:
    """The compiled kernels if they can serve these images with gradients for `a` alone, else None."""
    if a.device.type != "cpu" or a.dtype != torch.float32 or b.dtype != torch.float32:
        return None
    if b.requires_grad and torch.is_grad_enabled():
        return None
    try:
        return kernels()
    except KernelsUnavailable:
        return None


class _FusedSsim(torch.autograd.Function):
    """Mean SSIM with its gradient with respect to the first image."""

    @staticmethod
    def forward(ctx, a, b, valid, module):  # type: ignore[no-untyped-def]
        a, b = a.detach().contiguous(), b.contiguous()
        images, height, width, channels = a.shape
        partials = torch.empty(3, *a.shape)
        total = module.ssim_forward(a, b, images, height, width, channels, valid, None, partials, torch.get_num_threads())
        border = WINDOW - 1 if valid else 0
        ctx.count = images * (height - border) * (width - border) * channels
        ctx.save_for_backward(a, b, partials)
        ctx.options = (valid, module)
        return torch.tensor(total / ctx.count, dtype=torch.float32)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        a, b, partials = ctx.saved_tensors
        valid, module = ctx.options
        images, height, width, channels = a.shape
        out = torch.empty_like(a, memory_format=torch.contiguous_format)
        module.ssim_backward(
            a, b, partials, None, float(gradient) / ctx.count, images, height, width, channels, valid, out,
            torch.get_num_threads(),
        )
        return out, None, None, None


def _window(like: Tensor) -> Tensor:
    x = torch.arange(WINDOW, dtype=like.dtype, device=like.device) - WINDOW // 2
    weights = torch.exp(-x.square() / (2 * SIGMA**2))
    return weights / weights.sum()


def _torch_map(a: Tensor, b: Tensor, padding: str) -> Tensor:
    """The definition in plain torch, [C, H, W, 3] -> the same (or the inner part)."""
    x, y = a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2)
    channels, pad = x.shape[1], WINDOW // 2 if padding == "same" else 0
    window = _window(a)
    row = window.view(1, 1, 1, -1).expand(channels, 1, 1, WINDOW)
    column = window.view(1, 1, -1, 1).expand(channels, 1, WINDOW, 1)

    def blur(image: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(image, row, padding=(0, pad), groups=channels), column, padding=(pad, 0), groups=channels)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x.square(), blur(y * y) - mean_y.square()
    cov = blur(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + C1) * (2 * cov + C2)
    bottom = (mean_x.square() + mean_y.square() + C1) * (var_x + var_y + C2)
    return (top / bottom).permute(0, 2, 3, 1)
