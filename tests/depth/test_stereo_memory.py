"""Large photos are worked on in strips: what is held at a time grows with the results and not with the work on them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from stereo_scenes import box_scene, pair_from_disparity

from ltgs.depth.fuse import match_stereo
from ltgs.depth.simulate import distorted_truth
from ltgs.depth.types import DisparityRange

RESULT_BYTES = 16 + 19
"""Per pixel: both grey photos, prior and mask, matches of both views; then the maps of the result, with a prior."""


def peak_bytes(height: int, width: int = 400) -> int:
    """Most memory that numpy held while a pair was matched with a prior, without the pair itself."""
    truth, _ = box_scene(height, width)
    left, right = pair_from_disparity(truth, seed=5)
    prior = distorted_truth(truth, seed=1)
    tracemalloc.start()
    try:
        result = match_stereo(left, right, prior=prior, disparity_range=DisparityRange(0, 32), check=False)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        assert np.isfinite(result.disparity).all()


def test_memory_grows_with_the_result_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # As for large photos: the registration's grid is small against the photo.
    monkeypatch.setattr("ltgs.depth.fuse.GRID_SIDE", 50)
    pixels = 400 * 400
    whole = (peak_bytes(800) - peak_bytes(400)) / pixels
    monkeypatch.setattr("ltgs.depth.fuse.STRIP_PIXELS", 100 * 400)
    strips = (peak_bytes(800) - peak_bytes(400)) / pixels
    assert strips < 1.1 * RESULT_BYTES and whole > 1.5 * strips, (strips, whole)
