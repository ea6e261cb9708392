"""Ratios that hold on any machine: against a plain torch tile loop on the same thread, and work done per pixel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ltgs.native import available_isas
from ltgs.render import render
from tests.bench.machine import machine
from tests.bench.rasteriser import measure_gsplat, measure_native, measure_tile_loop, table
from tests.bench.room import inside_camera, room
from tests.bench.tile_loop import tile_loop


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_many_times_faster_than_the_torch_tile_loop() -> None:
    # Measured 112 to 172 with AVX2 on shared machines, fastest run against fastest run, and 82 beside work that fills the core's other
    # thread. Half of it is asserted: twice as slow would be found. Machines without AVX2 are not held to the figure.
    if available_isas()[-1] == "baseline":
        pytest.skip("the figure is for AVX2 and wider")
    assert measure_tile_loop()["ratio_of_fastest"] >= 60


@pytest.mark.parametrize("isa", available_isas())
def test_evaluated_pairs_per_pixel(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTGS_ISA", isa)
    stats = render(room(100_000, 0), inside_camera(640, 480), backend="cpu", with_depth=False).stats
    assert stats["num_pairs"] / (640 * 480) <= 85


def test_the_workload_is_reproducible_and_looks_trained() -> None:
    first, again = (measure_native(5_000, 0, 320, 240, repeats=1) for _ in range(2))
    assert first["pairs_per_pixel"] == again["pairs_per_pixel"] and first["entries"] == again["entries"]
    assert set(first["stages_ms"]) == {"project", "bin", "raster", "raster_backward", "unproject"}
    out = render(room(5_000, 0), inside_camera(320, 240), backend="cpu")
    assert torch.equal(out.rgb, render(room(5_000, 0), inside_camera(320, 240), backend="cpu").rgb)
    assert float(out.alpha.mean()) > 0.8 and 1_000 < first["visible"] < 5_000


def test_the_tile_loop_draws_the_same_picture() -> None:
    gaussians, cameras = room(2_000, 0), inside_camera(96, 64)
    difference = (tile_loop(gaussians, cameras, 0) - render(gaussians, cameras, backend="cpu").rgb[0]).abs()
    assert float(difference.mean()) < 5e-3  # it cuts at three standard deviations


def test_the_report_is_printed_with_the_machine() -> None:
    case = measure_native(200, 0, 64, 48, repeats=2)
    loop = {"ratio_of_fastest": 119.0}
    text = table({"machine": machine(), "cases": [case], "torch_tile_loop_20k_640x480": loop, "gsplat": {"skipped": "no card"}})
    assert machine()["isa"] in text.splitlines()[0] and f"fastest {case['fastest_ms']:.1f}" in text
    assert "119.00" in text and "gsplat skipped: no card" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device to measure")
def test_without_a_cuda_device_the_benchmark_says_so() -> None:
    assert measure_gsplat() == {"skipped": "torch sees no CUDA device"}
