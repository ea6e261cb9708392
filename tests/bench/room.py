"""The workload of the rasteriser's benchmark: a synthetic room that looks like a trained one, seen from inside."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians


def _room_points(rng: torch.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points on the walls of a 6x3x6 box (55 %) and on 12 spheres in it: positions, normals, local spacing."""
    walls, size = int(0.55 * count), torch.tensor([3.0, 1.5, 3.0])
    on_wall = (torch.rand(walls, 3, generator=rng) * 2 - 1) * size
    axis = torch.randint(0, 3, (walls,), generator=rng)
    side = torch.randint(0, 2, (walls,), generator=rng) * 2.0 - 1
    rows = torch.arange(walls)
    on_wall[rows, axis] = side * size[axis]
    wall_normal = torch.zeros(walls, 3)
    wall_normal[rows, axis] = -side
    balls = count - walls
    centers = (torch.rand(12, 3, generator=rng) * 2 - 1) * (size - 0.6)
    radii = 0.15 + 0.35 * torch.rand(12, generator=rng)
    which = torch.randint(0, 12, (balls,), generator=rng)
    ball_normal = torch.nn.functional.normalize(torch.randn(balls, 3, generator=rng), dim=-1)
    on_ball = centers[which] + radii[which, None] * ball_normal
    wall_spacing = math.sqrt(72 * 2 / max(walls, 1))
    ball_spacing = torch.sqrt(4 * math.pi * radii.square() / max(balls / 12, 1))[which]
    spacing = torch.cat([torch.full((walls,), wall_spacing), ball_spacing])
    return torch.cat([on_wall, on_ball]), torch.cat([wall_normal, ball_normal]), spacing


def room(count: int, sh_degree: int, seed: int = 0) -> Gaussians:
    """Flat Gaussians as training leaves them: 0.6 x local spacing x lognormal, bimodal opacity."""
    rng = torch.Generator().manual_seed(seed)
    means, normals, spacing = _room_points(rng, count)
    # The rotation that takes +z to the normal: quaternion (1 + n_z, z x n), its degenerate case nudged away.
    quats = torch.stack([1 + normals[:, 2] + 1e-3, -normals[:, 1], normals[:, 0], torch.zeros(count)], 1)
    spread = torch.exp(0.4 * torch.randn(count, 3, generator=rng))
    scales = 0.6 * spacing[:, None] * spread * torch.tensor([1.0, 1.0, 0.1])
    high = torch.rand(count, generator=rng) < 0.6
    logits = torch.where(high, 3.0, -1.5) + 0.7 * torch.randn(count, generator=rng)
    sh = torch.randn(count, (sh_degree + 1) ** 2, 3, generator=rng) * 0.1
    sh[:, 0] = torch.randn(count, 3, generator=rng)
    return Gaussians(means, quats, scales.log(), logits, sh)


def inside_camera(width: int, height: int) -> Cameras:
    """60 degrees across, near one wall, looking into the room."""
    focal = width / 2 / math.tan(math.radians(30))
    K = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]])
    pose = torch.eye(4)[None].clone()
    pose[0, 2, 3] = 2.6
    return Cameras(K, pose, width, height)


def leaves(gaussians: Gaussians) -> Gaussians:
    """A copy whose tensors require gradients."""
    return Gaussians(**{k: v.detach().clone().requires_grad_() for k, v in gaussians.tensors().items()})
