"""Captures of a stereo rig: folders, calibrations, rectification, poses and the fused cloud."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ltgs.core.cameras import Camera
from ltgs.depth.agree import DepthView, count_votes
from ltgs.depth.rig import fuse_rig, make_rectifier, metric_scale
from ltgs.errors import FormatError, InputError
from ltgs.io.cameras_json import read_cameras_json, write_cameras_json
from ltgs.io.images import decode_png, write_png
from ltgs.io.stereo_calibration import RigCalibration, read_rig_calibration
from ltgs.pipeline.rig import RigJob, find_rig_pairs, run_rig

sys.path.insert(0, str(Path(__file__).parents[1] / "depth"))
from posed_scenes import BOARD, BOARD_X, BOARD_Y, FOCAL, HEIGHT, WALL, WIDTH, look

BASELINE = 0.25
TURN = 0.03
"""Radians by which the unrectified right camera looks inwards and is rolled."""


def straight(x: float, z: float, name: str = "") -> Camera:
    """A camera that looks along the world's z axis."""
    pose = np.eye(4)
    pose[:3, 3] = -x, 0, -z
    return Camera(name, 0, WIDTH, HEIGHT, np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]), pose)


PLACES = {"f2": (-0.3, 0.0), "f10": (0.05, 0.3)}


def capture(folder: Path) -> Path:
    """Two rectified pairs with KITTI's calibration; the poses of the left photos in cameras.json."""
    for name, (x, z) in PLACES.items():
        for side, shift in (("left", 0.0), ("right", BASELINE)):
            (folder / side).mkdir(parents=True, exist_ok=True)
            write_png(folder / side / f"{name}.png", look(straight(x + shift, z))[0])
    c = f"{FOCAL} 0 {WIDTH / 2 - 0.5}"
    rows = [f"P{i}: {c} {-FOCAL * b} 0 {FOCAL} {HEIGHT / 2 - 0.5} 0 0 0 1 0" for i, b in ((2, 0.0), (3, BASELINE))]
    (folder / "calib.txt").write_text("\n".join(rows))
    write_cameras_json(folder / "poses.json", [straight(x, z, f"{n}.png") for n, (x, z) in PLACES.items()])
    return folder


def read_points(path: Path) -> np.ndarray:
    """[P, 3] of a PLY of points."""
    data = path.read_bytes()
    head, body = data.split(b"end_header\n", 1)
    count = int(head.split(b"element vertex ")[1].split()[0])
    return np.frombuffer(body, np.uint8).reshape(count, -1)[:, :12].copy().view("<f4").astype(np.float64)


def test_pairs_become_depth_and_one_cloud(tmp_path: Path) -> None:
    folder = capture(tmp_path / "rig")
    done = run_rig(RigJob(folder, tmp_path / "out", cameras=folder / "poses.json"))
    assert done.pairs == ("f2", "f10") and not done.refused and any("metres" in n for n in done.notes)
    assert decode_png((tmp_path / "out" / "f2" / "disparity.png").read_bytes(), "d").dtype == np.uint16
    xyz = read_points(tmp_path / "out" / "cloud.ply")
    assert len(xyz) == done.num_points > 2000
    to_board, to_wall = np.abs(xyz[:, 2] - BOARD), np.abs(xyz[:, 2] - WALL)
    assert np.quantile(np.minimum(to_board, to_wall), 0.9) < 0.05
    on_board = xyz[to_board < 0.05]
    low, high = np.quantile(on_board[:, :2], (0.01, 0.99), axis=0)
    assert np.allclose([low, high], np.transpose([BOARD_X, BOARD_Y]), atol=0.08)
    assert [c.name for c in read_cameras_json(tmp_path / "out" / "cameras.json")] == ["f2.png", "f10.png"]


