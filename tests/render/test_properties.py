"""Two hundred random tiny scenes against the float64 reference, and two hundred spoiled ones that must stay harmless.

A float32 and a float64 renderer may fall on different sides of a cut (alpha at 1/255 and 0.999, transmittance at 1e-4), so
scenes with a pair within 2e-5 of one are drawn again; what is left has to agree everywhere.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.native import available_isas
from ltgs.render import render
from ltgs.render.low_pass import low_pass
from ltgs.render.reference import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE, view_of
from tests.render.scenes import as_float32, as_float64, random_cameras, random_gaussians

SEEDS = 200
BLOCK = 20
SIZES = ((1, 1), (7, 5), (16, 16), (17, 33), (33, 15), (2, 40), (24, 9))
LIMITS = {"rgb": 2e-6, "alpha": 2e-6, "features": 4e-6, "depth": 1e-5}
"""Absolute; measured on AVX2: 5.6e-7, 1.1e-6, 2.0e-6 (values up to 3) and 3.6e-6 (values up to 5)."""
KINDS = ("mixed", "empty", "single", "behind", "sub-pixel", "screen-filling", "opaque", "flat")


def scene(seed: int) -> tuple[Gaussians, Cameras, bool]:
    """A scene of the kind that the seed asks for, float32, and whether it is rendered antialiased."""
    kind, (width, height) = KINDS[seed % len(KINDS)], SIZES[seed % len(SIZES)]
    count = {"empty": 0, "single": 1}.get(kind, 2 + seed % 29)
    g = random_gaussians(seed, count, seed % 4)
    if kind == "behind":
        means = g.means.clone()
        means[::2, 2] *= -1
        g = replace(g, means=means)
    if kind == "sub-pixel":
        g = replace(g, log_scales=g.log_scales - 4.0)
    if kind == "screen-filling":
        g = replace(g, log_scales=g.log_scales + 3.0, opacity_logits=g.opacity_logits - 2.0)
    if kind == "opaque":
        g = replace(g, opacity_logits=g.opacity_logits * 0 + 9.0)
    if kind == "flat":
        g = replace(g, log_scales=g.log_scales - g.log_scales.new_tensor([0.0, 0.0, 3.0]))
    cameras = replace(random_cameras(seed, 1 + seed % 2, width, height), sampling=(1.0, 0.4, 1.7)[seed // 3 % 3])
    return *as_float32(g, cameras), seed % 3 == 0


def near_a_cut(gaussians: Gaussians, cameras: Cameras, antialiased: bool) -> bool:
    """Whether rounding could decide about one of the (Gaussian, pixel) pairs."""
    large = as_float64(gaussians, cameras)
    for c in range(len(cameras)):
        view = view_of(*large, c, sh_degree=0, near=0.01, far=1e10, blur=low_pass(cameras.sampling, antialiased=antialiased))
        if not len(view.index):
            continue
        s = view.splats
        dx, dy = (view.pixels[:, None] - s["xy"][None]).unbind(-1)
        a, b, c2 = s["conic"].unbind(-1)
        alpha = s["opacity"] * torch.exp(-0.5 * (a * dx * dx + c2 * dy * dy) - b * dx * dy)
        kept = torch.where(alpha >= MIN_ALPHA, alpha.clamp(max=MAX_ALPHA), torch.zeros_like(alpha))
        after = torch.cumprod(1 - kept, 1)
        for value, cut in ((alpha, MIN_ALPHA), (alpha, MAX_ALPHA), (after, MIN_TRANSMITTANCE)):
            if bool(((value / cut - 1).abs() < 2e-5).any()):
                return True
        if bool((s["rgb"].abs() < 1e-5).logical_and(s["rgb"] != 0).any()):
            return True
    return False


def drawn(seed: int) -> tuple[Gaussians, Cameras, bool]:
    for attempt in range(20):
        candidate = scene(seed + attempt * len(KINDS) * len(SIZES) * 100)
        if not near_a_cut(*candidate):
            return candidate
    raise AssertionError(f"seed {seed}: every scene has a pair at a cut")


def outputs(
    gaussians: Gaussians, cameras: Cameras, antialiased: bool, features: Tensor, region: Tensor | None, weights: dict[str, Tensor],
    backend: str,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    leaves = {k: v.clone().requires_grad_() for k, v in gaussians.tensors().items()}
    pose, extra = cameras.cam_from_world.clone().requires_grad_(), features.to(gaussians.means).clone().requires_grad_()
    posed = replace(cameras, cam_from_world=pose)
    out = render(Gaussians(**leaves), posed, backend=backend, features=extra, antialiased=antialiased, region=region)  # type: ignore[arg-type]
    images = {"rgb": out.rgb, "alpha": out.alpha, "depth": out.depth, "features": out.features}
    torch.stack([(images[k] * w.to(gaussians.means)).sum() for k, w in weights.items()]).sum().backward()  # type: ignore[operator]
    leaves = {**leaves, "cam_from_world": pose, "features": extra}
    return (
        {k: v.detach().double() for k, v in images.items()},  # type: ignore[union-attr]
        {k: (torch.zeros_like(v) if v.grad is None else v.grad).double() for k, v in leaves.items()},
    )


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
@pytest.mark.parametrize("isa", available_isas())
def test_random_scenes_equal_the_reference(isa: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTGS_ISA", isa)
    for seed in range(first, first + BLOCK):
        gaussians, cameras, antialiased = drawn(seed)
        rng = torch.Generator().manual_seed(seed)
        channels, size = (1, 3, 8, 11)[seed % 4], (len(cameras), cameras.height, cameras.width)
        features = torch.randn(len(gaussians), channels, generator=rng)
        region = torch.rand(size, generator=rng) < 0.7 if seed % 5 == 0 else None
        depths = {"rgb": 3, "alpha": 1, "depth": 1, "features": channels}
        weights = {k: torch.randn(*size, d, generator=rng) for k, d in depths.items()}
        images, grads = outputs(gaussians, cameras, antialiased, features, region, weights, "cpu")
        want_images, want_grads = outputs(*as_float64(gaussians, cameras), antialiased, features, region, weights, "reference")
        for name, want in want_images.items():
            assert float((images[name] - want).abs().max()) < LIMITS[name], (seed, name)
        for name, want in want_grads.items():
            # A gradient far smaller than the others is what is left of large terms; their rounding is not relative to it.
            floor = 5e-2 * max(float(g.norm()) for g in want_grads.values())
            assert float((grads[name] - want).norm()) <= 2e-5 * max(float(want.norm()), floor), (seed, name)


SPOILED = (float("nan"), float("inf"), float("-inf"), 1e-42, 1e38, -1e38, 3e-39)


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_spoiled_inputs_are_dropped_and_harm_no_other(first: int) -> None:
    for seed in range(first, first + BLOCK):
        gaussians, cameras = as_float32(random_gaussians(seed, 12, seed % 3), random_cameras(seed, 1, 24, 17))
        rng = torch.Generator().manual_seed(seed)
        tensors = {k: v.clone() for k, v in gaussians.tensors().items()}
        name = list(tensors)[seed % len(tensors)]
        value, who = SPOILED[seed % len(SPOILED)], int(torch.randint(0, 12, (1,), generator=rng))
        flat = tensors[name][who].view(-1)
        flat[int(torch.randint(0, flat.numel(), (1,), generator=rng))] = value
        leaves = {k: v.clone().requires_grad_() for k, v in tensors.items()}
        out = render(Gaussians(**leaves), cameras, backend="cpu", features=torch.ones(12, 2))
        assert bool(out.rgb.isfinite().all() & out.depth.isfinite().all()) and out.features is not None, (seed, name, value)
        loss = out.rgb.clamp(-10, 10).sum() + out.alpha.sum() + out.depth.clamp(-10, 10).sum() + out.features.sum()
        loss.backward()
        for key, leaf in leaves.items():
            assert leaf.grad is not None and bool(leaf.grad.isfinite().all()), (seed, name, value, key)
        if not torch.tensor(value).isfinite():
            assert out.num_dropped == int(bool(render(gaussians, cameras, backend="cpu").visible[0, who])) or not out.visible[0, who]
            kept = [i for i in range(12) if i != who]
            alone = render(Gaussians(**{k: v[kept] for k, v in gaussians.tensors().items()}), cameras, backend="cpu")
            assert torch.equal(out.rgb, alone.rgb), (seed, name, value)


@pytest.mark.parametrize("name", ["features", "background", "K", "cam_from_world"])
def test_values_that_cannot_be_dropped_are_refused(name: str) -> None:
    gaussians, cameras = as_float32(random_gaussians(0, 5), random_cameras(0))
    options = {"features": torch.ones(5, 2), "background": torch.zeros(3)}
    spoiled = {**options, "K": cameras.K.clone(), "cam_from_world": cameras.cam_from_world.clone()}
    spoiled[name].view(-1)[0] = float("nan")
    posed = replace(cameras, K=spoiled["K"], cam_from_world=spoiled["cam_from_world"])
    with pytest.raises(ValueError, match=f"{name} contains"):
        render(gaussians, posed, backend="cpu", features=spoiled["features"], background=spoiled["background"])
