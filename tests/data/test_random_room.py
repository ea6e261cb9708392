"""Rooms drawn from a seed: sound layout, the promised timeline, determinism, lights, tilt, and files that read back."""

from __future__ import annotations

import dataclasses
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ltgs.data.rooms import Room, read_room
from ltgs.data.synthetic import DRAFT, RoomModel, WriteConfig, random_room, write_room
from ltgs.data.synthetic.__main__ import main
from ltgs.data.synthetic.layout import (
    ObjectModel,
    Piece,
    Placement,
    check_layout,
    penetration,
    piece_corners,
    world_from_object,
)
from ltgs.data.synthetic.random_objects import KINDS, draw_objects
from ltgs.data.synthetic.random_setting import LUMINANCE
from ltgs.data.synthetic.shapes import Box, Cylinder
from ltgs.data.synthetic.textures import plain
from ltgs.data.synthetic.tracer import RenderConfig, _irradiance
from ltgs.data.synthetic.write import _events

SEEDS = range(6)
TINY = WriteConfig(64, 48, 3, texture_scale=0.12, render=dataclasses.replace(DRAFT, light_samples=1, ambient_samples=1))
GREY = (plain((128, 128, 128)),)


@cache
def room_of(seed: int) -> RoomModel:
    return random_room(seed)


def shortened(seed: int) -> RoomModel:
    """Two photos and one test photo per visit."""
    room = room_of(seed)
    visits = tuple(dataclasses.replace(v, photo_poses=v.photo_poses[-2:], test_poses=v.test_poses[:1]) for v in room.visits)
    return dataclasses.replace(room, visits=visits)


def kinds(room: RoomModel, time: int) -> list[str]:
    return sorted(e["type"] for e in _events(room, time))


def by_kind(room: RoomModel, time: int, kind: str) -> list[str]:
    return [e["object"] for e in _events(room, time) if e["type"] == kind]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_room_is_sound_and_has_the_promised_views(seed: int) -> None:
    room = room_of(seed)
    for visit in room.visits:
        check_layout(room.models, room.furniture, visit)
    assert 28 <= len(room.visits[0].photo_poses) <= 32
    assert [len(v.photo_poses) for v in room.visits[1:]] == [3] * 4
    assert [len(v.test_poses) for v in room.visits] == [4] * 5
    dates = [v.date for v in room.visits]
    assert dates == sorted(set(dates))
    for model in room.models:
        assert any(model.name in v.placements for v in room.visits), f"{model.name} is never seen"
        # Books that are turned against each other have a box a little larger than the book.
        assert 0.06 <= model.extents().max() <= 0.28, model.name


@pytest.mark.parametrize("seed", SEEDS)
def test_a_room_has_the_promised_timeline(seed: int) -> None:
    room = room_of(seed)
    places = [v.placements for v in room.visits]
    lights = [v.light.name for v in room.visits]
    assert kinds(room, 1) == ["moved", "removed"] and lights[0] == lights[1] == "day"
    assert kinds(room, 2) == ["added", "added"] and lights[2] != "day"
    assert kinds(room, 3) == ["moved", "moved", "moved", "returned"]

    (gone,) = by_kind(room, 1, "removed")
    assert by_kind(room, 3, "returned") == [gone]
    old, new = places[0][gone], places[3][gone]
    assert np.hypot(new.x - old.x, new.y - old.y) + abs(new.support_z - old.support_z) > 0.15 and new.yaw_deg != old.yaw_deg

    tipped = [n for n, p in places[3].items() if p.tilt_deg]
    assert len(tipped) == 1 and tipped[0] in by_kind(room, 3, "moved")
    assert not any(p.tilt_deg for state in places[:3] for p in state.values())
    first, second = (n for n in by_kind(room, 3, "moved") if n not in tipped)
    for name, other in ((first, second), (second, first)):
        now, then = places[3][name], places[2][other]
        assert (now.x, now.y, now.support_z) == (then.x, then.y, then.support_z)

    if places[4] == places[3]:
        assert lights[4] != lights[3]
    else:
        assert kinds(room, 4) == ["added", "moved", "removed"]


