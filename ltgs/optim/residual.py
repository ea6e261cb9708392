"""How well each Gaussian explains its own training photos: the expected residual that a later change must exceed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.gaussians import Gaussians
from ltgs.imaging.cues import residual_cues
from ltgs.optim.device import training_view
from ltgs.optim.initialize import TrainingPhoto
from ltgs.render import render

MIN_WEIGHT = 0.5
"""Sum of alpha weights (pixels) above which a photo counts as seeing a Gaussian."""


def expected_residual(
    gaussians: Gaussians,
    photos: Sequence[TrainingPhoto],
    exposures: NDArray[np.float64],  # [P, 3, 4]
    *,
    backend: str = "auto",
) -> dict[str, Tensor]:
    """Per-Gaussian statistics of the two residual cues over the training photos.

    One backward pass per photo: the gradient with respect to zero features is the alpha-weighted sum of the cue images.

    Returns:
        "mean" [N, 2], "variance" [N, 2], "num_views" [N] (photos that see it) and "weight" [N] (pixels in all photos).
        Unseen Gaussians get the mean of all.
    """
    n = len(gaussians)
    sums = torch.zeros(n, 5)
    views = torch.zeros(n)
    frozen = gaussians.detach()
    for photo, exposure in zip(photos, exposures, strict=True):
        camera, target8, _ = training_view(photo)
        probe = torch.zeros(n, 5, requires_grad=True)
        out = render(frozen, camera, backend=backend, features=probe, with_depth=False)  # type: ignore[arg-type]
        matrix = torch.as_tensor(exposure, dtype=torch.float32)
        cues = residual_cues(out.rgb[0].detach() @ matrix[:, :3].T + matrix[:, 3], target8.float() / 255)
        channels = torch.cat([cues, cues.square(), torch.ones_like(cues[..., :1])], -1)
        (grad,) = torch.autograd.grad((out.feature_image()[0] * channels).sum(), probe)
        sums += grad
        views += (grad[:, 4] > MIN_WEIGHT).float()
    mean, variance = moments(sums)
    return {"mean": mean, "variance": variance, "num_views": views, "weight": sums[:, 4]}


def moments(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [N, 2] of two cues from weighted sums [N, 5] of the cues, their squares and 1."""
    overall = sums[:, :4].sum(0) / sums[:, 4].sum().clamp_min(1e-6)
    # One pixel's worth of the overall mean keeps rarely seen Gaussians from claiming to be perfectly known.
    blended = (sums[:, :4] + overall) / (sums[:, 4:] + 1)
    mean = blended[:, :2]
    return mean, (blended[:, 2:] - mean.square()).clamp_min(1e-6)
