"""Render-and-compare on a small object whose pose is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from solids import ball, box, cylinder, gaussians, standing
from stage import CHEAP, HEIGHT, UP, WIDTH, content, spins, views

from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import axis_rotations, make_rigid, rotation_angle_deg, so3_exp
from ltgs.objects.backing import Model
from ltgs.objects.crops import centred_on_masks, make_crops, pose_costs
from ltgs.objects.hull import HullInstance, seen_empty
from ltgs.objects.register import (
    PoseHypothesis,
    RegisterConfig,
    _start_rotations,
    _turns,
    compare_turns,
    register_template,
    scout_template,
    sweep_template,
)


def template() -> Gaussians:
    """An L of four colours: no symmetry."""
    rng = np.random.default_rng(2)
    long = rng.uniform([-0.2, -0.06, -0.06], [0.2, 0.06, 0.06], (500, 3))
    short = rng.uniform([0.1, 0.06, -0.06], [0.2, 0.22, 0.06], (200, 3))
    points = np.concatenate([long, short])
    colours = np.where(points[:, :1] > 0, [[0.9, 0.2, 0.1]], [[0.1, 0.3, 0.9]])
    colours[500:] = [0.1, 0.8, 0.2]
    return gaussians(points, colours, 0.02, 3.0)


TRUE = make_rigid(axis_rotations(UP, 360)[140], np.array([0.1, -0.05, 0.06]))
PLACED = template().transformed(torch.as_tensor(TRUE, dtype=torch.float32))
VIEWS = views(PLACED)


def instance(offset: tuple[float, float, float] = (0, 0, 0)) -> HullInstance:
    """The content that it is, with its hull in the wrong place."""
    true = content(PLACED, VIEWS)
    return replace(true, points=true.points + np.asarray(offset))


def test_the_pose_is_found_from_a_misplaced_hull() -> None:
    config = RegisterConfig(upright=24, tipped=4, free_rotations=40)
    shifted = instance((0.08, -0.05, 0.05))
    sweep = sweep_template(
        Model(template()), VIEWS, shifted, last_rotation=np.eye(3), up=UP, free=spins(config), config=config
    )
    assert sweep is not None and sweep.gain > 0.3
    scouted = scout_template(Model(template()), VIEWS, shifted, sweep, config=config)
    found = register_template(Model(template()), VIEWS, shifted, scouted, config=config)
    assert rotation_angle_deg(found.world_from_object[:3, :3].T @ TRUE[:3, :3]) < 1.0
    assert np.linalg.norm(found.world_from_object[:3, 3] - TRUE[:3, 3]) < 0.005
    assert found.gain > 0.9 and not found.ambiguous


def registered(thing: Gaussians, pose: np.ndarray, config: RegisterConfig = CHEAP) -> PoseHypothesis:
    """What is found of an object that stands at a pose and was upright, not turned, before."""
    placed = thing.transformed(torch.as_tensor(pose, dtype=torch.float32))
    shots, model = views(placed), Model(thing)
    new = content(placed, shots)
    sweep = sweep_template(model, shots, new, last_rotation=np.eye(3), up=UP, free=spins(config), config=config)
    assert sweep is not None
    found = register_template(model, shots, new, scout_template(model, shots, new, sweep, config=config), config=config)
    return compare_turns(model, shots, new, found, up=UP, config=config)


def turn_sd_deg(found: PoseHypothesis, axis: np.ndarray) -> float:
    """Standard deviation of the rotation about an axis [3]."""
    return float(np.degrees(np.sqrt(axis @ found.covariance[3:, 3:] @ axis)))


def test_the_turn_of_a_plain_cylinder_is_not_known_and_everything_else_is() -> None:
    true = standing(0.2, -0.1, 70)
    found = registered(cylinder(), true)
    pose = found.world_from_object
    np.testing.assert_allclose(pose[:3, 3], true[:3, 3], atol=0.01)
    assert pose[2, 2] > np.cos(np.radians(3)), "it stands upright"
    assert found.ambiguous and turn_sd_deg(found, UP) > 60
    assert max(turn_sd_deg(found, side) for side in np.eye(3)[:2]) < 5
    assert np.sqrt(np.diag(found.covariance)[:3]).max() < 0.02


def test_a_mark_on_the_same_cylinder_tells_its_turn() -> None:
    true = standing(0.2, -0.1, 70)
    found = registered(cylinder(np.array([0.9, 0.8, 0.1])), true)
    assert rotation_angle_deg(found.world_from_object[:3, :3].T @ true[:3, :3]) < 5
    assert not found.ambiguous and turn_sd_deg(found, UP) < 25


def test_a_plain_ball_is_found_and_how_it_lies_is_not_known() -> None:
    true = standing(-0.1, 0.2)
    found = registered(ball(), true)
    np.testing.assert_allclose(found.world_from_object[:3, 3], true[:3, 3], atol=0.01)
    assert found.ambiguous and np.degrees(np.sqrt(np.trace(found.covariance[3:, 3:]))) > 60


@pytest.mark.parametrize("thing", [template(), cylinder(np.array([0.9, 0.8, 0.1]))], ids=["L", "marked cylinder"])
def test_a_wrong_turn_beside_the_right_place_becomes_the_right_one(thing: Gaussians) -> None:
    true = standing(0.2, -0.1, 70)
    placed, model = thing.transformed(torch.as_tensor(true, dtype=torch.float32)), Model(thing)
    shots = views(placed)
    wrong = true.copy()
    wrong[:3, :3] = axis_rotations(UP, 12)[5] @ true[:3, :3]
    wrong[:3, 3] += np.array([0.5, 0.4, 0.0]) * model.radius
    start = PoseHypothesis(wrong, 0.3, 0.5, np.eye(6), False, ((wrong, 0.3),))
    found = compare_turns(model, shots, content(placed, shots), start, up=UP, config=replace(CHEAP, num_turned=4))
    assert rotation_angle_deg(found.world_from_object[:3, :3].T @ true[:3, :3]) < 5
    np.testing.assert_allclose(found.world_from_object[:3, 3], true[:3, 3], atol=0.02)


def test_of_every_turn_the_better_of_centred_and_not_is_kept() -> None:
    crops, config = make_crops(VIEWS, instance(), 0.3, 40, 0.35), RegisterConfig(turns=8)
    start = TRUE.copy()
    start[:3, 3] += [0.1, 0.05, -0.08]
    turns = _turns(Model(template()), start, UP, crops, config, "auto")
    assert turns.costs.shape == turns.starts.shape[:1] == (16,), "about the vertical, and about the long axis on which it lies"
    plain = pose_costs(Model(template()), torch.as_tensor(start, dtype=torch.float32)[None], crops, config.cost, "auto")
    assert turns.costs[0] < 0.7 * float(plain), "centred it explains more"


@pytest.mark.parametrize("yaw", [35, 250])
def test_an_object_that_fell_over_is_found_on_its_side(yaw: int) -> None:
    """It lies on a long side; before, it stood upright. No start is left to chance."""
    thing = box((0.12, 0.16, 0.34), 6, count=900)
    true = standing(0.1, 0.2, yaw) @ make_rigid(axis_rotations(np.array([1.0, 0, 0]), 4)[1], np.array([0, 0, 0.08]))
    found = registered(thing, true, replace(CHEAP, free_rotations=0))
    assert rotation_angle_deg(found.world_from_object[:3, :3].T @ true[:3, :3]) < 5
    np.testing.assert_allclose(found.world_from_object[:3, 3], true[:3, 3], atol=0.02)
    assert found.gain > 0.8 and not found.ambiguous


def test_outlines_are_centred_whatever_the_scale_of_the_scene() -> None:
    crops = make_crops(VIEWS, instance(), 0.3, 40, 0.35)
    start = TRUE.copy()
    start[:3, 3] += [0.1, 0.05, -0.08]
    poses = torch.as_tensor(start, dtype=torch.float32)[None]
    moved = centred_on_masks(Model(template()), poses, crops, middle=template().means.median(0).values)
    assert float((moved[0, :3, 3] - torch.as_tensor(TRUE[:3, 3])).norm()) < 0.01
    torch.testing.assert_close(moved[:, :3, :3], poses[:, :3, :3])


def test_an_object_that_no_photo_shows_has_no_sweep() -> None:
    away = replace(instance(), points=instance().points + [0, 0, 50.0], pixels=tuple(np.zeros_like(v.mask) for v in VIEWS))
    assert sweep_template(Model(template()), VIEWS, away, last_rotation=np.eye(3), up=UP, free=spins(CHEAP)) is None


@pytest.mark.parametrize(("depth", "count"), [(10.0, 3), (0.5, 0), (0.0, 0)])
def test_a_place_is_empty_if_photos_looked_through_it(depth: float, count: int) -> None:
    depths = [np.full((HEIGHT, WIDTH), depth, np.float32)] * 3
    seen = seen_empty(np.array([[0.0, 0, 0], [0, 0, 60.0]]), [v.camera for v in VIEWS], depths)
    assert seen.tolist() == [count, 0]


@pytest.mark.parametrize("yaw_deg", [7.0, 61.0])
@pytest.mark.parametrize("stood_deg", [0.0, 33.0])
def test_a_box_that_fell_on_any_of_its_sides_is_among_the_starts(yaw_deg: float, stood_deg: float) -> None:
    up, config = np.array([0.0, 0, 1]), RegisterConfig(free_rotations=0)
    means = box((0.1, 0.16, 0.3)).means.double().numpy()
    stood = standing(0, 0, stood_deg)[:3, :3]
    starts = _start_rotations(means, stood, up, spins(config), config)
    for axis in np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]):
        fallen = standing(0, 0, yaw_deg)[:3, :3] @ so3_exp(torch.as_tensor(axis * np.pi / 2)).numpy()
        assert min(rotation_angle_deg(s.T @ fallen) for s in starts) <= 180 / config.tipped + 2
