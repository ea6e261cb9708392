"""Two processes that each render half of the cameras and add up their gradients (gloo, CPU backend) equal one that renders all."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.optim.distributed import ALONE, Group, current_group
from ltgs.render import render
from tests.render.scenes import as_float32, random_cameras, random_gaussians

CAMERAS = 4


def gradients(group: Group) -> dict[str, Tensor]:
    """Sum over the cameras of a process, one backward pass each, as a training step with several views."""
    gaussians, cameras = as_float32(random_gaussians(2, 300, 2), random_cameras(2, CAMERAS))
    leaves = {k: v.clone().requires_grad_() for k, v in gaussians.tensors().items()}
    for c in group.share(range(CAMERAS)):
        one = Cameras(cameras.K[c : c + 1], cameras.cam_from_world[c : c + 1], cameras.width, cameras.height)
        render(Gaussians(**leaves), one, backend="cpu").rgb.square().mean().backward()
    return {k: v.grad for k, v in leaves.items() if v.grad is not None}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=120))
    try:
        grads = gradients(Group(rank, 2))
        current_group().add_up(list(grads.values()))
        np.savez(Path(folder) / f"{rank}.npz", **{k: v.numpy() for k, v in grads.items()})
    finally:
        dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    want = gradients(ALONE)
    both = [np.load(tmp_path / f"{rank}.npz", allow_pickle=False) for rank in range(2)]
    assert len(want) == 5
    for name, gradient in want.items():
        assert np.array_equal(both[0][name], both[1][name]), name
        # Only the order of four sums differs.
        assert float((torch.from_numpy(both[0][name]) - gradient).norm()) < 1e-6 * float(gradient.norm()), name
        assert float(gradient.norm()) > 0