def test_one_bad_pair_and_one_without_a_pose_are_named(tmp_path: Path) -> None:
    folder = capture(tmp_path / "rig")
    write_png(folder / "right" / "f2.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    done = run_rig(RigJob(folder, tmp_path / "out"))
    assert done.pairs == ("f10",) and "match" in done.refused["f2"] and done.num_points > 1000
    write_cameras_json(folder / "one.json", [straight(*PLACES["f10"], "f10.png")])
    folder = capture(folder)
    done = run_rig(RigJob(folder, tmp_path / "out", cameras=folder / "one.json"))
    assert done.pairs == ("f2", "f10") and "no camera" in done.refused["f2"]
    with pytest.raises(InputError, match="--cameras"):
        run_rig(RigJob(folder, tmp_path / "out"))


def test_folders_that_hold_no_rig(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="left and right"):
        find_rig_pairs(tmp_path)
    folder = capture(tmp_path / "rig")
    assert [n for n, *_ in find_rig_pairs(folder)] == ["f2", "f10"]
    (folder / "calib.txt").write_text("hello")
    with pytest.raises(FormatError, match="not a stereo calibration"):
        run_rig(RigJob(folder, tmp_path / "out"))
    (folder / "calib.txt").unlink()
    with pytest.raises(InputError, match="--calib"):
        run_rig(RigJob(folder, tmp_path / "out"))
    for name in PLACES:
        (folder / "right" / f"{name}.png").rename(folder / "right" / f"other_{name}.png")
    with pytest.raises(InputError, match="alike"):
        find_rig_pairs(folder)


def rotated() -> tuple[Camera, Camera, RigCalibration]:
    """A rig whose right camera is turned and rolled, and its calibration in OpenCV's convention."""
    left = straight(0, 0)
    turn = np.array([[np.cos(TURN), 0, np.sin(TURN)], [0, 1, 0], [-np.sin(TURN), 0, np.cos(TURN)]])
    roll = np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = roll @ turn
    pose[:3, 3] = -pose[:3, :3] @ np.array([BASELINE, 0.02, 0])
    K = left.K.copy()
    K[:2, 2] -= 0.5
    return left, replace(left, cam_from_world=pose), RigCalibration(K, np.zeros(5), K, np.zeros(5), pose[:3, :3], pose[:3, 3])


OPENCV = """%YAML:1.0
---
M1: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ {K} ]
D1: !!opencv-matrix
   data: [ 0., 0., 0., 0., 0. ]
M2: !!opencv-matrix
   data: [ {K} ]
D2: !!opencv-matrix
   data: [ 0., 0., 0., 0., 0. ]
"""


def test_lenses_and_motion_rectify_the_photos(tmp_path: Path) -> None:
    left, right, rig = rotated()
    for side, camera in (("left", left), ("right", right)):
        (tmp_path / side).mkdir()
        write_png(tmp_path / side / "a.png", look(camera)[0])
    numbers = [", ".join(f"{v!r}" for v in np.ravel(x).tolist()) for x in (rig.left, rig.rotation, rig.translation)]
    (tmp_path / "intrinsics.yml").write_text(OPENCV.format(K=numbers[0]))
    (tmp_path / "extrinsics.yml").write_text(
        f"%YAML:1.0\nR: !!opencv-matrix\n   data: [ {numbers[1]} ]\nT: !!opencv-matrix\n   data: [ {numbers[2]} ]\n"
    )
    read = read_rig_calibration([tmp_path / "intrinsics.yml", tmp_path / "extrinsics.yml"])
    assert read is not None and np.allclose(read.rotation, rig.rotation) and np.allclose(read.translation, rig.translation)
    done = run_rig(RigJob(tmp_path, tmp_path / "out"))
    assert any("were rectified" in n for n in done.notes) and any("board" in n for n in done.notes)
    xyz = read_points(tmp_path / "out" / "cloud.ply")
    # The rectified left camera is turned; the planes' distances from its centre are not.
    for level, other in ((WALL, BOARD), (BOARD, WALL)):
        near = xyz[np.abs(np.linalg.norm(xyz, axis=1) / level - 1) < 0.25 * abs(level - other)]
        normal, error = np.array([0.0, 0, 1 / level]), np.full(len(near), np.inf)
        for _ in range(5):
            error = np.abs(near @ normal - 1)
            kept = near[error <= max(0.02, float(np.quantile(error, 0.5)))]
            normal = np.linalg.lstsq(kept, np.ones(len(kept)), rcond=None)[0]
        assert 1 / np.linalg.norm(normal) == pytest.approx(level, rel=0.01) and len(kept) > 300


def test_calibrations_of_impossible_rigs(tmp_path: Path) -> None:
    _, _, rig = rotated()
    with pytest.raises(InputError, match="above"):
        make_rectifier(replace(rig, translation=np.array([0, -BASELINE, 0])), WIDTH, HEIGHT)
    with pytest.raises(InputError, match="left of the first"):
        make_rectifier(replace(rig, rotation=np.eye(3), translation=np.array([BASELINE, 0, 0])), WIDTH, HEIGHT)
    text = OPENCV.format(K="500, 0, 100, 0, 500, 100, 0, 0, 1")
    (tmp_path / "a.yml").write_text(text)
    assert read_rig_calibration([tmp_path / "a.yml"]) is None
    (tmp_path / "a.yml").write_text(text + "R:\n   data: [ 1, 0, 0, 0, 1, 0, 0, 0, 3 ]\nT:\n   data: [ -1, 0, 0 ]\n")
    with pytest.raises(FormatError, match="rotation"):
        read_rig_calibration([tmp_path / "a.yml"])


def test_votes_of_other_views() -> None:
    camera = straight(0, 0)
    flat = DepthView(camera, np.full((HEIGHT, WIDTH), 2.0, np.float32), np.full((HEIGHT, WIDTH), 0.01, np.float32))
    points = np.array([[0, 0, 2.0], [0, 0, 1.5], [0, 0, 3.0], [50.0, 0, 2.0]])
    agree, against = count_votes(points, np.full(4, 0.01), [flat], 3)
    assert agree.tolist() == [1, 0, 0, 0] and against.tolist() == [0, 1, 0, 0]
    photo = np.full((HEIGHT, WIDTH, 3), 7, np.uint8)
    nearer = replace(flat, depth=np.full((HEIGHT, WIDTH), 1.5, np.float32))
    xyz, rgb = fuse_rig([flat, flat, nearer], [photo] * 3)
    assert np.allclose(xyz[:, 2], 2) and (rgb == 7).all()
    scale, spread = metric_scale([flat], np.random.default_rng(0).normal(0, 0.05, (40, 3)) * [1, 1, 0] + [0, 0, 0.5])
    assert scale == pytest.approx(4) and spread == pytest.approx(0)
    with pytest.raises(InputError, match="at least 20"):
        metric_scale([flat], np.array([[0, 0, 0.5]]))
