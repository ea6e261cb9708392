"""Fine light: found at its grid points, interpolated between them, absent elsewhere."""

import numpy as np
import pytest
import torch

from ltgs.core.gaussians import Gaussians
from ltgs.core.light_detail import LightDetail, corners
from ltgs.core.light_field import FACES, LightField

ORIGIN = torch.tensor([1.0, 2.0, 3.0])
SHAPE = (3, 4, 5)


def detail(index: list[int], log_gain: list[float]) -> LightDetail:
    return LightDetail(ORIGIN, 0.5, SHAPE, torch.tensor(index), torch.tensor(log_gain))


def test_gains_hold_at_their_point_and_fade_to_the_next() -> None:
    own = detail([(1 * 4 + 2) * 5 + 3], [-0.7])
    at = ORIGIN + 0.5 * torch.tensor([1.0, 2.0, 3.0])
    points = torch.stack([at, at + torch.tensor([0.0, 0.0, 0.25]), at + torch.tensor([0.0, 0.5, 0.0]), at + 100, ORIGIN - 1])
    assert torch.allclose(own.gains(points)[:, 0].log(), torch.tensor([-0.7, -0.35, 0.0, 0.0, 0.0]), atol=1e-5)
    assert torch.equal(detail([], []).gains(points), torch.ones(5, 1))


def test_corners_reproduce_linear_functions() -> None:
    points = ORIGIN + torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.99, 1.49, 1.99])
    flat, weight = corners(ORIGIN, 0.5, SHAPE, points)
    assert torch.allclose(weight.sum(1), torch.ones(50))
    grid = torch.tensor(np.indices(SHAPE).reshape(3, -1).T, dtype=torch.float32) * 0.5 + ORIGIN
    assert torch.allclose((grid[flat] * weight[..., None]).sum(1), points, atol=1e-5)


def test_a_light_field_shows_its_detail_on_top() -> None:
    coarse = torch.full((2, 2, 2, FACES, 3), float(np.log(0.5)))
    field = LightField(ORIGIN, 1.0, coarse, torch.zeros(3), detail([0], [float(np.log(0.5))]))
    means = torch.stack([ORIGIN, ORIGIN + 1])
    gaussians = Gaussians(means, torch.tensor([[1.0, 0, 0, 0]] * 2), torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 1, 3))
    gain = field.gains(gaussians.means, torch.tensor([[0.0, 0, 1]] * 2))
    assert torch.allclose(gain, torch.tensor([[0.25] * 3, [0.5] * 3]))


@pytest.mark.parametrize(
    "index, gain, cell", [([3, 3], [0.1, 0.1], 0.5), ([60], [0.1], 0.5), ([0], [0.1], 0.0), ([0], [float("nan")], 0.5)]
)
def test_impossible_grids_are_refused(index: list[int], gain: list[float], cell: float) -> None:
    with pytest.raises(ValueError):
        LightDetail(ORIGIN, cell, SHAPE, torch.tensor(index), torch.tensor(gain))
