"""CPU time of the native rasteriser and of what surrounds it in training, beside a plain torch tile loop.

Process CPU time of one thread, median after a warm-up, because wall-clock time means nothing on a shared machine; ratios are
taken between runs that alternate. On CUDA the time is that of the device, between events.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.imaging.losses import photometric_loss
from ltgs.imaging.ssim import ssim
from ltgs.render import render
from tests.bench.machine import machine
from tests.bench.room import inside_camera, leaves, room
from tests.bench.tile_loop import tile_loop

CASES = (
    (20_000, 0, 640, 480), (20_000, 3, 640, 480), (100_000, 3, 640, 480), (100_000, 3, 1280, 720), (500_000, 3, 640, 480),
    (500_000, 3, 1280, 720),
)  # fmt: skip


def cpu_seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Process CPU seconds of each run."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return times


def alternating_ms(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of several pieces of work that take turns, after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            spent = cpu_seconds(work, 1)[0]
            if turn:
                times[name].append(spent)
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def step(leaf: Gaussians, cameras: Cameras, upstream: Tensor, others: dict[str, Tensor] | None = None, **options: Any) -> Any:
    """One forward and backward pass for given image gradients (`upstream` that of rgb); returns the output."""
    for value in (*leaf.tensors().values(), options.get("features")):
        if value is not None:
            value.grad = None
    out = render(leaf, cameras, backend="cpu", **{"with_depth": False, **options})
    gradients = {"rgb": upstream, **(others or {})}
    torch.autograd.backward([getattr(out, name) for name in gradients], list(gradients.values()))
    return out


def measure_native(count: int, degree: int, width: int, height: int, repeats: int = 10) -> dict[str, Any]:
    """Median milliseconds of forward and of forward + backward, colours only, by stage, and pairs per pixel."""
    gaussians, cameras = room(count, degree), inside_camera(width, height)
    leaf, upstream = leaves(gaussians), _noise(1, height, width, 3)
    outs: list[Any] = []

    def forward() -> Any:
        return render(gaussians, cameras, backend="cpu", with_depth=False)

    stats = forward().stats
    step(leaf, cameras, upstream)
    once = cpu_seconds(forward, repeats)
    twice = cpu_seconds(lambda: outs.append(step(leaf, cameras, upstream)), repeats)
    quartiles = statistics.quantiles(twice, n=4) if repeats > 1 else [0.0, 0.0, 0.0]
    stages = {k[3:]: statistics.median(o.stats[k] for o in outs) / 1e3 for k in outs[0].stats if k.startswith("us_")}
    return {
        "gaussians": count, "sh_degree": degree, "width": width, "height": height,
        "forward_ms": 1e3 * statistics.median(once), "forward_backward_ms": 1e3 * statistics.median(twice),
        "forward_backward_iqr_ms": 1e3 * (quartiles[2] - quartiles[0]), "fastest_ms": 1e3 * min(twice), "stages_ms": stages,
        "visible": stats["num_visible"], "entries": stats["num_entries"], "pairs_per_pixel": stats["num_pairs"] / (width * height),
    }  # fmt: skip


def measure_outputs(count: int = 100_000, repeats: int = 10) -> dict[str, float]:
    """What depth with alpha and eight feature channels add to a step with colours only, as ratios; SH 3, 640x480."""
    cameras, leaf, upstream = inside_camera(640, 480), leaves(room(count, 3)), _noise(1, 480, 640, 3)
    features, one = _noise(count, 8).requires_grad_(), _noise(1, 480, 640, 1)
    depth_and_alpha, of_features = {"depth": one, "alpha": one}, {"features": _noise(1, 480, 640, 8)}
    times = alternating_ms({
        "colours": lambda: step(leaf, cameras, upstream),
        "depth": lambda: step(leaf, cameras, upstream, depth_and_alpha, with_depth=True),
        "features": lambda: step(leaf, cameras, upstream, of_features, features=features),
    }, repeats)  # fmt: skip
    return {"depth_and_alpha": times["depth"] / times["colours"], "eight_features": times["features"] / times["colours"]}


def measure_training(count: int = 100_000, repeats: int = 10) -> dict[str, float]:
    """Milliseconds of the fused SSIM and of a whole iteration (render, L1 + SSIM, backward, Adam); SH 3, 640x480."""
    cameras, leaf = inside_camera(640, 480), leaves(room(count, 3))
    with torch.no_grad():
        target = (render(leaf, cameras, backend="cpu", with_depth=False).rgb + 0.1 * _noise(1, 480, 640, 3)).clamp(0, 1)
    image = target.roll(1, 2).clone().requires_grad_()
    adam = torch.optim.Adam(list(leaf.tensors().values()), lr=1e-6, fused=True)

    def iteration() -> None:
        adam.zero_grad()
        photometric_loss(render(leaf, cameras, backend="cpu", with_depth=False).rgb, target).backward()
        adam.step()

    times = alternating_ms({"ssim": lambda: ssim(image, target).backward(), "iteration": iteration}, repeats)
    return {"ssim_forward_backward_ms": times["ssim"], "iteration_ms": times["iteration"]}


def measure_threads(count: int = 100_000, repeats: int = 10) -> dict[str, float]:
    """Wall-clock gain of two threads over one; means something on two idle cores only, hence with the load beside it."""
    cameras, leaf, upstream = inside_camera(640, 480), leaves(room(count, 3)), _noise(1, 480, 640, 3)
    wall: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for threads, times in wall.items():
            torch.set_num_threads(threads)
            start = time.perf_counter()
            step(leaf, cameras, upstream)
            times.append(time.perf_counter() - start)
    torch.set_num_threads(1)
    return {"two_threads_gain": min(wall[1]) / min(wall[2]), "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")}


def measure_tile_loop(rounds: int = 3, repeats: int = 10) -> dict[str, float]:
    """The torch tile loop beside the native kernels: forward + backward of 20k Gaussians of SH degree 0 at 640x480.

    Both take turns, `repeats` native runs to one of the loop, so that whatever else the machine does meets both. The fastest
    runs of each say what the code costs; medians include what the machine did to it.
    """
    cameras, scene = inside_camera(640, 480), room(20_000, 0)
    leaf, upstream = leaves(scene), _noise(1, 480, 640, 3)
    native, loop = [], []
    step(leaf, cameras, upstream)
    for _ in range(rounds):
        native += cpu_seconds(lambda: step(leaf, cameras, upstream), repeats)
        loop += cpu_seconds(lambda: tile_loop(leaves(scene), cameras, 0).backward(upstream[0]), 1)
    return {
        "tile_loop_fastest_ms": 1e3 * min(loop), "tile_loop_median_ms": 1e3 * statistics.median(loop),
        "native_fastest_ms": 1e3 * min(native), "native_median_ms": 1e3 * statistics.median(native),
        "ratio_of_fastest": min(loop) / min(native), "ratio_of_medians": statistics.median(loop) / statistics.median(native),
    }  # fmt: skip


def bare_gsplat(leaf: Gaussians, cameras: Cameras, upstream: Tensor) -> None:
    """The same step as plain gsplat calls, to see what our contract around them costs."""
    import gsplat

    image = gsplat.rasterization(
        means=leaf.means, quats=leaf.quats, scales=leaf.scales, opacities=leaf.opacities, colors=leaf.sh, sh_degree=leaf.sh_degree,
        viewmats=cameras.cam_from_world, Ks=cameras.K, width=cameras.width, height=cameras.height, packed=False,
    )[0]  # fmt: skip
    image.backward(upstream)


def device_ms(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds on the CUDA device of several pieces of work that take turns, after three warm-ups each."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 3):
        for name, work in works.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            if turn >= 3:
                times[name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def measure_gsplat(repeats: int = 20) -> dict[str, Any]:
    """Device milliseconds of the CUDA backend beside bare gsplat for the same cases, or the reason why there are none."""
    if not torch.cuda.is_available():
        return {"skipped": "torch sees no CUDA device"}
    cases = []
    for count, degree, width, height in CASES:
        leaf = leaves(room(count, degree).to("cuda"))
        cameras, upstream = inside_camera(width, height).to("cuda"), _noise(1, height, width, 3).cuda()
        times = device_ms({
            "ours": lambda: render(leaf, cameras, backend="gsplat", with_depth=False).rgb.backward(upstream),  # noqa: B023
            "bare": lambda: bare_gsplat(leaf, cameras, upstream),  # noqa: B023
        }, repeats)  # fmt: skip
        cases.append({
            "gaussians": count, "sh_degree": degree, "width": width, "height": height, "forward_backward_ms": times["ours"],
            "bare_gsplat_ms": times["bare"], "ratio": times["ours"] / times["bare"],
        })  # fmt: skip
    return {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "gsplat": _version("gsplat"), "cases": cases}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def table(report: dict[str, Any]) -> str:
    """The figures of a report for reading, one row per measurement, under the machine they were taken on."""
    about = report["machine"]
    rows = [f"{about['cpu']}, {about['cores']} cores, load {about['load']}, {about['isa']}, torch {about['torch']}"]
    for case in report.get("cases", []):
        name = f"{case['gaussians'] // 1000}k SH{case['sh_degree']} {case['width']}x{case['height']}"
        rows.append(
            f"{name:20s} forward {case['forward_ms']:7.1f} ms, + backward {case['forward_backward_ms']:7.1f} ms "
            f"(fastest {case['fastest_ms']:.1f}), {case['pairs_per_pixel']:.1f} pairs per pixel"
        )
    for part in ("added_cost", "training", "parallel", "torch_tile_loop_20k_640x480"):
        rows += [f"{name:30s} {value:9.2f}" for name, value in report.get(part, {}).items()]
    gsplat = report.get("gsplat", {})
    rows += [f"gsplat skipped: {gsplat['skipped']}"] if "skipped" in gsplat else []
    for case in gsplat.get("cases", []):
        rows.append(
            f"gsplat {case['gaussians'] // 1000}k SH{case['sh_degree']} {case['width']}x{case['height']}  "
            f"{case['forward_backward_ms']:.2f} ms, {case['ratio']:.3f} of bare gsplat"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--backend", choices=("cpu", "gsplat", "all"), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"machine": machine(), "seed": 0}
    if options.backend in ("cpu", "all"):
        report["threads"] = 1
        report["cases"] = [measure_native(*case, repeats=options.repeats) for case in CASES]
        report["added_cost"] = measure_outputs(repeats=options.repeats)
        report["training"] = measure_training(repeats=options.repeats)
        report["parallel"] = measure_threads(repeats=options.repeats)
        report["torch_tile_loop_20k_640x480"] = measure_tile_loop()
    if options.backend in ("gsplat", "all"):
        report["gsplat"] = measure_gsplat()
    options.json.write_text(json.dumps(report, indent=2))
    print(table(report))


if __name__ == "__main__":
    main()
