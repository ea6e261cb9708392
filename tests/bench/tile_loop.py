"""The usual plain torch rasteriser, the yardstick that every machine has."""

from __future__ import annotations

import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.render.low_pass import low_pass
from ltgs.render.reference import MAX_ALPHA, MIN_ALPHA, project

TILE = 16


def tile_loop(gaussians: Gaussians, cameras: Cameras, sh_degree: int) -> Tensor:
    """The usual plain torch rasteriser: for every 16x16 tile, the Gaussians whose 3-sigma square overlaps it, densely."""
    height, width = cameras.height, cameras.width
    splats = project(gaussians, cameras.K[0], cameras.cam_from_world[0], width, height, sh_degree=sh_degree, blur=low_pass(1.0))
    z, conic = splats["z"].detach(), splats["conic"].detach()
    seen = (z > 0.01) & conic.isfinite().all(-1)
    order = seen.nonzero()[:, 0][torch.argsort(z[seen], stable=True)]
    s = {k: v[order] for k, v in splats.items()}
    a, b, c = s["conic"].detach().unbind(-1)
    determinant = a * c - b * b
    reach_x, reach_y = 3 * torch.sqrt(c / determinant), 3 * torch.sqrt(a / determinant)
    x, y = s["xy"].detach().unbind(-1)
    rows = []
    for top in range(0, height, TILE):
        tiles = []
        for left in range(0, width, TILE):
            bottom, right = min(top + TILE, height), min(left + TILE, width)
            near = (x + reach_x > left) & (x - reach_x < right) & (y + reach_y > top) & (y - reach_y < bottom)
            part = {k: v[near] for k, v in s.items()}
            ys, xs = torch.meshgrid(torch.arange(top, bottom) + 0.5, torch.arange(left, right) + 0.5, indexing="ij")
            dx, dy = (torch.stack([xs, ys], -1).reshape(-1, 1, 2) - part["xy"]).unbind(-1)
            pa, pb, pc = part["conic"].unbind(-1)
            alpha = part["opacity"] * torch.exp(-0.5 * (pa * dx * dx + pc * dy * dy) - pb * dx * dy)
            alpha = torch.where(alpha >= MIN_ALPHA, alpha.clamp(max=MAX_ALPHA), torch.zeros_like(alpha))
            after = torch.cumprod(1 - alpha, 1)
            before = torch.cat([torch.ones_like(after[:, :1]), after], 1)[:, :-1]
            tiles.append(((before * alpha) @ part["rgb"]).reshape(bottom - top, right - left, 3))
        rows.append(torch.cat(tiles, 1))
    return torch.cat(rows, 0)
