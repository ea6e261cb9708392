"""The native rasteriser stays at least fifty times faster than a plain torch tile loop, on this machine and the same thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ltgs.render import render
from tests.bench.rasteriser import inside_camera, measure_native, measure_tile_loop, room, tile_loop


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_fifty_times_faster_than_the_torch_tile_loop() -> None:
    native = measure_native(5_000, 0, 320, 240, repeats=5)["forward_backward_ms"]
    assert measure_tile_loop(5_000, 320, 240) / native >= 50


def test_the_workload_is_reproducible_and_looks_trained() -> None:
    first, again = (measure_native(5_000, 0, 320, 240, repeats=1) for _ in range(2))
    assert first["pairs_per_pixel"] == again["pairs_per_pixel"] and first["entries"] == again["entries"]
    out = render(room(5_000, 0), inside_camera(320, 240), backend="cpu")
    assert torch.equal(out.rgb, render(room(5_000, 0), inside_camera(320, 240), backend="cpu").rgb)
    assert float(out.alpha.mean()) > 0.8 and 1_000 < first["visible"] < 5_000


def test_the_tile_loop_draws_the_same_picture() -> None:
    gaussians, cameras = room(2_000, 0), inside_camera(96, 64)
    difference = (tile_loop(gaussians, cameras, 0) - render(gaussians, cameras, backend="cpu").rgb[0]).abs()
    assert float(difference.mean()) < 5e-3  # it cuts at three standard deviations
