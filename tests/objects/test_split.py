"""Things side by side: told apart above what they stand on, and whole only if nothing of them goes on beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from solids import at, box, gaussians

from ltgs.core.gaussians import Gaussians
from ltgs.objects.split import filled, is_whole, main_body, side_by_side, touching_things

UP = np.array([0.0, 0.0, 1.0])
LINK = 0.05


def ground(half: float) -> Gaussians:
    x, y = np.meshgrid(*[np.arange(-half, half, 0.03)] * 2)
    return gaussians(np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], 1), np.full((x.size, 3), 0.5), 0.01)


def placed(*places: tuple[float, float]) -> tuple[Gaussians, np.ndarray]:
    """Boxes on the ground between them, and which Gaussians are ground."""
    parts = [at(box((0.14, 0.14, 0.24), 8, count=600), x, y) for x, y in places]
    own = Gaussians.concatenate([*parts, ground(0.4)])
    return own, np.arange(len(own)) >= 600 * len(places)


def test_two_boxes_on_one_table_are_two_things_and_share_the_ground() -> None:
    own, beneath = placed((-0.15, 0.0), (0.15, 0.05))
    rows = side_by_side(own, beneath, LINK, up=UP)
    assert len(rows) == 2 and sorted(torch.cat(rows).tolist()) == list(range(len(own)))
    for row in rows:
        right = float((own.means[row, 0] > 0).float().mean())
        assert min(right, 1 - right) < 0.05, "each takes the ground next to it"


@pytest.mark.parametrize("places", [[(0.0, 0.0)], [(-0.08, 0.0), (0.08, 0.0)]], ids=["one", "touching"])
def test_what_hangs_together_above_the_ground_is_one_thing(places: list[tuple[float, float]]) -> None:
    own, beneath = placed(*places)
    assert [len(r) for r in side_by_side(own, beneath, LINK, up=UP)] == [len(own)]


def test_a_piece_high_above_is_no_thing_beside_the_other() -> None:
    own, beneath = placed((-0.15, 0.0), (0.15, 0.0))
    lifted = own.means.clone()
    lifted[600:1200, 2] += 0.3
    own = Gaussians(lifted, own.quats, own.log_scales, own.opacity_logits, own.sh)
    assert len(side_by_side(own, beneath, LINK, up=UP)) == 1


def test_a_flat_thing_beside_a_high_one_sinks_into_what_they_stand_on() -> None:
    high, flat = at(box((0.14, 0.14, 0.24), 8), -0.15, 0.0), at(box((0.14, 0.14, 0.06), 9), 0.15, 0.0)
    for below, things in ((0.9 * LINK, 2), (1.5 * LINK, 1)):
        own = Gaussians.concatenate([high, replace(flat, means=flat.means - torch.tensor([0, 0, below]))])
        assert len(side_by_side(own, np.zeros(len(own), bool), LINK, up=UP)) == things
    # A foot is apart from what stands on it, but not beside it.
    over = replace(high, means=high.means + torch.tensor([0.3, 0.0, 0.06 + LINK]))
    foot = replace(flat, means=flat.means * torch.tensor([1, 1, 0.3]))
    both = Gaussians.concatenate([over, foot])
    assert len(side_by_side(both, np.zeros(len(both), bool), 0.9 * LINK, up=UP)) == 1


def test_a_thing_is_whole_if_nothing_goes_on_beside_it() -> None:
    own, beneath = placed((0.0, 0.0))
    points, others = own.means.double().numpy(), at(box((0.14, 0.14, 0.24), 8), 0.4, 0.0).means.double().numpy()
    assert is_whole(points, beneath, others, LINK, up=UP)
    half = points[:, 0] < 0
    assert not is_whole(points[half], beneath[half], points[~half], LINK, up=UP), "a part of a thing goes on"
    flat = points[beneath] + np.random.default_rng(0).normal(0, 0.003, (int(beneath.sum()), 3))
    assert not is_whole(flat, np.zeros(len(flat), bool), others, LINK, up=UP), "a patch of ground does not rise"


def test_a_lid_that_the_photos_do_not_ask_for_is_part_of_the_thing() -> None:
    own, beneath = placed((0.0, 0.0))
    points, others = own.means.double().numpy(), at(box((0.14, 0.14, 0.24), 8), 0.4, 0.0).means.double().numpy()
    lid = (points[:, 2] > 0.235) & (points[:, 0] < 0.03)
    assert 0.06 < lid.sum() / (~lid & ~beneath).sum() < 0.2
    rest = np.concatenate([others, points[lid]])
    assert is_whole(points[~lid], beneath[~lid], rest, LINK, up=UP)
    taller = np.concatenate([points[lid] + [0, 0, k * 0.5 * LINK] for k in (1, 2)])
    assert not is_whole(points[~lid], beneath[~lid], np.concatenate([rest, taller]), LINK, up=UP), "it goes on and on"


def test_scattered_specks_are_no_part_of_a_thing_but_what_floats_inside_it_is() -> None:
    thing = box((0.14, 0.14, 0.24), 8, count=600)
    specks = gaussians(np.array([[0.5, 0.1, 0.1], [0.52, 0.1, 0.1], [-0.4, 0.3, 0.0]]), np.full((3, 3), 0.5), 0.004)
    inner = gaussians(np.array([[0.0, 0.0, 0.12]]), np.full((1, 3), 0.5), 0.004)
    body = main_body(Gaussians.concatenate([thing, specks, inner]), 0.02)
    assert body[:600].all() and not body[600:603].any() and body[603]
    assert main_body(specks, 0.02).all(), "of a few no body is told"


def solid(low: tuple[float, float, float], high: tuple[float, float, float]) -> np.ndarray:
    """[M, 3] a grid inside a box."""
    axes = [np.arange(a, b, 0.02) for a, b in zip(low, high, strict=True)]
    return np.stack([v.ravel() for v in np.meshgrid(*axes, indexing="ij")], 1)


def shell(low: tuple[float, float, float], high: tuple[float, float, float]) -> np.ndarray:
    """[M, 3] points on the faces of a box."""
    points = RNG.uniform(low, high, (900, 3))
    axis, side = RNG.integers(0, 3, 900), RNG.integers(0, 2, 900)
    points[np.arange(900), axis] = np.where(side, np.asarray(high)[axis], np.asarray(low)[axis])
    return points


def inside(places: np.ndarray, *boxes: tuple[tuple[float, float, float], tuple[float, float, float]]) -> np.ndarray:
    return np.any([np.all((places >= low) & (places <= high), axis=1) for low, high in boxes], axis=0)


RNG = np.random.default_rng(5)
ONE, CORNER = ((0.0, 0.0, 0.0), (0.2, 0.2, 0.2)), ((0.19, 0.17, 0.0), (0.4, 0.38, 0.22))
LONG, ABOVE = ((0.19, 0.0, 0.0), (0.4, 0.2, 0.2)), ((0.17, 0.19, 0.19), (0.38, 0.4, 0.4))


@pytest.mark.parametrize(("second", "things"), [(CORNER, 2), (LONG, 1), (ABOVE, 1)], ids=["at a corner", "along a face", "above"])
def test_things_that_touch_fall_apart_where_photos_looked_through_between_them(second: tuple, things: int) -> None:
    points = np.concatenate([shell(*ONE), shell(*second)])
    solid = filled(points, lambda places: ~inside(places, ONE, second))
    assert 0.3 * 2 * 0.2**3 < len(solid) * 0.01**3 < 3 * 0.2**3, "it is filled"
    parts = touching_things(points, solid, up=UP)
    assert len(parts) == things and sorted(np.concatenate(parts).tolist()) == list(range(1800))
    if things == 2:
        own = [np.mean(rows < 900) for rows in parts]
        assert max(own) > 0.95 and min(own) < 0.05
        assert len(touching_things(points, filled(points, lambda places: np.zeros(len(places), bool)), up=UP)) == 1, "never looked through"


def test_a_bowl_is_one_thing() -> None:
    places = solid((-0.3, -0.3, 0), (0.3, 0.3, 0.3))
    distance = np.linalg.norm(places - [0, 0, 0.3], axis=1)
    gap = np.abs(places[:, 1]) < 0.05
    bowl = places[(distance < 0.3) & (distance > 0.22) & ~(gap & (places[:, 2] > 0.04))]  # two photos looked through its walls
    assert len(touching_things(bowl, bowl, up=UP)) == 1
    halves = places[(distance < 0.3) & ~(gap & (places[:, 2] > 0.04))]
    assert len(touching_things(halves, halves, up=UP)) == 2, "full ones are two"


def test_a_flat_sheet_has_no_inside() -> None:
    sheet = np.c_[RNG.uniform(0, 1, (200, 2)), np.zeros(200)]
    assert len(filled(sheet, lambda places: np.zeros(len(places), bool))) == 0
    assert len(touching_things(sheet, sheet[:0], up=UP)) == 1
