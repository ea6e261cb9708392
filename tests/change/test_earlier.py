"""Photos of the first visit as witnesses: a wrong render is excused, a new object is not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ltgs.change.earlier import EarlierConfig, EarlierPhoto, cap_cues, nearest_cameras, witness
from ltgs.change.harmonise import ColourFit
from ltgs.core.cameras import Camera

SIZE, DEPTH, FOCAL = 96, 2.0, 90.0


def camera(shift: float = 0.0, angle_deg: float = 0.0) -> Camera:
    pose = np.eye(4)
    turn = np.deg2rad(angle_deg)
    pose[:3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    pose[0, 3] = -shift
    return Camera("a.jpg", 0, SIZE, SIZE, np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]]), pose)


def wall(shift: float) -> np.ndarray:
    """[H, W, 3] a textured wall at `DEPTH` seen by a camera moved sideways."""
    noise = np.random.default_rng(3).random((40, 80, 3)).astype(np.float32)
    texture = cv2.resize(noise, (SIZE * 2, SIZE), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    offset = shift * FOCAL / DEPTH + SIZE / 2
    matrix = np.array([[1, 0, offset], [0, 1, 0]], np.float32)
    return cv2.warpAffine(texture, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def identity_fit() -> ColourFit:
    return ColourFit(np.eye(3, 4), np.ones((SIZE, SIZE, 3), np.float32), 0.01)


def ask(photo: np.ndarray, earlier_depth: float = DEPTH) -> np.ndarray:
    depth = np.full((SIZE, SIZE), DEPTH, np.float32)
    other = EarlierPhoto(camera(0.2), wall(0.2), np.full((SIZE, SIZE), earlier_depth, np.float32))
    seen = witness(camera(), photo, depth, np.ones_like(depth), identity_fit(), [other], where=np.ones_like(depth, bool))
    return seen.cues


def test_an_unchanged_wall_is_recognised_and_a_new_object_is_not() -> None:
    photo = wall(0.0)
    photo[30:60, 30:60] = [0.9, 0.1, 0.1]
    cues = ask(photo)
    seen = np.isfinite(cues[..., 0])
    assert seen.mean() > 0.8
    unchanged = seen.copy()
    unchanged[20:70, 20:70] = False
    assert cues[unchanged].mean(0) == pytest.approx([0, 0], abs=0.05)
    assert cues[38:52, 38:52, 1].mean() > 0.5


def test_a_place_hidden_from_the_earlier_photo_has_no_witness() -> None:
    assert not np.isfinite(ask(wall(0.0), earlier_depth=DEPTH / 2)).any()


def test_cues_are_capped_only_on_the_surface_that_was_compared() -> None:
    depth = np.full((4, 4), 2.0, np.float32)
    seen = type("W", (), {"cues": np.full((4, 4, 2), 0.05, np.float32), "depth": depth.copy()})()
    depth[0] = 3.0
    seen.cues[3] = 0.5
    capped = cap_cues(np.full((4, 4, 2), 0.7, np.float32), depth, seen, EarlierConfig())
    assert capped[[0, 3]] == pytest.approx(0.7) and capped[1:3] == pytest.approx(0.05)


def test_the_nearest_cameras_that_look_the_same_way_are_asked() -> None:
    cameras = [camera(3.0), camera(0.1), camera(0.05, 170), camera(0.5, 20)]
    assert nearest_cameras(camera(), cameras, EarlierConfig(photos=2)) == [1, 3]
    assert nearest_cameras(camera(), [], EarlierConfig()) == []
