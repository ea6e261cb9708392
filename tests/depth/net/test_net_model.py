"""The whole network: parameter counts, shapes on odd sizes, gradients, the sign convention, and one sample learnt."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ltgs.depth.net.config import NetConfig, paper_config, raft_stereo_config, small_config
from ltgs.depth.net.layers import count_parameters
from ltgs.depth.net.model import MonoPrior, StereoFusionNet
from ltgs.errors import UsageError


def pair(height: int, width: int, shift: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Left and right image with one disparity, and a prior that is constant up to a ramp."""
    generator = torch.Generator().manual_seed(height)
    coarse = torch.rand(1, 3, height // 2, (width + shift) // 2, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, (height, width + shift))
    return 255 * wide[..., :width], 255 * wide[..., shift:], torch.rand(1, 1, height, width, generator=generator)


def fake_encoder(left: torch.Tensor) -> MonoPrior:
    """Stands for a monocular encoder: another resolution, features from fixed filters."""
    size = (left.shape[-2] // 7 * 2, left.shape[-1] // 7 * 2)
    small = torch.nn.functional.interpolate(left / 255, size, mode="area")
    return MonoPrior(small.mean(1, keepdim=True), features=small.repeat(1, 43, 1, 1)[:, :128])


def test_parameter_counts() -> None:
    with torch.device("meta"):
        paper, small, raft = (StereoFusionNet(c) for c in (paper_config(), small_config(), raft_stereo_config()))
    assert abs(count_parameters(paper) / 11.64e6 - 1) < 0.01
    parts = {name: count_parameters(part) / 1e6 for name, part in paper.named_children()}
    expected = {"fnet": 1.07, "cnet": 3.87, "context_zqr_convs": 1.33, "update_block": 4.40, "modulater": 0.29, "refinement": 0.68}
    assert parts == pytest.approx(expected, abs=0.006)
    assert abs(count_parameters(small) / 1.9e6 - 1) < 0.05
    assert count_parameters(raft) / 1e6 == pytest.approx(11.11, abs=0.01)


@pytest.mark.parametrize("config", [paper_config(published_sign=True), raft_stereo_config(), small_config()], ids=lambda c: c.preset)
def test_forward_and_backward_on_odd_sizes(config: NetConfig) -> None:
    torch.manual_seed(0)
    net = StereoFusionNet(config).train()
    left, right, prior = pair(45, 77)
    given = fake_encoder if config.context == "mono" else MonoPrior(prior) if config.modulation else None
    out = net(left, right, given, iterations=2)
    fused = config.global_fusion
    assert out.disparity.shape == (1, 1, 45, 77) and len(out.predictions) == (4 if fused else 2)
    assert all(p.shape == (1, 1, 45, 77) and torch.isfinite(p).all() for p in out.predictions)
    sum((p - 6).abs().mean() for p in out.predictions).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert silent == []
    with torch.inference_mode():
        again = net.eval()(left, right, given, iterations=2)
    assert len(again.iterations) == (0 if fused else 1) and torch.isfinite(again.disparity).all()
    if fused:
        with torch.inference_mode():
            every = net(left, right, given, iterations=2, keep_all=True)
        assert len(every.iterations) == 2 and torch.equal(every.disparity, again.disparity)
        assert again.confidence is not None and 0 <= again.confidence.min() <= again.confidence.max() <= 1


def test_inference_agrees_with_the_pass_that_keeps_gradients() -> None:
    """Faster convolutions, updates that are not upsampled and modulations of weight 0 that are left out change nothing but digits."""
    torch.manual_seed(0)
    net = StereoFusionNet(small_config()).eval()
    left, right, prior = pair(64, 96)
    for given in (None, MonoPrior(prior)):
        slow = net(left, right, given, keep_all=True)
        with torch.inference_mode():
            fast = net(left, right, given)
        torch.testing.assert_close(fast.disparity, slow.disparity.detach(), atol=1e-3, rtol=0)
        assert (fast.beta is None) == (slow.beta is None) and slow.disparity.abs().max() > 1


def test_prior_is_optional_in_the_small_network_and_its_holes_are_respected() -> None:
    torch.manual_seed(0)
    net = StereoFusionNet(small_config()).eval()
    left, right, prior = pair(64, 96)
    with torch.inference_mode():
        without = net(left, right, iterations=2)
        assert without.registered is None and without.beta is None
        scaled = net(left, right, MonoPrior(40 * prior + 9), iterations=2)
        torch.testing.assert_close(net(left, right, MonoPrior(prior), iterations=2).disparity, scaled.disparity, atol=2e-2, rtol=1e-3)
        holes = prior.clone()
        holes[..., :48] = float("nan")
        given = net(left, right, MonoPrior(holes), iterations=2)
        masked = net(left, right, MonoPrior(torch.nan_to_num(holes, nan=7.0), torch.isfinite(holes)), iterations=2)
        assert torch.isfinite(given.disparity).all() and torch.equal(given.disparity, masked.disparity)
        assert given.confidence is not None and (given.confidence[..., :6] == 1).all()


def test_sign_convention_only_renames_the_state() -> None:
    """With the odd layers of the state mirrored, the flow convention gives the same disparities."""
    torch.manual_seed(0)
    base = dataclasses.replace(raft_stereo_config(), disparity_sign=1)
    plus = StereoFusionNet(base).eval()
    minus = StereoFusionNet(dataclasses.replace(base, disparity_sign=-1)).eval()
    weights = {k: v.clone() for k, v in plus.state_dict().items()}
    for name in ("update_block.disp_head.conv2.weight", "update_block.disp_head.conv2.bias", "update_block.encoder.convf1.weight"):
        weights[name] *= -1
    for gate in "zrq":
        # The state is the last channel of the encoded motion, which follows the hidden state.
        weights[f"update_block.gru08.conv{gate}.weight"][:, 255] *= -1
    minus.load_state_dict(weights)
    left, right, _ = pair(64, 96)
    with torch.inference_mode():
        a, b = (net(left, right, iterations=3).disparity for net in (plus, minus))
    assert a.abs().max() > 1e-3
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_refusals() -> None:
    net = StereoFusionNet(small_config())
    left, right, prior = pair(64, 96)
    with pytest.raises(ValueError, match="right"):
        net(left, right[..., :-1])
    with pytest.raises(ValueError, match="monocular encoder"):
        StereoFusionNet(paper_config())(left, right, MonoPrior(prior))
    for change in ({"pad_multiple": 8}, {"gru_layers": 4}, {"encoder": "shared"}, {"offsets": ()}):
        with pytest.raises(UsageError):
            dataclasses.replace(paper_config(), **change)


def test_one_sample_can_be_learnt() -> None:
    torch.manual_seed(0)
    net = StereoFusionNet(small_config()).train()
    left, right, prior = pair(64, 96)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-4)
    losses = []
    for _ in range(40):
        out = net(left, right, MonoPrior(prior), iterations=3)
        loss = torch.stack([(p - 6).abs().mean() for p in out.predictions]).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    # Single steps go up and down, differently on every processor; with three seeds .12 to .19 of the first loss were left.
    assert sum(losses[-5:]) / 5 < 0.4 * losses[0], losses[::5]
