from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ltgs.core.progress import ProgressEvent
from ltgs.errors import InputError
from ltgs.io.posed import PosedPhoto
from ltgs.poses.align import pose_errors
from ltgs.poses.features import PhotoInput
from ltgs.poses.gauge import MEDIAN_DEPTH
from ltgs.poses.mapping import wild_camera
from ltgs.poses.sfm import reconstruct_poses, triangulate_given

from .conftest import SMALL, FirstVisit
from .place import Place, look_at, shoot


def poses_of(result) -> dict[str, np.ndarray]:
    return {name: p.cam_from_world for name, p in result.posed.items()}


def test_a_visit_is_posed(first_visit: FirstVisit) -> None:
    result = first_visit.result
    assert list(result.posed) == [p.name for p in first_visit.photos] and not result.failures
    errors = pose_errors(poses_of(result), first_visit.truth).summary()
    # Measured .06 % and .03 degrees with 800 keypoints at 320x240.
    assert errors["center_percent_max"] < 0.4 and errors["relative_rotation_deg_max"] < 0.15
    focal, cx, cy, k1 = result.posed["t0/p00.png"].params
    # Measured 305 and -.109 with 800 keypoints, 299 and -.103 with 4096: focal length and depth trade against each other.
    assert abs(focal - 300) < 8 and (cx, cy) == (160, 120) and abs(k1 + 0.1) < 0.02
    assert len(result.points) > 300 and result.figures["mean_reprojection_error_px"] < 0.5
    assert len({(p.model, p.params) for p in result.posed.values()}) == 1, "photos of one camera share their intrinsics"


def test_points_lie_on_the_walls_and_carry_their_colour(first_visit: FirstVisit) -> None:
    from ltgs.poses.align import align_cameras

    result = first_visit.result
    truth = align_cameras(poses_of(result), first_visit.truth).points(result.points.xyz)
    off_wall = np.abs(truth).min(axis=1)
    # Measured .045 units for every point, which is the focal length's error seen from 4 units.
    assert np.median(off_wall) < 0.08 and np.mean(np.abs(off_wall - np.median(off_wall)) < 0.05) > 0.95
    assert result.points.rgb.std() > 20 and result.points.rgb.shape == (len(result.points), 3)


def test_the_world_is_upright_centred_and_of_known_size(first_visit: FirstVisit) -> None:
    result = first_visit.result
    depths = []
    for i, photo in enumerate(result.map.photos):
        pose = photo.posed.cam_from_world
        rows = result.map.rows(i)
        depths.append(result.map.xyz[result.map.point[rows]] @ pose[2, :3] + pose[2, 3])
        # Truth is z up and cameras were level: their x axes must stay horizontal.
        assert abs(pose[0, 2]) < 0.02 and pose[1, 2] < -0.5
    assert np.median(np.concatenate(depths)) == pytest.approx(MEDIAN_DEPTH, rel=1e-6)
    assert np.allclose(np.median(result.points.xyz, axis=0), 0, atol=1e-6)


def test_map_observations_reproject(first_visit: FirstVisit) -> None:
    base = first_visit.result.map
    import pycolmap

    for i, photo in enumerate(base.photos):
        rows = base.rows(i)
        pose = photo.posed.cam_from_world
        local = base.xyz[base.point[rows]] @ pose[:3, :3].T + pose[:3, 3]
        camera = pycolmap.Camera(
            model=photo.posed.model, width=photo.posed.width, height=photo.posed.height, params=list(photo.posed.params)
        )
        error = np.linalg.norm(camera.img_from_cam(local) - base.xy[rows], axis=1)
        assert np.median(error) < 0.3 and error.max() < 4.5


def test_a_repeated_run_gives_the_same_result_and_reads_its_caches(first_visit: FirstVisit) -> None:
    before = {p: p.stat().st_mtime_ns for p in first_visit.workdir.rglob("*.npz")}
    assert len(before) >= 13
    again = reconstruct_poses(first_visit.photos, first_visit.workdir, config=SMALL)
    assert before == {p: p.stat().st_mtime_ns for p in first_visit.workdir.rglob("*.npz")}, "nothing is computed twice"
    for name, posed in first_visit.result.posed.items():
        assert np.array_equal(posed.cam_from_world, again.posed[name].cam_from_world)
    assert np.array_equal(first_visit.result.points.xyz, again.points.xyz)


