"""What an object stands on is no part of it, whatever the direction of the plane; its own faces are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ltgs.core.cameras import Camera
from ltgs.core.se3 import so3_exp
from ltgs.core.views import ComparedView
from ltgs.objects.support import covered, find_support, surroundings_of

RNG = np.random.default_rng(0)
UP = np.array([0.0, 0.0, 1.0])


def in_support(points: np.ndarray, surroundings: np.ndarray, up: np.ndarray) -> np.ndarray:
    """[M] which points lie in a plane around."""
    return find_support(points, surroundings, up)[0]


def sheet(count: int, size: float, noise: float = 0.004) -> np.ndarray:
    """Points of a plane z = 0 around the origin, less the square under the object."""
    points = np.column_stack([RNG.uniform(-size, size, (count, 2)), RNG.normal(0, noise, count)])
    return points[np.abs(points[:, :2]).max(1) > 0.2]


def box(count: int = 400) -> np.ndarray:
    """Points on the faces of a box of half 0.15 that stands on z = 0, its underside left out."""
    points = RNG.uniform(-0.15, 0.15, (count, 3))
    axis = RNG.integers(0, 3, count)
    points[np.arange(count), axis] = np.where((RNG.random(count) < 0.5) | (axis == 2), 0.15, -0.15)
    return points + [0, 0, 0.15]


@pytest.mark.parametrize("turn", [np.zeros(3), np.array([0.9, -0.4, 0.3])], ids=["level", "tilted"])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_shaded_floor_under_an_object_is_told_apart(turn: np.ndarray, scale: float) -> None:
    shade = np.column_stack([RNG.uniform(-0.3, 0.3, (80, 2)), RNG.normal(0, 0.004, 80)])
    below = np.column_stack([RNG.uniform(-0.2, 0.2, (20, 2)), RNG.uniform(-0.1, -0.03, 20)])
    points = np.concatenate([box(), shade, below])
    turned = so3_exp(torch.as_tensor(turn)).numpy() * scale
    found = in_support(points @ turned.T, sheet(3000, 0.8) @ turned.T, UP)
    own = found[:400]
    assert found[400:].mean() > 0.95, "the floor, and what lies beneath it"
    assert own.mean() < 0.12 and points[:400][own][:, 2].max(initial=0) < 0.04, "only the lowest rim of the object goes with it"


def test_few_points_of_a_level_surface_do_not_tilt_it() -> None:
    """Around a thing in a corner little is seen, on one side only and blurred; a surface that really slopes keeps its slope."""
    rng = np.random.default_rng(1)
    bent = np.column_stack([rng.uniform(0.2, 0.5, 300), rng.uniform(-0.5, 0.5, 300), rng.normal(0, 0.004, 300)])
    bent[:, 2] += 0.08 * (bent[:, 0] - 0.2)
    _, planes = find_support(box(), bent, UP)
    assert len(planes) == 1 and np.allclose(planes[0][:3], UP) and abs(planes[0][3]) < 0.02
    steep = bent + np.column_stack([np.zeros((300, 2)), 0.17 * bent[:, 0]])
    _, planes = find_support(box(), steep, UP)
    assert len(planes) == 1 and np.rad2deg(np.arccos(planes[0][:3] @ UP)) == pytest.approx(14.0, abs=2.5)


def test_a_wall_behind_and_a_floor_below_are_both_left_behind() -> None:
    wall = sheet(2000, 0.8)[:, [2, 0, 1]] * [1, 1, 0.5] + [-0.16, 0, 0.45]
    behind = np.column_stack([RNG.normal(-0.16, 0.004, 40), RNG.uniform(-0.2, 0.2, 40), RNG.uniform(0.05, 0.3, 40)])
    under = np.column_stack([RNG.uniform(-0.2, 0.2, (40, 2)), RNG.normal(0, 0.004, 40)])
    points = np.concatenate([box() + [0.03, 0, 0], behind, under])
    found = in_support(points, np.concatenate([sheet(2000, 0.8), wall]), UP)
    assert found[400:].mean() > 0.95 and found[:400].mean() < 0.3


def board_and_wall() -> tuple[np.ndarray, np.ndarray]:
    """What is seen around a box on a board at eye level: mostly the wall behind; and the box with much of both."""
    wall = np.column_stack([RNG.normal(-0.3, 0.004, 2700), RNG.uniform(-0.9, 0.9, 2700), RNG.uniform(-0.4, 1.0, 2700)])
    board = np.column_stack([RNG.uniform(-0.3, 0.3, 300), RNG.choice([-1, 1], 300) * RNG.uniform(0.2, 0.6, 300), RNG.normal(0, 0.004, 300)])
    behind = np.column_stack([RNG.normal(-0.3, 0.004, 300), RNG.uniform(-0.3, 0.3, 300), RNG.uniform(0.05, 0.6, 300)])
    under = np.column_stack([RNG.uniform(-0.28, 0.3, 120), RNG.uniform(-0.35, 0.35, 120), RNG.normal(0, 0.004, 120)])
    return np.concatenate([wall, board]), np.concatenate([box(300), behind, under])


def test_a_narrow_board_is_left_behind_although_a_wall_took_half_of_the_points() -> None:
    around, points = board_and_wall()
    found = in_support(points, around, UP)
    assert found[300:].mean() > 0.95 and found[:300].mean() < 0.15


def test_the_level_top_of_a_neighbour_is_nothing_to_stand_on() -> None:
    around, points = board_and_wall()
    top = np.column_stack([RNG.uniform(-0.2, 0.2, 400), RNG.uniform(0.3, 0.7, 400), RNG.normal(0.15, 0.004, 400)])
    found = in_support(points, np.concatenate([around, top]), UP)
    assert found[300:].mean() > 0.95 and found[:300].mean() < 0.15


def test_a_plane_so_small_that_is_not_level_is_not_what_an_object_stands_on() -> None:
    around, points = board_and_wall()
    found = in_support(points, around, np.array([0.0, 1.0, 0.0]))
    assert found[300:600].mean() > 0.95 and found[600:].mean() < 0.15, "the wall is large enough, the board is not level now"


def test_a_small_thing_leaves_a_table_behind_of_which_more_was_cut_out() -> None:
    under = np.column_stack([RNG.uniform(-0.28, 0.28, (500, 2)), RNG.normal(0, 0.004, 500)])
    found = in_support(np.concatenate([box(200), under]), sheet(3000, 0.8), UP)
    assert found[200:].mean() > 0.95 and found[:200].mean() < 0.15


def test_the_underside_of_a_board_goes_with_what_of_it_was_cut_out() -> None:
    level = np.column_stack([RNG.uniform(-0.3, 0.3, (250, 2)), RNG.normal(0, 0.004, 250)])
    under = np.column_stack([RNG.uniform(-0.3, 0.3, (85, 2)), RNG.uniform(-0.08, -0.04, 85)])
    found = in_support(np.concatenate([box(260), level, under]), sheet(3000, 0.8), UP)
    assert found[260:].mean() > 0.95 and found[:260].mean() < 0.12
    alone = in_support(np.concatenate([box(260), under]), sheet(3000, 0.8), UP)
    assert not alone.any(), "so much beneath it, and hardly anything in it: the top of a thing beside it"


def test_a_thin_thing_on_a_table_keeps_its_own_face() -> None:
    page = np.column_stack([RNG.uniform(-0.15, 0.15, (200, 2)), RNG.normal(0.002, 0.001, 200)])
    assert not in_support(page, sheet(3000, 0.8), UP).any()


def test_without_planes_nothing_is_taken() -> None:
    cloud = RNG.uniform(-1, 1, (2000, 3))
    assert not in_support(box(), cloud, UP).any()
    assert not in_support(box(), np.zeros((0, 3)), UP).any() and not in_support(box(5), sheet(500, 0.8), UP).any()
    assert not in_support(box(), np.zeros((500, 3)), UP).any(), "points that are all one span no plane"


def test_surroundings_are_the_surfaces_next_to_the_outline_only() -> None:
    """A floor seen from above at distance 2; something far behind an edge of the photo is no surrounding."""
    size = 120
    camera = Camera("a.png", 0, size, size, np.array([[100.0, 0, 60], [0, 100.0, 60], [0, 0, 1]]), np.eye(4))
    depth = np.full((size, size), 2.0, np.float32)
    depth[:, 68:] = 9.0
    image, ones = np.zeros((size, size, 3), np.float32), np.ones((size, size), np.float32)
    view = ComparedView(camera, image, image, np.eye(3, 4), np.ones_like(image), ones, depth, ones, ones > 2, ones > 0, 0.01)
    outline = np.zeros((size, size), bool)
    outline[55:65, 55:65] = True
    points = np.array([0.0, 0, 1.95]) + RNG.uniform(-0.1, 0.1, (60, 3))
    found = surroundings_of(points, [view, view], [outline, np.zeros_like(outline)])
    assert len(found) > 50 and np.allclose(found[:, 2], 2.0)
    assert 0.1 < np.abs(found[:, :2]).max() < 0.35 and np.abs(found[:, :2]).max(1).min() > 0.09


def test_small_things_around_do_not_thicken_the_table() -> None:
    litter = np.column_stack([RNG.uniform(-0.8, 0.8, (1000, 2)), RNG.uniform(0, 0.07, 1000)])
    litter = litter[np.abs(litter[:, :2]).max(1) > 0.2]
    under = np.column_stack([RNG.uniform(-0.6, 0.6, (300, 2)), RNG.normal(0, 0.003, 300)])
    found, planes = find_support(np.concatenate([box(), under]), np.concatenate([sheet(1500, 0.8), litter]), UP)
    assert found[400:].mean() > 0.95 and found[:400].mean() < 0.06
    assert len(planes) == 1 and planes[0][2] > 0.99 and abs(planes[0][3]) < 0.01


def test_the_top_of_a_thing_beside_is_not_what_an_object_stands_on() -> None:
    top = np.column_stack([RNG.uniform(0.25, 0.6, 500), RNG.uniform(-0.4, 0.4, 500), RNG.normal(0.1, 0.003, 500)])
    under = np.column_stack([RNG.uniform(-0.2, 0.2, (40, 2)), RNG.normal(0, 0.003, 40)])
    tall = box(600) * [1, 1, 3]
    found = in_support(np.concatenate([tall, under]), np.concatenate([sheet(1500, 0.8), top]), UP)
    assert found[600:].mean() > 0.95 and found[:600].mean() < 0.06


def test_what_lies_beneath_a_table_that_the_photos_look_down_on_is_covered() -> None:
    rng = np.random.default_rng(1)
    table = np.c_[rng.uniform(-1, 1, (3000, 2)), rng.normal(0, 0.003, 3000)]
    eyes, up = np.array([[1.5, 0, 1.2], [-1.0, 1.4, 1.0]]), np.array([0.0, 0, 1])
    thing = np.c_[rng.uniform(-0.2, 0.2, (400, 2)), rng.uniform(0.01, 0.4, 400)]
    below = thing * [1, 1, -1]
    assert not covered(find_support(thing, table, up)[1], eyes, up)
    assert covered(find_support(below, table, up)[1], eyes, up)
    assert not covered(find_support(below, table, up)[1], eyes * [1, 1, -1], up), "a lamp under a ceiling"
    floor = table - [0, 0, 0.42]
    assert not covered(find_support(below, np.concatenate([table, floor]), up)[1], eyes, up), "a thing on the floor beside a table"
