"""Corrections of a hand-made timeline: what they do, what they undo, and what they must leave alone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from timelines import ABSENT, MEMBERS, NUM_TIMES, PRESENT, UNKNOWN, background, cluster, pose, same_content, timeline, track

from ltgs.core.chronology import Appearance, Chronology, Event, Template
from ltgs.core.edits import delete_object, merge_objects, pin_pose, reframed, rename_object, split_object
from ltgs.core.events import all_steps, derive_events
from ltgs.core.gaussians import Gaussians
from ltgs.errors import UsageError


def kinds(chronology: Chronology) -> list[tuple[int, str, int]]:
    return [(e.time, e.kind, e.object_id) for e in chronology.events]


def assert_same_tracks(a: Chronology, b: Chronology) -> None:
    assert a.tracks.keys() == b.tracks.keys()
    for k, one in a.tracks.items():
        two = b.tracks[k]
        for name in ("presence", "world_from_object", "pose_covariance", "registration_error"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=f"object {k}, {name}")
        assert one.pinned == two.pinned


# -- events from tracks -----------------------------------------------------------------------------------------------

def test_events_follow_from_tracks() -> None:
    chronology = timeline()
    assert kinds(chronology) == [
        (1, "removed", 1), (1, "appeared", 3), (2, "returned", 1), (2, "moved", 2), (2, "removed", 3),
    ]
    returned, moved = chronology.events[2], chronology.events[3]
    assert returned.translation == pytest.approx(np.hypot(0.4, 0.8)) and returned.rotation_deg == pytest.approx(30)
    assert moved.rotation_deg == pytest.approx(70) and moved.uncertain and moved.note == "rotation ambiguous"


def renewed() -> Chronology:
    """Object 3, which came when object 1 left, is its next form."""
    start = timeline()
    templates = {**start.templates, 3: replace(start.templates[3], replaces=1)}
    return replace(start, templates=templates, events=derive_events(templates, start.tracks))


def test_the_next_form_of_an_object_is_one_event_and_two_again_without_the_link() -> None:
    """However the events are derived: from nothing, or from those that stood before an edit."""
    chronology = renewed()
    assert kinds(chronology)[:2] == [(1, "replaced", 3), (2, "returned", 1)]
    told, shift = chronology.events[0], chronology.tracks[3].world_from_object[1] - chronology.tracks[1].world_from_object[0]
    assert told.uncertain and told.translation == pytest.approx(np.linalg.norm(shift[:3, 3]))
    steps = all_steps(chronology.tracks)
    again = derive_events(chronology.templates, chronology.tracks, known=chronology.events, known_steps=steps)
    assert again == chronology.events
    plain = derive_events(timeline().templates, chronology.tracks, known=chronology.events, known_steps=steps)
    assert [(e.time, e.kind, e.object_id) for e in plain][:2] == [(1, "removed", 1), (1, "appeared", 3)]


def test_deleting_or_merging_one_form_leaves_the_other_told() -> None:
    chronology = renewed()
    assert kinds(delete_object(chronology, 3))[0] == (1, "removed", 1)
    without = delete_object(chronology, 1)
    assert kinds(without)[0] == (1, "appeared", 3) and without.templates[3].replaces == 0
    last = {t: track(t, [PRESENT, ABSENT, ABSENT, ABSENT], [pose(0.9, 0), None, None, None]) for t in (1,)}
    apart = replace(chronology, tracks={**chronology.tracks, **last})
    merged = merge_objects(apart, 1, 3, np.eye(4))
    assert merged.templates[1].replaces == 0 and (1, "moved", 1) in kinds(merged)


def test_known_events_stand_where_tracks_did_not_change() -> None:
    chronology = timeline()
    measured = [replace(e, translation=0.123, note="as measured") for e in chronology.events]
    again = derive_events(chronology.templates, chronology.tracks, known=measured, known_steps=all_steps(chronology.tracks))
    assert list(again) == measured
    tracks = {**chronology.tracks, 1: track(1, [PRESENT, ABSENT, ABSENT, ABSENT], [pose(0.9, 0), None, None, None])}
    changed = derive_events(chronology.templates, tracks, known=measured, known_steps=all_steps(chronology.tracks))
    assert [e for e in changed if e.object_id != 1] == [e for e in measured if e.object_id != 1]
    assert [(e.time, e.kind) for e in changed if e.object_id == 1] == [(1, "removed")]


def test_rounding_is_no_motion_and_a_guess_is_uncertain() -> None:
    chronology = timeline((3,))
    still = pose(0, 0.9)
    tiny = still.copy()
    tiny[0, 3] += 1e-9
    tracks = {3: track(3, [ABSENT, PRESENT, PRESENT, PRESENT], [None, still, tiny, still])}
    assert [(e.time, e.kind) for e in derive_events(chronology.templates, tracks)] == [(1, "appeared")]
    tracks = {3: track(3, [ABSENT, UNKNOWN, PRESENT, PRESENT], [None, still, still, still])}
    assert [(e.kind, e.uncertain) for e in derive_events(chronology.templates, tracks)] == [("appeared", True)]


def test_a_dozen_times_stay_in_order() -> None:
    """One object comes and goes with every visit, another one moves late."""
    presence = {1: [PRESENT, ABSENT] * 6, 2: [ABSENT] * 9 + [PRESENT] * 3}
    poses = {
        1: [pose(0.1 * t, 0) if t % 2 == 0 else None for t in range(12)],
        2: [None] * 9 + [pose(-1, 0), pose(-1, 1), pose(-1, 1)],
    }
    templates = {k: Template(k, "object", cluster(k), 0 if k == 1 else 9) for k in presence}
    tracks = {k: track(k, presence[k], poses[k]) for k in presence}
    events = derive_events(templates, tracks)
    own = [(t, 1, "removed" if t % 2 else "returned") for t in range(1, 12)]
    assert [(e.time, e.object_id, e.kind) for e in events] == sorted([*own, (9, 2, "appeared"), (10, 2, "moved")])
    assert [e.translation for e in events if e.kind == "returned"] == pytest.approx([0.2] * 5)
    whole = Chronology(background(), torch.zeros(0, dtype=torch.int64), templates, tracks, (Appearance(),) * 12, events)
    assert [whole.present_ids(t) for t in (0, 1, 2, 8, 9, 10, 11)] == [[1], [], [1], [1], [2], [1, 2], [2]]
    past = whole.until(10)
    assert past.num_times == 10 and past.events == tuple(e for e in events if e.time <= 9)
    assert [past.present_ids(t) for t in range(10)] == [whole.present_ids(t) for t in range(10)]


# -- split and merge --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("object_id", "time"), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("recorded", [True, False])
def test_merge_after_split_is_the_identity(object_id: int, time: int, recorded: bool) -> None:
    start = timeline(recorded=recorded)
    halves, new = split_object(start, object_id, time)
    assert new == 5 and halves.tracks[new].presence[:time].tolist() == [ABSENT] * time
    assert all(same_content(start, t, halves, t) for t in range(NUM_TIMES)), "a split changes who, not what"
    whole = merge_objects(halves, object_id, new, np.eye(4))
    assert_same_tracks(start, whole)
    assert kinds(whole) == kinds(start)
    # Only what happened at the seam is told from the tracks alone.
    assert [e for e in whole.events if e.time != time] == [e for e in start.events if e.time != time]
    for t in range(NUM_TIMES):
        one, two = start.state_at(t), whole.state_at(t)
        assert torch.equal(one.object_ids, two.object_ids) and torch.equal(one.gaussians.means, two.gaussians.means)
    assert torch.equal(whole.members_of(object_id), MEMBERS[object_id])


def test_split_gives_each_side_its_events() -> None:
    halves, new = split_object(timeline(), 2, 2)
    assert [(e.time, e.kind) for e in halves.events if e.object_id == 2] == [(2, "removed")]
    assert [(e.time, e.kind) for e in halves.events if e.object_id == new] == [(2, "appeared")]
    assert not any(e.note for e in halves.events if e.object_id in (2, new)), "the doubt was about a motion that is gone"


def test_merge_tells_poses_in_the_kept_frame() -> None:
    start = timeline()
    other_from_object = pose(0.05, -0.02, 0.01, yaw_deg=25)
    merged = merge_objects(start, 1, 3, other_from_object)
    assert merged.tracks[1].presence.tolist() == [PRESENT, PRESENT, PRESENT, PRESENT]
    np.testing.assert_allclose(merged.tracks[1].world_from_object[1], start.tracks[3].world_from_object[1] @ other_from_object)
    np.testing.assert_array_equal(merged.tracks[1].world_from_object[2], start.tracks[1].world_from_object[2])
    assert 3 not in merged.templates and torch.equal(merged.templates[1].gaussians.means, start.templates[1].gaussians.means)
    assert merged.templates[1].name == "vase", "the only name there is"
    assert [(e.time, e.kind) for e in merged.events if e.object_id == 1] == [(1, "moved"), (2, "moved")]
    assert [e for e in merged.events if e.object_id == 2] == [e for e in start.events if e.object_id == 2]


def test_the_template_of_the_first_visit_is_kept_whatever_the_order() -> None:
    start = timeline()
    other_from_object = pose(0.05, -0.02, 0.01, yaw_deg=25)
    merged = merge_objects(start, 3, 1, np.linalg.inv(other_from_object))
    assert torch.equal(merged.templates[3].gaussians.means, start.templates[1].gaussians.means)
    assert same_content(start, 0, merged, 0), "the first visit does not change"
    np.testing.assert_allclose(merged.tracks[3].world_from_object[1], start.tracks[3].world_from_object[1] @ other_from_object)
    assert torch.equal(merged.members_of(3), MEMBERS[1])
    assert same_content(timeline((2, 4)), 1, delete_object(merged, 3), 1), "and it can still be given back"


def test_what_was_seen_last_counts_where_nobody_looked() -> None:
    start = timeline((2, 3))
    a, b = pose(0, 0.9), pose(0.4, 0.4)
    tracks = {
        2: track(2, [PRESENT, UNKNOWN, UNKNOWN, PRESENT], [a, a, a, a]),
        3: track(3, [ABSENT, PRESENT, UNKNOWN, ABSENT], [None, b, b, None]),
    }
    merged = merge_objects(replace(start, tracks=tracks, events=()), 2, 3, np.eye(4))
    assert merged.tracks[2].presence.tolist() == [PRESENT, PRESENT, UNKNOWN, PRESENT]
    np.testing.assert_array_equal(merged.tracks[2].world_from_object, np.stack([a, b, b, a]))
    assert kinds(merged) == [(1, "moved", 2), (3, "moved", 2)]


@pytest.mark.parametrize(("one", "two", "words"), [
    (1, 2, "both in the place at time 0"), (1, 1, "name two"), (1, 4, "surface"), (1, 9, "no object 9"),
])
def test_impossible_merges_are_refused(one: int, two: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        merge_objects(timeline(), one, two, np.eye(4))


@pytest.mark.parametrize(("object_id", "time"), [(1, 0), (3, 1), (3, 2), (1, 4), (4, 2)])
def test_impossible_splits_are_refused(object_id: int, time: int) -> None:
    with pytest.raises(UsageError):
        split_object(timeline(), object_id, time)


def test_a_new_frame_is_the_same_motion() -> None:
    old, change = timeline().tracks[2], pose(0.3, -0.1, 0.2, yaw_deg=40)
    new = reframed(old, change)
    point = np.array([0.1, 0.2, 0.3, 1.0])
    np.testing.assert_allclose(new.world_from_object @ np.linalg.inv(change) @ point, old.world_from_object @ point)
    # Rotation errors of the old origin reach the new one through the lever arm: 0.01 + 0.01 * arm^2 in all.
    arm = np.linalg.norm(change[:3, 3])
    assert np.trace(new.pose_covariance[3, :3, :3]) == pytest.approx(3 * 0.01 + 2 * 0.01 * arm**2)
    back = reframed(new, np.linalg.inv(change))
    np.testing.assert_allclose(back.pose_covariance[3], old.pose_covariance[3], atol=1e-12)


# -- delete -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("object_id", [1, 2, 3, 4])
@pytest.mark.parametrize("recorded", [True, False])
def test_deleting_gives_the_timeline_without_it_at_all_times(object_id: int, recorded: bool) -> None:
    rest = [k for k in (1, 2, 3, 4) if k != object_id]
    without, deleted = timeline(rest), delete_object(timeline(recorded=recorded), object_id)
    assert deleted.templates.keys() == without.templates.keys()
    assert torch.equal(deleted.lifted.sort().values, without.lifted.sort().values)
    assert all(same_content(deleted, t, without, t) for t in range(NUM_TIMES))
    assert deleted.events == without.events
    assert_same_tracks(deleted, without)


def test_order_of_deletions_does_not_matter_even_for_old_scenes() -> None:
    for order in itertools.permutations((1, 2, 3)):
        chronology = timeline(recorded=False)
        for k in order:
            chronology = delete_object(chronology, k)
        assert len(chronology.lifted) == 0 and chronology.events == ()
        assert same_content(chronology, 0, Chronology.initial(chronology.background), 0)


def test_parts_of_surfaces_go_with_the_object() -> None:
    stays = torch.ones(12, dtype=torch.bool)
    stays[3:7] = False
    chronology = delete_object(timeline(), 1, {4: stays})
    assert len(chronology.templates[4].gaussians) == 8
    chronology = delete_object(timeline(), 1, {4: torch.zeros(12, dtype=torch.bool)})
    assert sorted(chronology.templates) == sorted(chronology.tracks) == [2, 3]


def test_a_surface_gets_back_what_it_lost_to_the_object() -> None:
    start = timeline()
    part = cluster(4)[:5]
    templates = {
        **start.templates, 1: replace(start.templates[1], surface_parts={4: part, 77: part}),
        4: replace(start.templates[4], gaussians=cluster(4)[5:]),
    }
    deleted = delete_object(replace(start, templates=templates), 1)
    assert all(same_content(deleted, t, timeline((2, 3, 4)), t) for t in range(NUM_TIMES))


def with_footing() -> Chronology:
    """Object 1 took some floor along that lay in its shadow, and a part of surface 4."""
    start = timeline()
    beneath, part = torch.arange(24, 28), cluster(4)[:5]
    footing = Template(
        5, "surface", Gaussians.concatenate([start.background[beneath], part]), 0, members=beneath, surface_parts={4: part}, footing_of=1
    )
    tracks = {**start.tracks, 5: track(5, [PRESENT, ABSENT, ABSENT, ABSENT], [np.eye(4), None, None, None])}
    templates = {**start.templates, 4: replace(start.templates[4], gaussians=cluster(4)[5:]), 5: footing}
    return replace(start, templates=templates, tracks=tracks, lifted=torch.cat([start.lifted, beneath]))


def test_the_floor_in_its_shadow_returns_with_a_deleted_object() -> None:
    deleted = delete_object(with_footing(), 1)
    assert sorted(deleted.templates) == [2, 3, 4] and deleted.retired == 5
    assert all(same_content(deleted, t, timeline((2, 3, 4)), t) for t in range(NUM_TIMES))
    kept = delete_object(with_footing(), 2)
    assert kept.templates[5].footing_of == 1 and kept.tracks[5].presence.tolist() == [PRESENT, ABSENT, ABSENT, ABSENT]


def test_the_floor_in_its_shadow_follows_a_merged_object() -> None:
    start = with_footing()
    tracks = {**start.tracks, 3: track(3, [ABSENT, PRESENT, ABSENT, ABSENT], [None, pose(0.2, 0.2), None, None])}
    merged = merge_objects(replace(start, tracks=tracks), 3, 1, np.eye(4))
    assert 1 not in merged.templates and merged.templates[5].footing_of == 3


def test_ids_are_never_given_twice() -> None:
    deleted = delete_object(timeline(), 4)
    halves, new = split_object(deleted, 2, 2)
    assert new == 5
    again, newer = split_object(merge_objects(halves, 2, new, np.eye(4)), 2, 2)
    assert newer == again.next_id - 1 == 6


# -- pinned poses and names -------------------------------------------------------------------------------------------

def test_a_pinned_pose_is_carried_as_far_as_the_old_one_was() -> None:
    new = pose(0.1, 0.1, yaw_deg=10)
    chronology = pin_pose(timeline(), 1, 2, new)
    poses = chronology.tracks[1].world_from_object
    np.testing.assert_array_equal(poses[2], new)
    np.testing.assert_array_equal(poses[3], new)
    assert chronology.tracks[1].pinned == {2}
    assert [(e.time, e.kind, e.note) for e in chronology.events if e.object_id == 1] == [
        (1, "removed", ""), (2, "returned", "pose set by hand"),
    ]
    later = pin_pose(pin_pose(timeline(), 1, 3, pose(0, 0)), 1, 2, new)
    np.testing.assert_array_equal(later.tracks[1].world_from_object[3], pose(0, 0))


def test_pinning_can_bring_an_object_back() -> None:
    chronology = pin_pose(timeline(), 3, 2, pose(0, 0.9))
    assert chronology.tracks[3].presence.tolist() == [ABSENT, PRESENT, PRESENT, ABSENT]
    assert [(e.time, e.kind) for e in chronology.events if e.object_id == 3] == [(1, "appeared"), (3, "removed")]


def test_pins_survive_merging_splitting_and_longer_tracks() -> None:
    pinned = pin_pose(timeline(), 1, 2, pose(0.1, 0.1))
    halves, new = split_object(pinned, 1, 2)
    assert halves.tracks[1].pinned == frozenset() and halves.tracks[new].pinned == {2}
    assert merge_objects(halves, 1, new, np.eye(4)).tracks[1].pinned == {2}
    assert pinned.tracks[1].extended(ABSENT).pinned == {2}


@pytest.mark.parametrize("bad", [np.eye(3), np.full((4, 4), np.nan), np.diag([2.0, 2, 2, 1]), np.diag([1.0, 1, -1, 1])])
def test_poses_must_be_rigid(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="pose"):
        pin_pose(timeline(), 1, 2, bad)
    with pytest.raises(UsageError, match=r"0\.\.3"):
        pin_pose(timeline(), 1, 7, np.eye(4))


def test_names() -> None:
    chronology = rename_object(timeline(), 1, " red box ")
    assert chronology.templates[1].name == "red box" and chronology.events == timeline().events
    assert rename_object(chronology, 1, "").templates[1].name == ""
    for bad in ("x" * 81, "a\nb", "\x1b[31m"):
        with pytest.raises(UsageError, match="name"):
            rename_object(chronology, 1, bad)


def test_known_events_are_not_doubled_when_tracks_join() -> None:
    """Object 3 vanishes in the same step in which 2 does something that still stands."""
    start = timeline((2, 3))
    tracks = {
        2: track(2, [PRESENT, PRESENT, ABSENT, ABSENT], [pose(0, 0), pose(0, 0), None, None]),
        3: track(3, [ABSENT, UNKNOWN, ABSENT, PRESENT], [None, pose(1, 1), None, pose(1, 1)]),
    }
    known = (Event(2, "removed", 2, note="mine"), Event(2, "removed", 3, note="not mine"))
    merged = merge_objects(replace(start, tracks=tracks, events=known), 2, 3, np.eye(4))
    assert [(e.time, e.kind, e.note) for e in merged.events] == [(2, "removed", "mine"), (3, "returned", "")]
