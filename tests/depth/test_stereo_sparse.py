"""Sparse points as a prior: planes between neighbours, nothing across surfaces, hidden points left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from posed_scenes import WALL, camera, look

from ltgs import cli_depth
from ltgs.depth.fuse import match_stereo
from ltgs.depth.sparse import sparse_prior
from ltgs.errors import InputError, UsageError

CAMERA = camera((0.1, -0.1, 0.0))
PHOTO, DEPTH, BOARD = look(CAMERA)


def points(count: int = 600, depth: np.ndarray = DEPTH, seed: int = 0) -> np.ndarray:
    """[P, 3] surface points at random pixels."""
    rng = np.random.default_rng(seed)
    pick = rng.choice(depth.size, count, replace=False)
    return CAMERA.surface(depth).reshape(-1, 3)[pick]


def test_planes_between_points_are_exact_and_edges_unknown() -> None:
    values, known = sparse_prior(points(), CAMERA)
    error = np.abs(values * DEPTH - 1)
    assert known.mean() > 0.6 and np.median(error[known]) < 1e-5 and (values[~known] == 0).all()
    # Triangles across the outline mix board and wall; they are left out.
    assert np.quantile(error[known], 0.97) < 0.02


def test_hidden_and_outside_points_do_no_harm() -> None:
    hidden = points(60, np.where(BOARD, WALL * 1.4, DEPTH).astype(np.float32), seed=2)
    behind_camera = np.array([[0, 0, -5.0], [90, 0, 1.0]])
    values, known = sparse_prior(np.concatenate([points(), hidden, behind_camera, points()]), CAMERA)
    assert np.quantile(np.abs(values * DEPTH - 1)[known], 0.95) < 0.03


def test_too_few_points() -> None:
    with pytest.raises(InputError, match="only 5 known points"):
        sparse_prior(points(5), CAMERA)


def test_helps_matching_where_the_right_camera_does_not_look() -> None:
    """The left band of a slanted wall lies outside of the right photo: planes between points continue it, filling does not."""
    camera_left = camera((0.1, -0.1, 0.0), (2.2, 0, 3.5))
    pose = camera_left.cam_from_world.copy()
    pose[:3, 3] = -pose[:3, :3] @ (camera_left.center + pose[0, :3] * 0.6)
    (photo, depth, _), (other, _, _) = look(camera_left), look(type(CAMERA)("r", 0, CAMERA.width, CAMERA.height, CAMERA.K, pose))
    truth = CAMERA.K[0, 0] * 0.6 / depth
    pick = np.random.default_rng(0).choice(depth.size, 600, replace=False)
    values, known = sparse_prior(camera_left.surface(depth).reshape(-1, 3)[pick], camera_left)
    search = int(truth.min()) - 4, int(truth.max()) + 4
    with_prior = match_stereo(photo, other, prior=values, prior_valid=known, disparity_range=search, check=False)
    without = match_stereo(photo, other, disparity_range=search, check=False)
    band = np.zeros_like(known)
    band[:, : int(truth.min()) - 2] = True
    better, worse = (np.abs(r.disparity - truth)[band & known].mean() for r in (with_prior, without))
    assert band[known].sum() > 500 and better < 0.5 * worse and better < 0.3


def test_points_of_a_scene(tiny_capture, tiny_scene: Path) -> None:
    name = "2024-01-05/IMG_2.png"
    values, remark = cli_depth.read_prior(f"points:{tiny_scene}", tiny_capture.photos / name, (128, 96), tiny_capture.cameras)
    rendered, _ = cli_depth.read_prior(f"render:{tiny_scene}@0", tiny_capture.photos / name, (128, 96), tiny_capture.cameras)
    both = np.isfinite(values) & np.isfinite(rendered)
    assert "sparse points" in remark and both.mean() > 0.05 and np.median(np.abs(values / rendered - 1)[both]) < 0.1
    with pytest.raises(UsageError, match="--cameras"):
        cli_depth.read_prior(f"points:{tiny_scene}", tiny_capture.photos / name, (128, 96), None)
