"""Camera files: COLMAP (text and binary, written by pycolmap), transforms.json, our own; and hostile versions of each."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltgs.core.cameras import Camera
from ltgs.core.se3 import make_rigid, so3_exp
from ltgs.errors import FormatError, InputError
from ltgs.io.cameras_json import read_cameras, read_cameras_json, write_cameras_json
from ltgs.io.colmap import read_colmap, read_colmap_points
from ltgs.io.posed import MODEL_PARAMS, PosedPhoto
from ltgs.io.transforms_json import read_transforms_json

PARAMS = {
    "SIMPLE_PINHOLE": (500.0, 320.0, 240.0), "PINHOLE": (500.0, 510.0, 320.0, 240.0),
    "SIMPLE_RADIAL": (500.0, 320.0, 240.0, 0.1),
    "RADIAL": (500.0, 320.0, 240.0, 0.1, -0.02), "OPENCV": (500.0, 510.0, 320.0, 240.0, 0.1, -0.02, 1e-3, -2e-3),
}


def pose(seed: int = 0) -> np.ndarray:
    import torch

    rng = np.random.default_rng(seed)
    return make_rigid(so3_exp(torch.tensor(rng.normal(size=3))).numpy(), rng.normal(size=3))


def data_folder() -> Path:
    folder = Path(os.environ.get("LTGS_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the development photos are not on this machine (set LTGS_TEST_DATA)")
    return folder


# -- PosedPhoto -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("model", PARAMS)
@pytest.mark.parametrize("size", [(320, 240), (321, 240), (640, 480)])
def test_models_project_as_pycolmap_does_also_after_resizing(model, size):
    pycolmap = pytest.importorskip("pycolmap")
    photo = PosedPhoto("a.jpg", 640, 480, model, PARAMS[model], pose())
    point = np.array([0.2, -0.15, 1.0])
    ours = photo.resized(*size)
    camera = pycolmap.Camera(model=model, width=640, height=480, params=PARAMS[model])
    expected = np.asarray(camera.img_from_cam(point[None])).reshape(2) * [size[0] / 640, size[1] / 480]
    x, y = point[:2]
    k1, k2, p1, p2 = ours.distortion
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2 * r2
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
    assert np.allclose((ours.K @ [u, v, 1])[:2], expected, atol=1e-9)
    assert (ours.width, ours.height) == size and np.array_equal(ours.cam_from_world, photo.cam_from_world)


def test_posed_photo_checks_itself():
    good = {"name": "a", "width": 4, "height": 3, "model": "PINHOLE", "params": (1.0, 1, 2, 1)}
    good["cam_from_world"] = np.eye(4)
    assert PosedPhoto(**good).pinhole(3).time == 3
    mirrored = np.diag([1, 1, -1, 1.0])
    for bad in ({"model": "OPENCV_FISHEYE"}, {"params": (1.0,)}, {"params": (-1.0, 1, 2, 1)}, {"width": 0},
                {"cam_from_world": 2 * np.eye(4)}, {"params": (math.nan, 1, 2, 1)}, {"cam_from_world": mirrored}):
        with pytest.raises(ValueError, match=r"."):
            PosedPhoto(**{**good, **bad})


# -- COLMAP -----------------------------------------------------------------------------------------------------------

@pytest.fixture
def model(tmp_path):
    """A small model written by pycolmap, binary in sparse/0 and text in text/."""
    pycolmap = pytest.importorskip("pycolmap")
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig, options.num_points3D = 1, 1, 5, 20
    reconstruction = pycolmap.synthesize_dataset(options)
    for folder in ("sparse/0", "text"):
        (tmp_path / folder).mkdir(parents=True)
    reconstruction.write_binary(str(tmp_path / "sparse/0"))
    reconstruction.write_text(str(tmp_path / "text"))
    return tmp_path, reconstruction


@pytest.mark.parametrize("folder", [".", "sparse/0", "text"])
def test_colmap_model_matches_pycolmap(model, folder):
    root, reconstruction = model
    photos = {p.name: p for p in read_colmap(root / folder)}
    assert len(photos) == reconstruction.num_reg_images() == 5
    for image in reconstruction.images.values():
        photo = photos[image.name]
        # Text carries 17 digits, binary all of them; the quaternion's own rounding is what remains.
        assert np.allclose(photo.cam_from_world[:3], image.cam_from_world().matrix(), atol=1e-9)
        camera = image.camera
        assert np.allclose(photo.params, camera.params) and (photo.width, photo.height) == (camera.width, camera.height)
    points = read_colmap_points(root / folder)
    expected = np.array(sorted(p.xyz.tolist() for p in reconstruction.points3D.values()))
    assert np.allclose(np.array(sorted(points.xyz.tolist())), expected, atol=1e-9)
    assert points.rgb.dtype == np.uint8 and len(points.error_px) == len(points.xyz)
    assert [p.name for p in read_cameras(root / folder)] == sorted(photos)


def test_unsupported_lens_names_the_remedy(tmp_path):
    (tmp_path / "cameras.txt").write_text("1 OPENCV_FISHEYE 640 480 500 500 320 240 0 0 0 0\n")
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.jpg\n\n")
    with pytest.raises(FormatError, match=r"OPENCV_FISHEYE.*image_undistorter"):
        read_colmap(tmp_path)
    with pytest.raises(InputError, match="no COLMAP model"):
        read_colmap(tmp_path / "none")


def test_text_model_by_hand(tmp_path):
    (tmp_path / "cameras.txt").write_text("# comment\n7 PINHOLE 640 480 500 510 320 240\n")
    (tmp_path / "images.txt").write_text("# c\n3 2 0 0 0 1 2 3 7 sub dir/b c.jpg\n1.0 2.0 -1\n4 1 0 0 0 0 0 0 7 a.jpg\n\n")
    with pytest.raises(FormatError, match="not a rigid motion"):
        read_colmap(tmp_path)
    (tmp_path / "images.txt").write_text("# c\n3 1 0 0 0 1 2 3 7 sub dir/b c.jpg\n1.0 2.0 -1\n4 1 0 0 0 0 0 0 7 a.jpg\n\n")
    photos = read_colmap(tmp_path)
    assert [p.name for p in photos] == ["a.jpg", "sub dir/b c.jpg"] and photos[1].cam_from_world[:3, 3].tolist() == [1, 2, 3]
    assert read_colmap_points(tmp_path) is None
    for name in ("../../etc/x.jpg", "/abs.jpg"):
        (tmp_path / "images.txt").write_text(f"3 1 0 0 0 1 2 3 7 {name}\n\n")
        with pytest.raises(FormatError, match="relative"):
            read_colmap(tmp_path)


def test_fuzzed_colmap_raises_only_typed_errors(model):
    root, _ = model
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(200):
        folder = root / ("sparse/0" if i % 2 else "text")
        suffix = "bin" if i % 2 else "txt"
        path = folder / f"{('cameras', 'images', 'points3D')[i % 3]}.{suffix}"
        sound = path.read_bytes()
        data = bytearray(sound)
        if i % 5 == 0:
            data = data[: int(rng.integers(len(data)))]
        for at in rng.integers(0, max(len(data), 1), int(rng.integers(1, 8))):
            if at < len(data):
                data[at] = int(rng.integers(256))
        path.write_bytes(data)
        try:
            read_colmap(folder)
            read_colmap_points(folder)
        except InputError:
            refused += 1
        path.write_bytes(sound)
    assert refused > 40


# -- transforms.json --------------------------------------------------------------------------------------------------

def transforms(tmp_path: Path, **changes) -> Path:
    content = {"fl_x": 100.0, "fl_y": 110.0, "cx": 50.0, "cy": 40.0, "w": 100.0, "h": 80, "frames": [
        {"file_path": "./images/0001.jpg", "transform_matrix": np.eye(4).tolist()}]}
    content.update(changes)
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return path


def test_opengl_axes_become_opencv_axes(tmp_path):
    matrix = np.eye(4)
    matrix[:3, 3] = 1, 2, 3
    photo = read_transforms_json(transforms(tmp_path, frames=[{"file_path": "a.jpg", "transform_matrix": matrix.tolist()}]))[0]
    # A point one unit in front of an OpenGL camera (-z) and half a unit up lies at +z and -y for OpenCV.
    assert np.allclose(photo.cam_from_world @ [1, 2.5, 2, 1], [0, -0.5, 1, 1])
    assert photo.model == "PINHOLE" and photo.K.tolist() == [[100, 0, 50], [0, 110, 40], [0, 0, 1]]


def test_per_frame_intrinsics_and_angles(tmp_path):
    frame = {"file_path": "b.jpg", "transform_matrix": np.eye(4).tolist(), "fl_x": 90.0, "fl_y": 95.0, "k1": 0.1}
    photo = read_transforms_json(transforms(tmp_path, frames=[frame]))[0]
    assert photo.K[0, 0] == 90 and photo.K[1, 1] == 95 and photo.distortion.tolist() == [0.1, 0, 0, 0]
    photo = read_transforms_json(transforms(tmp_path, fl_x=None, fl_y=None, cx=None, cy=None, camera_angle_x=math.pi / 2))[0]
    assert np.allclose(photo.K, [[50, 0, 50], [0, 50, 40], [0, 0, 1]])


def test_blender_style_size_comes_from_the_photo(tmp_path):
    (tmp_path / "train").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "train" / "r_0.png")
    frames = [{"file_path": "./train/r_0", "transform_matrix": np.eye(4).tolist()}]
    photo = read_transforms_json(transforms(tmp_path, w=None, h=None, frames=frames))[0]
    assert (photo.width, photo.height) == (30, 20)
    with pytest.raises(FormatError, match="w and h are missing"):
        read_transforms_json(transforms(tmp_path, w=None, h=None))


EYE = np.eye(4).tolist()


@pytest.mark.parametrize("changes", [
    {"frames": []}, {"frames": None}, {"frames": {}}, {"frames": [1]}, {"frames": [{"file_path": "a"}]},
    {"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}, {"k3": 0.1}, {"fl_x": 0}, {"fl_x": -5}, {"fl_x": "x"},
    {"fl_x": True}, {"w": 0}, {"w": 1.5}, {"w": 1e9}, {"fl_x": None, "camera_angle_x": 4}, {"fl_x": None},
    {"frames": [{"file_path": "../a", "transform_matrix": EYE}]},
    {"frames": [{"file_path": "/etc/a", "transform_matrix": np.eye(4).tolist()}]},
    {"frames": [{"file_path": "a", "transform_matrix": (2 * np.eye(4)).tolist()}]},
    {"frames": [{"file_path": "a", "transform_matrix": [[1]]}]},
    {"frames": [{"file_path": "a", "transform_matrix": np.diag([-1.0, 1, 1, 1]).tolist()}]},
    {"frames": [{"file_path": "a", "transform_matrix": EYE}, {"file_path": "./a", "transform_matrix": EYE}]},
])
def test_bad_transforms_are_refused(tmp_path, changes):
    with pytest.raises(FormatError, match=r"transforms\.json"):
        read_transforms_json(transforms(tmp_path, **changes))


def test_real_fox_intrinsics_scale_to_the_reduced_photos():
    path = data_folder() / "photos" / "fox" / "transforms.json"
    photos = read_cameras(path)
    assert len(photos) >= 50 and {(p.width, p.height) for p in photos} == {(1080, 1920)}
    small = photos[0].resized(900, 1600)
    assert small.K[0, 0] == pytest.approx(1375.52 * 900 / 1080) and small.distortion[0] == pytest.approx(0.0578421)
    # All cameras look at the fox: their axes meet near one point in front of every one of them.
    centers = np.array([p.pinhole().center for p in photos])
    axes = np.array([p.cam_from_world[2, :3] for p in photos])
    projectors = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    meeting = np.linalg.solve(projectors.sum(0), (projectors @ centers[:, :, None]).sum(0)[:, 0])
    assert (((meeting - centers) * axes).sum(1) > 0).all()


# -- our own file -----------------------------------------------------------------------------------------------------

def own_cameras() -> list[Camera]:
    k = np.array([[500.1, 0, 320], [0, 510 / 3, 240], [0, 0, 1]])
    return [Camera(f"2024-01-05/IMG {i} 🙂.jpg", i, 640, 480, k, pose(i)) for i in range(3)]


def test_own_file_round_trip_is_exact(tmp_path):
    write_cameras_json(tmp_path / "cameras.json", own_cameras())
    back = read_cameras_json(tmp_path / "cameras.json")
    for a, b in zip(own_cameras(), back, strict=True):
        assert (a.name, a.time, a.width, a.height) == (b.name, b.time, b.width, b.height)
        assert np.array_equal(a.K, b.K) and np.array_equal(a.cam_from_world, b.cam_from_world)
    posed = read_cameras(tmp_path)
    assert [p.time for p in posed] == [0, 1, 2] and np.array_equal(posed[1].pinhole().K, own_cameras()[1].K)
    write_cameras_json(tmp_path / "none.json", [])
    assert read_cameras_json(tmp_path / "none.json") == []


@pytest.mark.parametrize(("key", "value"), [
    ("name", "../x"), ("name", ""), ("name", 3), ("time", -1), ("time", 0.5), ("time", True), ("width", 0),
    ("height", "480"), ("K", [[1]]),
    ("K", [[0, 0, 0], [0, 1, 0], [0, 0, 1]]), ("K", [[1, 0, 0], [0, 1, 0], [0, 0, 2]]), ("K", None),
    ("cam_from_world", (2 * np.eye(4)).tolist()),
    ("cam_from_world", np.diag([1.0, 1, -1, 1]).tolist()), ("cam_from_world", [[1e400] * 4] * 4), ("cam_from_world", "x"),
    ("cam_from_world", [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]),
])
def test_bad_entries_are_refused(tmp_path, key, value):
    write_cameras_json(tmp_path / "c.json", own_cameras())
    content = json.loads((tmp_path / "c.json").read_text())
    content["cameras"][1][key] = value
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match=r"c\.json"):
        read_cameras_json(tmp_path / "c.json")


def test_duplicate_names_are_refused(tmp_path):
    write_cameras_json(tmp_path / "c.json", [*own_cameras(), own_cameras()[0]])
    with pytest.raises(FormatError, match="listed twice"):
        read_cameras(tmp_path / "c.json")


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"{}", b'{"cameras": NaN}', b'{"cameras": 1}', b"\xff\xfe\x00", b"[" * 100000,
    b'{"cameras": [], "cameras": []}',
    b"!!python/object/apply:os.system ['true']", b'{"cameras": [' + b"9" * 5000 + b"]}", b'<?xml version="1.0"?>',
])
def test_foreign_content_is_refused(tmp_path, content):
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"c\.json"):
        read_cameras(tmp_path / "c.json")


def test_missing_and_oversized_files(tmp_path):
    with pytest.raises(InputError, match="none"):
        read_cameras(tmp_path / "none.json")
    with pytest.raises(InputError, match="neither a COLMAP model"):
        read_cameras(tmp_path)
    with (tmp_path / "big.json").open("wb") as stream:
        stream.truncate(1 << 34)
    with pytest.raises(FormatError, match="larger than"):
        read_cameras(tmp_path / "big.json")


def test_real_room_cameras_are_read():
    path = data_folder() / "rooms" / "desk" / "cameras.json"
    posed = read_cameras(path)
    assert len(posed) > 20 and {p.model for p in posed} == {"PINHOLE"} and posed[0].time == 0
    assert set(MODEL_PARAMS) == set(PARAMS)
