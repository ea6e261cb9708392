"""Correlation, upsampling, Beta statistics, registration."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ltgs.depth.net.config import small_config
from ltgs.depth.net.correlation import CorrelationOnTheFly, make_correlation
from ltgs.depth.net.fusion import BetaField, BetaModulator, GlobalFusion, global_fit, modulation_weight
from ltgs.depth.net.layers import Conv3x3, convex_upsample, padding_to


def features(seed: int, width: int = 37) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(2, 2, 12, 5, width, generator=generator)
    return left.requires_grad_(), right.requires_grad_()


def test_volume_agrees_with_a_plain_loop() -> None:
    left, right = features(0)
    columns = torch.rand(2, 1, 5, 37) * 50 - 6
    got = make_correlation(left, right, 3, 2, "volume")(columns)
    assert got.shape == (2, 15, 5, 37)
    for level, b, y, x, k in [(0, 0, 0, 3, 0), (0, 1, 4, 36, 4), (1, 0, 2, 20, 1), (2, 1, 3, 0, 3), (2, 0, 1, 30, 2)]:
        row = right[b, :, y]
        for _ in range(level):
            row = (row[:, 0 : row.shape[1] // 2 * 2 : 2] + row[:, 1::2]) / 2
        products = (left[b, :, y, x] @ row) / 12**0.5
        at = float(columns[b, 0, y, x]) / 2**level + k - 2
        low = int(torch.tensor(at).floor())
        value = sum(w * float(products[i].detach()) for i, w in ((low, 1 - at + low), (low + 1, at - low)) if 0 <= i < len(products))
        assert abs(float(got[b, level * 5 + k, y, x].detach()) - value) < 1e-4


def test_on_the_fly_equals_the_volume_with_gradient() -> None:
    columns = torch.rand(2, 1, 5, 37) * 45 - 4
    results = []
    for kind in ("volume", "on_the_fly"):
        left, right = features(1)
        out = make_correlation(left, right, 4, 4, kind)(columns)  # type: ignore[arg-type]
        out.square().sum().backward()
        results.append((out.detach(), left.grad, right.grad))
    for a, b in zip(*results, strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_auto_avoids_a_huge_volume_and_runaway_states_read_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = features(2)
    monkeypatch.setattr("ltgs.depth.net.correlation.MAX_VOLUME_BYTES", 1000)
    made = make_correlation(left, right, 4, 4, "auto")
    assert isinstance(made, CorrelationOnTheFly)
    assert made(torch.full((2, 1, 5, 37), 1e20)).abs().max().item() == 0
    with pytest.raises(ValueError, match="4 columns wide"):
        make_correlation(left[..., :4], right[..., :4], 4, 4, "volume")


def test_convex_upsampling_of_a_constant_is_that_constant_times_factor() -> None:
    mask = torch.randn(1, 9 * 16, 6, 7)
    torch.testing.assert_close(convex_upsample(torch.full((1, 1, 6, 7), 2.5), mask, 4), torch.full((1, 1, 24, 28), 10.0))
    centre = torch.full((1, 9, 16, 6, 7), -50.0)
    centre[:, 4] = 50
    values = torch.rand(1, 1, 6, 7)
    nearest = F.interpolate(values, scale_factor=4, mode="nearest") * 4
    torch.testing.assert_close(convex_upsample(values, centre.view(1, 144, 6, 7), 4), nearest)


def test_maps_that_are_upsampled_together_get_the_same_weights() -> None:
    both, mask = torch.rand(2, 2, 5, 6), torch.randn(2, 9 * 64, 5, 6)
    apart = [convex_upsample(both[:, i : i + 1], mask, 8) for i in range(2)]
    torch.testing.assert_close(convex_upsample(both, mask, 8), torch.cat(apart, 1))


@pytest.mark.parametrize("shape", [(1, 32, 40, 13, 22), (3, 65, 33, 8, 9), (1, 16, 64, 7, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_without_gradient_give_what_they_give_with_it(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    b, inputs, outputs, height, width = shape
    for stride in (1, 2):
        convolve = Conv3x3(inputs, outputs, stride, bias=bias)
        x = torch.randn(b, inputs, height, width)
        expected = convolve(x).detach()
        exact = F.conv2d(x.double(), convolve.weight.double(), None if not bias else convolve.bias.double(), stride, 1)
        with torch.inference_mode():
            got = convolve(x)
            half = convolve.to(torch.bfloat16)(x.to(torch.bfloat16))
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(got.double(), exact.detach(), atol=1e-4, rtol=0)
        assert half.dtype == torch.bfloat16 and (half.float() - expected).abs().max() < 0.1


def test_padding_is_halved_and_undone() -> None:
    pad = padding_to(45, 70, 32)
    assert tuple(pad) == (13, 13, 9, 10)
    x = torch.rand(1, 3, 45, 70)
    assert pad.add(x).shape == (1, 3, 64, 96) and torch.equal(pad.remove(pad.add(x)), x)


def test_beta_statistics_match_samples_and_carry_gradient() -> None:
    alpha = torch.tensor([1.0, 2.0, 30.0, 1.5]).view(4, 1, 1, 1).requires_grad_()
    beta = torch.tensor([1.0, 5.0, 10.0, 1.0]).view(4, 1, 1, 1).requires_grad_()
    field = BetaField(alpha.expand(4, 1, 150, 150), beta.expand(4, 1, 150, 150))
    torch.manual_seed(0)
    samples = field.draw(random=True)
    assert samples.min() >= 0 and samples.max() <= 1
    one = BetaField(alpha, beta)
    torch.testing.assert_close(samples.mean((2, 3)), one.mean[..., 0, 0], atol=0.01, rtol=0)
    torch.testing.assert_close(samples.var((2, 3)), one.variance[..., 0, 0], atol=0.003, rtol=0)
    assert torch.equal(field.draw(random=False), field.mean)
    samples.mean().backward()
    # The mean alpha / (alpha + beta) rises with alpha and falls with beta.
    assert alpha.grad is not None and beta.grad is not None and (alpha.grad > 0).all() and (beta.grad < 0).all()


def test_modulator_gives_unimodal_finite_parameters() -> None:
    torch.manual_seed(0)
    net = BetaModulator(small_config()).eval()
    net.conv2[2].weight.data *= 1e6
    field = net(torch.rand(2, 8, 10, 12), torch.rand(2, 8, 10, 12))
    assert field.alpha.shape == (2, 1, 10, 12)
    assert field.alpha.min() >= 1 and field.beta.min() >= 1 and field.alpha.max() <= 1000
    assert torch.isfinite(field.draw(random=True)).all()


def test_modulation_grows_with_the_iterations() -> None:
    config = small_config()
    weights = [modulation_weight(config, i, 8) for i in range(8)]
    assert weights[0] == 0 and weights == sorted(weights) and weights[-1] == 7 / 8


def test_global_fit_recovers_an_affine_map_with_a_third_of_outliers() -> None:
    generator = torch.Generator().manual_seed(3)
    prior = torch.rand(2, 1, 30, 40, generator=generator)
    truth = prior * torch.tensor([20.0, 3.0]).view(2, 1, 1, 1) + torch.tensor([2.0, 40.0]).view(2, 1, 1, 1)
    bad = torch.rand(truth.shape, generator=generator) < 0.3
    noisy = torch.where(bad, truth + 60 * torch.rand(truth.shape, generator=generator), truth)
    a, b = global_fit(prior, noisy, torch.ones_like(bad))
    torch.testing.assert_close(a.flatten(), torch.tensor([20.0, 3.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(b.flatten(), torch.tensor([2.0, 40.0]), atol=0.05, rtol=0)
    a, b = global_fit(torch.ones(1, 1, 5, 5), torch.full((1, 1, 5, 5), 7.0), torch.ones(1, 1, 5, 5, dtype=torch.bool))
    assert (float(a), float(b)) == (0.0, 7.0)


def test_registration_starts_at_the_global_fit_and_trusts_stereo_without_a_prior() -> None:
    torch.manual_seed(0)
    config = small_config()
    fusion = GlobalFusion(config)
    prior = torch.rand(1, 1, 12, 16)
    disparity = 9 * prior + 4
    valid = torch.ones(1, 1, 12, 16, dtype=torch.bool)
    valid[..., :4] = False
    one = torch.ones_like(prior)
    got = fusion(disparity, prior, valid, torch.randn(1, 36, 12, 16), torch.randn(1, 64, 12, 16), BetaField(one, one))
    torch.testing.assert_close(got.prior, disparity, atol=1e-3, rtol=0)
    assert torch.equal(got.confidence[..., :4], one[..., :4]) and (got.confidence[..., 4:] < 1).all()
    fused, registered = fusion.upsample(torch.randn(1, 64, 12, 16), got)
    assert fused.shape == registered.shape == (1, 1, 96, 128)
