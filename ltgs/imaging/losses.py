"""The photometric loss shared by training and refinement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ltgs.imaging.ssim import native_kernels, ssim


def photometric_loss(render: Tensor, target: Tensor, ssim_weight: float = 0.2) -> Tensor:
    """(1 - w) L1 + w (1 - SSIM), as in 3D Gaussian splatting.

    Args:
        render, target: [H, W, 3] or [C, H, W, 3]; gradients flow to `render`.
        ssim_weight: w in [0, 1].
    """
    return (1 - ssim_weight) * (render - target).abs().mean() + ssim_weight * (1 - ssim(render, target))


def exposed_loss(
    render: Tensor, exposure: Tensor, target: Tensor, ssim_weight: float = 0.2, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`photometric_loss` of a render after a colour affine, with both passes in one go where the native kernels serve.

    Args:
        render: [H, W, 3].   exposure: [3, 4] colour affine, render to photo.   Gradients flow to both.
        target: [H, W, 3] in [0, 1].
        ssim_weight: w in [0, 1].
        weight: [H, W] in [0, 1]; where it is 0 the target counts as met. None = all ones.

    Returns:
        the loss, and the signed difference [H, W, 3] to the target, without gradient.
    """
    module = native_kernels(render, target)
    if module is not None and exposure.dtype == torch.float32:
        loss, difference = _ExposedLoss.apply(render, exposure, target.detach(), ssim_weight, weight, module)
        return loss, difference
    shown = render @ exposure[:, :3].T + exposure[:, 3]
    if weight is not None:
        target = torch.lerp(shown.detach(), target, weight[..., None])
    return photometric_loss(shown, target, ssim_weight), (shown - target).detach()


class _ExposedLoss(torch.autograd.Function):
    """The gradient with respect to the shown image is made in the forward pass already, while everything is in the cache.

    A product of many pixels with a 3x3 matrix is mostly overhead; with several pixels side by side and the matrix repeated along
    the diagonal it costs a quarter.
    """

    @staticmethod
    def forward(
        ctx: Any, render: Tensor, exposure: Tensor, target: Tensor, ssim_weight: float, weight: Tensor | None, module: Any
    ) -> Any:
        flat = render.detach().contiguous()
        height, width, _ = flat.shape
        group = _group(height * width)
        flat = flat.view(-1, 3 * group)
        matrix = torch.block_diag(*[exposure.detach()[:, :3]] * group)
        shown = torch.addmm(exposure.detach()[:, 3].repeat(group), flat, matrix.T).view(1, height, width, 3)
        target = (target if weight is None else torch.lerp(shown[0], target, weight[..., None])).contiguous()
        difference = shown[0] - target
        partials = module.recycled_tensor([3, 1, height, width, 3])  # fresh memory would cost page faults
        gradient = module.recycled_tensor([1, height, width, 3])
        threads, count = torch.get_num_threads(), float(difference.numel())
        similarity = module.ssim_forward(shown, target[None], 1, height, width, 3, False, None, partials, threads) / count
        module.ssim_backward(
            shown, target[None], partials, None, -ssim_weight / count, 1, height, width, 3, False, gradient, threads
        )
        gradient[0].add_(difference.sign(), alpha=(1 - ssim_weight) / count)
        loss = (1 - ssim_weight) * difference.abs().mean() + ssim_weight * (1 - similarity)
        ctx.save_for_backward(flat, matrix, gradient.view(-1, 3 * group))
        ctx.shape = render.shape
        ctx.mark_non_differentiable(difference)
        return loss, difference

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> Any:
        flat, matrix, gradient = ctx.saved_tensors
        if float(upstream) != 1.0:
            gradient = gradient * upstream
        group = matrix.shape[0] // 3
        blocks = (gradient.T @ flat).view(group, 3, group, 3)
        linear = blocks.diagonal(dim1=0, dim2=2).sum(-1)
        offset = gradient.sum(0).view(group, 3).sum(0)
        return (gradient @ matrix).view(ctx.shape), torch.cat([linear, offset[:, None]], 1), None, None, None, None


def _group(pixels: int) -> int:
    """Pixels side by side in one row of the product."""
    return next(k for k in (8, 4, 2, 1) if pixels % k == 0)
