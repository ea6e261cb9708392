"""A late visit between stored ones: what it decides, what it must leave alone. Updates are made by hand, nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
import torch
from timelines import ABSENT, NUM_TIMES, PRESENT, UNKNOWN, cluster, pose, same_content, scene_of, timeline, track, visit

from ltgs.core.chronology import Appearance, Event, ObjectTrack, Presence, Template
from ltgs.core.decisions import DecisionRecord, InstanceVerdict
from ltgs.core.edits import delete_object
from ltgs.core.events import derive_events
from ltgs.core.gaussians import Gaussians
from ltgs.core.scene import Scene
from ltgs.core.track_times import Entry, shifted, with_time
from ltgs.errors import UsageError
from ltgs.pipeline.insert import before_time, insert_position, insert_visit
from ltgs.pipeline.update_haze import hazes

LATE = datetime(2024, 2, 15)


def updated(
    scene: Scene, time: int, *, here: dict[int, Entry] | None = None, new: dict[int, tuple[Template, ObjectTrack]] | None = None,
    lifted: torch.Tensor | None = None, events: tuple[Event, ...] = (), away: bool = False,
) -> Scene:
    """What an update of the scene before `time` might have found: entries of known objects, new things, more lifted Gaussians."""
    start = before_time(scene, time)
    old, here, new = start.chronology, here or {}, new or {}

    def carried(short: ObjectTrack) -> ObjectTrack:
        last = Presence(int(short.presence[-1]))
        return short.extended(PRESENT if last == PRESENT else last)

    tracks = {k: with_time(t, time, here[k]) if k in here else carried(t) for k, t in old.tracks.items()}
    templates = dict(old.templates)
    for k, (template, its) in new.items():
        templates[k], tracks[k] = template, its
    if not events:
        events = tuple(e for e in derive_events(templates, tracks) if e.time == time)
    chronology = replace(
        old, templates=templates, tracks=tracks, appearance=(*old.appearance, Appearance(np.eye(3, 4) * 1.3, True, 0.4)),
        events=(*old.events, *events), lifted=old.lifted if lifted is None else torch.cat([old.lifted, lifted]),
    )
    return replace(start, chronology=chronology, visits=(*start.visits, visit(time, "late", LATE, away=away)))


def assert_others_look_the_same(whole: Scene, joined: Scene, time: int, *, except_at: tuple[int, ...] = ()) -> None:
    for t in range(NUM_TIMES):
        if shifted(t, time) not in except_at:
            assert same_content(whole.chronology, t, joined.chronology, shifted(t, time)), f"time {t} looks different"


def kinds(scene: Scene, object_id: int) -> list[tuple[int, str]]:
    return [(e.time, e.kind) for e in scene.chronology.events if e.object_id == object_id]


@pytest.mark.parametrize("time", [1, 2, 3])
def test_a_visit_that_shows_nothing_new_changes_nothing_else(time: int) -> None:
    whole = scene_of(timeline())
    joined, remarks = insert_visit(whole, updated(whole, time), time)
    assert remarks == () and joined.chronology.num_times == len(joined.visits) == NUM_TIMES + 1
    assert_others_look_the_same(whole, joined, time)
    assert same_content(joined.chronology, time, whole.chronology, time - 1)
    assert joined.chronology.events == tuple(replace(e, time=shifted(e.time, time)) for e in whole.chronology.events)
    assert [v.timestep for v in joined.visits] == list(range(NUM_TIMES + 1))
    for visited in joined.visits:
        assert {p.timestep for p in visited.photos} == {p.camera.time for p in visited.photos if p.camera} == {visited.timestep}
    kept = [v for v in joined.visits if v.name != "late"]
    assert [(v.name, v.quality, v.timing) for v in kept] == [(v.name, v.quality, v.timing) for v in whole.visits]
    assert [np.array_equal(p.camera.cam_from_world, q.camera.cam_from_world) for v, w in zip(kept, whole.visits, strict=True)
            for p, q in zip(v.photos, w.photos, strict=True) if p.camera and q.camera] == [True] * 12
    assert joined.chronology.templates[4].created_at == (2 if time == 1 else 1), "the surface came with the visit after"
    light = joined.chronology.appearance
    assert light[time].exposure_ev == 0.4 and [a.exposure_ev for i, a in enumerate(light) if i != time] == [
        a.exposure_ev for a in whole.chronology.appearance
    ]
    assert light[time + 1].changed, "the light after it differs from the inserted visit's"


@pytest.mark.parametrize("time", [1, 2, 3])
def test_a_visit_without_placed_photos_decides_nothing(time: int) -> None:
    whole = scene_of(timeline())
    start = before_time(whole, time).chronology
    unseen = {
        k: Entry.at(t.last_pose(), UNKNOWN) for k, t in start.tracks.items() if t.presence[-1] != ABSENT
    }
    joined, _ = insert_visit(whole, updated(whole, time, here=unseen, away=True), time)
    assert_others_look_the_same(whole, joined, time)
    assert joined.chronology.events == tuple(replace(e, time=shifted(e.time, time)) for e in whole.chronology.events)


def test_later_objects_come_along_as_absent() -> None:
    start = before_time(scene_of(timeline()), 1)
    assert sorted(start.chronology.tracks) == [1, 2, 3], "the surface of a later visit does not"
    known = start.chronology.tracks[3]
    assert known.presence.tolist() == [ABSENT]
    np.testing.assert_array_equal(known.last_pose(), timeline().tracks[3].world_from_object[1])
    assert len(start.chronology.lifted) == 24, "what later visits cut out stays cut out"
    assert len(start.visits) == start.chronology.num_times == 1 and start.chronology.events == ()


def test_a_later_object_found_by_registration_was_there_before() -> None:
    whole = scene_of(timeline())
    found = pose(-0.5, 0.6, yaw_deg=20)
    event = Event(1, "returned", 3, 0.6, 20.0, uncertain=True, note="rotation ambiguous")
    joined, remarks = insert_visit(whole, updated(whole, 1, here={3: Entry.at(found)}, events=(event,)), 1)
    assert kinds(joined, 3) == [(1, "appeared"), (2, "moved"), (3, "removed")]
    appeared = next(e for e in joined.chronology.events if e.object_id == 3)
    assert appeared.uncertain and appeared.note == "rotation ambiguous"
    assert any("object 3" in r and "month 2" in r for r in remarks)
    assert_others_look_the_same(whole, joined, 1)


@pytest.mark.parametrize(("shift", "one"), [(0.03, True), (0.5, False)])
def test_a_new_object_at_the_place_of_a_later_one_is_that_one(shift: float, one: bool) -> None:
    whole = scene_of(timeline())
    at = pose(0.0 + shift, 0.9)
    template = Template(5, "object", cluster(3), 1)
    event = Event(1, "appeared", 5, uncertain=True)
    joined, _ = insert_visit(
        whole, updated(whole, 1, new={5: (template, track(5, [ABSENT, PRESENT], [None, at]))}, events=(event,)), 1
    )
    assert_others_look_the_same(whole, joined, 1)
    if one:
        assert sorted(joined.chronology.templates) == [1, 2, 3, 4]
        assert kinds(joined, 3) == [(1, "appeared"), (3, "removed")]
        assert joined.chronology.events[0].uncertain or joined.chronology.events[1].uncertain
        poses = joined.chronology.tracks[3].world_from_object
        np.testing.assert_array_equal(poses[1], poses[2]), "it stood still"
    else:
        assert sorted(joined.chronology.templates) == [1, 2, 3, 4, 5]
        assert kinds(joined, 3) == [(2, "appeared"), (3, "removed")] and kinds(joined, 5) == [(1, "appeared"), (2, "removed")]


def test_another_look_at_the_same_place_is_another_object() -> None:
    whole = scene_of(timeline())
    other = replace(cluster(3), sh=-cluster(3).sh)
    new = {5: (Template(5, "object", other, 1), track(5, [ABSENT, PRESENT], [None, pose(0, 0.9)]))}
    joined, _ = insert_visit(whole, updated(whole, 1, new=new), 1)
    assert sorted(joined.chronology.templates) == [1, 2, 3, 4, 5]


def test_a_new_form_that_the_inserted_visit_saw_is_told() -> None:
    whole = scene_of(timeline())
    other = replace(cluster(3), sh=-cluster(3).sh)
    new = {5: (Template(5, "object", other, 1, replaces=1), track(5, [ABSENT, PRESENT], [None, pose(0.5, 0.5)]))}
    joined, _ = insert_visit(whole, updated(whole, 1, new=new, here={1: Entry.absent()}), 1)
    assert joined.chronology.templates[5].replaces == 1
    assert kinds(joined, 5)[0] == (1, "replaced") and (1, "removed") not in kinds(joined, 1)
    assert_others_look_the_same(whole, joined, 1)


def test_something_cut_out_now_is_the_background_at_all_other_times() -> None:
    whole = scene_of(timeline((2, 3, 4)))
    home, there = pose(0.9, 0.0), pose(0.4, 0.5, yaw_deg=15)
    refined = replace(cluster(1), sh=cluster(1).sh + 0.05)
    members = torch.arange(0, 12)
    new = {5: (Template(5, "object", refined, 0, members=members), track(5, [PRESENT, PRESENT, PRESENT], [home, home, there]))}
    joined, _ = insert_visit(whole, updated(whole, 2, new=new, lifted=members), 2)
    assert_others_look_the_same(whole, joined, 2)
    assert joined.chronology.tracks[5].presence.tolist() == [PRESENT] * 5
    assert kinds(joined, 5) == [(2, "moved"), (3, "moved")], "it was put back before the next visit"
    np.testing.assert_array_equal(joined.chronology.tracks[5].world_from_object[2], there)


def test_a_motion_that_a_later_visit_saw_happened_before_the_inserted_one() -> None:
    """Object 2 is registered a little beside where the next visit has it: one motion, not two."""
    whole = scene_of(timeline())
    beside = pose(-0.4, -0.3, yaw_deg=70) @ pose(0.01, -0.01, 0.005, yaw_deg=3)
    event = Event(2, "moved", 2, 0.7, 73.0, note="seen now")
    joined, _ = insert_visit(whole, updated(whole, 2, here={2: Entry.at(beside)}, events=(event,)), 2)
    assert kinds(joined, 2) == [(2, "moved")]
    moved = next(e for e in joined.chronology.events if e.object_id == 2)
    assert moved.rotation_deg == pytest.approx(70) and moved.note == "seen now"
    assert_others_look_the_same(whole, joined, 2)


def test_a_removal_that_a_later_visit_contradicts_is_a_return() -> None:
    whole = scene_of(timeline())
    joined, _ = insert_visit(whole, updated(whole, 1, here={2: Entry.absent()}, events=(Event(1, "removed", 2),)), 1)
    assert joined.chronology.tracks[2].presence.tolist() == [PRESENT, ABSENT, PRESENT, PRESENT, UNKNOWN]
    assert kinds(joined, 2)[:2] == [(1, "removed"), (2, "returned")]
    assert_others_look_the_same(whole, joined, 1)


def test_where_nobody_looked_later_the_inserted_visit_counts() -> None:
    """The photos of the time after see nothing: object 2 stays unknown there, and is where the inserted visit saw it last."""
    tracks = {2: track(2, [PRESENT, UNKNOWN, UNKNOWN, PRESENT], [pose(-0.9, 0.2)] * 4)}
    whole = scene_of(replace(timeline((2,)), tracks=tracks, events=()), away=(1, 2))
    there = pose(0.3, 0.3)
    joined, remarks = insert_visit(whole, updated(whole, 1, here={2: Entry.at(there)}), 1)
    own = joined.chronology.tracks[2]
    assert own.presence.tolist() == [PRESENT, PRESENT, UNKNOWN, UNKNOWN, PRESENT]
    np.testing.assert_array_equal(own.world_from_object[2:4], np.stack([there, there]))
    assert kinds(joined, 2) == [(1, "moved"), (4, "moved")]
    assert any("time 2, 3" in r for r in remarks)
    assert_others_look_the_same(whole, joined, 1, except_at=(2, 3))
    joined, _ = insert_visit(whole, updated(whole, 1, here={2: Entry.absent()}), 1)
    assert joined.chronology.tracks[2].presence.tolist() == [PRESENT, ABSENT, ABSENT, ABSENT, PRESENT]
    assert kinds(joined, 2) == [(1, "removed"), (4, "returned")]


def test_a_place_found_empty_later_stays_empty_even_if_its_middle_is_out_of_sight() -> None:
    tracks = {2: track(2, [PRESENT, ABSENT, ABSENT, ABSENT], [pose(-0.9, 0.2), None, None, None])}
    whole = scene_of(replace(timeline((2,)), tracks=tracks, events=(Event(1, "removed", 2, note="as seen"),)), away=(1, 2, 3))
    joined, _ = insert_visit(whole, updated(whole, 1), 1)
    assert joined.chronology.tracks[2].presence.tolist() == [PRESENT, PRESENT, ABSENT, ABSENT, ABSENT]
    assert [(e.time, e.note) for e in joined.chronology.events] == [(2, "as seen")]


def test_new_surfaces_show_only_while_the_inserted_visit_counts_and_take_no_ids_of_later_ones() -> None:
    for away, shown in (((), [ABSENT, PRESENT, ABSENT, ABSENT, ABSENT]), ((1,), [ABSENT, PRESENT, PRESENT, ABSENT, ABSENT])):
        tracks = dict(timeline().tracks)
        tracks[2] = track(2, [PRESENT, UNKNOWN if away else PRESENT, PRESENT, PRESENT], [pose(-0.9, 0.2)] * 4)
        whole = scene_of(replace(timeline(), tracks=tracks), away=away)
        new = {4: (Template(4, "surface", cluster(9), 1), track(4, [ABSENT, PRESENT], [None, np.eye(4)]))}
        joined, _ = insert_visit(whole, updated(whole, 1, here={2: Entry.absent()}, new=new), 1)
        assert torch.equal(joined.chronology.templates[4].gaussians.means, cluster(4).means)
        assert torch.equal(joined.chronology.templates[5].gaussians.means, cluster(9).means)
        assert joined.chronology.tracks[5].presence.tolist() == shown
        assert_others_look_the_same(whole, joined, 1, except_at=(2,) if away else ())


def test_what_a_visit_completes_is_shown_at_its_time_only() -> None:
    """The update fits hardly seen background again and puts a surface in its place; elsewhere the old Gaussians stay."""
    whole = scene_of(timeline())
    rows = torch.arange(30, 40)
    fitted = cluster(9).transformed(torch.as_tensor(pose(1.5, 1.5), dtype=torch.float32))
    completion = Template(5, "surface", fitted, 2, members=rows)
    new = {5: (completion, track(5, [UNKNOWN, UNKNOWN, PRESENT], [np.eye(4)] * 3))}
    joined, _ = insert_visit(whole, updated(whole, 2, new=new, lifted=rows), 2)
    assert_others_look_the_same(whole, joined, 2)
    here = joined.chronology.state_at(2).gaussians.means
    old = whole.chronology.background.means[rows]
    assert all((here == point).all(1).any() for point in fitted.means) and not any((here == point).all(1).any() for point in old)
    assert delete_object(joined.chronology, 6).lifted.tolist() == whole.chronology.lifted.tolist(), "and it can be given back"


def test_a_part_of_a_surface_that_left_is_missing_at_its_time_only() -> None:
    """Object 5 is cut out of the background and of surface 4; the later visits show both where they were."""
    whole = scene_of(timeline((2, 3, 4)))
    members, rows = torch.arange(0, 12), torch.arange(0, 12) < 5
    part = cluster(4)[rows]
    both = Gaussians.concatenate([cluster(1), part.transformed(torch.as_tensor(np.linalg.inv(pose(0.9, 0.0)), dtype=torch.float32))])
    home = pose(0.9, 0.0)
    cut_out = Template(5, "object", both, 0, members=members, surface_parts={4: part})
    rest = replace(whole.chronology.templates[4], gaussians=cluster(4)[~rows])
    new = {
        5: (cut_out, track(5, [PRESENT, PRESENT, ABSENT], [home, home, None])),
        4: (rest, track(4, [ABSENT, PRESENT, PRESENT], [None, np.eye(4), np.eye(4)])),
    }
    joined, _ = insert_visit(whole, updated(whole, 2, new=new, lifted=members), 2)
    assert_others_look_the_same(whole, joined, 2)
    here = joined.chronology.state_at(2).gaussians.means
    assert not any((here == point).all(1).any() for point in part.means)
    assert all((here == point).all(1).any() for point in cluster(4)[~rows].means)
    assert not joined.chronology.templates[5].surface_parts, "at other times the surface still has that part"


def test_floor_that_lay_in_the_shadow_of_something_is_away_at_the_inserted_visit_only() -> None:
    whole = scene_of(timeline((2, 3, 4)))
    members, beneath, home = torch.arange(0, 12), torch.arange(24, 28), pose(0.9, 0.0)
    floor = whole.chronology.background[beneath]
    thing = Template(5, "object", cluster(1), 0, members=members)
    new = {
        5: (thing, track(5, [PRESENT, PRESENT, ABSENT], [home, home, None])),
        6: (Template(6, "surface", floor, 0, members=beneath, footing_of=5),
            track(6, [PRESENT, PRESENT, ABSENT], [np.eye(4), np.eye(4), None])),
    }
    joined, _ = insert_visit(whole, updated(whole, 2, new=new, lifted=torch.cat([members, beneath])), 2)
    assert_others_look_the_same(whole, joined, 2)
    here = joined.chronology.state_at(2).gaussians.means
    assert not any((here == point).all(1).any() for point in floor.means)
    assert [t.footing_of for t in joined.chronology.templates.values() if t.footing_of] == [5]


def test_haze_before_the_photos_of_the_inserted_visit_is_away_there_only() -> None:
    whole = scene_of(timeline((2, 3, 4)))
    members = torch.arange(24, 28)
    haze = whole.chronology.background[members]
    new = {
        5: (Template(5, "surface", haze, 0, members=members, haze=True), track(5, [PRESENT, PRESENT, ABSENT], [np.eye(4), np.eye(4), None]))
    }
    joined, _ = insert_visit(whole, updated(whole, 2, new=new, lifted=members), 2)
    assert_others_look_the_same(whole, joined, 2)
    here = joined.chronology.state_at(2).gaussians.means
    assert not any((here == point).all(1).any() for point in haze.means)
    assert len(hazes(joined.chronology, 2)) == 1 and hazes(joined.chronology, 1) == hazes(joined.chronology, 3) == []


def test_decisions_of_the_inserted_visit_speak_of_the_ids_of_the_scene() -> None:
    whole = scene_of(timeline())
    made = updated(whole, 1, new={
        4: (Template(4, "object", cluster(8), 1), track(4, [ABSENT, PRESENT], [None, pose(1.2, 1.2)])),
    })
    seen = InstanceVerdict(1, "round 1", (1.2, 1.2, 0.2), 0.1, 50, 3, False, "new", 4)
    visits = (*made.visits[:-1], replace(made.visits[-1], decisions=DecisionRecord(instances=(seen,))))
    joined, _ = insert_visit(whole, replace(made, visits=visits), 1)
    record = joined.visits[1].decisions
    assert record is not None and record.instances[0].object_id == 5 and kinds(joined, 5)[0] == (1, "appeared")


def test_pins_move_on_and_stand() -> None:
    whole = scene_of(timeline())
    pinned = replace(whole.chronology.tracks[1], pinned=frozenset({2}))
    whole = replace(whole, chronology=replace(whole.chronology, tracks={**whole.chronology.tracks, 1: pinned}))
    joined, _ = insert_visit(whole, updated(whole, 1), 1)
    assert joined.chronology.tracks[1].pinned == {3}
    np.testing.assert_array_equal(joined.chronology.tracks[1].world_from_object[3], pinned.world_from_object[2])


def test_where_a_visit_belongs() -> None:
    scene = scene_of(timeline())
    assert insert_position(scene, datetime(2024, 2, 15), "x") == 2
    assert insert_position(scene, datetime(2024, 2, 1), "x") == 2, "the same day comes after"
    assert insert_position(scene, datetime(2024, 5, 1), "x") == insert_position(scene, None, "x") == 4
    with pytest.raises(UsageError, match="before the first visit"):
        insert_position(scene, datetime(2023, 12, 31), "x")
