"""Growth edits parameters and Adam moments together and leaves the picture as it was."""

import torch

from ltgs.core.gaussians import Gaussians
from ltgs.optim.growth import GaussianOptimizer, GrowthConfig, copied_opacity_and_scale, grow

RATES = {k: 1e-3 for k in ("means", "quats", "log_scales", "opacity_logits", "sh_dc", "sh_rest")}


def some_gaussians(n: int = 40, seed: int = 0) -> Gaussians:
    g = torch.Generator().manual_seed(seed)
    return Gaussians(
        torch.randn(n, 3, generator=g), torch.randn(n, 4, generator=g), torch.randn(n, 3, generator=g) - 2,
        torch.randn(n, generator=g), torch.randn(n, 4, 3, generator=g),
    )


def test_copies_compose_to_the_opacity_before():
    opacity = torch.tensor([0.1, 0.5, 0.9, 0.99])
    for copies in (1, 2, 3, 7):
        new, scale = copied_opacity_and_scale(opacity, torch.ones(4, 3), torch.full((4,), copies))
        torch.testing.assert_close(1 - (1 - new) ** copies, opacity, rtol=1e-5, atol=1e-6)
        assert (scale <= 1 + 1e-6).all() and (scale > 0.05).all()
        if copies == 1:
            torch.testing.assert_close(scale, torch.ones(4, 3))


def test_two_copies_keep_the_integral_of_the_line_profile():
    """Equation 9 of 3DGS-MCMC: the 1-D integral of the composed alpha equals that of the single Gaussian."""
    opacity = torch.tensor([0.8])
    new, scale = copied_opacity_and_scale(opacity, torch.ones(1, 3), torch.tensor([2]))
    x = torch.linspace(-8, 8, 4001)
    single = opacity * torch.exp(-x * x / 2)
    one = new * torch.exp(-x * x / (2 * scale[0, 0] ** 2))
    double = 1 - (1 - one) ** 2
    assert abs(float(single.sum() / double.sum()) - 1) < 1e-3


def test_growth_reaches_the_target_and_moments_follow():
    optimizer = GaussianOptimizer(some_gaussians(), RATES)
    loss = sum(t.square().sum() for t in optimizer.gaussians().tensors().values())
    loss.backward()
    optimizer.adam.step()
    error = torch.zeros(40)
    error[3] = 1.0
    config = GrowthConfig(max_factor=2.0)
    moved, added = grow(optimizer, error, target_count=50, config=config, generator=torch.Generator().manual_seed(0))
    assert (moved, added) == (0, 10) and len(optimizer) == 50
    for group in optimizer.adam.param_groups:
        state = optimizer.adam.state[group["params"][0]]
        assert state["exp_avg"].shape == group["params"][0].shape
    torch.testing.assert_close(optimizer.params["means"][40:], optimizer.params["means"][3].expand(10, 3))
    optimizer.adam.zero_grad()
    optimizer.gaussians().means.sum().backward()
    optimizer.adam.step()


def test_dead_gaussians_move_to_living_ones():
    g = some_gaussians()
    logits = g.opacity_logits.clone()
    logits[:5] = -12.0
    optimizer = GaussianOptimizer(Gaussians(g.means, g.quats, g.log_scales, logits, g.sh), RATES)
    moved, added = grow(
        optimizer, torch.ones(40), target_count=40, config=GrowthConfig(), generator=torch.Generator().manual_seed(1)
    )
    assert (moved, added) == (5, 0)
    assert (torch.sigmoid(optimizer.params["opacity_logits"]) > 0.004).all()


def test_checkpoint_round_trip_continues_identically():
    def run(optimizer: GaussianOptimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.adam.zero_grad()
            (optimizer.gaussians().means - 1).square().sum().backward()
            optimizer.adam.step()

    straight = GaussianOptimizer(some_gaussians(), RATES)
    run(straight, 6)
    half = GaussianOptimizer(some_gaussians(), RATES)
    run(half, 3)
    resumed = GaussianOptimizer(some_gaussians(seed=9), RATES)
    resumed.load_state_tensors({k: v.clone() for k, v in half.state_tensors().items()})
    run(resumed, 3)
    assert torch.equal(straight.params["means"], resumed.params["means"])
