"""Measured depth in training: what counts, where the gradient points, and that it holds the depth of what colour leaves open."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from test_trainer import CONFIG

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.se3 import make_rigid
from ltgs.optim.guide import DepthGuide, GuideLoss
from ltgs.optim.initialize import TrainingPhoto
from ltgs.optim.trainer import train
from ltgs.render import render


def guide(inverse: np.ndarray) -> DepthGuide:
    return DepthGuide(inverse.astype(np.float32), np.ones(inverse.shape, np.float32))


def test_only_measured_solid_pixels_pull_and_towards_the_measured_depth() -> None:
    inverse = np.array([[0.5, 0.25, np.nan], [0.5, 0.25, 0.5]])
    measured = guide(inverse)
    measured.certainty[1, 0] = 0
    loss = GuideLoss([None, measured])
    assert not loss.guides_photo(0) and loss.guides_photo(1) and abs(loss.spread - 0.25) < 1e-6
    depth = torch.tensor([[4.0, 2.0, 3.0], [4.0, 0.0, 4.0]], requires_grad=True)
    alpha = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.2]])
    value = loss(1, depth, alpha)
    value.backward()
    assert depth.grad is not None and torch.isfinite(depth.grad).all()
    # Too far must come nearer and the other way round; the rest has no say.
    assert depth.grad[0, 0] > 0 and depth.grad[0, 1] < 0
    assert (depth.grad.flatten()[2:] == 0).all()
    # Two of six pixels are off by the spread, less half the width of the quadratic part.
    assert abs(float(value.detach()) - 2 / 6 * (1 - 0.005)) < 1e-5
    exact = torch.from_numpy(np.nan_to_num(1 / inverse, nan=9.0)).float()
    assert float(loss(1, exact, torch.ones(2, 3))) < 1e-9


def test_smaller_renders_and_photos_without_measurements() -> None:
    loss = GuideLoss([guide(np.repeat(np.repeat([[0.5, 1.0]], 4, 0), 4, 1))])
    depth = torch.tensor([[2.0, 2.0, 1.0, 1.0]] * 2)
    assert float(loss(0, depth, torch.ones(2, 4))) == 0
    assert float(GuideLoss([guide(np.full((3, 3), np.nan))])(0, torch.ones(3, 3), torch.ones(3, 3))) == 0


def test_training_follows_measured_depth_where_photos_cannot_tell() -> None:
    """A wall of one colour looks the same at any depth; the points to start from are 7 % too far."""
    rng, photos = np.random.default_rng(0), []
    for i in range(4):
        pose = make_rigid(np.eye(3), np.array([0.1 * (i - 1.5), 0, 0]))
        camera = Camera(f"{i}.png", 0, 48, 36, np.array([[45.0, 0, 24], [0, 45.0, 18], [0, 0, 1]]), pose)
        photos.append(TrainingPhoto(camera, np.full((36, 48, 3), 128, np.uint8), guide=guide(np.full((36, 48), 1 / 2.8))))
    points = rng.uniform([-2, -2, 3], [2, 2, 3.1], (400, 3))
    errors = {}
    for weight in (0.0, 0.5):
        config = dataclasses.replace(CONFIG, depth_weight=weight)
        result = train(photos, points, np.full((400, 3), 0.5), extent=1.0, config=config)
        out = render(result.gaussians, stack_cameras([photos[1].camera]))
        solid = out.alpha[0, ..., 0] > 0.5
        errors[weight] = float((out.depth[0, ..., 0] - 2.8).abs()[solid].median())
    assert errors[0.5] < 0.5 * errors[0.0], errors
