"""The gsplat adapter with a stand-in for gsplat: which arguments it passes and what it makes of the answer."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ltgs.errors import MissingDependency
from ltgs.render import choose_backend
from ltgs.render.gsplat_cuda import render_gsplat
from tests.render.scenes import as_float32, random_cameras, random_gaussians

OPTIONS: dict[str, Any] = {"sh_degree": 1, "near": 0.1, "far": 50.0, "with_depth": True, "antialiased": False, "features": None}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    def rasterization(  # the keywords common to gsplat 1.5.3 and 1.6; any other one is a TypeError
        *, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
        width: int, height: int, near_plane: float, far_plane: float, sh_degree: int | None, packed: bool, render_mode: str,
        rasterize_mode: str, eps2d: float,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        seen.append(dict(locals()) | {"seen": None})
        channels = 3 if sh_degree is not None else colors.shape[-1]
        image = torch.ones(len(viewmats), height, width, channels + (render_mode == "RGB+ED"))
        image[..., -1] = 7.0
        alpha = torch.ones(len(viewmats), height, width, 1)
        alpha[:, 0, 0] = 0
        radii = torch.ones(len(viewmats), len(means), 2, dtype=torch.int32)
        radii[:, 0] = 0
        return image, alpha, {"radii": radii}

    monkeypatch.setitem(sys.modules, "gsplat", SimpleNamespace(rasterization=rasterization))
    return seen


def test_arguments_and_shapes(calls: list[dict[str, Any]]) -> None:
    gaussians, cameras = as_float32(random_gaussians(0, 20), random_cameras(0, 2, 21, 13))
    out = render_gsplat(gaussians, cameras, **{**OPTIONS, "features": torch.rand(20, 5)})
    assert [c["render_mode"] for c in calls] == ["RGB+ED", "RGB"]
    assert [c["sh_degree"] for c in calls] == [1, None]
    assert calls[0]["eps2d"] == 0.3 and calls[0]["near_plane"] == 0.1 and not calls[0]["packed"]
    torch.testing.assert_close(calls[0]["quats"].norm(dim=-1), torch.ones(20))
    torch.testing.assert_close(calls[0]["scales"], gaussians.log_scales.exp())
    assert out.rgb.shape == (2, 13, 21, 3) and out.features is not None and out.features.shape == (2, 13, 21, 5)
    assert float(out.depth[0, 0, 0]) == 0.0 and float(out.depth[0, 1, 1]) == 7.0
    assert out.backend == "gsplat" and out.visible.sum() == 2 * 19


def test_without_depth_and_antialiased(calls: list[dict[str, Any]]) -> None:
    gaussians, cameras = as_float32(random_gaussians(0, 20), random_cameras(0, 1, 21, 13))
    out = render_gsplat(gaussians, cameras, **{**OPTIONS, "with_depth": False, "antialiased": True})
    assert calls[0]["render_mode"] == "RGB" and calls[0]["rasterize_mode"] == "antialiased"
    assert float(out.depth.abs().max()) == 0.0 and out.features is None


def test_non_finite_gaussians_never_reach_gsplat(calls: list[dict[str, Any]]) -> None:
    gaussians, cameras = as_float32(random_gaussians(0, 20), random_cameras(0, 1, 21, 13))
    means = gaussians.means.clone()
    means[3, 1] = float("nan")
    out = render_gsplat(replace(gaussians, means=means), cameras, **OPTIONS)
    assert out.num_dropped == 1 and len(calls[0]["means"]) == 19
    assert out.visible.shape == (1, 20) and not bool(out.visible[0, 3]) and not bool(out.visible[0, 0]) and bool(out.visible[0, 1])


def test_no_gaussians_calls_nothing(calls: list[dict[str, Any]]) -> None:
    gaussians, cameras = as_float32(random_gaussians(0, 0), random_cameras(0, 1, 21, 13))
    out = render_gsplat(gaussians, cameras, **OPTIONS)
    assert not calls and out.rgb.shape == (1, 13, 21, 3)


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
