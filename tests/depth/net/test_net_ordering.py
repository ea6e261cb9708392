"""The ordering map: what it ignores, what flips it, and its general form."""

from __future__ import annotations

import torch

from ltgs.depth.net.config import PUBLISHED_OFFSETS
from ltgs.depth.net.ordering import hard_ordering_map, mask_codes, neighbour_differences, ordering_map, relative_ordering_map


def depth(seed: int = 0) -> torch.Tensor:
    """Distinct values, exact in float32, so that ties cannot hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(2 * 24 * 31, generator=generator).float().view(2, 1, 24, 31) / 64


def test_published_form_is_a_fixed_convolution() -> None:
    x = depth()
    weight = torch.zeros(8, 1, 11, 11)
    for i, (dy, dx) in enumerate(PUBLISHED_OFFSETS):
        weight[i, 0, 5 + dy, 5 + dx] += 1
        weight[i, 0, 5, 5] -= 1
    conv = torch.nn.Conv2d(1, 8, 11, padding=5, padding_mode="replicate", bias=False)
    conv.weight.data = weight
    torch.testing.assert_close(ordering_map(x, PUBLISHED_OFFSETS), torch.sigmoid(conv(x)).detach(), atol=1e-5, rtol=0)


def test_hard_map_ignores_increasing_maps_and_flips_under_negation() -> None:
    x = depth()
    code = hard_ordering_map(x, PUBLISHED_OFFSETS)
    assert 0.3 < code.mean() < 0.7
    for other in (3 * x + 7, 0.25 * x - 2, x**3, torch.log1p(x)):
        assert torch.equal(hard_ordering_map(other, PUBLISHED_OFFSETS), code)
    assert not torch.equal(hard_ordering_map(torch.sin(x), PUBLISHED_OFFSETS), code)
    # Equal values at the repeated border have no order and stay 0 in both.
    differs = neighbour_differences(x, PUBLISHED_OFFSETS) != 0
    assert torch.equal(hard_ordering_map(-x, PUBLISHED_OFFSETS)[differs], 1 - code[differs])


def test_soft_map_flips_under_negation_and_relative_form_ignores_affine_maps() -> None:
    x = depth(1) / 40
    torch.testing.assert_close(ordering_map(-x, PUBLISHED_OFFSETS), 1 - ordering_map(x, PUBLISHED_OFFSETS), atol=1e-6, rtol=0)
    relative = relative_ordering_map(x, PUBLISHED_OFFSETS)
    torch.testing.assert_close(relative_ordering_map(250 * x + 30, PUBLISHED_OFFSETS), relative, atol=2e-3, rtol=0)
    assert (ordering_map(250 * x, PUBLISHED_OFFSETS) - ordering_map(x, PUBLISHED_OFFSETS)).abs().max() > 0.2
    flat = torch.full((1, 1, 8, 8), 5.0)
    assert torch.equal(relative_ordering_map(flat, PUBLISHED_OFFSETS), torch.full((1, 8, 8, 8), 0.5))


def test_general_form_takes_any_neighbours() -> None:
    x = depth()
    code = hard_ordering_map(x, ((0, 1), (-2, 0), (4, -3)))
    assert code.shape == (2, 3, 24, 31)
    assert torch.equal(code[:, 0, :, :-1], (x[:, 0, :, 1:] > x[:, 0, :, :-1]).float())
    assert torch.equal(code[:, 1, 2:], (x[:, 0, :-2] > x[:, 0, 2:]).float())
    assert torch.equal(code[:, 2, :-4, 3:], (x[:, 0, 4:, :-3] > x[:, 0, :-4, 3:]).float())


def test_pairs_with_an_unknown_end_are_undecided() -> None:
    valid = torch.ones(2, 1, 24, 31, dtype=torch.bool)
    valid[:, :, 10, 10] = False
    codes = mask_codes(hard_ordering_map(depth(), ((0, 1),)), valid, ((0, 1),))
    assert torch.equal((codes == 0.5).nonzero()[:, 2:].unique(dim=0), torch.tensor([[10, 9], [10, 10]]))
