"""Real photographs, if the development data is there (environment variable LTGS_DATA or ../shared/data beside the checkout)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ltgs.data.photo_folder import read_captures
from ltgs.io.images import photo_sha256, read_photo
from ltgs.poses.align import pose_errors
from ltgs.poses.features import PhotoInput
from ltgs.poses.localize import localize_photos
from ltgs.poses.sfm import reconstruct_poses

from .place import epfl_truth

DATA = Path(os.environ.get("LTGS_DATA", Path(__file__).parents[3] / "shared" / "data")) / "photos"
pytestmark = pytest.mark.slow


def inputs(name: str) -> list[PhotoInput]:
    if not (DATA / name / "images").is_dir():
        pytest.skip(f"no development photos at {DATA / name}")
    out = []
    for frame in read_captures(DATA / name / "images").captures[0].frames:
        pixels = read_photo(frame.path)
        height, width = pixels.rgb.shape[:2]
        exif = pixels.exif
        out.append(PhotoInput(frame.name, frame.path, photo_sha256(frame.path), width, height, exif.focal_px, exif.make_model))
    return out


def test_photos_of_another_place_are_not_placed(tmp_path) -> None:
    photos, foreign = inputs("ET"), inputs("kermit")[:3]
    result = reconstruct_poses(photos, tmp_path)
    assert len(result.posed) == 9
    found = localize_photos(result.map, [*foreign, photos[4]])
    assert all(f.posed is None and "another place" in f.localization.reason for f in found[:3])
    assert found[3].posed is not None


def test_camera_positions_within_a_thousandth_of_the_laser_scan(tmp_path) -> None:
    result = reconstruct_poses(inputs("epfl_fountain-P11"), tmp_path)
    truth = epfl_truth(DATA / "epfl_fountain-P11" / "gt_dense_cameras")
    errors = pose_errors({n: p.cam_from_world for n, p in result.posed.items()}, truth).summary()
    assert errors["photos"] == 11 and errors["center_percent_mean"] < 0.1


def test_a_walk_straight_ahead_down_a_street(tmp_path) -> None:
    """COLMAP's default rules find no pair to start from; the lenient mapping poses most of the walk."""
    result = reconstruct_poses(inputs("opensfm_lund"), tmp_path)
    assert len(result.posed) >= 20 and result.figures["attempts"] >= 2
    assert set(result.posed) | set(result.failures) == {p.name for p in inputs("opensfm_lund")}
    assert all(result.failures.values())