def test_seeds_reach_both_endings_and_both_second_surfaces() -> None:
    rooms = [room_of(s) for s in SEEDS]
    assert {r.visits[4].placements == r.visits[3].placements for r in rooms} == {True, False}
    heights = [max(p.support_z for v in r.visits for p in v.placements.values()) for r in rooms]
    assert min(heights) < 0.8 and max(heights) > 1.1
    low = [min(p.support_z for v in r.visits for p in v.placements.values()) for r in rooms]
    assert min(low) < 0.7


def test_a_seed_fixes_the_room() -> None:
    first, again, other = random_room(3), room_of(3), room_of(4)
    assert [v.placements for v in first.visits] == [v.placements for v in again.visits]
    assert [v.light for v in first.visits] == [v.light for v in again.visits]
    for a, b in zip(first.visits, again.visits, strict=True):
        np.testing.assert_array_equal(np.stack(a.photo_poses), np.stack(b.photo_poses))
        np.testing.assert_array_equal(np.stack(a.test_poses), np.stack(b.test_poses))
    assert first.visits[0].placements != other.visits[0].placements


def test_objects_are_drawn_within_the_bounds_of_their_kinds() -> None:
    models = draw_objects(np.random.default_rng(1), 16)
    assert [m.object_id for m in models] == list(range(1, 17))
    for kind in KINDS:
        mine = [m for m in models if m.name.rsplit("_", 1)[0] == kind.name]
        assert kind.least <= len(mine) <= kind.most
        assert all(m.symmetric == kind.symmetric for m in mine)
    for model in models:
        corners = np.concatenate([piece_corners(p, np.eye(4)) for p in model.pieces])
        np.testing.assert_allclose(corners.max(0), -corners.min(0), atol=1e-5, err_msg=model.name)
    with pytest.raises(ValueError, match="between"):
        draw_objects(np.random.default_rng(1), 99)


def table_light(room: RoomModel, time: int) -> np.ndarray:
    """[N] luminance that the bare table receives at visit `time`, gain included."""
    light = room.visits[time].light
    grid = np.stack(np.meshgrid(np.linspace(-0.6, 0.6, 9), np.linspace(-0.35, 0.35, 5)), -1).reshape(-1, 2)
    points = np.column_stack([grid, np.full(len(grid), 0.85)]).astype(np.float32)
    up = np.tile(np.array([[0, 0, 1]], np.float32), (len(points), 1))
    rng, config = np.random.default_rng(0), RenderConfig(light_samples=9, ambient_samples=1)
    direct = _irradiance([], points, up, light.lamps, np.asarray(light.ambient, np.float32), config, rng)
    return np.asarray(direct * np.asarray(light.gain()) @ LUMINANCE)


def test_lights_differ_in_shading_and_have_the_stated_exposure() -> None:
    seen = set()
    for seed in SEEDS:
        room = room_of(seed)
        day = table_light(room, 0)
        for time, visit in enumerate(room.visits):
            if visit.light.name == "day" or visit.light.name in seen:
                continue
            seen.add(visit.light.name)
            ratio = table_light(room, time) / day
            assert np.log2(ratio.mean()) == pytest.approx(visit.light.ev, abs=0.1)
            assert ratio.std() / ratio.mean() > 0.05
    assert seen == {"evening", "lamp"}


def test_a_tilted_object_rests_on_its_side() -> None:
    tall = ObjectModel(1, "tall", (Piece(Box((0.06, 0.1, 0.2)), GREY),))
    lying = Placement(0.3, -0.1, 0.75, 25.0, 90.0)
    pose = world_from_object(tall, lying)
    assert pose[2, 3] == pytest.approx(0.75 + 0.05)
    np.testing.assert_allclose(pose[:2, 3], [0.3, -0.1])
    assert pose[2, 2] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(pose[:3, 0], [np.cos(np.deg2rad(25)), np.sin(np.deg2rad(25)), 0], atol=1e-12)
    for tilt in (0.0, 30.0, 90.0, 180.0):
        pose = world_from_object(tall, dataclasses.replace(lying, tilt_deg=tilt))
        assert piece_corners(tall.pieces[0], pose)[:, 2].min() == pytest.approx(0.75)
    bottle = ObjectModel(2, "bottle", (Piece(Cylinder(0.04, 0.12), GREY, (0, 0, -0.02)), Piece(Cylinder(0.02, 0.04), GREY, (0, 0, 0.06))))
    assert world_from_object(bottle, lying)[2, 3] == pytest.approx(0.75 + 0.04)


