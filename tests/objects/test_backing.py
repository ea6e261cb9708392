"""The guessed back of an object seen from one side, and what several poses that tie say about certainty."""

from __future__ import annotations

import numpy as np
import torch
from helpers import blobs, look_at

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians, template_radius
from ltgs.core.se3 import make_rigid, so3_exp
from ltgs.objects.associate import AssociateConfig, _assign
from ltgs.objects.backing import Model, with_backing
from ltgs.objects.hull import HullInstance
from ltgs.objects.hypothesis import PoseHypothesis, UncertaintyConfig, spread_of_ties, with_guessed_rotation
from ltgs.render import render

UP = np.array([0.0, 0.0, 1.0])
RADIUS = 0.2


def cylinder(low: float, high: float, count: int = 900) -> Gaussians:
    """The wall of an upright cylinder between two angles, degrees; -90 faces the cameras."""
    rng = np.random.default_rng(1)
    angle = np.deg2rad(rng.uniform(low, high, count))
    points = np.stack([RADIUS * np.cos(angle), RADIUS * np.sin(angle), rng.uniform(-0.2, 0.2, count)], 1)
    return blobs(rng, points, 0.02)


def photos(scene: Gaussians, angles: tuple[float, ...]) -> tuple[list[Camera], list[np.ndarray]]:
    cameras, depths = [], []
    for a in angles:
        center = np.array([1.5 * np.sin(a), -1.5 * np.cos(a), 0.5])
        camera = Camera("p.png", 0, 96, 96, np.array([[120.0, 0, 48], [0, 120.0, 48], [0, 0, 1]]), look_at(center, np.zeros(3)))
        with torch.no_grad():
            out = render(scene, stack_cameras([camera]))
        depths.append(np.where(out.alpha[0, ..., 0].numpy() > 0.5, out.depth[0, ..., 0].numpy(), 0).astype(np.float32))
        cameras.append(camera)
    return cameras, depths


def test_the_unseen_half_of_a_cylinder_is_guessed_and_nothing_else() -> None:
    # The cameras stand at -y: they see the half with negative y.
    front = cylinder(-180, 0)
    wall = blobs(np.random.default_rng(4), np.random.default_rng(5).uniform([-3, 2, -3], [3, 2.01, 3], (4000, 3)), 0.12)
    cameras, depths = photos(Gaussians.concatenate([front, wall]), (-0.6, -0.3, 0.0, 0.3, 0.6))
    model = with_backing(front, np.eye(4), cameras, depths, up=UP)
    assert isinstance(model, Model) and 200 < model.num_guessed <= len(front)
    guessed = model.gaussians.means[len(front) :].numpy()
    assert np.quantile(guessed[:, 1], 0.05) > -0.05 and guessed[:, 1].mean() > 0.06, "the side away from the cameras is guessed"
    # The half shell's outline shifts towards the cameras as they turn around it, so that its axis is not exact.
    assert np.abs(np.linalg.norm(guessed[:, :2], axis=1) - RADIUS).max() < 0.08, "it closes the same cylinder"
    assert torch.equal(model.seen.means, front.means) and model.radius == template_radius(front)
    assert model.known_sides is not None and int((model.known_sides == 0).all(1).sum()) == model.num_guessed, "seen from nowhere"


def test_no_back_is_guessed_where_photos_looked_through() -> None:
    # A thin slab that photos from all around have seen: its turned copy would stand in the open.
    slab = cylinder(-120, -60)
    wall = blobs(np.random.default_rng(4), np.random.default_rng(5).uniform([-4, -4, -0.3], [4, 4, -0.28], (9000, 3)), 0.1)
    cameras, depths = photos(Gaussians.concatenate([slab, wall]), (-1.2, -0.6, 0.0, 0.6, 1.2, 2.2, 3.1, 4.0))
    model = with_backing(slab, np.eye(4), cameras, depths, up=UP)
    means = model.gaussians.means[len(slab) :].numpy()
    assert model.num_guessed == 0 or np.linalg.norm(means[:, :2].mean(0) - [0.0, RADIUS]) > 0.1


def test_without_photos_that_show_it_whole_there_is_no_guess() -> None:
    front = cylinder(-180, 0)
    cameras, depths = photos(front, (0.0,))
    assert with_backing(front, np.eye(4), cameras, depths, up=UP).num_guessed == 0


def test_a_tie_between_turned_poses_widens_the_rotation_about_that_axis_only() -> None:
    best = np.eye(4)
    turned = make_rigid(so3_exp(torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)).numpy(), np.zeros(3))
    config = UncertaintyConfig()
    tie = spread_of_ties([(best, 0.05), (turned, 0.05)], RADIUS, config)
    shift = (config.guessed * RADIUS) ** 2
    np.testing.assert_allclose(np.diag(tie), [shift, shift, shift, 0, 0, 0.5 * 2.0**2], atol=1e-9)
    clear = spread_of_ties([(best, 0.05), (turned, 0.10)], RADIUS, config)
    assert clear[5, 5] < 1e-5 and clear[0, 0] < 1e-5 * shift


def test_an_object_that_shows_unseen_sides_may_be_turned_in_any_way() -> None:
    found = PoseHypothesis(np.eye(4), 0.05, 0.06, 1e-4 * np.eye(6), ambiguous=False)
    guess = np.linalg.inv(with_guessed_rotation(found, RADIUS).covariance)
    for axis in range(3, 6):
        half_turn = np.pi * np.eye(6)[axis]
        assert half_turn @ guess @ half_turn < 4
    away = RADIUS * np.eye(6)[0]
    assert away @ guess @ away > 20


def instance(*boxes: tuple[int, int]) -> HullInstance:
    mask = np.zeros((20, 20), bool)
    for low, high in boxes:
        mask[low:high, low:high] = True
    return HullInstance(np.zeros((1, 3)), (mask,), 1)


def test_two_cuts_of_one_thing_are_not_two_objects() -> None:
    instances = [instance((0, 8)), instance((0, 10)), instance((12, 18))]
    gains = np.array([[0.5, 0.6, 0.0], [0.4, 0.0, 0.3]])
    assert sorted(_assign(gains, instances, AssociateConfig())) == [(0, 1), (1, 2)]
    assert _assign(np.zeros((2, 3)), instances, AssociateConfig()) == []
