"""A training step never looks at a value of the device: on CUDA that would wait, on torch's meta device it is an error."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.optim import trainer
from ltgs.optim.growth import copied_opacity_and_scale
from ltgs.optim.order import morton_order
from ltgs.optim.trainer import WarmStart
from ltgs.render.output import RenderOutput
from tests.optim.test_together import CONFIG, scene

META = torch.device("meta")
ADAM = torch.optim.Adam


def plain_adam(groups: Any, **options: Any) -> torch.optim.Adam:
    return ADAM(groups, **options | {"fused": False})


def draw_nothing(gaussians: Gaussians, cameras: Cameras, **options: Any) -> RenderOutput:
    """Images without values that depend on every parameter."""
    used = sum(t.sum() for t in gaussians.tensors().values())
    for tensor in (cameras.K, cameras.cam_from_world, *(t for t in (options["features"], options["background"]) if t is not None)):
        assert tensor.device == META
        used = used + tensor.sum()
    image = used + torch.zeros(1, cameras.height, cameras.width, 3, device=META)
    seen = torch.zeros(1, len(gaussians), dtype=torch.bool, device=META)
    dropped = torch.zeros((), dtype=torch.int64, device=META)
    return RenderOutput(image, image[..., :1], image[..., :1], image[..., :1], "gsplat", seen, dropped)


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> trainer._Trainer:
    """A trainer whose tensors are on the meta device, before its first step."""
    given = scene()
    ready = trainer._Trainer(given["photos"], 1.0, CONFIG, 0, "cpu")
    ready.start(given["points_xyz"], given["points_rgb"])
    start = ready.optimizer.gaussians().detach()
    monkeypatch.setattr(trainer, "training_device", lambda requested, backend: (META, "for this test"))
    monkeypatch.setattr(trainer, "render", draw_nothing)
    # Torch has no fused Adam for this device; the one that it has makes no difference to what is read.
    monkeypatch.setattr(torch.optim, "Adam", plain_adam)
    made = trainer._Trainer(given["photos"], 1.0, dataclasses.replace(CONFIG, noise_strength=1.0), 0, "auto", WarmStart(start))
    made._adopt(start, 0.1)
    return made


def test_a_step_reads_nothing_back(without_values: trainer._Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(without_values, "read_losses", lambda: None)
    for _ in range(3):  # growth is due in the fourth step
        without_values.one_step()
    assert without_values.step == 3 and len(without_values.unread) == 3
    assert all(p.device == META for p in without_values.optimizer.params.values())


def test_the_look_at_the_losses_reads(without_values: trainer._Trainer) -> None:
    with pytest.raises(RuntimeError):
        without_values.one_step()


def test_what_growth_computes_stays_on_its_device() -> None:
    copies = torch.ones(5, dtype=torch.int64, device=META)
    opacity, scale = copied_opacity_and_scale(torch.ones(5, device=META), torch.ones(5, 3, device=META), copies)
    assert opacity.device == scale.device == META
    assert morton_order(torch.zeros(1, 3, device=META)).device == META
