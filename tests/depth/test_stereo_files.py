"""Files of stereo: float maps, calibrations, pairs with truth, results, and the two commands."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from stereo_scenes import box_scene, pair_from_disparity

from ltgs import cli_depth
from ltgs.depth.evaluate import METHODS, score, true_occlusion
from ltgs.depth.fuse import match_stereo
from ltgs.depth.outputs import disparity_picture, encode_disparity, write_stereo
from ltgs.errors import FormatError, InputError, UsageError
from ltgs.io.images import decode_png, write_png
from ltgs.io.pfm import read_pfm, write_pfm
from ltgs.io.stereo_calibration import StereoCalibration, read_stereo_calibration
from ltgs.io.stereo_pairs import find_pairs, read_disparity, read_pair

TRUTH, BOX = box_scene()
MIDDLEBURY = "cam0=[500 0 99.5; 0 500 59.5; 0 0 1]\ncam1=[500 0 104.5; 0 500 59.5; 0 0 1]\ndoffs=5\nbaseline=100\nwidth=200\nheight=120\n"
KITTI = "P0: 700 0 600 0 0 700 170 0 0 0 1 0\nP2: 700 0 600 35 0 700 170 0 0 0 1 0\nP3: 700 0 600 -343 0 700 170 0 0 0 1 0\n"
OPENCV = """%YAML:1.0
P1: !!opencv-matrix
   rows: 3
   cols: 4
   dt: d
   data: [ 500., 0., 320., 0., 0., 500., 240., 0., 0., 0., 1., 0. ]
P2: !!opencv-matrix
   rows: 3
   cols: 4
   dt: d
   data: [ 500., 0., 322., -6.0e+1, 0., 500., 240., 0., 0., 0., 1., 0. ]
