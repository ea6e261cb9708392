"""Training on a CUDA device: it fits as on the processor, and no step waits for the device; skipped where there is none."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from ltgs.optim import trainer
from ltgs.optim.trainer import train
from tests.optim.test_together import CONFIG, scene

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")]
LONG = dataclasses.replace(CONFIG, steps=40, device="cuda", half_resolution_share=0.1, checkpoint_every=20)


@contextmanager
def waiting_is(mode: str) -> Iterator[None]:
    """What torch does about operations that wait for the device: "default" (nothing), "warn" or "error"."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_the_result_is_on_the_cpu_and_as_good() -> None:
    pytest.importorskip("gsplat", reason="gsplat is not installed")
    on_cpu, on_cuda = (train(**scene(), config=dataclasses.replace(LONG, device=d)) for d in ("cpu", "cuda"))
    assert on_cuda.gaussians.device.type == "cpu"
    assert on_cuda.figures["train_loss"] < 1.1 * on_cpu.figures["train_loss"]


def test_a_checkpoint_made_on_cuda_goes_on() -> None:
    pytest.importorskip("gsplat", reason="gsplat is not installed")
    kept: dict[int, dict[str, torch.Tensor]] = {}
    train(**scene(), config=LONG, save_checkpoint=lambda step, state: kept.update({step: state}))
    assert all(t.device.type == "cpu" for t in kept[20].values())
    for device in ("cuda", "cpu"):
        result = train(**scene(), config=dataclasses.replace(LONG, device=device), resume_from=kept[20])
        assert result.figures["steps"] == LONG.steps


def test_only_gsplat_waits_and_only_once_per_render(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps between two growth rounds, after every photo was seen once; gsplat reads the length of its lists once."""
    gsplat = pytest.importorskip("gsplat", reason="gsplat is not installed")
    original: Callable[..., Any] = gsplat.rasterization
    waits: list[int] = []

    def rasterization(**given: Any) -> Any:
        with warnings.catch_warnings(record=True) as caught, waiting_is("warn"):
            warnings.simplefilter("always")
            out = original(**given)
        waits.append(sum("synchroniz" in str(w.message) for w in caught))
        return out

    monkeypatch.setattr(gsplat, "rasterization", rasterization)
    given = scene()
    config = dataclasses.replace(LONG, steps=200, growth=dataclasses.replace(LONG.growth, every=1000))
    steps = trainer._Trainer(given["photos"], 1.0, config, 0, "auto")
    steps.start(given["points_xyz"], given["points_rgb"])
    while steps.step < 60 or steps.unread:
        steps.one_step()
    waits.clear()
    with waiting_is("error"):
        for _ in range(trainer.READ_EVERY - 1):
            steps.one_step()
    assert len(waits) == trainer.READ_EVERY - 1 and max(waits) <= 1
    steps.read_losses()
    assert len(steps.losses) == steps.step
