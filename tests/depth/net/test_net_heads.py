"""Learned registration and confidence on top of a finished match."""

from __future__ import annotations

import torch

from ltgs.depth.net.heads import FusionHeads, local_correlation, warp_right
from ltgs.depth.net.layers import count_parameters


def textured(shift: int, height: int = 45, width: int = 70) -> tuple[torch.Tensor, torch.Tensor]:
    scene = 255 * torch.rand(1, 3, height, width + shift, generator=torch.Generator().manual_seed(0))
    return scene[..., :width], scene[..., shift:]


def test_untrained_heads_register_globally_and_trust_both_equally() -> None:
    torch.manual_seed(0)
    net = FusionHeads().eval()
    assert 2e5 < count_parameters(net) < 7e5
    left, right = textured(6)
    generator = torch.Generator().manual_seed(1)
    disparity = 4 + 8 * torch.rand(1, 1, 45, 70, generator=generator)
    prior = (disparity - 3) / 5
    matched = torch.ones(1, 1, 45, 70, dtype=torch.bool)
    wrong = torch.rand(matched.shape, generator=generator) < 0.25
    measured = torch.where(wrong, disparity + 30, disparity)
    known = matched.clone()
    known[..., :10] = False
    with torch.inference_mode():
        out = net(left, right, measured, matched, prior, known)
    assert all(x.shape == (1, 1, 45, 70) and torch.isfinite(x).all() for x in (out.fused, out.registered, out.confidence, out.a, out.b))
    torch.testing.assert_close(out.registered[..., 10:], disparity[..., 10:], atol=0.05, rtol=0)
    torch.testing.assert_close(out.confidence[..., 10:], torch.full((1, 1, 45, 60), 0.5))
    # Where there is no prior, the match is all there is.
    assert torch.equal(out.fused[..., :10], measured[..., :10]) and (out.confidence[..., :10] == 1).all()


def test_heads_learn_to_reject_matches_that_the_ordering_and_the_photos_contradict() -> None:
    torch.manual_seed(0)
    net = FusionHeads()
    left, right = textured(6, 64, 96)
    truth = torch.full((1, 1, 64, 96), 6.0)
    prior = 0.1 * torch.linspace(0, 1, 96).expand(1, 1, 64, 96) + 1
    truth = truth + 0.2 * torch.linspace(0, 1, 96)
    measured = truth.clone()
    measured[..., 20:44, 30:60] += 12
    sure = torch.ones(1, 1, 64, 96, dtype=torch.bool)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    errors = []
    for _ in range(15):
        out = net(left, right, measured, sure, prior, sure)
        loss = torch.stack([(p - truth).abs().mean() for p in out.predictions]).sum()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        optimiser.step()
        errors.append((out.fused - truth).abs().mean().item())
    assert errors[-1] < 0.2 * errors[0], errors[::3]
    with torch.inference_mode():
        confidence = net(left, right, measured, sure, prior, sure).confidence
    assert confidence[..., 26:38, 36:54].mean() < confidence[..., :12].mean() - 0.1


def test_correlation_is_high_at_the_true_offset_only() -> None:
    left, right = textured(6)
    at = {d: local_correlation(left, warp_right(right, torch.full((1, 1, 45, 70), float(d))))[..., 12:-6].mean().item() for d in (5, 6, 7)}
    assert at[6] > 0.99 and max(at[5], at[7]) < 0.2
    flat = torch.full((1, 3, 20, 20), 9.0)
    assert local_correlation(flat, flat).abs().max() < 1e-3
