"""The native backend against the float64 reference: images and every gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.native import available_isas
from ltgs.render import render
from tests.render.scenes import as_float32, as_float64, random_cameras, random_gaussians

IMAGES = ("rgb", "alpha", "depth", "features")


def _run(
    gaussians: Gaussians, cameras: Cameras, features: Tensor, weights: dict[str, Tensor], backend: str, antialiased: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    leaves = {k: v.clone().requires_grad_() for k, v in gaussians.tensors().items()}
    pose, extra = cameras.cam_from_world.clone().requires_grad_(), features.clone().requires_grad_()
    posed = replace(cameras, cam_from_world=pose)
    background = gaussians.means.new_tensor([0.2, 0.5, 0.7])
    out = render(Gaussians(**leaves), posed, backend=backend, features=extra, background=background, antialiased=antialiased)
    images = {k: getattr(out, k) for k in IMAGES}
    loss = sum((images[k] * w.to(images[k].dtype)).sum() for k, w in weights.items())
    assert isinstance(loss, Tensor)
    loss.backward()
    leaves = {**leaves, "cam_from_world": pose, "features": extra}
    grads = {k: v.grad if v.grad is not None else torch.zeros_like(v) for k, v in leaves.items()}
    return {k: v.detach() for k, v in images.items()}, grads


def relative_error(got: Tensor, want: Tensor) -> float:
    """Relative L2 distance; absolute where the target is zero."""
    return float((got.double() - want).norm() / want.norm().clamp_min(1e-9))


def compare(
    seed: int, sh_degree: int, isa: str, monkeypatch: pytest.MonkeyPatch, *, losses: tuple[str, ...] = IMAGES, cameras: int = 2,
    antialiased: bool = False, sampling: float = 1.0, width: int = 53, height: int = 37, channels: int = 5, count: int = 200,
) -> None:
    monkeypatch.setenv("LTGS_ISA", isa)
    seen = replace(random_cameras(seed, cameras, width, height), sampling=sampling)
    small = as_float32(random_gaussians(seed, count, sh_degree), seen)
    large = as_float64(*small)
    rng = torch.Generator().manual_seed(seed + 7)
    features = torch.randn(count, channels, generator=rng)
    shapes = {"rgb": 3, "alpha": 1, "depth": 1, "features": channels}
    weights = {k: torch.randn(cameras, height, width, shapes[k], generator=rng) for k in losses}
    images, grads = _run(*small, features, weights, "cpu", antialiased)
    want_images, want_grads = _run(*large, features.double(), weights, "reference", antialiased)
    for name, want in want_images.items():
        # Measured worst over 4 seeds, 3 instruction sets: rgb 1e-6, alpha 1.9e-6, features 3.8e-6, depth (values of 5) 1.1e-5.
        # What remains is float32 rounding of the splat centres and conics, which grows with the distance to the centre.
        limit = 3e-5 if name == "depth" else 5e-6
        assert float((images[name].double() - want).abs().max()) < limit, name
    for name, want in want_grads.items():
        assert relative_error(grads[name], want) < 2e-5, name  # measured worst: 1e-5 with one Gaussian, 4e-6 otherwise


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
def test_images_and_gradients(sh_degree: int, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(sh_degree, sh_degree, isa, monkeypatch)


@pytest.mark.parametrize("loss", IMAGES)
def test_each_loss_alone(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(11, 2, available_isas()[-1], monkeypatch, losses=(loss,))


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 33), (64, 15)])
def test_image_sizes(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    compare(5, 1, available_isas()[-1], monkeypatch, width=size[0], height=size[1])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 9])
def test_feature_widths(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(6, 0, available_isas()[-1], monkeypatch, channels=channels)


@pytest.mark.parametrize("isa", available_isas())
def test_antialiased(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(8, 1, isa, monkeypatch, antialiased=True)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("sampling", [0.3, 2.0])
def test_other_samplings(sampling: float, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(12, 1, isa, monkeypatch, sampling=sampling)


@pytest.mark.parametrize("count", [1, 15, 17])
def test_few_gaussians(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(9, 3, available_isas()[-1], monkeypatch, count=count)
