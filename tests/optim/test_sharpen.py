"""An object cut out of a coarse scene becomes finer where photos show it, and stays as it is where too few do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import make_rigid, so3_exp
from ltgs.optim.patch import Target
from ltgs.optim.refine import RefineConfig, RefineItem, refine_visit
from ltgs.optim.sharpen import SharpenConfig, sharpen, split_largest
from ltgs.render import render
from tests.helpers import blobs, look_at

RNG = np.random.default_rng(5)
POSE = make_rigid(so3_exp(torch.tensor([0.0, 0.0, 0.7], dtype=torch.float64)).numpy(), np.array([0.3, -0.2, 0.1]))
FLOOR = blobs(RNG, np.column_stack([RNG.uniform(-1.5, 1.5, (300, 2)), np.full(300, -0.2)]), 0.09)
FINE = blobs(RNG, RNG.uniform(-0.2, 0.2, (240, 3)), 0.02)


def camera(angle: float) -> Camera:
    pose = look_at(np.array([1.6 * np.cos(angle), 1.6 * np.sin(angle), 0.9]), POSE[:3, 3])
    return Camera(f"{angle:.2f}", 0, 96, 72, np.array([[110.0, 0, 48], [0, 110.0, 36], [0, 0, 1]]), pose)


def drawn(own: Gaussians, angle: float) -> np.ndarray:
    placed = own.transformed(torch.as_tensor(POSE, dtype=torch.float32))
    with torch.no_grad():
        return render(Gaussians.concatenate([FLOOR, placed]), stack_cameras([camera(angle)])).rgb[0].clamp(0, 1).numpy()


def targets(count: int) -> list[Target]:
    return [Target(camera(a), drawn(FINE, a), np.eye(3, 4)) for a in np.linspace(0, 2 * np.pi, count, endpoint=False)]


def coarse() -> Gaussians:
    """The object as a training that hardly saw it would leave it: every fourth Gaussian, twice as large."""
    return replace(FINE[::4], log_scales=FINE[::4].log_scales + float(np.log(2.0)))


def error(own: Gaussians) -> float:
    """Mean squared error in directions that no photo was taken from."""
    return float(np.mean([((drawn(own, a) - drawn(FINE, a)) ** 2).mean() for a in (0.25, 2.3, 4.4)]))


def test_more_gaussians_fit_the_photos_better_from_everywhere() -> None:
    pose = torch.as_tensor(POSE, dtype=torch.float32)
    finer = sharpen(coarse(), pose, FLOOR, targets(12), config=SharpenConfig(steps=150))
    assert len(finer) == 3 * len(coarse())
    assert error(finer) < 0.4 * error(coarse())
    again = sharpen(coarse(), pose, FLOOR, targets(12), config=SharpenConfig(steps=150))
    assert all(torch.equal(a, b) for a, b in zip(finer.tensors().values(), again.tensors().values(), strict=True))


@pytest.mark.parametrize("photos, steps", [(3, 150), (12, 0)])
def test_an_object_in_too_few_photos_stays_as_it_was(photos: int, steps: int) -> None:
    own = coarse()
    assert sharpen(own, torch.as_tensor(POSE, dtype=torch.float32), FLOOR, targets(photos), config=SharpenConfig(steps=steps)) is own


def test_halves_lie_where_the_whole_was_and_the_largest_go_first() -> None:
    one = replace(FINE[:2], log_scales=torch.log(torch.tensor([[0.3, 0.02, 0.02], [0.01, 0.01, 0.01]])))
    three = split_largest(one, 3)
    assert len(three) == 3 and torch.equal(three.means[0], one.means[1]), "the small one is kept"
    torch.testing.assert_close(three.means[1:].mean(0), one.means[0])
    assert float((three.means[1] - three.means[2]).norm()) == pytest.approx(2 * 0.55 * 0.3, rel=1e-4)
    assert three.scales[1:].max() == pytest.approx(0.3 / 1.6, rel=1e-4) and three.scales[1:].min() == pytest.approx(0.02, rel=1e-4)
    assert len(split_largest(one, 11)) == 11 and split_largest(one, 1) is one


def test_new_gaussians_neither_grow_into_shadows_nor_run_away() -> None:
    """A dark photo around a new object tempts its Gaussians to become one large shadow."""
    shaded = [replace(t, photo=t.photo * np.float32(0.35)) for t in targets(4)]
    seeds = blobs(RNG, RNG.uniform(-0.2, 0.2, (80, 3)), 0.03)
    item = RefineItem(1, seeds, POSE, {}, 0, False)
    loose = RefineConfig(steps_new=160, max_scale=1e3, stray=1e3)
    bound = refine_visit(FLOOR, [item], shaded, {}, config=replace(loose, max_scale=0.15, stray=0.2))[0].gaussians
    free = refine_visit(FLOOR, [item], shaded, {}, config=loose)[0].gaussians
    radius = float((seeds.means - seeds.means.mean(0)).norm(dim=1).quantile(0.9))
    assert free.scales.max() > 0.2 * radius, "without bounds they do grow"
    assert len(bound) > 0 and bound.scales.max() <= 0.15 * radius * 1.001
    low, high = seeds.means.amin(0), seeds.means.amax(0)
    slack = 0.2 * float((high - low).max()) + 1e-5
    assert (bound.means >= low - slack).all() and (bound.means <= high + slack).all()
