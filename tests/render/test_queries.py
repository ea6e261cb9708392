"""Weights per Gaussian, the strongest Gaussian per pixel and regions of an image: against the reference, and what they save."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ltgs.core.gaussians import Gaussians
from ltgs.native import available_isas
from ltgs.render import gaussian_weights, render, top_contributors
from tests.helpers import threads
from tests.render.scenes import as_float32, as_float64, random_cameras, random_gaussians
from tests.render.test_against_reference import relative_error


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("seed", range(4))
def test_weights_equal_the_reference_and_the_images(seed: int, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTGS_ISA", isa)
    gaussians, cameras = as_float32(random_gaussians(seed, 120, 1), replace(random_cameras(seed, 2), sampling=(1.0, 0.5)[seed // 2]))
    values = torch.randn(2, 37, 53, 3, generator=torch.Generator().manual_seed(seed))
    got = gaussian_weights(gaussians, cameras, values, antialiased=seed % 2 == 1)
    want = gaussian_weights(*as_float64(gaussians, cameras), values.double(), antialiased=seed % 2 == 1)
    assert relative_error(got, want) < 5e-6
    out = render(gaussians, cameras, backend="cpu", antialiased=seed % 2 == 1)
    everything = gaussian_weights(gaussians, cameras, antialiased=seed % 2 == 1)
    assert everything.shape == (120, 1)
    assert float(everything.sum()) == pytest.approx(float(out.alpha.sum()), rel=1e-5)
    assert not bool(everything[~out.visible.any(0)].any())


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("seed", range(4))
def test_top_contributors_equal_the_reference(seed: int, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTGS_ISA", isa)
    gaussians, cameras = as_float32(random_gaussians(seed, 60, 0), random_cameras(seed, 2))
    ids, weights = top_contributors(gaussians, cameras)
    want_ids, want = top_contributors(*as_float64(gaussians, cameras))
    assert float((weights.double() - want).abs().max()) < 2e-6
    assert float((ids != want_ids).double().mean()) < 1e-3  # where two weights are equal to rounding, either may win
    assert torch.equal(ids < 0, weights == 0) and int(ids.max()) < 60


@pytest.mark.parametrize(("front", "strongest"), [(0.85, 0), (-0.85, 1)])
def test_occlusion_decides_and_nothing_is_minus_one(front: float, strongest: int) -> None:
    gaussians, cameras = as_float32(random_gaussians(0, 0), random_cameras(0))
    assert int(top_contributors(gaussians, cameras)[0].max()) == -1
    means, quats = torch.tensor([[0, 0, 2.0], [0, 0, 3.0]]), torch.tensor([[1.0, 0, 0, 0]] * 2)
    # In front alpha is 0.7 or 0.3 at most, behind it is almost opaque.
    pair = Gaussians(means, quats, torch.full((2, 3), 1.0), torch.tensor([front, 9.0]), torch.zeros(2, 1, 3))
    ids, weights = top_contributors(*as_float32(pair, random_cameras(0)))
    assert int(ids[0, 18, 27]) == strongest and 0.6 < float(weights[0, 18, 27]) < 0.75


@pytest.mark.parametrize("isa", available_isas())
def test_queries_do_not_depend_on_the_number_of_threads(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTGS_ISA", isa)
    gaussians, cameras = as_float32(random_gaussians(3, 2000, 0), random_cameras(3, 1, 80, 60))
    results = []
    for count in (1, 3):
        with threads(count):
            results.append([gaussian_weights(gaussians, cameras), *top_contributors(gaussians, cameras)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_wrong_values_are_named() -> None:
    gaussians, cameras = as_float32(random_gaussians(0, 5), random_cameras(0))
    with pytest.raises(ValueError, match="pixel_values must have shape"):
        gaussian_weights(gaussians, cameras, torch.ones(1, 37, 52, 1))
    with pytest.raises(ValueError, match="region must be bool"):
        render(gaussians, cameras, backend="cpu", region=torch.ones(37, 53))
    with pytest.raises(ValueError, match="region must be bool"):
        render(gaussians, cameras, backend="cpu", region=torch.ones(2, 37, 53, dtype=torch.bool))


def test_a_region_shows_the_same_pixels_and_costs_its_tiles() -> None:
    gaussians, cameras = as_float32(random_gaussians(4, 3000, 1), random_cameras(4, 2, 160, 96))
    region = torch.zeros(2, 96, 160, dtype=torch.bool)
    region[0, 40:60, 70:90] = True
    region[1, 3, 5] = True
    background = torch.tensor([0.2, 0.4, 0.6])
    whole = render(gaussians, cameras, backend="cpu", background=background)
    part = render(gaussians, cameras, backend="cpu", background=background, region=region)
    assert torch.equal(part.rgb[region], whole.rgb[region]) and torch.equal(part.depth[region], whole.depth[region])
    assert torch.equal(part.rgb[~region], background.expand_as(part.rgb)[~region]) and not bool(part.alpha[~region].any())
    # 2x3 tiles of 6x10 in the first image and one in the second.
    assert part.stats["num_entries"] < 0.12 * whole.stats["num_entries"] and part.stats["num_pairs"] < 0.12 * whole.stats["num_pairs"]
    nothing = render(gaussians, cameras, backend="cpu", region=region[0] & False)
    assert nothing.stats["num_pairs"] == 0 and not bool(nothing.visible.any()) and not bool(nothing.rgb.any())


def test_gradients_of_a_region_are_those_of_a_masked_loss() -> None:
    gaussians, cameras = as_float32(random_gaussians(6, 200, 2), random_cameras(6))
    region = torch.rand(37, 53, generator=torch.Generator().manual_seed(0)) < 0.3
    grads = []
    for given in (region, None):
        leaves = {k: v.clone().requires_grad_() for k, v in gaussians.tensors().items()}
        out = render(Gaussians(**leaves), cameras, backend="cpu", region=given)
        (out.rgb[0][region].square().sum() + out.depth[0][region].sum()).backward()
        grads.append(leaves)
    for name, leaf in grads[0].items():
        other = grads[1][name].grad
        assert leaf.grad is not None and other is not None and relative_error(leaf.grad, other.double()) < 1e-6, name
