"""Training by all processes that ``torchrun`` started, with the rest of the program in one of them.

Process 0 runs the program and alone reads and writes files. The others `follow`: they wait for training runs, take part in them
and throw the result away. A run is handed over as JSON and plain tensors; nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Camera
from ltgs.core.progress import Progress, silent
from ltgs.errors import UsageError
from ltgs.optim.distributed import ALONE, Group, current_group
from ltgs.optim.growth import GrowthConfig
from ltgs.optim.guide import DepthGuide
from ltgs.optim.haze import ClearConfig
from ltgs.optim.initialize import InitConfig, TrainingPhoto
from ltgs.optim.trainer import CheckpointSink, TrainConfig, TrainResult, train

log = logging.getLogger("ltgs.optim")
Array = NDArray[np.float64]
WAIT = timedelta(days=2)
"""How long a process waits for another one: process 0 may estimate poses for hours before there is anything to train."""


@contextmanager
def training_group() -> Iterator[Group]:
    """Join the processes that ``torchrun`` started; ALONE where it did not. Process 0 lets the others go at the end.

    Raises:
        UsageError: more processes than CUDA devices.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "LOCAL_RANK" not in os.environ:
        yield ALONE
        return
    local, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if cards and local >= cards:
        raise UsageError(f"torchrun started more processes than the {cards} CUDA devices here; use --nproc-per-node {cards}.")
    if cards:
        torch.cuda.set_device(local)
    # Tensors of the host, that is whole training runs, go through gloo in both cases.
    dist.init_process_group("cpu:gloo,cuda:nccl" if cards else "gloo", timeout=WAIT)
    try:
        group = current_group()
        yield group
        # Not after an error: the others may be in the middle of a step then, and end when this process does.
        if group.rank == 0:
            _broadcast(None)
    finally:
        dist.destroy_process_group()


def train_together(
    photos: Sequence[TrainingPhoto],
    points_xyz: Array,  # [M, 3] scene units
    points_rgb: Array,  # [M, 3] in [0, 1]
    *,
    extent: float,
    config: TrainConfig,
    seed: int = 0,
    backend: str = "auto",
    progress: Progress = silent,
    save_checkpoint: CheckpointSink | None = None,
    resume_from: Mapping[str, Tensor] | None = None,
) -> TrainResult:
    """`train` with the help of the processes that `follow`; the same as `train` without them. Called by process 0."""
    group = current_group()
    if group.size > 1:
        _broadcast(_packed(photos, points_xyz, points_rgb, extent, config, seed, backend, resume_from))
    return train(
        photos, points_xyz, points_rgb, extent=extent, config=config, seed=seed, backend=backend, progress=progress,
        save_checkpoint=save_checkpoint, resume_from=resume_from, group=group,
    )


def follow() -> None:
    """Take part in the training runs of process 0 until it has no more; for all other processes.

    Whether a run is interrupted is up to process 0, which writes a checkpoint first: the signals are ignored here. When process 0
    ends, for whatever reason, so does this function: what happened is said there, and its exit code counts.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        while (message := _broadcast(None)) is not None:
            train(**_unpacked(*message), group=current_group())
    except RuntimeError as error:
        # Gloo has no class of its own for a lost connection.
        if not (isinstance(error, dist.DistError) or "onnection" in str(error)):
            raise
        log.info("process 0 has ended: %s", error)


Message = tuple[dict[str, Any], dict[str, Tensor]]
"""Plain values, and tensors by name."""


def _packed(
    photos: Sequence[TrainingPhoto], points_xyz: Array, points_rgb: Array, extent: float, config: TrainConfig, seed: int,
    backend: str, resume_from: Mapping[str, Tensor] | None,
) -> Message:
    plain = {
        "extent": extent, "config": dataclasses.asdict(config), "seed": seed, "backend": backend, "resumed": resume_from is not None,
        "photos": [
            [
                p.camera.name, p.camera.time, p.camera.width, p.camera.height, p.camera.sampling, p.weight is not None,
                p.guide is not None,
            ] for p in photos
        ],
    }
    tensors = {"xyz": torch.from_numpy(np.array(points_xyz)), "rgb": torch.from_numpy(np.array(points_rgb))}
    for i, photo in enumerate(photos):
        tensors |= {f"{i}.K": torch.from_numpy(photo.camera.K), f"{i}.pose": torch.from_numpy(photo.camera.cam_from_world)}
        tensors[f"{i}.rgb"] = torch.from_numpy(photo.rgb.copy())
        if photo.weight is not None:
            tensors[f"{i}.weight"] = torch.from_numpy(photo.weight.copy())
        if photo.guide is not None:
            tensors[f"{i}.guide"] = torch.from_numpy(np.stack([photo.guide.inverse, photo.guide.certainty]))
    tensors |= {f"state.{name}": tensor for name, tensor in (resume_from or {}).items()}
    return plain, tensors


def _unpacked(plain: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Arguments for `train`."""
    photos = [
        TrainingPhoto(
            Camera(name, time, width, height, tensors[f"{i}.K"].numpy(), tensors[f"{i}.pose"].numpy(), sampling),
            tensors[f"{i}.rgb"].numpy(),
            tensors[f"{i}.weight"].numpy() if weighted else None,
            guide=DepthGuide(*tensors[f"{i}.guide"].numpy()) if guided else None,
        )
        for i, (name, time, width, height, sampling, weighted, guided) in enumerate(plain["photos"])
    ]
    settings, parts = plain["config"], {"init": InitConfig, "growth": GrowthConfig, "haze": ClearConfig}
    config = TrainConfig(**settings | {name: kind(**settings[name]) for name, kind in parts.items()})
    state = {name.removeprefix("state."): tensor for name, tensor in tensors.items() if name.startswith("state.")}
    return {
        "photos": photos, "points_xyz": tensors["xyz"].numpy(), "points_rgb": tensors["rgb"].numpy(), "extent": plain["extent"],
        "config": config, "seed": plain["seed"], "backend": plain["backend"], "resume_from": state if plain["resumed"] else None,
    }


def _broadcast(message: Message | None) -> Message | None:
    """Process 0 sends a message or None, which means that there will be no more; the others pass None and get what it sent."""
    leads = dist.get_rank() == 0
    plain, tensors = message if message is not None else ({}, {})
    shapes = {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors.items()}
    text = torch.frombuffer(bytearray(json.dumps([plain, shapes]).encode()), dtype=torch.uint8)
    length = torch.tensor(0 if message is None else len(text))
    dist.broadcast(length, 0)
    if int(length) == 0:
        return None
    text = text if leads else torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(text, 0)
    if not leads:
        plain, shapes = json.loads(text.numpy().tobytes())
        tensors = {name: torch.empty(shape, dtype=getattr(torch, kind)) for name, (kind, shape) in shapes.items()}
    for tensor in tensors.values():
        if tensor.numel():
            dist.broadcast(tensor.contiguous(), 0)
    return plain, tensors
