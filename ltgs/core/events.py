"""Events from tracks: what happened to an object between two visits, word for word as before where its track did not change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ltgs.core.chronology import Event, ObjectTrack, Presence, Template
from ltgs.core.se3 import rotation_angle_deg

Array = NDArray[np.float64]
SAME_POSE = 1e-6
"""Motions below this share of the object's size are rounding, not motion."""


@dataclass(frozen=True)
class Step:
    """What an object's track says about one visit and what went before it."""

    before: Presence
    """At the visit before."""
    now: Presence
    last: Array | None
    """[4, 4] pose at the last earlier time at which it was not absent; None = it never was there."""
    pose: Array | None
    """[4, 4] pose now; None where absent."""

    def same_as(self, other: Step) -> bool:
        """The same facts; whether the object was surely or only possibly there before makes no difference."""
        was_there = self.before != Presence.ABSENT
        return self.now == other.now and was_there == (other.before != Presence.ABSENT) and all(
            np.array_equal(a, b) if a is not None and b is not None else a is b
            for a, b in ((self.last, other.last), (self.pose, other.pose))
        )


Steps = Mapping[tuple[int, int], Step]
"""By (object id, time)."""


def step_at(track: ObjectTrack, time: int) -> Step:
    """The step of a track from `time - 1` to `time`, time >= 1."""
    there = np.flatnonzero(track.presence[:time] != Presence.ABSENT)
    now = Presence(int(track.presence[time]))
    return Step(
        Presence(int(track.presence[time - 1])), now,
        track.world_from_object[there[-1]] if len(there) else None,
        None if now == Presence.ABSENT else track.world_from_object[time],
    )


def all_steps(tracks: Mapping[int, ObjectTrack]) -> dict[tuple[int, int], Step]:
    """Every step of every track, by (object id, time)."""
    return {(k, t): step_at(track, t) for k, track in tracks.items() for t in range(1, track.num_times)}


def derive_events(
    templates: Mapping[int, Template], tracks: Mapping[int, ObjectTrack], *, known: Iterable[Event] = (), known_steps: Steps | None = None
) -> tuple[Event, ...]:
    """All events that the tracks imply, ordered by time and object; surfaces have none.

    Args:
        known: events found earlier, with the ids and times of `tracks`.
        known_steps: what the tracks said when `known` was found. Where a step is still the same, the known events of that
            object and time stand as they are; elsewhere only their doubts and notes are carried over.
    """
    known_steps = known_steps or {}
    by_place: dict[tuple[int, int], list[Event]] = {}
    for event in known:
        by_place.setdefault((event.object_id, event.time), []).append(event)
    out: list[Event] = []
    renewed = replaced_at(templates, tracks)
    for k, track in sorted(tracks.items()):
        if templates[k].kind != "object":
            continue
        radius = max(float(templates[k].gaussians.means.norm(dim=1).max()), 1e-12) if len(templates[k].gaussians) else 1e-12
        for time in range(1, track.num_times):
            step, before = step_at(track, time), by_place.get((k, time), [])
            if step.pose is None and renewed.get(k) == time:
                continue
            renews = step.pose is not None and step.last is None and renewed.get(templates[k].replaces) == time
            # That it left was told with its next form, and that it came with its former one, which may be gone by now.
            untold = step.pose is None and step.before != Presence.ABSENT and not before
            retold = untold or any((e.kind == "replaced") != renews for e in before)
            if (k, time) in known_steps and step.same_as(known_steps[k, time]) and not retold:
                out += before
                continue
            if renews and step.pose is not None:
                found: Event | None = next_form_event(k, time, step.pose, tracks[templates[k].replaces])
            else:
                found = _event(k, time, step, radius)
            if found is not None:
                out.append(_annotated(found, before, pinned=time in track.pinned))
    return tuple(sorted(out, key=lambda e: (e.time, e.object_id)))


def replaced_at(templates: Mapping[int, Template], tracks: Mapping[int, ObjectTrack]) -> dict[int, int]:
    """Object id to the time at which its next form came and it left."""
    out = {}
    for k, template in templates.items():
        came = np.flatnonzero(tracks[k].presence != Presence.ABSENT)
        if template.replaces in tracks and len(came) and came[0] > 0:
            step = step_at(tracks[template.replaces], int(came[0]))
            if step.pose is None and step.before != Presence.ABSENT:
                out[template.replaces] = int(came[0])
    return out


def next_form_event(object_id: int, time: int, pose: Array, former: ObjectTrack) -> Event:
    """That an object is there in a new form at a pose [4, 4]; by its looks alone, so that it is never certain."""
    last = step_at(former, time).last
    shift = 0.0 if last is None else float(np.linalg.norm(pose[:3, 3] - last[:3, 3]))
    return Event(time, "replaced", object_id, shift, uncertain=True)


def _event(object_id: int, time: int, step: Step, radius: float) -> Event | None:
    """What one step means, if anything."""
    if step.pose is None:
        return Event(time, "removed", object_id) if step.before != Presence.ABSENT else None
    # A place that no photo could see is taken over from elsewhere, so whatever it says is a guess.
    uncertain = step.now == Presence.UNKNOWN
    if step.last is None:
        return Event(time, "appeared", object_id, uncertain=uncertain)
    shift = float(np.linalg.norm(step.pose[:3, 3] - step.last[:3, 3]))
    turn = rotation_angle_deg(step.pose[:3, :3] @ step.last[:3, :3].T)
    if step.before == Presence.ABSENT:
        return Event(time, "returned", object_id, shift, turn, uncertain)
    if shift + radius * np.radians(turn) <= SAME_POSE * radius:
        return None
    return Event(time, "moved", object_id, shift, turn, uncertain)


def _annotated(event: Event, known: Iterable[Event], *, pinned: bool) -> Event:
    """The doubts and notes of what was known of the same object and time: that it left, or that it stands somewhere new."""
    if pinned and event.kind != "removed":
        return replace(event, note="pose set by hand")
    for old in known:
        if (old.kind == "removed") == (event.kind == "removed"):
            return replace(event, uncertain=event.uncertain or old.uncertain, note=old.note)
    return event
