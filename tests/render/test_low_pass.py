"""Images of another size than the photos to which the Gaussians were fitted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.render import render
from ltgs.render.low_pass import BLUR, LowPass, low_pass
from tests.render.scenes import as_float32, random_gaussians


def fine_wall(seed: int) -> tuple[Gaussians, Cameras]:
    """A wall of splats about as large as a pixel: where the blur shows most."""
    rng = torch.Generator().manual_seed(seed)
    g, _ = as_float32(random_gaussians(seed, 6000), Cameras(torch.eye(3)[None], torch.eye(4)[None], 1, 1))
    means = torch.cat([torch.rand(6000, 2, generator=rng) * 2 - 1, torch.full((6000, 1), 2.0)], 1)
    scales = torch.full((6000, 3), 0.01).log() + torch.randn(6000, 3, generator=rng) * 0.4
    wall = replace(g, means=means, log_scales=scales, opacity_logits=torch.randn(6000, generator=rng) + 1, sh=g.sh[:, :1] * 2)
    K = torch.tensor([[[96.0, 0, 48], [0, 96.0, 48], [0, 0, 1]]])
    return wall, Cameras(K, torch.eye(4)[None], 96, 96)


def reduced(image: Tensor, factor: int) -> Tensor:
    """The mean of every block of pixels."""
    return torch.nn.functional.avg_pool2d(image.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().mean().sqrt())


@pytest.mark.parametrize("factor", [2, 3])
def test_a_small_image_is_the_large_one_reduced(factor: int) -> None:
    wall, camera = fine_wall(factor)
    want = reduced(render(wall, camera, backend="cpu").rgb, factor)
    small = camera.resized(96 // factor, 96 // factor)
    assert small.sampling == pytest.approx(1 / factor)
    got = difference(render(wall, small, backend="cpu").rgb, want)
    unfiltered = difference(render(wall, replace(small, sampling=1.0), backend="cpu").rgb, want)
    plain = difference(render(wall, replace(small, sampling=1e-3), backend="cpu").rgb, want)
    assert got < 0.4 * unfiltered and got < 0.8 * plain, (got, unfiltered, plain)


def test_a_large_image_is_as_soft_as_the_fitted_one() -> None:
    wall, camera = fine_wall(4)
    large = render(wall, camera.resized(288, 288), backend="cpu").rgb
    thin = render(wall, replace(camera.resized(288, 288), sampling=1.0), backend="cpu").rgb
    want = render(wall, camera, backend="cpu").rgb
    # The middle of every block of nine lies on the centre of a pixel of the fitted size.
    assert difference(large[:, 1::3, 1::3], want) < 1e-4 < difference(thin[:, 1::3, 1::3], want)


def test_the_filter() -> None:
    assert low_pass(1.0) == LowPass(BLUR, BLUR)
    half = low_pass(0.5)
    assert half.fitted == pytest.approx(BLUR / 4) and half.total == pytest.approx(BLUR / 4 + 1 / 16)
    assert half.fitted < half.plain < half.total
    double = low_pass(2.0)
    assert double.fitted == double.total == double.plain == pytest.approx(4 * BLUR)
    assert low_pass(0.5, antialiased=True) == LowPass(0.0, BLUR) and low_pass(1.0, antialiased=True).plain == BLUR
