"""A tiny capture for tests of the whole line: a box of coloured blobs, rendered at known cameras, with things that change."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.sh import rgb_to_dc
from ltgs.io.cameras_json import write_cameras_json
from ltgs.render import render

REPOSITORY = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 128, 96
FAST = (
    "train.steps=60", "train.cap=2500", "train.half_resolution_share=0.33", "train.sh_degree=0", "train.growth.every=20",
    "train.growth.start=20", "update.refine.steps=10", "update.sharpen.steps=10", "checkpoint_every=25", "train.device=cpu",
)
"""Settings that make a run of the tiny capture take seconds, on the processor also where there is a card."""


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch may use so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class TinyCapture:
    """Where the files of the capture are."""

    photos: Path
    cameras: Path
    test: Path
    test_cameras: Path


def blobs(rng: np.random.Generator, xyz: np.ndarray, size: float) -> Gaussians:
    """Nearly opaque, nearly round Gaussians of random colours."""
    n = len(xyz)
    return Gaussians(
        torch.tensor(xyz, dtype=torch.float32), torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        torch.tensor(np.log(size * rng.uniform(0.6, 1.4, (n, 3))), dtype=torch.float32), torch.full((n,), 3.0),
        rgb_to_dc(torch.tensor(rng.uniform(0.05, 0.95, (n, 1, 3)), dtype=torch.float32)),
    )


def look_at(center: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[4, 4] cam_from_world of a level camera (world z up)."""
    forward = (target - center) / np.linalg.norm(target - center)
    right = np.cross(forward, [0.0, 0, 1])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, -rotation @ center
    return out


def _place(rng: np.random.Generator) -> Gaussians:
    """Floor and two walls of a box, covered with blobs."""
    def sheet(n: int) -> np.ndarray:
        return rng.uniform(-2, 2, (n, 2))

    floor, back, side = sheet(700), sheet(700), sheet(700)
    xyz = np.concatenate([
        np.column_stack([floor, np.zeros(700)]),
        np.column_stack([back[:, 0], np.full(700, 2.0), back[:, 1] / 2 + 1]),
        np.column_stack([np.full(700, -2.0), side[:, 0], side[:, 1] / 2 + 1]),
    ])
    return blobs(rng, xyz, 0.07)


def _object(rng: np.random.Generator, center: tuple[float, float, float]) -> Gaussians:
    return blobs(rng, rng.uniform(-0.2, 0.2, (150, 3)) + center, 0.06)


def _camera(name: str, time: int, angle: float, height: float = 1.2) -> Camera:
    center = np.array([2.8 * np.sin(angle), -2.8 * np.cos(angle), height])
    K = np.array([[110.0, 0, WIDTH / 2], [0, 110.0, HEIGHT / 2], [0, 0, 1]])
    return Camera(name, time, WIDTH, HEIGHT, K, look_at(center, np.array([0, 0.5, 0.7])))


def make_tiny_capture(folder: Path, *, first: int = 10, later: int = 3) -> TinyCapture:
    """Three visits: an object stands there, it has moved, another one has come and the light is warmer.

    Args:
        first, later: number of photos of the first and of each later visit.
    """
    rng = np.random.default_rng(5)
    place, thing, other = _place(rng), _object(rng, (0.2, 0.3, 0.25)), _object(rng, (-0.9, 0.9, 0.25))
    moved = thing.transformed(torch.tensor([[1.0, 0, 0, 0.9], [0, 1, 0, 0.4], [0, 0, 1, 0], [0, 0, 0, 1]]))
    states = [
        Gaussians.concatenate([place, thing]), Gaussians.concatenate([place, moved]), Gaussians.concatenate([place, moved, other]),
    ]
    light = [np.ones(3), np.ones(3), np.array([0.95, 0.88, 0.8])]
    visits = ["2024-01-05", "2024-02-10", "2024-03-20"]
    photos, test = folder / "photos", folder / "test"
    cameras, test_cameras = [], []
    for time, (name, state) in enumerate(zip(visits, states, strict=True)):
        count = first if time == 0 else later
        angles = np.linspace(-0.6, 0.6, count) if time == 0 else np.linspace(-0.4, 0.4, count) + 0.03
        for index, angle in enumerate(angles):
            camera = _camera(f"{name}/IMG_{index + 1}.png", time, float(angle), 1.0 + 0.5 * (index % 3))
            cameras.append(camera)
            _write(photos / camera.name, state, camera, light[time])
        camera = _camera(f"{name}/IMG_{90 + time}.png", time, 0.15)
        test_cameras.append(camera)
        _write(test / camera.name, state, camera, light[time])
    write_cameras_json(folder / "cameras.json", cameras)
    write_cameras_json(folder / "test_cameras.json", test_cameras)
    return TinyCapture(photos, folder / "cameras.json", test, folder / "test_cameras.json")


def _write(path: Path, state: Gaussians, camera: Camera, light: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = render(state, stack_cameras([camera]), with_depth=False).rgb[0].clamp(0, 1).numpy() * light
    Image.fromarray(np.rint(rgb * 255).astype(np.uint8)).save(path)


def settings(values: tuple[str, ...] = FAST) -> list[str]:
    """Command-line words for single settings."""
    return [word for value in values for word in ("--set", value)]


def call_ltgs(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in this process: the same code without the seconds of starting Python and loading torch."""
    from ltgs.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(w) for w in words])
    return subprocess.CompletedProcess([str(w) for w in words], code, out.getvalue(), err.getvalue())


def run_ltgs(*words: str | Path, env: dict[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "ltgs", *map(str, words)]
    full = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **(env or {})}
    return subprocess.run(command, cwd=REPOSITORY, env=full, capture_output=True, text=True, timeout=timeout, check=False)
