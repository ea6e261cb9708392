"""Render-and-compare on a small object whose pose is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import make_rigid, rotation_angle_deg
from ltgs.core.views import ComparedView
from ltgs.objects.backing import Model
from ltgs.objects.crops import centred_on_masks, make_crops
from ltgs.objects.hull import HullInstance, seen_empty
from ltgs.objects.register import RegisterConfig, axis_rotations, register_template, scout_template, sweep_template
from ltgs.render import render

WIDTH, HEIGHT = 120, 90
UP = np.array([0.0, 0.0, 1.0])
EYES = [(1.6, 0.2, 1.0), (-0.5, 1.6, 1.1), (-0.6, -1.5, 0.9)]


def template() -> Gaussians:
    """An L of four colours: no symmetry."""
    rng = np.random.default_rng(2)
    long = rng.uniform([-0.2, -0.06, -0.06], [0.2, 0.06, 0.06], (500, 3))
    short = rng.uniform([0.1, 0.06, -0.06], [0.2, 0.22, 0.06], (200, 3))
    points = np.concatenate([long, short])
    colours = np.where(points[:, :1] > 0, [[0.9, 0.2, 0.1]], [[0.1, 0.3, 0.9]])
    colours[500:] = [0.1, 0.8, 0.2]
    quats = torch.zeros(len(points), 4)
    quats[:, 0] = 1
    sh = (torch.as_tensor(colours, dtype=torch.float32)[:, None] - 0.5) / 0.28209479
    return Gaussians(
        torch.as_tensor(points, dtype=torch.float32), quats, torch.full((len(points), 3), float(np.log(0.02))),
        torch.full((len(points),), 3.0), sh,
    )


def camera(eye: tuple[float, float, float]) -> Camera:
    forward = -np.asarray(eye) / np.linalg.norm(eye)
    right = np.cross(forward, UP)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    K = np.array([[110.0, 0, WIDTH / 2], [0, 110.0, HEIGHT / 2], [0, 0, 1]])
    return Camera("v.png", 1, WIDTH, HEIGHT, K, make_rigid(rotation, -rotation @ np.asarray(eye)))


def view(eye: tuple[float, float, float], pose: np.ndarray) -> ComparedView:
    """The object over a grey, fully known background."""
    cam = camera(eye)
    with torch.no_grad():
        out = render(template().transformed(torch.as_tensor(pose, dtype=torch.float32)), stack_cameras([cam]))
    alpha = out.alpha[0].numpy()
    grey = np.full((HEIGHT, WIDTH, 3), 0.5, np.float32)
    mask = alpha[..., 0] > 0.5
    ones = np.ones((HEIGHT, WIDTH), np.float32)
    return ComparedView(
        cam, out.rgb[0].numpy() + (1 - alpha) * grey, grey, np.eye(3, 4), np.ones_like(grey), ones, ones * 10,
        mask.astype(np.float32) * 2, mask, ~mask, 0.01,
    )


TRUE = make_rigid(axis_rotations(UP, 360)[140], np.array([0.1, -0.05, 0.06]))
VIEWS = [view(e, TRUE) for e in EYES]


def instance(offset: tuple[float, float, float] = (0, 0, 0)) -> HullInstance:
    points = template().means.double().numpy() @ TRUE[:3, :3].T + TRUE[:3, 3] + np.asarray(offset)
    return HullInstance(points, tuple(v.mask for v in VIEWS), len(VIEWS))


def test_the_pose_is_found_from_a_misplaced_hull() -> None:
    config = RegisterConfig(upright=24, tipped=(4, 4), free_rotations=40)
    shifted = instance((0.08, -0.05, 0.05))
    sweep = sweep_template(
        Model(template()), VIEWS, shifted, last_rotation=np.eye(3), up=UP, config=config, rng=np.random.default_rng(0)
    )
    assert sweep is not None and sweep.gain > 0.3
    scouted = scout_template(Model(template()), VIEWS, shifted, sweep, config=config)
    found = register_template(Model(template()), VIEWS, shifted, scouted, config=config)
    assert rotation_angle_deg(found.world_from_object[:3, :3].T @ TRUE[:3, :3]) < 1.0
    assert np.linalg.norm(found.world_from_object[:3, 3] - TRUE[:3, 3]) < 0.005
    assert found.gain > 0.9 and not found.ambiguous


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
    assert sweep_template(Model(template()), VIEWS, away, last_rotation=np.eye(3), up=UP, rng=np.random.default_rng(0)) is None


@pytest.mark.parametrize(("depth", "count"), [(10.0, 3), (0.5, 0), (0.0, 0)])
def test_a_place_is_empty_if_photos_looked_through_it(depth: float, count: int) -> None:
    depths = [np.full((HEIGHT, WIDTH), depth, np.float32)] * 3
    seen = seen_empty(np.array([[0.0, 0, 0], [0, 0, 60.0]]), [v.camera for v in VIEWS], depths)
    assert seen.tolist() == [count, 0]
