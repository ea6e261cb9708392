"""CPU time of the native rasteriser on a synthetic room, beside a plain torch tile loop.

Process CPU time of one thread, median of ten after a warm-up, because wall-clock time means nothing on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.native import available_isas, kernels
from ltgs.render import render
from ltgs.render.reference import MAX_ALPHA, MIN_ALPHA, project

CASES = ((20_000, 0, 640, 480), (20_000, 3, 640, 480), (100_000, 3, 640, 480), (100_000, 3, 1280, 720), (500_000, 3, 640, 480))
TILE = 16


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


def tile_loop(gaussians: Gaussians, cameras: Cameras, sh_degree: int) -> Tensor:
    """The usual plain torch rasteriser: for every 16x16 tile, the Gaussians whose 3-sigma square overlaps it, densely."""
    height, width = cameras.height, cameras.width
    splats = project(gaussians, cameras.K[0], cameras.cam_from_world[0], width, height, sh_degree=sh_degree, antialiased=False)
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


def _leaves(gaussians: Gaussians) -> Gaussians:
    return Gaussians(**{k: v.detach().clone().requires_grad_() for k, v in gaussians.tensors().items()})


def cpu_seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Process CPU seconds of each run."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return times


def measure_native(count: int, degree: int, width: int, height: int, repeats: int = 10) -> dict[str, Any]:
    """Median milliseconds of forward and of forward + backward, colours only, and pairs per pixel."""
    gaussians, cameras = room(count, degree), inside_camera(width, height)
    upstream = torch.randn(1, height, width, 3, generator=torch.Generator().manual_seed(1))
    leaf = _leaves(gaussians)

    def forward() -> Any:
        return render(gaussians, cameras, backend="cpu", with_depth=False)

    def both() -> None:
        for value in leaf.tensors().values():
            value.grad = None
        render(leaf, cameras, backend="cpu", with_depth=False).rgb.backward(upstream)

    stats = forward().stats
    both()
    once, twice = cpu_seconds(forward, repeats), cpu_seconds(both, repeats)
    quartiles = statistics.quantiles(twice, n=4) if repeats > 1 else [0.0, 0.0, 0.0]
    return {
        "gaussians": count, "sh_degree": degree, "width": width, "height": height,
        "forward_ms": 1e3 * statistics.median(once), "forward_backward_ms": 1e3 * statistics.median(twice),
        "forward_backward_iqr_ms": 1e3 * (quartiles[2] - quartiles[0]),
        "visible": stats["num_visible"], "entries": stats["num_entries"], "pairs_per_pixel": stats["num_pairs"] / (width * height),
    }  # fmt: skip


def measure_tile_loop(count: int, width: int, height: int) -> float:
    """Milliseconds of one forward + backward of the torch tile loop, SH degree 0."""
    leaf, cameras = _leaves(room(count, 0)), inside_camera(width, height)
    upstream = torch.randn(height, width, 3, generator=torch.Generator().manual_seed(1))
    return 1e3 * cpu_seconds(lambda: tile_loop(leaf, cameras, 0).backward(upstream), 1)[0]


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "system": platform.system(),
        "python": platform.python_version(), "torch": torch.__version__, "isa": kernels().isa, "built": available_isas(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [measure_native(*case, repeats=options.repeats) for case in CASES]
    loop = measure_tile_loop(20_000, 640, 480)
    report = {"machine": machine(), "seed": 0, "threads": 1, "cases": cases, "torch_tile_loop_ms": loop}
    report["ratio_20k_640x480"] = loop / cases[0]["forward_backward_ms"]
    options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
