"""From pixels to Gaussians: per-Gaussian sums of image quantities, one backward pass of the rasteriser per photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.parallel import in_parallel
from ltgs.render import render


def lift_to_gaussians(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    images: Sequence[NDArray[np.float32]],  # each [H, W, D]
    *,
    regions: Sequence[NDArray[np.bool_]] | None = None,
    backend: str = "auto",
) -> Tensor:
    """Alpha-weighted sums of image channels per view and Gaussian.

    Args:
        regions: per view [H, W], the pixels to sum over; all if None.

    Returns:
        [V, N, D + 1]: sum over pixels of alpha_i T_i times the channel, and last of 1 (the pixels' weight).

    Reference: the gradient of sum_p c(p) f(p) with respect to a per-Gaussian feature f is exactly that sum.
    """
    frozen = gaussians.detach()

    def sums(photo: tuple[Camera, NDArray[np.float32], NDArray[np.bool_] | None]) -> Tensor:
        camera, image, wanted = photo
        region = None if wanted is None else torch.from_numpy(wanted)
        channels = torch.from_numpy(np.concatenate([image, np.ones((*image.shape[:2], 1), image.dtype)], -1).astype(np.float32))
        probe = torch.zeros(len(frozen), channels.shape[-1], requires_grad=True)
        shown = render(
            frozen, stack_cameras([camera]), backend=backend, features=probe, with_depth=False, region=region  # type: ignore[arg-type]
        )
        return torch.autograd.grad((shown.feature_image()[0] * channels).sum(), probe)[0]

    photos = zip(cameras, images, [None] * len(cameras) if regions is None else regions, strict=True)
    out = in_parallel(sums, list(photos))
    return torch.stack(out) if out else torch.zeros(0, len(frozen), 1)


def pixels_covered(gaussians: Gaussians, cameras: Sequence[Camera], *, backend: str = "auto") -> Tensor:
    """[V, N] pixels that each Gaussian covers per view: the sum of its alpha weights."""
    nothing = [np.zeros((c.height, c.width, 0), np.float32) for c in cameras]
    return lift_to_gaussians(gaussians, cameras, nothing, backend=backend)[..., 0]


def splat_features(
    gaussians: Gaussians, features: Tensor, camera: Camera, *, backend: str = "auto"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Render per-Gaussian features [N, D] at a camera.

    Returns:
        [H, W, D] alpha-composited features (not divided by alpha) and [H, W] alpha.
    """
    with torch.no_grad():
        out = render(gaussians, stack_cameras([camera]), backend=backend, features=features, with_depth=False)  # type: ignore[arg-type]
    return out.feature_image()[0].numpy(), out.alpha[0, ..., 0].numpy()
