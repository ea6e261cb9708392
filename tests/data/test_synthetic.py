"""The synthetic room: shapes, determinism, truth that agrees with the pictures, and the shipped sample."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ltgs.core.se3 import invert_rigid
from ltgs.data.rooms import Room, RoomPhoto, read_room
from ltgs.data.synthetic import DRAFT, RoomModel, WriteConfig, sample_room, write_room
from ltgs.data.synthetic.__main__ import main, parse_size
from ltgs.data.synthetic.layout import Placement, check_layout, look_at
from ltgs.data.synthetic.shapes import Box, Cylinder, Shape, Sphere
from ltgs.data.synthetic.tracer import linear_to_srgb, srgb_to_linear
from ltgs.errors import UsageError
from ltgs.io.photo_exif import read_exif

SAMPLE = Path(__file__).resolve().parents[2] / "datasets" / "sample_room"
TINY = WriteConfig(48, 36, texture_scale=0.12, render=dataclasses.replace(DRAFT, light_samples=1, ambient_samples=1))


def shortened(seed: int = 7) -> RoomModel:
    """The sample room with one photo and one test photo per visit."""
    room = sample_room(seed)
    visits = tuple(
        dataclasses.replace(v, photo_poses=v.photo_poses[:1], test_poses=v.test_poses[:1]) for v in room.visits
    )
    return dataclasses.replace(room, visits=visits)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny") / "room"
    write_room(shortened(), out, TINY)
    return out


@pytest.fixture(scope="module")
def sample() -> Room:
    return read_room(SAMPLE)


def test_the_same_seed_writes_the_same_bytes_and_another_one_does_not(tiny: Path, tmp_path: Path) -> None:
    write_room(shortened(), tmp_path / "again", TINY)
    first = {p.relative_to(tiny): p.read_bytes() for p in tiny.rglob("*") if p.is_file()}
    again = {p.relative_to(tmp_path / "again"): p.read_bytes() for p in (tmp_path / "again").rglob("*") if p.is_file()}
    assert first == again
    other = shortened(8)
    one_visit = dataclasses.replace(other, visits=other.visits[:1])
    photo = write_room(one_visit, tmp_path / "other", dataclasses.replace(TINY, seed=8))[0]
    assert photo.read_bytes() != first[photo.relative_to(tmp_path / "other")]


def test_the_tiny_room_reads_back(tiny: Path) -> None:
    room = read_room(tiny)
    assert [(p.role, p.time) for p in room.photos] == [("train", 0), ("update", 1), ("update", 2)]
    assert [(p.role, p.time) for p in room.tests] == [("test", 0), ("test", 1), ("test", 2)]
    with Image.open(room.photos[1].path) as image:
        exif = read_exif(image)
        assert image.size == (48, 36)
    assert exif.captured_at is not None and exif.captured_at.strftime("%Y-%m-%d %H:%M") == "2025-05-18 11:40"


def test_the_shipped_sample_is_what_the_code_writes() -> None:
    from ltgs.data.synthetic import write

    config = WriteConfig()
    model = sample_room(config.seed)
    shots = write._shots(model, config)
    files = {
        "cameras.json": write._camera_file([s for s in shots if s.role != "test"]),
        "test_cameras.json": write._camera_file([s for s in shots if s.role == "test"]),
        "truth/cameras.json": write._truth_cameras(model, shots, config),
        "truth/objects.json": write._truth_objects(model),
        "truth/changes.json": write._truth_changes(model, config.seed),
    }
    for name, content in files.items():
        assert json.loads((SAMPLE / name).read_text()) == json.loads(json.dumps(content)), name


def test_the_shipped_sample_is_small_and_has_the_promised_timeline(sample: Room) -> None:
    assert sum(p.stat().st_size for p in SAMPLE.rglob("*") if p.is_file()) < 6e6
    assert [sum(p.time == t for p in sample.photos) for t in range(3)] == [22, 4, 4]
    assert [(e.time, e.kind, e.object_name) for e in sample.events] == [
        (1, "moved", "biscuit_box"), (1, "removed", "tea_tin"), (2, "appeared", "parcel"),
    ]
    moved = sample.events[0]
    assert moved.rotation_deg == pytest.approx(68) and moved.translation_m == pytest.approx(0.7718, abs=1e-4)
    assert [light.ev_vs_t0 for light in sample.lights] == [0, 0, -0.5]
    # Every changed object is large enough to be seen in most views of its visits.
    for name, times in (("biscuit_box", (0, 1, 2)), ("tea_tin", (0,)), ("parcel", (2,))):
        label = next(o.object_id for o in sample.objects if o.name == name)
        for t in times:
            areas = [int((sample.mask(p.name) == label).sum()) for p in sample.photos if p.time == t]
            assert np.median(areas) > 1500, (name, t, areas)


def test_photos_hold_many_features(sample: Room) -> None:
    for photo in (sample.photos[0], sample.photos[11], sample.photos[-1]):
        grey = cv2.imread(str(photo.path), cv2.IMREAD_GRAYSCALE)
        assert len(cv2.SIFT_create(contrastThreshold=0.02).detect(grey)) > 800, photo.name


def project(points: np.ndarray, photo: RoomPhoto) -> tuple[np.ndarray, np.ndarray]:
    """[N, 3] world -> pixels [N, 2] and depth [N]."""
    local = points @ photo.camera.cam_from_world[:3, :3].T + photo.camera.cam_from_world[:3, 3]
    pixels = local @ photo.camera.K.T
    return pixels[:, :2] / pixels[:, 2:], local[:, 2]


def test_masks_agree_with_object_poses_and_cameras(sample: Room) -> None:
    hits = total = 0
    corners = np.stack(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5]), -1).reshape(-1, 3)
    for photo in (*sample.photos, *sample.tests):
        mask = sample.mask(photo.name)
        present = {o.object_id for o in sample.objects if o.present[photo.time]}
        assert set(np.unique(mask)) <= present | {0}
        for thing in sample.objects:
            if not thing.present[photo.time]:
                continue
            pose = thing.world_from_object[photo.time]
            box, _ = project(corners * thing.extents @ pose[:3, :3].T + pose[:3, 3], photo)
            rows, columns = np.nonzero(mask == thing.object_id)
            if len(rows):
                assert columns.min() + 0.5 >= box[:, 0].min() and columns.max() + 0.5 <= box[:, 0].max()
                assert rows.min() + 0.5 >= box[:, 1].min() and rows.max() + 0.5 <= box[:, 1].max()
            center, _ = project(pose[:3, 3][None], photo)
            x, y = np.floor(center[0]).astype(int)
            if 0 <= x < 400 and 0 <= y < 300:
                total += 1
                hits += mask[y, x] == thing.object_id
    # What is missing is hidden by another object.
    assert total > 150 and hits / total > 0.8


def test_change_masks_mark_what_moved_and_nothing_else(sample: Room) -> None:
    ids = {o.name: o.object_id for o in sample.objects}
    photo = next(p for p in sample.tests if p.time == 2)
    since_start, since_previous = sample.change_mask(photo.name), sample.change_mask(photo.name, since_previous=True)
    assert since_start is not None and since_previous is not None
    mask = sample.mask(photo.name)
    np.testing.assert_array_equal(since_start == 1, np.isin(mask, [ids["biscuit_box"], ids["parcel"]]))
    np.testing.assert_array_equal(since_previous == 1, mask == ids["parcel"])
    assert (since_start == 2).sum() > 300 and not (since_previous == 2).any()
    assert sample.change_mask(sample.photos[0].name) is None


def test_depth_of_two_views_is_one_surface_with_one_colour(sample: Room) -> None:
    """Fails if axes, pixel centres or pose direction of the cameras were not what the files say."""
    a, b = (p for p in sample.tests[:2])
    depth_a, depth_b = sample.depth(a.name), sample.depth(b.name)
    assert depth_a is not None and depth_b is not None
    y, x = np.mgrid[0:300, 0:400]
    rays = np.stack([x + 0.5, y + 0.5, np.ones_like(x)], -1).reshape(-1, 3) @ np.linalg.inv(a.camera.K).T
    local = rays * depth_a.reshape(-1, 1)
    world_from_a = invert_rigid(a.camera.cam_from_world)
    pixels, z = project(local @ world_from_a[:3, :3].T + world_from_a[:3, 3], b)
    columns, rows = np.floor(pixels).astype(int).T
    inside = (z > 0) & (columns >= 0) & (columns < 400) & (rows >= 0) & (rows < 300)
    seen = depth_b[rows[inside], columns[inside]]
    same = np.abs(seen - z[inside]) < 0.02
    assert inside.mean() > 0.5 and same.mean() > 0.65
    # Nothing may lie behind the surface seen from b except where b is blocked: the reverse would be a hole.
    assert (seen > z[inside] + 0.05).mean() < 0.03
    colours = [cv2.imread(str(p.path)).astype(float) for p in (a, b)]
    difference = np.abs(colours[0].reshape(-1, 3)[inside][same] - colours[1][rows[inside], columns[inside]][same])
    shifted = np.abs(
        colours[0].reshape(-1, 3)[inside][same] - np.roll(colours[1], 3, 1)[rows[inside], columns[inside]][same]
    )
    assert difference.mean() < 14 and difference.mean() < 0.6 * shifted.mean()


@pytest.mark.parametrize("shape", [Box((0.4, 0.6, 0.2)), Cylinder(0.3, 0.5), Sphere(0.4), Box((4.0, 3.0, 2.0), inward=True)])
def test_rays_hit_shapes_where_their_surface_says(shape: Shape) -> None:
    rng = np.random.default_rng(0)
    for face in range(shape.num_faces):
        uv = rng.uniform(0.05, 0.95, (200, 2)).astype(np.float32)
        if isinstance(shape, Cylinder) and face:
            uv = 0.5 + (uv - 0.5) * 0.6
        points, normals = shape.points(face, uv)
        back, again = shape.surface(face, points)
        np.testing.assert_allclose(back, uv, atol=1e-4)
        np.testing.assert_allclose(again, normals, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
        origin = points + np.float32(0.3) * normals
        distance, faces = shape.intersect(origin, -normals)
        np.testing.assert_allclose(distance, 0.3, atol=1e-4)
        assert (faces == face).all()


@pytest.mark.parametrize("shape", [Box((0.4, 0.6, 0.2)), Cylinder(0.3, 0.5), Sphere(0.4)])
def test_solids_block_segments_through_and_inside_them(shape: Shape) -> None:
    origin = np.array([[-2, 0, 0], [-2, 0, 0], [0, 0, 0], [-2, 2, 0]], np.float32)
    direction = np.tile(np.array([[1, 0, 0]], np.float32), (4, 1))
    reach = np.array([5, 0.5, 0.01, 5], np.float32)
    assert shape.blocks(origin, direction, reach).tolist() == [True, False, True, False]


def test_pictures_are_not_mirrored() -> None:
    """u must run to the viewer's right on every upright face, or all print would be reversed."""
    for shape, faces in ((Box((1, 1, 1)), range(4)), (Box((4, 4, 4), inward=True), range(4)), (Cylinder(0.5, 1), [0])):
        for face in faces:
            points, normals = shape.points(face, np.array([[0.45, 0.5], [0.55, 0.5], [0.45, 0.6]], np.float32))
            camera = look_at(points[0] + 0.4 * normals[0], points[0])
            local = points @ camera[:3, :3].T + camera[:3, 3]
            assert local[1, 0] > local[0, 0] and local[2, 1] > local[0, 1]


