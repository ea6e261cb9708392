"""Morton order: near in space is near in memory, outliers do no harm, and moments move with their Gaussians."""

import torch

from ltgs.core.gaussians import Gaussians
from ltgs.optim.growth import GaussianOptimizer
from ltgs.optim.order import morton_order


def test_a_grid_comes_in_z_order():
    corners = torch.tensor([[x, y, z] for z in (0.0, 1) for y in (0.0, 1) for x in (0.0, 1)])
    shuffled = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    order = morton_order(corners[shuffled])
    assert shuffled[order].tolist() == list(range(8))


def test_neighbours_in_memory_are_neighbours_in_space_even_with_outliers():
    rng = torch.Generator().manual_seed(0)
    means = torch.rand(4000, 3, generator=rng)
    means[:20] *= 1e4
    order = morton_order(means)
    assert order.sort().values.equal(torch.arange(4000))
    inner = order[order >= 20]
    ordered, unordered = means[inner], means[20:]
    steps = [(m[1:] - m[:-1]).norm(dim=1).median() for m in (ordered, unordered)]
    assert steps[0] < 0.2 * steps[1]


def test_degenerate_sets_keep_their_order():
    for means in (torch.zeros(0, 3), torch.ones(1, 3), torch.full((7, 3), 2.5)):
        assert morton_order(means).tolist() == list(range(len(means)))


def test_reordering_moves_parameters_and_moments_together():
    rng = torch.Generator().manual_seed(1)
    g = Gaussians(
        torch.randn(30, 3, generator=rng), torch.randn(30, 4, generator=rng), torch.randn(30, 3, generator=rng),
        torch.randn(30, generator=rng), torch.randn(30, 4, 3, generator=rng),
    )
    order = morton_order(g.means)

    def steps(optimizer: GaussianOptimizer, target: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            optimizer.adam.zero_grad()
            (optimizer.gaussians().means - target).square().sum().backward()
            optimizer.adam.step()
        return optimizer.params["means"].detach()

    rates = {k: 1e-2 for k in ("means", "quats", "log_scales", "opacity_logits", "sh_dc", "sh_rest")}
    one, other = GaussianOptimizer(g, rates), GaussianOptimizer(g, rates)
    target = torch.arange(30.0)[:, None].expand(30, 3)
    steps(one, target)
    steps(other, target)
    other.reorder(order)
    assert not order.equal(torch.arange(30))
    assert steps(one, target)[order].equal(steps(other, target[order]))
