"""Which sides of an object photos have seen, and what that is worth when its pose is looked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from helpers import blobs, look_at
from solids import gaussians
from stage import CHEAP, UP, content, views

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import axis_rotations, make_rigid, rotation_angle_deg
from ltgs.objects.backing import Model
from ltgs.objects.hypothesis import PoseHypothesis
from ltgs.objects.register import compare_turns
from ltgs.objects.sides import Sighting, seen_sides, unseen
from ltgs.render import render

RADIUS = 0.15


def wall_of_cylinder(count: int = 1500) -> Gaussians:
    rng = np.random.default_rng(1)
    angle = rng.uniform(0, 2 * np.pi, count)
    return blobs(rng, np.stack([RADIUS * np.cos(angle), RADIUS * np.sin(angle), rng.uniform(-0.15, 0.15, count)], 1), 0.02)


def camera(angle: float, *, up: float = 0.4) -> Camera:
    """A camera beside the cylinder; angle 0 stands at -y."""
    center = np.array([1.5 * np.sin(angle), -1.5 * np.cos(angle), up])
    return Camera("p.png", 0, 96, 96, np.array([[200.0, 0, 48], [0, 200.0, 48], [0, 0, 1]]), look_at(center, np.zeros(3)))


def share_unseen(thing: Gaussians, sides: torch.Tensor, shot: Camera) -> float:
    """How much of an object's picture is of sides that no photo has seen."""
    with torch.no_grad():
        out = render(thing, stack_cameras([shot]), features=sides, with_depth=False)
    towards = torch.as_tensor(shot.center / np.linalg.norm(shot.center), dtype=torch.float32)[None]
    return float(unseen(out.feature_image(), out.alpha, towards).sum() / out.alpha.sum())


def test_photos_from_one_side_leave_the_other_side_unseen() -> None:
    thing = wall_of_cylinder()
    sides = seen_sides(thing, [Sighting(camera(a), np.eye(4)) for a in (-0.6, -0.2, 0.2, 0.6)])
    assert sides is not None and sides.shape == (len(thing), 4)
    shares = [share_unseen(thing, sides, camera(a)) for a in (0.0, 0.9, np.pi / 2, np.pi)]
    assert shares[0] < 0.1 and shares[1] < 0.3 and shares[3] > 0.9, shares
    assert shares == sorted(shares), "the further round, the more of it is unseen"


def test_an_object_seen_from_all_around_has_no_unseen_side() -> None:
    thing = wall_of_cylinder()
    sides = seen_sides(thing, [Sighting(camera(a), np.eye(4)) for a in np.linspace(0, 2 * np.pi, 8, endpoint=False)])
    assert sides is not None
    assert max(share_unseen(thing, sides, camera(a)) for a in (0.3, 1.9, 3.5, 5.0)) < 0.1


def test_sides_belong_to_the_object_and_not_to_the_place() -> None:
    thing = wall_of_cylinder()
    turned = make_rigid(axis_rotations(UP, 4)[2], np.zeros(3))
    sides = seen_sides(thing, [Sighting(camera(a), turned) for a in (-0.5, 0.0, 0.5)])
    assert sides is not None
    assert share_unseen(thing, sides, camera(0.0)) > 0.9 and share_unseen(thing, sides, camera(np.pi)) < 0.1


def test_what_stands_before_the_object_hides_it() -> None:
    thing, shot = wall_of_cylinder(), camera(0.0)
    near = np.full((96, 96), 0.5, np.float32)
    assert seen_sides(thing, [Sighting(shot, np.eye(4), near)]) is None
    left = np.where(np.arange(96) < 48, near, 0).astype(np.float32)
    sides = seen_sides(thing, [Sighting(shot, np.eye(4), left)])
    assert sides is not None
    known = sides.abs().sum(1) > 0.5
    assert known[(thing.means[:, 0] > 0.05) & (thing.means[:, 1] < -0.1)].float().mean() > 0.8
    assert not known[thing.means[:, 0] < -0.05].any()


def test_what_lies_inside_is_seen_from_nowhere() -> None:
    rng = np.random.default_rng(3)
    inside = blobs(rng, rng.uniform(-0.04, 0.04, (50, 3)), 0.01)
    thing = Gaussians.concatenate([wall_of_cylinder(4000), inside])
    sides = seen_sides(thing, [Sighting(camera(a), np.eye(4)) for a in (-0.4, 0.0, 0.4)])
    assert sides is not None
    assert sides[-50:].abs().sum(1).max() < 0.2


def cup(back: tuple[float, float, float]) -> Gaussians:
    """A white cylinder with a handle at +x; its half with positive y has another colour."""
    rng = np.random.default_rng(5)
    angle = rng.uniform(0, 2 * np.pi, 1200)
    body = np.stack([0.12 * np.cos(angle), 0.12 * np.sin(angle), rng.uniform(-0.13, 0.13, len(angle))], 1)
    handle = rng.uniform([0.12, -0.02, -0.08], [0.2, 0.02, 0.08], (250, 3))
    points = np.concatenate([body, handle])
    colours = np.where(points[:, 1:2] > 0.01, [back], [[0.9, 0.9, 0.85]])
    colours[len(body) :] = [0.2, 0.6, 0.6]
    return gaussians(points, colours, 0.02, 3.0)


def found_from_behind(model: Model) -> float:
    """By how many degrees the turn of a cup is off that two photos show from the side which no photo had seen."""
    true = make_rigid(axis_rotations(UP, 360)[200], np.array([0.05, 0.0, 0.0]))
    placed = cup((0.9, 0.9, 0.85)).transformed(torch.as_tensor(true, dtype=torch.float32))
    shots = views(placed)
    new = content(placed, shots)
    wrong = true.copy()
    wrong[:3, :3] = axis_rotations(UP, 8)[3] @ true[:3, :3]
    start = PoseHypothesis(wrong, 0.05, 0.2, np.eye(6), False, ((wrong, 0.05),))
    found = compare_turns(model, shots, new, start, up=UP, config=replace(CHEAP, num_turned=3))
    return rotation_angle_deg(found.world_from_object[:3, :3].T @ true[:3, :3])


def test_the_back_that_nobody_saw_does_not_speak_against_the_right_turn() -> None:
    template = cup((0.35, 0.15, 0.1))
    sides = seen_sides(template, [Sighting(camera(a), np.eye(4)) for a in (-0.7, -0.3, 0.3, 0.7)])
    assert found_from_behind(Model(template)) > 90
    assert found_from_behind(Model(template, sides=sides)) < 15


def test_nothing_is_excused_where_the_known_scene_fits_the_photo() -> None:
    """A handle drawn over the wall as the photo shows it is wrong whether anybody has seen that side of it or not."""
    sides = torch.zeros(1450, 4)
    sides[1200:, 3] = 1.0  # only the handle was seen
    model = Model(cup((0.35, 0.15, 0.1)), sides=sides)
    assert found_from_behind(model) < 20, "the outline alone tells the turn"


def test_a_match_says_how_much_of_it_nobody_had_seen() -> None:
    thing = cup((0.9, 0.9, 0.85))
    shots = views(thing)
    start = PoseHypothesis(np.eye(4), 0.05, 0.2, np.eye(6), False, ((np.eye(4), 0.05),))
    shares = [
        compare_turns(Model(thing, sides=sides), shots, content(thing, shots), start, up=UP, config=CHEAP).unseen
        for sides in (None, torch.zeros(1450, 4), torch.tensor([[0.0, 0, 0, 1]]).repeat(1450, 1))
    ]
    assert shares[0] == 0 and shares[1] > 0.99 and shares[2] < 0.01