def test_srgb_round_trip() -> None:
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(linear_to_srgb(srgb_to_linear(values)), values)


def test_objects_may_not_float_or_collide() -> None:
    room = sample_room()
    visit = room.visits[0]
    for name, place, message in (
        ("globe", Placement(0.06, 0.17, 0.9), "nothing is under globe"),
        ("globe", Placement(1.5, 0.17, 0.74), "nothing is under globe"),
        ("globe", Placement(-0.3, 0.2, 0.74), "globe cuts|biscuit_box cuts"),
        ("globe", Placement(0.06, 0.17, 0.72), "into furniture"),
    ):
        broken = dataclasses.replace(visit, placements=visit.placements | {name: place})
        with pytest.raises(ValueError, match=message):
            check_layout(room.models, room.furniture, broken)


def test_the_command_refuses_bad_sizes_and_full_folders(tmp_path: Path) -> None:
    assert parse_size("384x288") == (384, 288)
    for text in ("384", "0x5", "axb", "99999x5"):
        with pytest.raises(UsageError, match="WIDTHxHEIGHT"):
            parse_size(text)
    (tmp_path / "old.jpg").write_bytes(b"x")
    assert main(["--out", str(tmp_path)]) == 2
    assert main(["--out", str(tmp_path / "new"), "--size", "3x3"]) == 2
    assert not (tmp_path / "new").exists()
