"""Colours of hit points: solid textures, one lamp, highlights, mirrors and glass."""

from __future__ import annotations

import torch
from torch import Tensor

from ltgs.depth.synth.raycast import Hits, cast
from ltgs.depth.synth.scene import Material, Scene, Texture

GLASS_OPACITY = 0.3
MIRROR_REFLECTANCE = 0.85
_OCTAVES = 4


def trace(scene: Scene, origins: Tensor, directions: Tensor) -> tuple[Tensor, Hits]:
    """Linear RGB [R, 3] seen along rays, with one reflection or transmission, and the first hits."""
    hits = cast(scene, origins, directions)
    color = surface_color(scene, hits, directions)
    material = scene.material[hits.index]
    for kind, own in ((Material.MIRROR, 1 - MIRROR_REFLECTANCE), (Material.GLASS, GLASS_OPACITY)):
        rays = (material == kind).nonzero()[:, 0]
        if len(rays) == 0:
            continue
        normal, d = hits.normal[rays], directions[rays]
        if kind == Material.MIRROR:
            d = d - 2 * (d * normal).sum(1, keepdim=True) * normal
        second = cast(scene, hits.point[rays], d, exclude=hits.index[rays])
        color[rays] = own * color[rays] + (1 - own) * surface_color(scene, second, d)
    return color, hits


def surface_color(scene: Scene, hits: Hits, directions: Tensor) -> Tensor:
    """Linear RGB [R, 3] of surfaces lit by the lamp, without shadows."""
    mix = texture_value(scene, hits)[:, None]
    pair = scene.colors[hits.index]
    albedo = pair[:, 0] * (1 - mix) + pair[:, 1] * mix
    to_light = scene.light - hits.point
    to_light = to_light / to_light.norm(dim=1, keepdim=True).clamp_min(1e-9)
    diffuse = (hits.normal * to_light).sum(1, keepdim=True).clamp_min(0)
    color = albedo * (scene.ambient + (1 - scene.ambient) * diffuse)
    half = to_light - directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-9)
    half = half / half.norm(dim=1, keepdim=True).clamp_min(1e-9)
    highlight = 0.5 * (hits.normal * half).sum(1, keepdim=True).clamp_min(0) ** 40
    shiny = (scene.material[hits.index] != Material.LAMBERT)[:, None]
    return color + torch.where(shiny, highlight, 0)


def texture_value(scene: Scene, hits: Hits) -> Tensor:
    """[R] in [0, 1]: which of the two colours."""
    kind = scene.texture[hits.index]
    p = hits.local * scene.frequency[hits.index, None]
    out = torch.zeros_like(p[:, 0])
    for texture, function in _TEXTURES.items():
        rays = (kind == texture).nonzero()[:, 0]
        if len(rays):
            out[rays] = function(p[rays], hits.index[rays])
    return out


def _gradient(p: Tensor, _: Tensor) -> Tensor:
    return 0.5 + 0.5 * torch.sin(0.35 * (p[:, 0] + 0.6 * p[:, 1] + 0.3 * p[:, 2]))


def _checker(p: Tensor, _: Tensor) -> Tensor:
    # A small shift keeps faces of boxes off the boundaries of the cells.
    return ((p + 0.137).floor().sum(1) % 2).abs()


def _stripes(p: Tensor, _: Tensor) -> Tensor:
    return (0.5 + 2 * torch.sin(2 * torch.pi * (0.8 * p[:, 0] + 0.3 * p[:, 2] + 0.1 * p[:, 1]))).clamp(0, 1)


def _noise(p: Tensor, index: Tensor) -> Tensor:
    total = sum(value_noise(p * 2**k, index + 101 * k) / 2**k for k in range(_OCTAVES))
    return ((total / 1.875 - 0.5) * 2 + 0.5).clamp(0, 1)  # type: ignore[operator]


def _blobs(p: Tensor, index: Tensor) -> Tensor:
    return ((value_noise(p, index) - 0.55) * 8).clamp(0, 1)


_TEXTURES = {
    Texture.GRADIENT: _gradient, Texture.CHECKER: _checker, Texture.STRIPES: _stripes, Texture.NOISE: _noise, Texture.BLOBS: _blobs,
}


def value_noise(p: Tensor, seed: Tensor) -> Tensor:
    """Smooth noise in [0, 1]: random numbers at integer points, interpolated.

    Args:
        p: [R, 3].
        seed: [R] integers; another field per value.
    """
    cell = p.floor()
    f = p - cell
    f = f * f * (3 - 2 * f)
    cell = cell.long()
    out = torch.zeros_like(p[:, 0])
    for corner in range(8):
        bit = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1], device=p.device)
        weight = torch.where(bit.bool(), f, 1 - f).prod(1)
        out = out + weight * _hash(cell + bit, seed)
    return out


def _hash(cell: Tensor, seed: Tensor) -> Tensor:
    """Pseudo-random numbers in [0, 1) from integer cells [R, 3]; 32-bit mixing within 64-bit integers."""
    mask = 0xFFFFFFFF
    h = (cell[:, 0] * 73856093 ^ cell[:, 1] * 19349663 ^ cell[:, 2] * 83492791 ^ seed * 2654435761) & mask
    for _ in range(2):
        h = ((h ^ (h >> 16)) * 0x45D9F3B) & mask
    return ((h ^ (h >> 16)) & 0xFFFFFF).to(torch.float32) / 0x1000000