def test_penetration_sees_the_gap_beside_a_slanted_box() -> None:
    piece = Piece(Box((0.2, 0.2, 0.2)), GREY)
    model = ObjectModel(1, "cube", (piece,))
    upright = piece_corners(piece, world_from_object(model, Placement(0, 0, 0)))
    slanted = piece_corners(piece, world_from_object(model, Placement(0, 0.21, 0.03, 0, 45)))
    # The bounding boxes overlap in all three axes, the solids do not: only a face of the slanted box separates them.
    assert slanted[:, 1].min() < upright[:, 1].max() and slanted[:, 2].min() < upright[:, 2].max()
    assert penetration(upright, slanted) == pytest.approx(penetration(slanted, upright))
    assert penetration(upright, piece_corners(piece, world_from_object(model, Placement(0, 0.15, 0)))) == pytest.approx(0.05)
    assert penetration(upright, piece_corners(piece, world_from_object(model, Placement(0, 0.25, 0)))) == pytest.approx(-0.05)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Room:
    out = tmp_path_factory.mktemp("random") / "room"
    write_room(shortened(3), out, TINY)
    return read_room(out)


def test_a_written_room_reads_back(written: Room) -> None:
    room = room_of(3)
    assert written.name == "random_room_3" and written.num_times == 5
    assert [sum(p.time == t for p in written.photos) for t in range(5)] == [2] * 5
    assert [light.ev_vs_t0 for light in written.lights] == [v.light.ev for v in room.visits]
    for item, model in zip(written.objects, room.models, strict=True):
        assert (item.object_id, item.name, item.symmetric) == (model.object_id, model.name, model.symmetric)
        assert (item.symmetry_axis is not None) == model.symmetric
        assert item.present.tolist() == [model.name in v.placements for v in room.visits]
    (tipped,) = (n for n, p in room.visits[3].placements.items() if p.tilt_deg)
    pose = next(o for o in written.objects if o.name == tipped).world_from_object[3]
    assert abs(pose[2, 2]) < 1e-6


def test_written_masks_agree_with_the_timeline(written: Room) -> None:
    for photo in (*written.photos, *written.tests):
        present = {o.object_id for o in written.objects if o.present[photo.time]}
        mask = written.mask(photo.name)
        assert set(np.unique(mask)) <= present | {0} and len(np.unique(mask)) > len(present) / 2
        assert (written.depth(photo.name) is not None) == (photo.role == "test")
        change = written.change_mask(photo.name, since_previous=True)
        if photo.time == 0:
            assert change is None
            continue
        assert change is not None and written.change_mask(photo.name) is not None
        here = [e.object_id for e in written.events if e.time == photo.time and e.kind != "removed"]
        np.testing.assert_array_equal(change == 1, np.isin(mask, here))


def test_the_same_seed_writes_the_same_bytes(written: Room, tmp_path: Path) -> None:
    room = shortened(3)
    for path in write_room(dataclasses.replace(room, visits=room.visits[:1]), tmp_path, TINY):
        assert path.read_bytes() == (written.root / path.relative_to(tmp_path)).read_bytes()


def test_an_impossible_room_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = sys.modules[random_room.__module__]
    monkeypatch.setattr(module, "TRIES", 2)
    monkeypatch.setattr(module, "GAP_M", 0.5)
    assert main(["--random", "0", "--out", str(tmp_path / "x")]) == 2
    assert re.search(r"Seed 0: no room was found in 2 draws .*no place for .*another seed", caplog.text)
    assert main(["--random", "-1", "--out", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()
