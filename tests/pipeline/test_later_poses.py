"""Poses of later photos in the line: only what the matches leave uncertain is refined against the scene as last seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import blobs, look_at
from PIL import Image

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.captures import Localization
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import make_rigid, so3_exp
from ltgs.io.images import photo_sha256
from ltgs.io.posed import PosedPhoto
from ltgs.pipeline.config import RunConfig
from ltgs.pipeline.stages import _refined, working_photo
from ltgs.poses.features import PhotoInput
from ltgs.poses.localize import LocalizedPhoto
from ltgs.poses.photometric import PhotometricConfig
from ltgs.render import render

CONFIG = RunConfig(photometric=PhotometricConfig(scale=1.0))
SURE, UNSURE = (np.diag(np.r_[np.full(3, turn), np.full(3, shift)] ** 2) for turn, shift in ((1e-5, 5e-5), (7e-3, 0.02)))


@pytest.fixture(scope="module")
def shot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Gaussians, PhotoInput, np.ndarray, PosedPhoto]:
    """A scene, a photo of it, its true pose, and what a poor localisation says."""
    rng = np.random.default_rng(3)
    a, b = rng.uniform(-2, 2, (600, 2)), rng.uniform(-2, 2, (600, 2))
    xyz = np.concatenate([np.column_stack([a, np.zeros(600)]), np.column_stack([b[:, 0], np.full(600, 2.0), b[:, 1] / 2 + 1])])
    scene = blobs(rng, xyz, 0.09)
    truth = look_at(np.array([0.9, -2.4, 1.3]), np.array([-0.3, 0.8, 0.7]))
    K = np.array([[170.0, 0, 96], [0, 170.0, 72], [0, 0, 1]])
    with torch.no_grad():
        rgb = render(scene, stack_cameras([Camera("v/a.png", 1, 192, 144, K, truth)])).rgb[0].clamp(0, 1)
    path = tmp_path_factory.mktemp("shot") / "a.png"
    Image.fromarray((rgb.numpy() * 255).round().astype(np.uint8)).save(path)
    turn = so3_exp(torch.tensor([0.004, -0.006, 0.005], dtype=torch.float64)).numpy()
    wrong = make_rigid(turn @ truth[:3, :3], truth[:3, 3] + [0.01, -0.015, 0.02])
    photo = PhotoInput("v/a.png", path, photo_sha256(path), 192, 144)
    return scene, photo, truth, PosedPhoto("v/a.png", 192, 144, "PINHOLE", (170.0, 170.0, 96.0, 72.0), wrong)


def localised(posed: PosedPhoto, covariance: np.ndarray) -> LocalizedPhoto:
    return LocalizedPhoto(Localization(posed.name, posed.cam_from_world, 20, 0.5, covariance, "known camera"), posed)


def test_an_uncertain_pose_is_refined(shot) -> None:
    scene, photo, truth, posed = shot
    out = _refined(photo, localised(posed, UNSURE), 3.0, scene, CONFIG, 1)
    assert out.posed is not None and np.abs(out.posed.cam_from_world - truth).max() < 0.2 * np.abs(posed.cam_from_world - truth).max()
    assert np.array_equal(out.posed.cam_from_world, out.localization.cam_from_world)
    assert out.localization.reason == "known camera, refined against the render"
    assert np.trace(out.localization.covariance) < np.trace(UNSURE)


def test_everything_else_stays_as_it_was(shot) -> None:
    scene, photo, _, posed = shot
    certain = localised(posed, SURE)
    assert _refined(photo, certain, 3.0, scene, CONFIG, 1) is certain
    unplaced = LocalizedPhoto(Localization("v/a.png", None, reason="another place?"), None)
    assert _refined(photo, unplaced, 3.0, scene, CONFIG, 1) is unplaced
    elsewhere = localised(replace(posed, cam_from_world=look_at(np.array([0.9, -2.4, 1.3]), np.array([2.0, -9.0, 0.7]))), UNSURE)
    assert _refined(photo, elsewhere, 3.0, scene, CONFIG, 1) is elsewhere, "a refused refinement changes nothing"




def test_a_working_photo_takes_its_sampling(shot) -> None:
    _, photo, _, posed = shot
    halved = lambda camera: replace(camera, sampling=camera.K[0, 0] / 340.0)  # noqa: E731
    camera, image = working_photo(photo.path, posed, 1, 96, halved)
    assert image.shape == (72, 96, 3) and camera.sampling == pytest.approx(0.25)
    assert working_photo(photo.path, posed, 0, 96)[0].sampling == 1.0, "the first visit's photos are what the scene is fitted to"
