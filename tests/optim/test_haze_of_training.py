"""Haze that training left between the cameras goes; content, and what nothing is known behind, stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import blobs, look_at

from ltgs.core.cameras import Camera
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import rotation_angle_deg
from ltgs.optim.haze import ClearConfig, clear_of_haze, viewpoints
from ltgs.render.lift import lift_to_gaussians

K = np.array([[140.0, 0, 80], [0, 140.0, 60], [0, 0, 1]])


def cameras() -> list[Camera]:
    """Seven in a row, all looking at a wall at y = 3."""
    return [
        Camera(f"{i}.png", 0, 160, 120, K, look_at(np.array([x, -0.5, 0.3]), np.array([0.5 * x, 3.0, 0.0])))
        for i, x in enumerate(np.linspace(-1.2, 1.2, 7))
    ]


def wall() -> Gaussians:
    rng = np.random.default_rng(0)
    x, z = np.mgrid[-3.4:3.4:90j, -2.0:2.0:54j]
    return blobs(rng, np.stack([x.ravel(), np.full(x.size, 3.0), z.ravel()], 1), 0.06)


def cloud() -> Gaussians:
    """Large faint Gaussians beside the first camera, out of every picture, right before where one might stand."""
    rng = np.random.default_rng(1)
    own = blobs(rng, np.array([-1.6, -0.2, 0.3]) + rng.normal(0, 0.02, (10, 3)), 0.05)
    return replace(own, opacity_logits=torch.zeros(10))


def seen(gaussians: Gaussians) -> tuple[torch.Tensor, torch.Tensor]:
    ones = [np.ones((120, 160, 1), np.float32) for _ in cameras()]
    sums = lift_to_gaussians(gaussians, cameras(), ones)[..., 0]
    return sums.sum(0), (sums > 0.5).sum(0).float()


def test_haze_beside_the_cameras_goes_and_the_wall_stays() -> None:
    scene = Gaussians.concatenate([wall(), cloud()])
    weight, photos = seen(scene)
    assert float(weight[-10:].max()) < 100, "the photos hardly saw it"
    clear = clear_of_haze(scene, weight, photos, cameras())
    assert float(clear[:-10].float().mean()) > 0.998 and int((~clear[-10:]).sum()) >= 8
    assert clear_of_haze(scene, weight, photos, cameras(), config=ClearConfig(reach=0.01, neighbours=0)).all(), "nobody stands there"


def test_what_many_photos_saw_and_what_hides_nothing_known_stays() -> None:
    scene = Gaussians.concatenate([wall(), cloud()])
    weight, photos = seen(scene)
    assert clear_of_haze(scene, weight, torch.full_like(photos, 4.0), cameras()).all()
    once = torch.ones_like(photos)
    assert clear_of_haze(scene, weight, once, cameras()).all(), "one of seven photos is no small share"
    assert not clear_of_haze(scene, weight, once, cameras(), config=ClearConfig(most_share=0.15)).all()
    lone = cloud()
    assert clear_of_haze(lone, torch.zeros(10), torch.zeros(10), cameras()).all()


def test_viewpoints_lie_around_cameras_and_between_neighbours() -> None:
    row = cameras()
    config = ClearConfig(neighbours=2)
    views = viewpoints(row, config)
    assert len(views) == 6 * 7 + 8 and all(v.width == 160 for v in views)
    gaps = [min(np.linalg.norm(v.center - c.center) for c in row) for v in views]
    assert max(gaps) == pytest.approx(0.4, abs=1e-6)
    between = next(v for v in views if np.allclose(v.center, (row[0].center + row[1].center) / 2))
    angles = [rotation_angle_deg(between.cam_from_world[:3, :3] @ c.cam_from_world[:3, :3].T) for c in row[:2]]
    assert angles[0] == pytest.approx(angles[1]) and sum(angles) > 1
    assert viewpoints(row[:1], config) == [] and clear_of_haze(wall(), *seen(wall()), row[:1]).all()
    assert len(viewpoints(row, replace(config, most_views=10))) <= 10
