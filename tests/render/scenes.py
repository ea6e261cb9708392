"""Random scenes small enough for the dense float64 reference."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import se3_exp


def random_gaussians(seed: int, count: int = 200, sh_degree: int = 3) -> Gaussians:
    """Flat and round Gaussians in front of and around a camera at the origin looking along +z."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    depth = 1 + 4 * torch.rand(count, generator=rng, dtype=torch.float64)
    means = torch.cat([normal(count, 2) * depth[:, None] * 0.5, depth[:, None]], 1)
    sh = normal(count, (sh_degree + 1) ** 2, 3) * 0.2
    return Gaussians(means, normal(count, 4), normal(count, 3) * 0.6 - 2.3, normal(count) * 2 + 0.5, sh)


def random_cameras(seed: int, count: int = 1, width: int = 53, height: int = 37) -> Cameras:
    """Cameras near the origin, slightly turned, with an off-centre principal point."""
    rng = torch.Generator().manual_seed(1000 + seed)
    K = torch.tensor([[45.0, 0, width / 2 + 1.3], [0, 47.0, height / 2 - 0.7], [0, 0, 1]], dtype=torch.float64).repeat(count, 1, 1)
    return Cameras(K, se3_exp(torch.randn(count, 6, generator=rng, dtype=torch.float64) * 0.1), width, height)


def as_float32(gaussians: Gaussians, cameras: Cameras) -> tuple[Gaussians, Cameras]:
    """The same scene in float32, detached."""
    small = Gaussians(**{k: v.detach().float() for k, v in gaussians.tensors().items()})
    return small, replace(cameras, K=cameras.K.float(), cam_from_world=cameras.cam_from_world.detach().float())


def as_float64(gaussians: Gaussians, cameras: Cameras) -> tuple[Gaussians, Cameras]:
    """Exactly the float32 numbers in float64, so that both renderers see the same scene."""
    large = Gaussians(**{k: v.detach().double() for k, v in gaussians.tensors().items()})
    return large, replace(cameras, K=cameras.K.double(), cam_from_world=cameras.cam_from_world.detach().double())
