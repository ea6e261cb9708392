"""Photos that are no rectified pair, or are exchanged, are refused with the way out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from stereo_scenes import box_scene, pair_from_disparity

from ltgs.depth.checks import measure_rectification, require_rectified
from ltgs.depth.fuse import match_stereo
from ltgs.depth.matches import PointMatches, find_matches
from ltgs.depth.pictures import grey8
from ltgs.errors import InputError

LEFT, RIGHT = pair_from_disparity(box_scene(200, 260)[0], seed=11)


def moved(photo: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    size = photo.shape[1::-1]
    return np.asarray(cv2.warpAffine(photo, np.array(matrix, float), size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))


@pytest.mark.parametrize("dy", [0.0, 0.4, 3.0, -7.5])
def test_vertical_offset_is_measured(dy: float) -> None:
    found = measure_rectification(find_matches(grey8(LEFT), grey8(moved(RIGHT, [[1, 0, 0], [0, 1, dy]]))), 260)
    assert found.num_matches >= 100 and found.vertical == pytest.approx(abs(dy), abs=0.1)
    assert not found.swapped


def test_unrectified_pair_is_refused() -> None:
    angle = np.radians(3)
    turn = [[np.cos(angle), -np.sin(angle), 4], [np.sin(angle), np.cos(angle), -3]]
    with pytest.raises(InputError, match=r"not a rectified pair.*Rectify them first"):
        match_stereo(LEFT, moved(RIGHT, turn))
    with pytest.raises(InputError, match="not a rectified pair"):
        match_stereo(LEFT, moved(RIGHT, [[1, 0, 0], [0, 1, 4]]), disparity_range=(0, 32))
    assert match_stereo(LEFT, moved(RIGHT, [[1, 0, 0], [0, 1, 0.3]])).valid.all()


def test_exchanged_photos_are_refused_unless_a_range_is_given() -> None:
    with pytest.raises(InputError, match="exchanged"):
        match_stereo(RIGHT, LEFT)
    assert np.median(match_stereo(RIGHT, LEFT, disparity_range=(-32, 0)).disparity) == pytest.approx(-8, abs=0.5)


def test_few_matches_say_nothing() -> None:
    points = np.zeros((10, 2), np.float32)
    found = require_rectified(PointMatches(points, points + 50), 640)
    assert found.vertical is None and not found.swapped


def test_limit_grows_with_the_photo() -> None:
    points = np.random.default_rng(0).uniform(0, 500, (100, 2)).astype(np.float32)
    matches = PointMatches(points, points - np.array([9, 2.5], np.float32))
    with pytest.raises(InputError, match=r"2\.5 pixels in height"):
        require_rectified(matches, 1000)
    assert require_rectified(matches, 4000).vertical == pytest.approx(2.5)


def test_matches_are_in_pixels_of_large_photos() -> None:
    big = [cv2.resize(p, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC) for p in (LEFT, RIGHT)]
    found = find_matches(*(grey8(np.asarray(p, np.uint8)) for p in big))
    assert len(found) > 50
    assert np.median(found.disparity) == pytest.approx(48, abs=2) and np.median(np.abs(found.vertical)) < 0.3


def test_blank_photos_have_no_matches() -> None:
    blank = np.full((60, 80), 100, np.uint8)
    assert len(find_matches(blank, blank)) == 0