def test_damaged_caches_are_made_again(first_visit: FirstVisit, tmp_path) -> None:
    import shutil

    work = tmp_path / "work"
    shutil.copytree(first_visit.workdir, work)
    caches = sorted(work.rglob("*.npz"))
    for i, path in enumerate(caches[:6]):
        data = path.read_bytes()
        path.write_bytes([b"", data[: len(data) // 2], b"not a zip file"][i % 3])
    for database in work.rglob("database.db"):
        database.write_bytes(b"garbage")
    again = reconstruct_poses(first_visit.photos, work, config=SMALL)
    assert np.array_equal(again.points.xyz, first_visit.result.points.xyz)


def test_a_foreign_and_a_blank_photo_are_left_out_with_reasons(first_visit: FirstVisit, tmp_path) -> None:
    import cv2

    from ltgs.io.images import photo_sha256

    foreign, _ = shoot(Place(seed=3), tmp_path / "t0", [look_at((3, 3, 1.6))], prefix="foreign")
    paths = {"blank": np.full((240, 320, 3), 90, np.uint8)}
    extra = list(foreign)
    for label, image in paths.items():
        path = tmp_path / f"{label}.png"
        cv2.imwrite(str(path), image)
        extra.append(PhotoInput(f"t0/{label}.png", path, photo_sha256(path), 320, 240, 300.0, "Test Camera"))
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    extra.append(PhotoInput("t0/empty.jpg", empty, "0" * 64, 320, 240))
    result = reconstruct_poses([*first_visit.photos, *extra], tmp_path / "work", config=SMALL)
    assert list(result.posed) == [p.name for p in first_visit.photos]
    assert "no overlap" in result.failures["t0/foreign00.png"]
    assert "keypoints" in result.failures["t0/blank.png"]
    assert "empty" in result.failures["t0/empty.jpg"]
    errors = pose_errors(poses_of(result), poses_of(first_visit.result)).summary()
    assert errors["center_percent_max"] < 0.2, "the other photos are posed as before"


def test_turning_on_the_spot_is_refused(tmp_path) -> None:
    center = (3.0, 3.0, 1.6)
    turns = [look_at(center, (3 - np.cos(a), 3 - np.sin(a), 1.4)) for a in np.linspace(0.5, 1.1, 5)]
    photos, _ = shoot(Place(), tmp_path / "t0", turns)
    with pytest.raises(InputError, match=r"(?s)(hardly moved|parallax).*(sideways|different)"):
        reconstruct_poses(photos, tmp_path / "work", config=SMALL)


def test_too_few_photos_are_refused_with_advice(first_visit: FirstVisit, tmp_path) -> None:
    with pytest.raises(InputError, match="at least 3"):
        reconstruct_poses(first_visit.photos[:1], tmp_path, config=SMALL)
    with pytest.raises(InputError, match="0 of 0 photos"):
        reconstruct_poses([], tmp_path, config=SMALL)


def test_equal_names_are_a_programming_error(first_visit: FirstVisit, tmp_path) -> None:
    with pytest.raises(ValueError, match="unique"):
        reconstruct_poses([first_visit.photos[0]] * 2, tmp_path, config=SMALL)


def test_large_photos_are_posed_in_their_own_pixels(first_visit: FirstVisit, tmp_path) -> None:
    """Detection at a third of the size must give cameras of the full size."""
    small = replace(SMALL, features=replace(SMALL.features, max_long_side=200))
    result = reconstruct_poses(first_visit.photos, tmp_path, config=small)
    posed = result.posed["t0/p00.png"]
    assert (posed.width, posed.height) == (320, 240) and posed.params[1:3] == pytest.approx((160, 120), abs=1e-9)
    assert abs(posed.params[0] - 300) < 8
    assert pose_errors(poses_of(result), first_visit.truth).summary()["center_percent_max"] < 1.5


def given_cameras(first_visit: FirstVisit) -> dict[str, PosedPhoto]:
    params = (300.0, 300.0, 160.0, 120.0, -0.1, 0.0, 0.0, 0.0)
    return {n: PosedPhoto(n, 320, 240, "OPENCV", params, pose) for n, pose in first_visit.truth.items()}


def test_given_cameras_are_kept_bit_for_bit(first_visit: FirstVisit, tmp_path) -> None:
    given = given_cameras(first_visit)
    missing = first_visit.photos[3].name
    partial = {n: p for n, p in given.items() if n != missing}
    events: list[ProgressEvent] = []
    result = triangulate_given(first_visit.photos, partial, tmp_path, config=SMALL, progress=events.append)
    assert list(result.failures) == [missing] and "no pose" in result.failures[missing]
    for name, posed in result.posed.items():
        assert np.array_equal(posed.cam_from_world, first_visit.truth[name]) and posed.params == given[name].params
    assert len(result.points) > 200
    off_wall = np.abs(result.points.xyz).min(axis=1)
    assert np.median(off_wall) < 0.005, "points are in the given world"
    assert events and all(e.stage == "poses" for e in events)


def test_wrong_given_cameras_are_refused(first_visit: FirstVisit, tmp_path) -> None:
    given = given_cameras(first_visit)
    inverted = {n: replace(p, cam_from_world=np.linalg.inv(p.cam_from_world)) for n, p in given.items()}
    with pytest.raises(InputError, match="cam_from_world versus world_from_cam"):
        triangulate_given(first_visit.photos, inverted, tmp_path, config=SMALL)
    with pytest.raises(InputError, match="no pose for this photo"):
        triangulate_given(first_visit.photos, {}, tmp_path, config=SMALL)
    halved = {n: replace(p, width=160, height=120) for n, p in given.items()}
    with pytest.raises(InputError, match="160x120"):
        triangulate_given(first_visit.photos, halved, tmp_path, config=SMALL)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ((50.0, 160, 120, 0.0), "focal"), ((2000.0, 160, 120, 0.0), "focal"),
        ((300.0, 160, 120, 1.6), "distortion"), ((300.0, 160, 120, -0.3), ""),
    ],
)
def test_impossible_lenses_are_named(params, words) -> None:
    reason = wild_camera(PosedPhoto("a", 320, 240, "SIMPLE_RADIAL", tuple(map(float, params)), np.eye(4)))
    assert (words in reason) if words else reason == ""


def test_walking_straight_ahead_is_posed(tmp_path) -> None:
    start, forward = np.array([5.2, 4.6, 1.7]), np.array([-0.75, -0.62, -0.02])
    walk = [look_at(tuple(start + i * 0.33 * forward), tuple(start + 20 * forward)) for i in range(8)]
    photos, _ = shoot(Place(), tmp_path / "t0", walk, focal=260.0, focal_prior=260.0)
    result = reconstruct_poses(photos, tmp_path / "work", config=SMALL)
    assert len(result.posed) == 8
    moved = np.array([-p.cam_from_world[:3, :3].T @ p.cam_from_world[:3, 3] for p in result.posed.values()])
    steps = np.linalg.norm(np.diff(moved, axis=0), axis=1)
    assert steps.std() / steps.mean() < 0.1, "equal steps stay equal"
    view = result.posed[photos[0].name].cam_from_world[2, :3]
    assert (moved[-1] - moved[0]) @ view / np.linalg.norm(moved[-1] - moved[0]) > 0.99


@pytest.mark.parametrize("at", [2, 5, 7, 9])
def test_an_interrupted_run_continues(first_visit: FirstVisit, tmp_path, at: int) -> None:
    class Stopped(Exception):
        pass

    seen = []

    def stop(event: ProgressEvent) -> None:
        seen.append(event)
        if len(seen) == at:
            raise Stopped

    photos = first_visit.photos[:4]
    with pytest.raises(Stopped):
        reconstruct_poses(photos, tmp_path, config=SMALL, progress=stop)
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.npz")}
    result = reconstruct_poses(photos, tmp_path, config=SMALL)
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items()) and kept
    whole = reconstruct_poses(photos, tmp_path / "other", config=SMALL)
    for name, posed in whole.posed.items():
        assert np.array_equal(posed.cam_from_world, result.posed[name].cam_from_world)


def test_a_photo_whose_size_changed_is_named(first_visit: FirstVisit, tmp_path) -> None:
    photos = [replace(first_visit.photos[0], width=240, height=320), *first_visit.photos[1:]]
    result = reconstruct_poses(photos, tmp_path, config=SMALL)
    assert "240x320" in result.failures[photos[0].name] and len(result.posed) == 6
