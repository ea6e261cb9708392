"""Stereo between the photos of a first visit: right depths, points on the surfaces, and what training gets of them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "depth"))
from posed_scenes import camera, look

from ltgs.core.progress import silent
from ltgs.optim.initialize import TrainingPhoto
from ltgs.pipeline import stages
from ltgs.pipeline.config import load_config
from ltgs.pipeline.first_stereo import FirstStereo, measure_first_visit
from ltgs.pipeline.interrupt import StopSignal
from ltgs.poses.mapping import SparsePoints

CAMERAS = [camera((x, y, 0), name=f"{x}.jpg") for x, y in ((-0.5, 0), (0, 0.1), (0.5, -0.1))]
LOOKS = [look(c) for c in CAMERAS]
PHOTOS = [TrainingPhoto(c, shown[0]) for c, shown in zip(CAMERAS, LOOKS, strict=True)]


def sparse_points() -> np.ndarray:
    rng = np.random.default_rng(0)
    pick = rng.choice(CAMERAS[1].width * CAMERAS[1].height, 150, replace=False)
    return CAMERAS[1].surface(LOOKS[1][1]).reshape(-1, 3)[pick]


@pytest.fixture(scope="module")
def found() -> FirstStereo:
    return measure_first_visit(PHOTOS, sparse_points())


def test_depths_are_right_and_most_pixels_have_one(found: FirstStereo) -> None:
    assert found.pairs >= 3 and not found.refused
    for view, certainty, (_, truth, _) in zip(found.views, found.certainty, LOOKS, strict=True):
        known = np.isfinite(view.depth)
        assert known.mean() > 0.5 and np.array_equal(known, certainty > 0) and np.isfinite(view.sigma[known]).all()
        error = np.abs(view.depth[known] / truth[known] - 1)
        assert np.median(error) < 0.005 and (error > 0.05).mean() < 0.03


def test_points_lie_on_the_surfaces_and_guides_repeat_the_depths(found: FirstStereo) -> None:
    xyz, rgb = found.points(PHOTOS, 2, 500, np.random.default_rng(0))
    assert xyz.shape == rgb.shape == (500, 3) and 0 <= rgb.min() <= rgb.max() <= 1
    assert (np.minimum(np.abs(xyz[:, 2] - 3), np.abs(xyz[:, 2] - 4)) < 0.08).mean() > 0.95
    guided = found.guided(PHOTOS)
    for photo, view in zip(guided, found.views, strict=True):
        assert photo.guide is not None
        known = np.isfinite(view.depth)
        np.testing.assert_allclose(photo.guide.inverse[known], 1 / view.depth[known], rtol=1e-6)


def test_photos_without_partner_or_points_measure_nothing() -> None:
    alone = measure_first_visit(PHOTOS[:1], sparse_points())
    assert alone.pairs == 0 and alone.guided(PHOTOS[:1])[0].guide is None
    nothing = measure_first_visit(PHOTOS, np.zeros((0, 3)))
    assert nothing.pairs == 0 and nothing.points(PHOTOS, 2, 100, np.random.default_rng(0))[0].shape == (0, 3)


def test_training_gets_what_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    def train(photos: Any, xyz: Any, rgb: Any, **_: Any) -> str:
        given.update(photos=photos, xyz=xyz, rgb=rgb)
        return "trained"

    monkeypatch.setattr(stages, "train_together", train)
    sparse = sparse_points()
    points = SparsePoints(sparse, np.full(sparse.shape, 100, np.uint8), np.zeros(len(sparse)), np.full(len(sparse), 2))
    result: Any = SimpleNamespace(points=points)
    for settings, more, guided in (
        ({}, 0, False), ({"first_stereo.points": True}, 450, False), ({"train.depth_weight": 0.1}, 0, True),
    ):
        config = load_config("cpu_small", overrides={"train.cap": 1200, "first_stereo.points": False, **settings})
        words = config.first_stereo.words(config.train.depth_weight)
        assert ("points to start from" in words, "hold to" in words) == (more > 0, guided)
        folder = tmp_path / f"{more}{guided}"
        assert stages.train_first_visit(PHOTOS, result, folder, config, "cpu", silent, StopSignal()) == "trained"
        assert len(given["xyz"]) == len(given["rgb"]) == 150 + more
        assert all((p.guide is not None) is guided for p in given["photos"])
        np.testing.assert_array_equal(given["rgb"][:150], 100 / 255)
