"""Reading rooms: the shipped one, the larger ones if they are at hand, and damaged copies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltgs.data.convert import as_photo_folder
from ltgs.data.photo_folder import read_captures
from ltgs.data.rooms import read_room
from ltgs.errors import FormatError, InputError

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "datasets" / "sample_room"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLE, tmp_path / "room", ignore=shutil.ignore_patterns("change_masks*"))
    return tmp_path / "room"


def test_captures_equal_those_of_the_photo_folder() -> None:
    room = read_room(SAMPLE)
    listed = read_captures(SAMPLE / "photos").captures
    ours = room.captures()
    assert [(c.timestep, c.name) for c in ours] == [(c.timestep, c.name) for c in listed]
    assert [[f.name for f in c.frames] for c in ours] == [[f.name for f in c.frames] for c in listed]


def test_conversion_gives_every_photo_its_true_camera() -> None:
    room = read_room(SAMPLE)
    captures, cameras, holdout = as_photo_folder(room)
    assert [c.name for c in cameras] == [f.name for c in captures for f in c.frames]
    assert holdout == frozenset()
    np.testing.assert_array_equal(cameras[3].K, room.photos[3].camera.K)
    np.testing.assert_array_equal(cameras[3].cam_from_world, room.photos[3].camera.cam_from_world)


def test_absent_objects_have_no_pose() -> None:
    room = read_room(SAMPLE)
    tin = next(o for o in room.objects if o.name == "tea_tin")
    assert tin.present.tolist() == [True, False, False]
    assert np.isfinite(tin.world_from_object[0]).all() and np.isnan(tin.world_from_object[1:]).all()
    assert room.object(tin.object_id) is tin
    with pytest.raises(KeyError, match="99"):
        room.object(99)


def test_unknown_names_and_damaged_masks_are_refused(copy: Path) -> None:
    room = read_room(copy)
    name = room.photos[0].name
    path = (copy / "truth" / "masks" / name).with_suffix(".png")
    with pytest.raises(InputError, match="no photo is called nothing"):
        room.mask("nothing.jpg")
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(path)
    with pytest.raises(FormatError, match="its photo is 400x300"):
        room.mask(name)
    path.write_bytes(b"no picture")
    with pytest.raises(FormatError, match=path.name):
        room.mask(name)
    path.unlink()
    with pytest.raises(InputError, match=path.name):
        room.mask(name)
    assert room.change_mask(room.tests[-1].name) is None and room.depth(name) is None


def edited(file: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        content = json.loads((root / file).read_text())
        change(content)
        (root / file).write_text(json.dumps(content))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "truth" / "changes.json").unlink(), "changes.json"),
        (lambda r: (r / "cameras.json").write_text("{"), "not valid JSON"),
        (lambda r: (r / "photos" / "2025-05-04" / "IMG_0002.jpg").unlink(), "IMG_0002.jpg: is listed"),
        (edited("cameras.json", lambda c: c["cameras"][0].update(time=7)), "time 7, but there are 3 visits"),
        (edited("truth/changes.json", lambda c: c.update(timesteps=[])), "no timestep"),
        (edited("truth/changes.json", lambda c: c["timesteps"][1]["events"][0].update(type="melted")), "'melted'"),
        (edited("truth/changes.json", lambda c: c["timesteps"][1]["events"][0].update(object="ghost")), "'ghost'"),
        (edited("truth/objects.json", lambda c: c["objects"][0]["timesteps"].pop()), "has 2 timesteps"),
        (edited("truth/objects.json", lambda c: c["objects"][1].update(id=1)), "share an id"),
        (edited("truth/objects.json", lambda c: c["objects"][1].update(id=0)), "'id'"),
        (
            edited("truth/objects.json", lambda c: c["objects"][0]["timesteps"][0]["world_from_object"][0].__setitem__(0, 9)),
            "proper rotation",
        ),
        (edited("truth/objects.json", lambda c: c["objects"][0].pop("extents")), "'extents' is missing"),
    ],
)
def test_a_damaged_room_is_refused_with_the_file(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copy)
    with pytest.raises(InputError, match=message):
        read_room(copy)


def test_no_folder() -> None:
    with pytest.raises(InputError, match="is not a folder"):
        read_room(SAMPLE / "absent")


@pytest.mark.parametrize("name", ["desk", "shelf"])
def test_the_path_traced_rooms_read(name: str) -> None:
    folder = Path(os.environ.get("LTGS_TEST_DATA", ROOT.parent / "shared" / "data")) / "rooms" / name
    if not folder.is_dir():
        pytest.skip("the path-traced rooms are not at hand; set LTGS_TEST_DATA to the folder that holds rooms/")
    room = read_room(folder)
    assert room.num_times == 5 and len(room.photos) == 44 and len(room.tests) == 20
    assert {e.kind for e in room.events} == {"appeared", "removed", "moved", "returned"}
    view = room.tests[-1]
    depth, mask = room.depth(view.name), room.mask(view.name)
    assert depth is not None and depth.shape == mask.shape == (view.camera.height, view.camera.width)
    assert 0.1 < np.nanmin(depth) < np.nanmax(depth) < 20
    assert set(np.unique(mask)) <= {0, *(o.object_id for o in room.objects if o.present[view.time])}
