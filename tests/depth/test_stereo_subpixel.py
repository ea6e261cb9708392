"""Matches are exact to a fraction of a pixel, whatever the light."""

from __future__ import annotations

import numpy as np
import pytest
from stereo_scenes import pair_from_disparity

from ltgs.depth.pictures import grey8
from ltgs.depth.sgm import match_both_ways
from ltgs.depth.subpixel import refine_matches
from ltgs.depth.types import DisparityRange

INNER = (slice(8, -8), slice(30, -30))


@pytest.mark.parametrize("shift", [6.0, 6.25, 6.5, 6.8])
@pytest.mark.parametrize("gain, offset", [(1.0, 0.0), (0.7, 15.0)])
def test_fractions_are_found(shift: float, gain: float, offset: float) -> None:
    truth = np.full((60, 150), shift, np.float32)
    left, right = (grey8(p) for p in pair_from_disparity(truth))
    right = np.rint(gain * right + offset).astype(np.uint8)
    found = match_both_ways(left, right, DisparityRange(0, 16))
    fine = refine_matches(left, right, np.nan_to_num(found.left, nan=6.0), found.consistent)
    kept = found.consistent[INNER]
    error, coarse = (float(np.median(np.abs(d[INNER] - shift)[kept])) for d in (fine, found.left))
    assert error < (0.15 if shift == 6.5 else 0.04), "halfway, linear interpolation blurs most and the last tenth takes more rounds"
    assert error < max(0.04, 0.7 * coarse)


def test_unmatched_pixels_and_blank_photos_stay() -> None:
    truth = np.full((40, 100), 5.3, np.float32)
    left, right = (grey8(p) for p in pair_from_disparity(truth))
    start = np.full_like(truth, 5.0)
    valid = np.zeros(truth.shape, bool)
    valid[:, 50:] = True
    moved = refine_matches(left, right, start, valid)
    assert (moved[:, :50] == 5).all() and np.abs(moved[5:-5, 60:-10] - 5.3).mean() < 0.05
    blank = np.full((40, 100), 90, np.uint8)
    assert np.array_equal(refine_matches(blank, blank, start, valid), start)


def test_moves_are_bounded() -> None:
    truth = np.full((40, 100), 7.0, np.float32)
    left, right = (grey8(p) for p in pair_from_disparity(truth))
    start = np.full_like(truth, 5.5)
    assert np.abs(refine_matches(left, right, start, np.ones(truth.shape, bool)) - start).max() <= 0.5
