"""Held-out PSNR of a first visit's training against the time spent: the photos of one folder, posed once, trained in process."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.core.cameras import stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import silent
from ltgs.data.photo_folder import read_captures
from ltgs.eval.metrics import apply_colour, fit_colour, psnr
from ltgs.io.cameras_json import read_cameras
from ltgs.optim.initialize import TrainingPhoto
from ltgs.optim.trainer import TrainConfig, train
from ltgs.pipeline import stages
from ltgs.pipeline.config import RunConfig, load_config, parse_setting
from ltgs.render import render
from tests.bench.machine import machine


@dataclass(frozen=True)
class Posed:
    """What training starts from."""

    photos: Sequence[TrainingPhoto]
    heldout: Sequence[TrainingPhoto]
    points_xyz: NDArray[np.float64]
    """[M, 3] scene units."""
    points_rgb: NDArray[np.float64]
    """[M, 3] in [0, 1]."""


def posed(photos: Path, cameras: Path | None, work: Path, config: RunConfig) -> Posed:
    """Poses (estimated unless given) and working photos of the first visit; features and matches are kept in `work`."""
    visit = stages.scan_visit(read_captures(photos).captures[0], silent)
    given = None if cameras is None else {p.name: p for p in read_cameras(cameras)}
    result, poses = stages.pose_first_visit(visit, given, work, config, silent)
    heldout = stages.held_out([p.name for p in visit.photos], config.holdout_every)
    parts: dict[bool, list[TrainingPhoto]] = {False: [], True: []}
    for photo in visit.photos:
        if photo.name in poses.posed:
            found = stages.working_photo(photo.path, poses.posed[photo.name], 0, config.max_size)
            parts[photo.name in heldout].append(TrainingPhoto(*found))
    return Posed(parts[False], parts[True], result.points.xyz, result.points.rgb / 255.0)


def heldout_psnr(gaussians: Gaussians, photos: Sequence[TrainingPhoto]) -> tuple[float, float]:
    """Mean PSNR in dB, raw and after the best colour affine of each photo."""
    values = []
    for photo in photos:
        with torch.no_grad():
            shown = render(gaussians, stack_cameras([photo.camera]), with_depth=False).rgb[0].clamp(0, 1).double().numpy()
        truth = photo.rgb / 255.0
        values.append((psnr(shown, truth), psnr(apply_colour(fit_colour(shown, truth), shown), truth)))
    raw, fitted = np.mean(values, 0)
    return float(raw), float(fitted)


def curve(scene: Posed, config: TrainConfig, *, every: int, seed: int = 0) -> list[dict[str, float]]:
    """Train once and measure every so many steps; measuring is not part of the times."""
    rows: list[dict[str, float]] = []
    cpu, wall = time.process_time(), time.perf_counter()

    def note(step: int, gaussians: Gaussians) -> None:
        nonlocal cpu, wall
        spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        raw, fitted = heldout_psnr(gaussians, scene.heldout)
        rows.append({"step": step, "gaussians": len(gaussians), **spent, "psnr": raw, "psnr_colour_fit": fitted})
        print(f"step {step:6d}  {spent['cpu_s']:7.1f} CPU s  {len(gaussians):7d} Gaussians  {raw:.2f} / {fitted:.2f} dB", flush=True)
        cpu, wall = time.process_time() - spent["cpu_s"], time.perf_counter() - spent["wall_s"]

    def between(step: int, state: dict[str, torch.Tensor]) -> None:
        p = {k.removeprefix("param."): v for k, v in state.items() if k.startswith("param.")}
        sh = torch.cat([p.pop("sh_dc"), p.pop("sh_rest")], 1)
        note(step, Gaussians(**p, sh=sh))

    result = train(
        scene.photos, scene.points_xyz, scene.points_rgb, extent=stages.camera_extent(scene.photos),
        config=dataclasses.replace(config, checkpoint_every=every), seed=seed, save_checkpoint=between,
    )
    note(int(result.figures["steps"]), result.gaussians)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="photo folder, as for `ltgs reconstruct`")
    parser.add_argument("--cameras", type=Path, help="given poses; default: estimate them")
    parser.add_argument("--work", type=Path, help="folder of features and matches; default: a new temporary one")
    parser.add_argument("--preset", default="cpu_full")
    parser.add_argument("--holdout-every", type=int, default=8)
    parser.add_argument("--every", type=int, default=500, help="steps between two measurements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="as for `ltgs reconstruct`")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings: dict[str, Any] = {"holdout_every": options.holdout_every, **dict(parse_setting(s) for s in options.set)}
    config = load_config(options.preset, overrides=settings)
    scene = posed(options.photos, options.cameras, options.work or Path(mkdtemp(prefix="ltgs-training-")), config)
    print(f"{len(scene.photos)} photos, {len(scene.heldout)} held out, {len(scene.points_xyz)} points", flush=True)
    rows = curve(scene, config.train, every=options.every, seed=options.seed)
    if options.json:
        record = {"machine": machine(), "photos": str(options.photos), "preset": options.preset, "settings": settings, "curve": rows}
        options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