Q: !!opencv-matrix
   data: [ 1. ]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one pair with truth."""
    place = tmp_path / "pairs" / "box"
    place.mkdir(parents=True)
    for side, photo in zip(("left", "right"), pair_from_disparity(TRUTH), strict=True):
        write_png(place / f"{side}.png", photo)
    write_pfm(place / "disp_gt.pfm", np.where(TRUTH > 0, TRUTH, np.inf))
    return place


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1)])
def test_pfm_round_trip(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values[0, 0] = np.inf
    write_pfm(tmp_path / "a.pfm", values)
    assert np.array_equal(read_pfm(tmp_path / "a.pfm"), values)


def test_pfm_as_others_write_it(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=">f4").reshape(2, 3)
    (tmp_path / "big.pfm").write_bytes(b"Pf\n3 2\n1.0\n" + rows[::-1].tobytes())
    assert np.array_equal(read_pfm(tmp_path / "big.pfm"), rows.astype(np.float32))
    write_pfm(tmp_path / "own.pfm", rows.astype(np.float32))
    assert np.array_equal(cv2.imread(str(tmp_path / "own.pfm"), cv2.IMREAD_UNCHANGED), rows.astype(np.float32))


@pytest.mark.parametrize("data", [
    b"", b"P6\n3 2\n255\n" + bytes(18), b"Pf\n3 2\n-1.0\n" + bytes(23), b"Pf\n0 2\n-1.0\n", b"Pf\n3 2\n0\n" + bytes(24),
])
def test_pfm_damaged(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.pfm").write_bytes(data)
    with pytest.raises(FormatError, match=r"bad\.pfm"):
        read_pfm(tmp_path / "bad.pfm")


def test_pfm_other_failures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.pfm"):
        read_pfm(tmp_path / "missing.pfm")
    with pytest.raises(ValueError, match="shape"):
        write_pfm(tmp_path / "a.pfm", np.zeros((2, 2, 2)))


@pytest.mark.parametrize("text, focal, cx, offset, baseline, unit", [
    (MIDDLEBURY, 500, 99.5, 5, 0.1, "m"), (KITTI, 700, 600, 0, 0.54, "m"), (OPENCV, 500, 320, 2, 0.12, "unknown"),
    (KITTI.replace("P2", "P_rect_02").replace("P3", "P_rect_03"), 700, 600, 0, 0.54, "m"),
    (MIDDLEBURY.replace("baseline=100", "baseline=0.1").replace("doffs=5\n", ""), 500, 99.5, 5, 0.1, "m"),
])
def test_calibrations(tmp_path: Path, text: str, focal: float, cx: float, offset: float, baseline: float, unit: str) -> None:
    (tmp_path / "calib.txt").write_text(text)
    found = read_stereo_calibration(tmp_path / "calib.txt")
    assert (found.focal, found.cx, found.offset, found.unit) == (focal, cx, offset, unit)
    assert found.baseline == pytest.approx(baseline)


@pytest.mark.parametrize("text, reason", [
    ("hello", "not a stereo calibration"), (KITTI.replace("-343", "343"), "wrong order"),
    (MIDDLEBURY.replace("500 0 99", "0 0 99"), "positive"),
])
def test_calibrations_that_cannot_be(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "calib.txt").write_text(text)
    with pytest.raises(FormatError, match=reason):
        read_stereo_calibration(tmp_path / "calib.txt")


def test_calibrated_points_project_back() -> None:
    rig = StereoCalibration(500, 99.5, 59.5, 5, 0.1, "m")
    points = rig.points(TRUTH)
    assert points[60, 20, 2] == pytest.approx(500 * 0.1 / 13)
    u = 500 * points[..., 0] / points[..., 2] + 99.5
    assert np.allclose(u, np.arange(200)[None], atol=1e-4)
    right = 500 * (points[..., 0] - 0.1) / points[..., 2] + 104.5
    assert np.allclose(u - right, TRUTH, atol=1e-4)
    assert np.isnan(rig.depth(np.array([-5.0, -9.0]))).all()


def test_pairs_are_read(folder: Path) -> None:
    pair = read_pair(folder)
    assert pair.name == "box" and pair.left.shape == (120, 200, 3) and np.array_equal(pair.truth, TRUTH)
    assert find_pairs(folder.parent) == [folder] and find_pairs(folder) == [folder]
    (folder / "disp_gt.pfm").unlink()
    write_png(folder / "disp_gt.png", np.where(BOX, 80, 0).astype(np.uint8))
    with pytest.raises(FormatError, match="needs its scale"):
        read_pair(folder)
    (folder / "README").write_text("GT: disparity = png/4 (0 = unknown)\n")
    truth = read_pair(folder).truth
    assert (truth[BOX] == 20).all() and np.isnan(truth[~BOX]).all()
    write_png(folder / "deep.png", np.full((4, 4), 640, np.uint16))
    assert (read_disparity(folder / "deep.png") == 2.5).all()


def test_pairs_that_are_none(folder: Path) -> None:
    with pytest.raises(InputError, match="holds no pair"):
        find_pairs(folder.parent.parent)
    with pytest.raises(InputError, match="not a folder"):
        find_pairs(folder / "nowhere")
    write_png(folder / "right.png", np.zeros((120, 190, 3), np.uint8))
    with pytest.raises(FormatError, match="another size"):
        read_pair(folder)
    (folder / "right.png").unlink()
    with pytest.raises(InputError, match="no right"):
        read_pair(folder)


def test_score_counts_missing_values_as_bad() -> None:
    truth = np.array([[10, 10, 10, np.nan]], np.float32)
    found = score(np.array([[10.5, 12.5, np.nan, 0]], np.float32), truth)
    assert found.density == pytest.approx(200 / 3) and found.bad1 == pytest.approx(200 / 3) and found.bad3 == pytest.approx(100 / 3)
    assert score(truth, truth).epe == 0
    assert score(truth + 2, truth, where=np.array([[True, False, False, True]])).epe == 2
    for bad in (np.zeros((1, 3)), truth):
        with pytest.raises(ValueError):
            score(bad, truth if bad is not truth else np.full_like(truth, np.nan))


def test_true_occlusion_of_a_box() -> None:
    right = np.full_like(TRUTH, 8.0)
    columns = np.flatnonzero(BOX[60])
    right[30:90, columns[0] - 20 : columns[-1] - 19] = 20
    mask, known = true_occlusion(TRUTH, right)
    assert known.all() and mask[60, columns[0] - 12 : columns[0]].all() and not mask[60, columns[0] : columns[-1] + 1].any()
    assert mask[:, :8].all() and not mask[10, 8:].any()


def test_files_of_a_result(tmp_path: Path) -> None:
    left, right = pair_from_disparity(TRUTH)
    result = match_stereo(left, right)
    files = write_stereo(tmp_path / "out", result, left, StereoCalibration(500, 99.5, 59.5, 5, 0.1, "m"))
    names = ["disparity.pfm", "disparity.png", "confidence.png", "occlusion.png", "source.png", "colour.png", "cloud.ply"]
    assert [f.name for f in files] == names and all(f.is_file() for f in files)
    assert np.array_equal(read_pfm(files[0]), result.disparity)
    stored = decode_png(files[1].read_bytes(), "disparity")
    assert stored.dtype == np.uint16 and np.abs(stored / 256 - result.disparity).max() <= 1 / 512 + 1e-6
    assert np.array_equal(decode_png(files[4].read_bytes(), "source"), result.source)
    header, _, body = files[6].read_bytes().partition(b"end_header\n")
    rows = np.frombuffer(body, dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    assert f"element vertex {len(rows)}".encode() in header
    z = rows["xyz"][:, 2]
    assert 0.5 * BOX.sum() < (np.abs(z - 50 / 25) < 0.15).sum() < 1.3 * BOX.sum() and np.abs(np.median(z) - 50 / 13) < 0.1
    assert [f.name for f in write_stereo(tmp_path / "plain", result, left)] == names[:-1]


def test_encoding_of_extremes() -> None:
    values = np.array([[0.001, 1, 255.99, 300, -2, np.nan]], np.float32)
    assert encode_disparity(values, np.isfinite(values)).tolist() == [[0, 256, 65533, 0, 0, 0]]
    assert not disparity_picture(values, np.zeros((1, 6), bool)).any()
    assert disparity_picture(values, np.isfinite(values))[0, 5].tolist() == [0, 0, 0]


def test_match_command(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "calib.txt").write_text(MIDDLEBURY)
    done = cli_depth.match(folder / "left.png", folder / "right.png", tmp_path / "out", calibration=tmp_path / "calib.txt")
    assert (tmp_path / "out" / "cloud.ply").is_file()
    assert any("metres" in n for n in done.notes) and any("rectification" in n for n in done.notes)
    plain = cli_depth.match(folder / "left.png", folder / "right.png", tmp_path / "plain")
    assert not (tmp_path / "plain" / "cloud.ply").exists() and any("units are pixels" in n for n in plain.notes)
    (tmp_path / "calib.txt").write_text(MIDDLEBURY.replace("width=200", "width=400"))
    with pytest.raises(FormatError, match="400x120"):
        cli_depth.match(folder / "left.png", folder / "right.png", tmp_path / "x", calibration=tmp_path / "calib.txt")


def test_pairs_that_cannot_be_matched_are_named(folder: Path, tmp_path: Path) -> None:
    left, right = folder / "left.png", folder / "right.png"
    with pytest.raises(InputError, match=r"right\.png and .*left\.png: The photos are exchanged.*Pass the left photo first"):
        cli_depth.match(right, left, tmp_path / "out")
    write_png(tmp_path / "small.png", decode_png(right.read_bytes(), "right")[:-10])
    with pytest.raises(InputError, match=r"left\.png and .*small\.png: The photos differ in size"):
        cli_depth.match(left, tmp_path / "small.png", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prior_files(folder: Path, tmp_path: Path) -> None:
    small = cv2.resize(0.1 * TRUTH, (100, 60), interpolation=cv2.INTER_AREA)
    write_pfm(tmp_path / "prior.pfm", small)
    done = cli_depth.match(folder / "left.png", folder / "right.png", tmp_path / "out", prior=str(tmp_path / "prior.pfm"))
    assert done.result.a is not None and any("resampled from 100x60" in n for n in done.notes)
    write_png(tmp_path / "prior.png", np.rint(TRUTH * 8).astype(np.uint8))
    values, _ = cli_depth.read_prior(str(tmp_path / "prior.png"), folder / "left.png", (200, 120), None)
    assert values[60, 110] == 160
    write_png(tmp_path / "square.png", np.zeros((60, 60), np.uint8))
    with pytest.raises(InputError, match="another shape"):
        cli_depth.read_prior(str(tmp_path / "square.png"), folder / "left.png", (200, 120), None)
    write_png(tmp_path / "colour.png", np.zeros((120, 200, 3), np.uint8))
    with pytest.raises(FormatError, match="one channel"):
        cli_depth.read_prior(str(tmp_path / "colour.png"), folder / "left.png", (200, 120), None)
    for text, cameras in (("render:scene", tmp_path / "c.json"), ("render:scene@0", None)):
        with pytest.raises(UsageError, match="render:"):
            cli_depth.read_prior(text, folder / "left.png", (200, 120), cameras)


def test_eval_command(folder: Path) -> None:
    done, rows, numbers = cli_depth.evaluate(folder.parent)
    assert [r["method"] for r in rows if r["pair"].startswith("box")] == list(METHODS)
    assert json.loads(json.dumps(numbers, allow_nan=False))["pairs"][0]["name"] == "box"
    assert done.mean(METHODS[2]).bad2 < 6 and done.mean(METHODS[2]).density == 100
    with pytest.raises(InputError, match="no pair called"):
        cli_depth.evaluate(folder.parent, names=("other",))


def test_prior_rendered_from_a_scene(tiny_capture, tiny_scene: Path) -> None:
    """The rendered inverse depth orders the back wall of the tiny place behind what stands before it."""
    name = "2024-01-05/IMG_2.png"
    values, remark = cli_depth.read_prior(f"render:{tiny_scene}@0", tiny_capture.photos / name, (128, 96), tiny_capture.cameras)
    assert values.shape == (96, 128) and "2024-01-05" in remark
    known = np.isfinite(values)
    assert known.mean() > 0.3 and (values[known] > 0).all()
    # The floor comes nearer towards the lower edge of the picture.
    assert np.nanmedian(values[75:]) > 1.1 * np.nanmedian(values[30:50])
    with pytest.raises(InputError, match="0 cameras are named"):
        cli_depth.read_prior(f"render:{tiny_scene}@0", Path("other.png"), (128, 96), tiny_capture.cameras)
