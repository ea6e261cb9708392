"""First intersections of many rays with the primitives of a scene."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ltgs.depth.synth.scene import Rig, Scene, Shape

NOTHING = float("inf")
_START = 1e-4
"""Intersections nearer than this fraction of the ray's direction vector count as its own start."""


@dataclass(frozen=True)
class Hits:
    """Per ray; a ray from inside of the room always hits something."""

    t: Tensor
    """[R] multiple of the direction vector."""
    index: Tensor
    """[R] int64, primitive."""
    point: Tensor
    """[R, 3] world."""
    local: Tensor
    """[R, 3] coordinates of the primitive, metres."""
    normal: Tensor
    """[R, 3] unit length, towards the ray's start."""


def pixel_rays(rig: Rig, u: Tensor, v: Tensor) -> Tensor:
    """Directions [..., 3] through pixel positions (the centre of the first pixel is 0.5, 0.5), scaled to z = 1: t is depth."""
    x = (u - rig.width / 2) / rig.focal
    y = (v - rig.height / 2) / rig.focal
    return torch.stack([x, y, torch.ones_like(x)], -1)


def cast(scene: Scene, origins: Tensor, directions: Tensor, *, exclude: Tensor | None = None, only: Tensor | None = None) -> Hits:
    """Nearest intersection of every ray.

    Args:
        origins, directions: [R, 3].
        exclude: [R] a primitive that the ray passes through (-1 = none).
        only: [N] bool; primitives that exist for these rays.
    """
    best = torch.full_like(origins[:, 0], NOTHING)
    index = torch.zeros(len(origins), dtype=torch.long, device=origins.device)
    for i in range(len(scene.shape)):
        if only is not None and not bool(only[i]):
            continue
        t = _distance(scene, i, origins, directions)
        if exclude is not None:
            t = torch.where(exclude == i, NOTHING, t)
        nearer = t < best
        best, index = torch.where(nearer, t, best), torch.where(nearer, i, index)
    return _describe(scene, origins, directions, best, index)


def first_distance(scene: Scene, origins: Tensor, directions: Tensor) -> Tensor:
    """[R] nearest t only; infinite where nothing is hit."""
    best = torch.full_like(origins[:, 0], NOTHING)
    for i in range(len(scene.shape)):
        best = torch.minimum(best, _distance(scene, i, origins, directions))
    return best


def _distance(scene: Scene, i: int, origins: Tensor, directions: Tensor) -> Tensor:
    """[R] nearest positive t at primitive i, infinite if missed. In unit coordinates t stays what it is."""
    o = (origins - scene.center[i]) @ scene.rotation[i] / scene.half[i]
    d = directions @ scene.rotation[i] / scene.half[i]
    near, far = _UNIT[scene.shape[i]](o, d)
    t = torch.where(near > _START, near, far)
    return torch.where((near <= far) & (t > _START), t, NOTHING)


def _box(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1 / torch.where(d.abs() < 1e-12, 1e-12, d)
    a, b = (-1 - o) * inverse, (1 - o) * inverse
    return torch.minimum(a, b).amax(1), torch.maximum(a, b).amin(1)


def _quadratic(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Interval in which |o + t d| <= 1; empty (near > far) where the ray misses."""
    a = (d * d).sum(1).clamp_min(1e-20)
    half_b = (o * d).sum(1)
    root = half_b * half_b - a * ((o * o).sum(1) - 1)
    width = root.clamp_min(0).sqrt() / a
    middle = -half_b / a
    missed = root < 0
    return torch.where(missed, NOTHING, middle - width), torch.where(missed, -NOTHING, middle + width)


def _cylinder(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    near, far = _quadratic(o[:, :2], d[:, :2])
    dz = torch.where(d[:, 2].abs() < 1e-12, 1e-12, d[:, 2])
    a, b = (-1 - o[:, 2]) / dz, (1 - o[:, 2]) / dz
    return torch.maximum(near, torch.minimum(a, b)), torch.minimum(far, torch.maximum(a, b))


_UNIT = {Shape.BOX: _box, Shape.SPHERE: _quadratic, Shape.CYLINDER: _cylinder}


def _describe(scene: Scene, origins: Tensor, directions: Tensor, t: Tensor, index: Tensor) -> Hits:
    reach = torch.where(torch.isfinite(t), t, 0)[:, None]
    point = origins + reach * directions
    rotation = scene.rotation[index]
    local = torch.einsum("rji,rj->ri", rotation, point - scene.center[index])
    unit = local / scene.half[index]
    shapes = torch.tensor([int(s) for s in scene.shape], device=index.device)[index]
    face = torch.where(unit.abs() >= unit.abs().amax(1, keepdim=True), unit.sign(), 0)
    side = torch.cat([unit[:, :2], torch.zeros_like(unit[:, 2:])], 1)
    cap = torch.cat([torch.zeros_like(unit[:, :2]), unit[:, 2:].sign()], 1)
    round_normal = torch.where(unit[:, 2:].abs() >= unit[:, :2].norm(dim=1, keepdim=True), cap, side)
    normal = torch.where((shapes == Shape.SPHERE)[:, None], unit, round_normal)
    normal = torch.where((shapes == Shape.BOX)[:, None], face, normal)
    # Normals transform with the inverse of the stretch.
    normal = torch.einsum("rij,rj->ri", rotation, normal / scene.half[index])
    normal = normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-12)
    normal = torch.where(((normal * directions).sum(1) > 0)[:, None], -normal, normal)
    return Hits(t, index, point, local, normal)
