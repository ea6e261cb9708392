"""The gsplat backend against the CPU backend; runs only where a CUDA device and gsplat exist."""

from __future__ import annotations

import pytest
import torch

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.render import render
from tests.render.scenes import as_float32, random_cameras, random_gaussians

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")]


@pytest.mark.parametrize("antialiased", [False, True])
def test_images_equal_the_cpu_backend(antialiased: bool) -> None:
    pytest.importorskip("gsplat", reason="gsplat is not installed")
    gaussians, cameras = as_float32(random_gaussians(3), random_cameras(3, 2, 96, 64))
    features = torch.rand(len(gaussians), 3, generator=torch.Generator().manual_seed(3))
    cpu = render(gaussians, cameras, backend="cpu", features=features, antialiased=antialiased)
    moved = Gaussians(**{k: v.cuda() for k, v in gaussians.tensors().items()})
    seen = Cameras(cameras.K.cuda(), cameras.cam_from_world.cuda(), cameras.width, cameras.height)
    gpu = render(moved, seen, features=features.cuda(), antialiased=antialiased)
    assert gpu.backend == "gsplat"
    for name in ("rgb", "alpha", "features"):
        # gsplat cuts splats at a bounding radius that the CPU backend computes exactly, hence a mean and not a maximum.
        assert float((getattr(gpu, name).cpu() - getattr(cpu, name)).abs().mean()) < 2e-3, name


def test_gradients_point_the_same_way() -> None:
    pytest.importorskip("gsplat", reason="gsplat is not installed")
    gaussians, cameras = as_float32(random_gaussians(4), random_cameras(4, 1, 96, 64))
    grads = []
    for device in ("cpu", "cuda"):
        leaves = {k: v.to(device).clone().requires_grad_() for k, v in gaussians.tensors().items()}
        seen = Cameras(cameras.K.to(device), cameras.cam_from_world.to(device), cameras.width, cameras.height)
        render(Gaussians(**leaves), seen).rgb.square().sum().backward()
        grads.append({k: v.grad.cpu() for k, v in leaves.items() if v.grad is not None})
    for name, want in grads[0].items():
        cosine = torch.nn.functional.cosine_similarity(grads[1][name].flatten(), want.flatten(), dim=0)
        assert float(cosine) > 0.99, name
