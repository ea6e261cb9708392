"""Two processes that share the photos of every step (gloo, CPU backend) train the same Gaussians as one that renders them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from ltgs.core.cameras import Camera
from ltgs.core.se3 import make_rigid
from ltgs.errors import UsageError
from ltgs.optim import together
from ltgs.optim.device import training_device
from ltgs.optim.distributed import ALONE, Group
from ltgs.optim.growth import GrowthConfig
from ltgs.optim.guide import DepthGuide
from ltgs.optim.initialize import TrainingPhoto
from ltgs.optim.together import follow, train_together, training_group
from ltgs.optim.trainer import TrainConfig, TrainResult, train

CONFIG = TrainConfig(
    steps=16, cap=200, sh_degree=1, sh_every=4, half_resolution_share=0.2, device="cpu", growth=GrowthConfig(every=4, start=4),
    random_background=True, checkpoint_every=6,
)


def scene() -> dict[str, Any]:
    """Arguments for `train`: five noisy photos, one of them with a weight, and points."""
    rng = np.random.default_rng(1)
    photos = []
    for i in range(5):
        pose = make_rigid(np.eye(3), np.array([0.2 * (i - 2), 0, 0]))
        camera = Camera(f"{i}.png", 0, 33, 24, np.array([[30.0, 0, 16], [0, 30.0, 12], [0, 0, 1]]), pose)
        weight = rng.uniform(0, 1, (24, 33)).astype(np.float32) if i == 1 else None
        photos.append(TrainingPhoto(camera, rng.integers(0, 256, (24, 33, 3)).astype(np.uint8), weight))
    xyz = rng.uniform(-0.5, 0.5, (60, 3)) + [0, 0, 2]
    return {"photos": photos, "points_xyz": xyz, "points_rgb": rng.uniform(0, 1, (60, 3)), "extent": 1.0, "seed": 4}


def values(result: TrainResult) -> dict[str, Any]:
    return {**{k: v.numpy() for k, v in result.gaussians.tensors().items()}, "exposures": result.exposures, **result.figures}


def worker(rank: int, folder: str) -> None:
    """Process 1 follows; process 0 trains twice, the second time from a checkpoint of the first."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    try:
        if rank == 1:
            follow()
            return
        kept: dict[int, Mapping[str, Tensor]] = {}

        def keep(step: int, state: dict[str, Tensor]) -> None:
            kept[step] = {name: tensor.clone() for name, tensor in state.items()}

        first = train_together(**scene(), config=CONFIG, save_checkpoint=keep)
        again = train_together(**scene(), config=CONFIG, resume_from=kept[12])
        together._broadcast(None)
        for name, result in (("first", first), ("again", again)):
            np.savez(Path(folder) / f"{name}.npz", **values(result))
    finally:
        dist.destroy_process_group()


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    alone = values(train(**scene(), config=dataclasses.replace(CONFIG, batch=2)))
    assert len(alone["means"]) > 100, "it has grown, so the growth statistics were shared too"
    for name in ("first", "again"):
        both = np.load(tmp_path / f"{name}.npz", allow_pickle=False)
        assert set(both.files) == set(alone)
        for key, want in alone.items():
            # A sum of two numbers does not depend on their order, so not even rounding differs.
            assert np.array_equal(both[key], want), (name, key)


def test_a_batch_is_not_one_photo() -> None:
    one, two = (values(train(**scene(), config=dataclasses.replace(CONFIG, batch=b, steps=3))) for b in (1, 2))
    assert not np.array_equal(one["means"], two["means"])
    with pytest.raises(ValueError, match="batch"):
        dataclasses.replace(CONFIG, batch=0)


def test_photos_are_shared_out_completely() -> None:
    assert sorted(x for rank in range(3) for x in Group(rank, 3).share(range(7))) == list(range(7))
    assert ALONE.share([1, 2]) == [1, 2]


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with training_group() as group:
        assert group == ALONE and not dist.is_initialized()


def test_what_is_handed_over_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    given = scene()
    first = given["photos"][0]
    guide = DepthGuide(*np.random.default_rng(0).uniform(0.1, 1, (2, *first.rgb.shape[:2])).astype(np.float32))
    given["photos"] = [dataclasses.replace(first, guide=guide), *given["photos"][1:]]
    state = {"step": torch.tensor(3), "order": torch.zeros(0, dtype=torch.int64)}
    packed = together._packed(
        given["photos"], given["points_xyz"], given["points_rgb"], 1.0, CONFIG, 4, "cpu", state
    )
    got = together._unpacked(*packed)
    assert got["config"] == CONFIG and got["backend"] == "cpu" and got["seed"] == 4
    assert all(torch.equal(got["resume_from"][k], state[k]) for k in state)
    for a, b in zip(got["photos"], given["photos"], strict=True):
        assert np.array_equal(a.rgb, b.rgb) and np.array_equal(a.camera.cam_from_world, b.camera.cam_from_world)
        assert (a.weight is None) == (b.weight is None) and a.camera.name == b.camera.name
    assert [p.guide is None for p in got["photos"]] == [False, *[True] * (len(given["photos"]) - 1)]
    assert np.array_equal(got["photos"][0].guide.inverse, guide.inverse)
    assert np.array_equal(got["photos"][0].guide.certainty, guide.certainty)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_device_is_chosen_for_a_reason() -> None:
    assert training_device() == (torch.device("cpu"), "torch sees no CUDA device")
    assert training_device("auto", "cpu")[0].type == "cpu"
    for requested, backend in (("cuda", "auto"), ("auto", "gsplat"), ("cuda", "cpu"), ("cpu", "gsplat"), ("tpu", "auto")):
        with pytest.raises(UsageError):
            training_device(requested, backend)
