"""Pose refinement against the render: a known error is recovered, a changed region does not pull, what gets worse is refused."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from helpers import blobs, look_at

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import rotation_angle_deg
from ltgs.poses.photometric import PhotometricConfig, _Fit, _moved, image_uncertainty, refine_pose
from ltgs.render import render

CONFIG = PhotometricConfig(scale=1.0)
DISTANCE = 3.0
STD = np.r_[np.full(3, np.radians(0.4)), np.full(3, 0.02)]
"""Uncertainty of the start: about a pixel of the small photo."""
OFF = np.r_[np.radians([0.25, -0.35, 0.3]), 0.012, -0.015, 0.02]


def place(seed: int) -> Gaussians:
    """Floor and two walls covered with blobs."""
    rng = np.random.default_rng(seed)
    a, b, c = (rng.uniform(-2, 2, (500, 2)) for _ in range(3))
    xyz = np.concatenate([
        np.column_stack([a, np.zeros(500)]), np.column_stack([b[:, 0], np.full(500, 2.0), b[:, 1] / 2 + 1]),
        np.column_stack([np.full(500, -2.0), c[:, 0], c[:, 1] / 2 + 1]),
    ])
    return blobs(rng, xyz, 0.09)


@pytest.fixture(scope="module")
def scene() -> Gaussians:
    return place(3)


@pytest.fixture(scope="module")
def truth() -> Camera:
    K = np.array([[170.0, 0, 96], [0, 170.0, 72], [0, 0, 1]])
    return Camera("v/a.png", 1, 192, 144, K, look_at(np.array([0.9, -2.4, 1.3]), np.array([-0.3, 0.8, 0.7])))


def photograph(gaussians: Gaussians, camera: Camera, *, noise: float = 0.01) -> np.ndarray:
    """[H, W, 3] uint8 in another light, with sensor noise."""
    with torch.no_grad():
        rgb = render(gaussians, stack_cameras([camera])).rgb[0].numpy()
    lit = rgb * np.array([0.9, 0.8, 0.7]) + np.array([0.03, 0.02, 0.05])
    lit *= 1 + 0.15 * np.linspace(-1, 1, camera.width)[None, :, None]
    return (np.clip(lit + np.random.default_rng(0).normal(0, noise, lit.shape), 0, 1) * 255).round().astype(np.uint8)


def moved(camera: Camera, change: np.ndarray) -> Camera:
    return replace(camera, cam_from_world=_moved(camera.cam_from_world, torch.as_tensor(change)).numpy())


def error(pose: np.ndarray, truth: Camera) -> float:
    """Pixels by which the picture is off: rotation and translation at the distance of the scene, compensating or not."""
    camera = replace(truth, cam_from_world=pose)
    points = np.random.default_rng(1).uniform([-2, 0, 0], [0.5, 2, 1.5], (200, 3))

    def shown(c: Camera) -> np.ndarray:
        local = (points @ c.cam_from_world[:3, :3].T + c.cam_from_world[:3, 3]) @ c.K.T
        return local[:, :2] / local[:, 2:]

    return float(np.sqrt(((shown(camera) - shown(truth)) ** 2).sum(1).mean()))


def test_a_known_error_is_recovered(scene: Gaussians, truth: Camera) -> None:
    start = moved(truth, OFF)
    found = refine_pose(scene, start, photograph(scene, truth), np.diag(STD**2), config=CONFIG)
    assert found.accepted, found.reason
    assert error(start.cam_from_world, truth) > 1.0 and error(found.cam_from_world, truth) < 0.1
    assert rotation_angle_deg(found.cam_from_world[:3, :3] @ truth.cam_from_world[:3, :3].T) < 0.1
    assert found.held_out[1] < 0.5 * found.held_out[0]
    assert np.trace(found.covariance) < 0.2 * np.sum(STD**2) and np.linalg.eigvalsh(found.covariance).min() > 0


def test_half_the_resolution_is_enough(scene: Gaussians, truth: Camera) -> None:
    found = refine_pose(scene, moved(truth, OFF), photograph(scene, truth), np.diag(STD**2))
    assert found.accepted and error(found.cam_from_world, truth) < 0.2


def test_a_changed_region_does_not_pull(scene: Gaussians, truth: Camera) -> None:
    """A sixth of the photo shows other content, and the shifted copy of a patch asks for a pose of its own."""
    photo = photograph(scene, truth)
    photo[60:110, 30:85] = cv2.GaussianBlur(np.random.default_rng(2).integers(0, 255, (50, 55, 3), dtype=np.uint8), (0, 0), 2)
    photo[20:70, 110:170] = photo[23:73, 114:174].copy()
    start = moved(truth, OFF)
    found = refine_pose(scene, start, photo, np.diag(STD**2), config=CONFIG)
    assert found.accepted and error(found.cam_from_world, truth) < 0.15, error(found.cam_from_world, truth)


def test_a_photo_of_something_else_is_refused(scene: Gaussians, truth: Camera) -> None:
    start = moved(truth, OFF)
    found = refine_pose(scene, start, photograph(place(8), truth), np.diag(STD**2), config=CONFIG)
    assert not found.accepted and np.array_equal(found.cam_from_world, start.cam_from_world)
    assert "held-out" in found.reason or "unchanged" in found.reason or "contradicts" in found.reason


def test_what_the_held_out_pixels_do_not_confirm_is_refused(scene: Gaussians, truth: Camera) -> None:
    """The fitted blocks of the photo are moved by two pixels; the others say that the start was right."""
    photo, shifted = photograph(scene, truth), photograph(scene, moved(truth, np.r_[0, 0.012, 0, 0, 0, 0]))
    fit = _Fit(scene, truth, photo, CONFIG, "auto")
    rows, columns = np.mgrid[0 : truth.height, 0 : truth.width] // round(CONFIG.block * truth.width)
    photo[(rows + columns) % 2 == 0] = shifted[(rows + columns) % 2 == 0]
    assert (fit.held_out == (fit.held_out & ((rows + columns) % 2 == 1))).all()
    found = refine_pose(scene, truth, photo, np.diag(STD**2), config=CONFIG)
    assert not found.accepted and "held-out" in found.reason
    assert np.array_equal(found.cam_from_world, truth.cam_from_world) and np.array_equal(found.covariance, np.diag(STD**2))


def test_a_correction_far_beyond_the_matches_is_refused(scene: Gaussians, truth: Camera) -> None:
    found = refine_pose(
        scene, moved(truth, OFF), photograph(scene, truth), np.diag(STD**2) / 100, config=replace(CONFIG, max_shift=1.0)
    )
    assert not found.accepted and "contradicts the matches" in found.reason


def test_exact_matches_hardly_move(scene: Gaussians, truth: Camera) -> None:
    """Where the matches are better than any render, the pixels weigh little."""
    exact = np.diag((STD / 300) ** 2)
    found = refine_pose(scene, truth, photograph(scene, truth), exact, config=CONFIG)
    assert error(found.cam_from_world, truth) < 0.01


@pytest.mark.parametrize("covariance", [np.full((6, 6), np.inf), np.zeros((6, 6))])
def test_an_undetermined_prior_is_refused(scene: Gaussians, truth: Camera, covariance: np.ndarray) -> None:
    found = refine_pose(scene, truth, photograph(scene, truth), covariance, config=CONFIG)
    assert not found.accepted and "undetermined" in found.reason


def test_an_unseen_place_is_refused(scene: Gaussians, truth: Camera) -> None:
    away = replace(truth, cam_from_world=look_at(np.array([0.9, -2.4, 1.3]), np.array([2.0, -9.0, 0.7])))
    found = refine_pose(scene, away, photograph(scene, truth), np.diag(STD**2), config=CONFIG)
    assert not found.accepted and "of the pixels" in found.reason


def test_the_gradient_is_that_of_the_loss(scene: Gaussians, truth: Camera) -> None:
    fit = _Fit(scene, moved(truth, OFF), photograph(scene, truth), CONFIG, "auto")
    look = fit.look(np.zeros(6))
    for i in range(6):
        step = np.zeros(6)
        # Large enough to average over the cut-off of contributions below 1/255, which makes the loss jump.
        step[i] = 2e-3
        slope = (fit.look(step).loss - fit.look(-step).loss) / 4e-3
        assert look.gradient[i] == pytest.approx(slope, rel=0.06)


def test_uncertainty_in_the_image(truth: Camera) -> None:
    """Against random poses drawn from the covariance; half the photo gives the same relative figure."""
    rng = np.random.default_rng(4)
    covariance = np.diag((STD / 10) ** 2)
    u, v = np.meshgrid((np.arange(8) + 0.5) / 8 * truth.width, (np.arange(6) + 0.5) / 6 * truth.height)
    local = np.stack([u.ravel(), v.ravel(), np.ones(48)], 1) @ np.linalg.inv(truth.K).T * DISTANCE
    world = (local - truth.cam_from_world[:3, 3]) @ truth.cam_from_world[:3, :3]
    shifts = []
    for draw in rng.normal(size=(300, 6)) * np.sqrt(np.diag(covariance)):
        pose = moved(truth, draw).cam_from_world
        there = (world @ pose[:3, :3].T + pose[:3, 3]) @ truth.K.T
        shifts.append(there[:, :2] / there[:, 2:] - np.stack([u.ravel(), v.ravel()], 1))
    measured = np.sqrt(np.mean(np.square(shifts))) / truth.width
    assert image_uncertainty(truth, covariance, DISTANCE) == pytest.approx(measured, rel=0.1)
    assert image_uncertainty(truth.resized(96, 72), covariance, DISTANCE) == pytest.approx(image_uncertainty(truth, covariance, DISTANCE))
    assert image_uncertainty(truth, np.full((6, 6), np.inf), DISTANCE) == np.inf
