"""The gsplat adapter with a stand-in for gsplat: which arguments it passes and what it makes of the answer."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.sh import eval_sh
from ltgs.errors import MissingDependency
from ltgs.render import choose_backend
from ltgs.render.gsplat_cuda import render_gsplat
from ltgs.render.low_pass import LowPass, low_pass
from ltgs.render.reference import render_reference
from tests.render.scenes import as_float32, random_cameras, random_gaussians

OPTIONS: dict[str, Any] = {"sh_degree": 1, "near": 0.1, "far": 50.0, "with_depth": True, "blur": LowPass(0.3, 0.3), "features": None}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Puts a stand-in for gsplat in its place that draws with the reference renderer; the arguments of its calls."""
    seen: list[dict[str, Any]] = []

    def rasterization(  # the keywords common to gsplat 1.5.3 and 1.6; any other one is a TypeError
        *, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
        width: int, height: int, near_plane: float, far_plane: float, sh_degree: None, packed: bool, render_mode: str,
        rasterize_mode: str, eps2d: float,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        seen.append(dict(locals()))
        assert sh_degree is None and colors.shape[:2] == (len(viewmats), len(means))
        for value in (means, quats, scales, opacities, colors):
            assert bool(value.isfinite().all()), "gsplat does not skip what is not finite"
        drawn = (opacities >= 1 / 255).nonzero()[:, 0]
        images, alphas, radii = [], [], torch.zeros(len(viewmats), len(means), 2, dtype=torch.int32)
        logits, quats = torch.logit(opacities[drawn]), torch.nn.functional.normalize(quats, dim=-1)  # as gsplat does
        plain = Gaussians(means[drawn], quats[drawn], scales[drawn].log(), logits, torch.zeros(len(drawn), 1, 3))
        for c, color in enumerate(colors):
            camera = Cameras(Ks[c : c + 1], viewmats[c : c + 1], width, height)
            out = render_reference(
                plain, camera, features=color[drawn], sh_degree=0, near=near_plane, far=far_plane, with_depth=True,
                blur=LowPass(0.0 if rasterize_mode == "antialiased" else eps2d, eps2d),
            )
            assert out.features is not None
            images.append(torch.cat([out.features[0], *([out.depth[0]] if render_mode == "RGB+ED" else [])], -1))
            alphas.append(out.alpha[0])
            radii[c, drawn] = out.visible[0].int()[:, None]
        return torch.stack(images), torch.stack(alphas), {"radii": radii}

    def spherical_harmonics(degrees_to_use: int, dirs: Tensor, coeffs: Tensor) -> Tensor:
        assert coeffs.shape[:-2] == dirs.shape[:-1], "as gsplat asserts"
        unit = torch.nn.functional.normalize(dirs, dim=-1).flatten(0, 1)
        return eval_sh(coeffs.flatten(0, 1), unit, degrees_to_use).view(dirs.shape)

    module = SimpleNamespace(rasterization=rasterization, spherical_harmonics=spherical_harmonics)
    monkeypatch.setitem(sys.modules, "gsplat", module)
    return seen


def double(gaussians: Gaussians, cameras: Cameras) -> tuple[Gaussians, Cameras]:
    """Leaves that require gradients."""
    leaves = {k: v.double().requires_grad_() for k, v in gaussians.tensors().items()}
    pose = cameras.cam_from_world.double().requires_grad_()
    return Gaussians(**leaves), Cameras(cameras.K.double(), pose, cameras.width, cameras.height)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("degree", [0, 1])
def test_images_and_gradients_are_those_of_the_reference(calls: list[dict[str, Any]], antialiased: bool, degree: int) -> None:
    gaussians, cameras = random_gaussians(0, 20, 1), random_cameras(0, 2, 21, 13)
    options = {**OPTIONS, "sh_degree": degree, "blur": LowPass(0.0, 0.3) if antialiased else LowPass(0.3, 0.3)}
    results = []
    for draw in (render_gsplat, render_reference):
        leaves, seen = double(gaussians, cameras)
        features = torch.rand(20, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
        out = draw(leaves, seen, **{**options, "features": features})
        assert out.features is not None
        images = {"rgb": out.rgb, "alpha": out.alpha, "depth": out.depth, "features": out.features}
        sum((i.square() * torch.linspace(1, 2, i.shape[2], dtype=i.dtype)[:, None]).sum() for i in images.values()).backward()
        gradients = {**{k: v.grad for k, v in leaves.tensors().items()}, "pose": seen.cam_from_world.grad, "features_": features.grad}
        results.append({**images, **gradients, "visible": out.visible.double()})
    for name, want in results[1].items():
        torch.testing.assert_close(results[0][name], want, msg=name)
    assert len(calls) == 1, "colours, depth and features are one rasterisation"
    assert calls[0]["eps2d"] == 0.3 and calls[0]["near_plane"] == 0.1 and not calls[0]["packed"]


def test_a_part_of_the_blur_cannot_be_made_up_for(calls: list[dict[str, Any]]) -> None:
    gaussians, cameras = as_float32(random_gaussians(0, 20), random_cameras(0, 1, 21, 13))
    blur = low_pass(0.5)
    render_gsplat(gaussians, cameras, **{**OPTIONS, "blur": blur})
    assert calls[0]["rasterize_mode"] == "classic" and blur.fitted < calls[0]["eps2d"] == blur.plain < blur.total


def test_without_depth_and_features(calls: list[dict[str, Any]]) -> None:
    gaussians, cameras = as_float32(random_gaussians(0, 20), random_cameras(0, 1, 21, 13))
    out = render_gsplat(gaussians, cameras, **{**OPTIONS, "with_depth": False})
    assert calls[0]["render_mode"] == "RGB" and calls[0]["colors"].shape == (1, 20, 3)
    assert float(out.depth.abs().max()) == 0.0 and out.features is None and out.backend == "gsplat"


@pytest.mark.parametrize("field", ["means", "quats", "log_scales", "opacity_logits", "sh", "zero quats"])
def test_gaussians_that_are_not_finite_are_dropped_and_counted(calls: list[dict[str, Any]], field: str) -> None:
    gaussians, cameras = as_float32(random_gaussians(0, 20), random_cameras(0, 1, 21, 13))
    tensors = {k: v.clone() for k, v in gaussians.tensors().items()}
    tensors[field.removeprefix("zero ")][3] = 0.0 if "zero" in field else float("nan")
    leaves = {k: v.requires_grad_() for k, v in tensors.items()}
    out = render_gsplat(Gaussians(**leaves), cameras, **{**OPTIONS, "features": torch.rand(20, 2)})
    out.rgb.square().sum().backward()
    assert int(out.num_dropped) == 1 and not bool(out.visible[0, 3])
    others = torch.arange(20) != 3
    want = render_gsplat(gaussians[others], cameras, **OPTIONS)
    assert torch.equal(out.rgb, want.rgb) and torch.equal(out.visible[:, others], want.visible)
    for name, leaf in leaves.items():
        assert leaf.grad is not None and bool(leaf.grad.isfinite().all()) and not bool(leaf.grad[3].any()), name
        assert bool(leaf.grad[others].any()), name


def test_no_gaussians_calls_nothing(calls: list[dict[str, Any]]) -> None:
    gaussians, cameras = as_float32(random_gaussians(0, 0), random_cameras(0, 1, 21, 13))
    out = render_gsplat(gaussians, cameras, **OPTIONS)
    assert not calls and out.rgb.shape == (1, 13, 21, 3)


def test_nothing_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, where tensors have no values, whatever looks at one fails; on CUDA it would wait."""
    def rasterization(**given: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        shape, channels = (len(given["viewmats"]), given["height"], given["width"]), given["colors"].shape[-1]
        used = sum(given[k].sum() for k in ("means", "quats", "scales", "opacities", "colors"))
        image = used + torch.zeros(*shape, channels + 1, device="meta")
        return image, image[..., :1], {"radii": torch.zeros(shape[0], len(given["means"]), 2, dtype=torch.int32, device="meta")}

    def spherical_harmonics(degree: int, directions: Tensor, coefficients: Tensor) -> Tensor:
        return directions * coefficients.sum(-2)

    module = SimpleNamespace(rasterization=rasterization, spherical_harmonics=spherical_harmonics)
    monkeypatch.setitem(sys.modules, "gsplat", module)
    gaussians, cameras = as_float32(random_gaussians(0, 20), random_cameras(0, 2, 21, 13))
    leaves = Gaussians(**{k: v.to("meta").requires_grad_() for k, v in gaussians.tensors().items()})
    out = render_gsplat(leaves, cameras.to("meta"), **{**OPTIONS, "features": torch.zeros(20, 1, device="meta")})
    (out.rgb.sum() + out.depth.sum() + out.features.sum()).backward()  # type: ignore[union-attr]
    assert leaves.means.grad is not None and isinstance(out.num_dropped, Tensor) and out.visible.shape == (2, 20)
    with pytest.raises(RuntimeError):
        int(out.num_dropped)


def test_missing_gsplat_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsplat", None)
    gaussians, cameras = as_float32(random_gaussians(0, 5), random_cameras(0, 1, 21, 13))
    with pytest.raises(MissingDependency, match="pip install gsplat"):
        render_gsplat(gaussians, cameras, **OPTIONS)


def test_backend_choice_names_its_reason() -> None:
    assert choose_backend("cpu")[0] == "cpu" and "native" in choose_backend("cpu")[1]
    assert "requested" in choose_backend("cpu", "reference")[1]
    with pytest.raises(ValueError, match="CUDA"):
        choose_backend("cpu", "gsplat")
    with pytest.raises(ValueError, match="choose one of"):
        choose_backend("cpu", "metal")
