"""Corrections of a chronology: merge, split, delete, pin a pose, rename. Pure functions; events follow from the new tracks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.checks import check_finite, check_rotation, check_shape
from ltgs.core.chronology import Chronology, Event, ObjectTrack, Presence, Template
from ltgs.core.events import all_steps, derive_events, step_at
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import hat, invert_rigid
from ltgs.errors import UsageError

Array = NDArray[np.float64]
MAX_NAME = 80
"""Longest name of an object, characters."""


def checked_object(chronology: Chronology, object_id: int, *, surface: bool = False) -> Template:
    """The template of an object that may be edited.

    Raises:
        UsageError: no such object, or a revealed surface where only objects make sense.
    """
    template = chronology.templates.get(object_id)
    if template is None:
        known = ", ".join(map(str, sorted(chronology.templates))) or "none"
        raise UsageError(f"There is no object {object_id}; the scene has {known} (see `ltgs info`).")
    if template.kind == "surface" and not surface:
        raise UsageError(f"{object_id} is a revealed surface, not an object; it can only be deleted.")
    return template


def merge_objects(chronology: Chronology, object_id: int, other: int, other_from_object: Array) -> Chronology:
    """`other` is the same thing as `object_id`: one template, one track, under the id `object_id`.

    The template kept is that of `object_id`, unless only the other one was cut out of the first visit: then that one, since
    it comes from the most photos and the first visit must not change.

    Args:
        other_from_object: [4, 4] how the template of `object_id` lies in the frame of the other's.

    Raises:
        UsageError: unknown ids, surfaces, or both stand in the place at the same time.
    """
    one, two = checked_object(chronology, object_id), checked_object(chronology, other)
    if object_id == other:
        raise UsageError(f"An object is the same as itself: name two, not {object_id} twice.")
    tracks = dict(chronology.tracks)
    _check_apart(tracks[object_id], tracks[other])
    members = chronology.members_of(object_id), chronology.members_of(other)
    if len(members[1]) and not len(members[0]):
        kept, kept_members = two, members[1]
        first, second = reframed(tracks[object_id], invert_rigid(other_from_object)), tracks[other]
    else:
        kept, kept_members = one, members[0]
        first, second = tracks[object_id], reframed(tracks[other], other_from_object)
    templates = {k: _relinked(t, other, object_id) for k, t in chronology.templates.items() if k != other}
    templates[object_id] = replace(
        kept, object_id=object_id, name=one.name or two.name, members=kept_members if len(kept_members) else None,
        replaces=next((r for r in (one.replaces, two.replaces) if r not in (0, object_id, other)), 0),
    )
    del tracks[other]
    tracks[object_id] = _joined(object_id, first, second)
    # Where the joined track follows one of the two, that one's events stand; what else there was leaves its doubts and notes.
    steps = all_steps(chronology.tracks)
    known = [e for e in chronology.events if e.object_id not in (object_id, other)]
    for t in range(1, chronology.num_times):
        now = step_at(tracks[object_id], t)
        own = [k for k, track in ((object_id, first), (other, second)) if now.same_as(step_at(track, t))]
        if own:
            steps[object_id, t] = now
        known += [
            replace(e, object_id=object_id) for e in chronology.events
            if e.time == t and e.object_id in (own[:1] or (object_id, other))
        ]
    return replace(
        chronology, templates=templates, tracks=tracks, retired=max(chronology.retired, other),
        events=derive_events(templates, tracks, known=known, known_steps=steps),
    )


def _relinked(template: Template, old: int, new: int) -> Template:
    """A template that names another object instead of one that goes; 0 = none."""
    return replace(
        template, footing_of=new if template.footing_of == old else template.footing_of,
        replaces=new if template.replaces == old else template.replaces,
    )


def split_object(chronology: Chronology, object_id: int, time: int) -> tuple[Chronology, int]:
    """From `time` on it is another object; returns the chronology and the new id.

    Both look the same until photos say more; what was cut out of the first visit stays with the earlier one.

    Raises:
        UsageError: unknown id, a surface, or the object is there on one side of the time only.
    """
    template, track = checked_object(chronology, object_id), chronology.tracks[object_id]
    there = track.presence != Presence.ABSENT
    if not 0 < time < track.num_times or not there[:time].any() or not there[time:].any():
        raise UsageError(
            f"object {object_id} cannot be split at time {time}: it must be in the place before that time and from it on "
            f"(it is there at {_times(there)})."
        )
    new = chronology.next_id
    late = np.arange(track.num_times) >= time
    templates, tracks = dict(chronology.templates), dict(chronology.tracks)
    templates[new] = replace(template, object_id=new, name="", members=None, surface_parts={}, replaces=0)
    tracks[object_id], tracks[new] = _absent_at(track, late), _absent_at(replace(track, object_id=new), ~late)
    known = [replace(e, object_id=new) if e.object_id == object_id and e.time > time else e for e in chronology.events]
    steps = all_steps(chronology.tracks)
    steps |= {(new, t): steps[object_id, t] for t in range(time + 1, track.num_times)}
    return replace(
        chronology, templates=templates, tracks=tracks,
        events=derive_events(templates, tracks, known=known, known_steps=steps),
    ), new


def delete_object(chronology: Chronology, object_id: int, surfaces: Mapping[int, Tensor] | None = None) -> Chronology:
    """It never was an object: what was cut out of the background or a surface returns there, what was built vanishes.

    Args:
        surfaces: id of a revealed surface to [N] bool, which of its Gaussians stay (see `ltgs.pipeline.edit_surfaces`).

    Raises:
        UsageError: unknown id.
    """
    checked_object(chronology, object_id, surface=True)
    gone = [object_id, *(k for k, t in chronology.templates.items() if t.footing_of == object_id)]
    members = torch.cat([chronology.members_of(k) for k in gone])
    # The owners of what older scenes did not record are settled before one of them goes.
    templates = {
        k: replace(_relinked(t, object_id, 0), members=own if len(own := chronology.members_of(k)) else None)
        for k, t in chronology.templates.items() if k not in gone
    }
    for k, stays in (surfaces or {}).items():
        templates[k] = templates[k].of(templates[k].gaussians[stays])
        if not len(templates[k].gaussians):
            del templates[k]
    for k, part in [item for own in gone for item in chronology.templates[own].surface_parts.items()]:
        if k in templates:
            templates[k] = templates[k].of(Gaussians.concatenate([templates[k].gaussians, part]))
    tracks = {k: t for k, t in chronology.tracks.items() if k in templates}
    lifted = chronology.lifted[~torch.isin(chronology.lifted, members)]
    retired = max(chronology.retired, *(set(chronology.templates) - set(templates)))
    return _with(replace(chronology, lifted=lifted, retired=retired), templates, tracks, chronology.events)


def pin_pose(chronology: Chronology, object_id: int, time: int, world_from_object: Array) -> Chronology:
    """The object is in the place at `time`, at this pose [4, 4]; the pose is marked as set by hand.

    Later times to which the old pose was merely carried over (the object had not moved, or could not be seen) take the new
    one over, up to the next time that has a pose of its own.

    Raises:
        UsageError: unknown id, a surface, or a time that is not stored.
        ValueError: the pose is not a finite rigid transform.
    """
    checked_object(chronology, object_id)
    check_shape("pose", world_from_object, "4 4")
    check_finite("pose", world_from_object)
    check_rotation("pose", world_from_object)
    track = chronology.tracks[object_id]
    if not 0 <= time < track.num_times:
        raise UsageError(f"time {time} is not stored; the scene has times 0..{track.num_times - 1}.")
    old = track.world_from_object[time]
    presence, poses = track.presence.copy(), track.world_from_object.copy()
    covariance, error = track.pose_covariance.copy(), track.registration_error.copy()
    for t in range(time, track.num_times):
        carried = presence[t] != Presence.ABSENT and t not in track.pinned and np.array_equal(poses[t], old)
        if t > time and not carried:
            break
        poses[t], covariance[t], error[t] = world_from_object, np.nan, np.nan
    presence[time] = Presence.PRESENT
    pinned = ObjectTrack(object_id, presence, poses, covariance, error, track.pinned | {time})
    return _with(chronology, chronology.templates, {**chronology.tracks, object_id: pinned}, chronology.events)


def rename_object(chronology: Chronology, object_id: int, name: str) -> Chronology:
    """Give an object a name; an empty one takes it away.

    Raises:
        UsageError: unknown id, or the name is too long or not printable.
    """
    template = checked_object(chronology, object_id, surface=True)
    name = name.strip()
    if len(name) > MAX_NAME or not name.isprintable():
        raise UsageError(f"A name has at most {MAX_NAME} printable characters, got {name[:MAX_NAME]!r}.")
    return replace(chronology, templates={**chronology.templates, object_id: replace(template, name=name)})


def reframed(track: ObjectTrack, old_from_new: Array) -> ObjectTrack:
    """The same motion told by another frame of the object.

    Args:
        old_from_new: [4, 4] the new frame in the old one; world_from_new = world_from_old @ old_from_new.
    """
    poses, covariance = track.world_from_object @ old_from_new, track.pose_covariance.copy()
    for t in np.flatnonzero(np.isfinite(track.world_from_object[:, 0, 0])):
        # The new origin is a lever arm away from the old one, so errors of rotation become errors of its place.
        arm = torch.as_tensor(track.world_from_object[t, :3, :3] @ old_from_new[:3, 3])
        jacobian = np.eye(6)
        jacobian[:3, 3:] = -hat(arm).numpy()
        covariance[t] = jacobian @ covariance[t] @ jacobian.T
    return replace(track, world_from_object=poses, pose_covariance=covariance)


def _check_apart(one: ObjectTrack, two: ObjectTrack) -> None:
    both = np.flatnonzero((one.presence == Presence.PRESENT) & (two.presence == Presence.PRESENT))
    if len(both):
        distance = np.linalg.norm(one.world_from_object[both[0], :3, 3] - two.world_from_object[both[0], :3, 3])
        apart = f" (--split {two.object_id} --time {both[0]})" if both[0] > 0 else ""
        raise UsageError(
            f"objects {one.object_id} and {two.object_id} are both in the place at time {both[0]}, {distance:.3g} units apart, so "
            f"they are not one thing. Delete a false one (--delete {two.object_id}), or first cut off where it went wrong{apart}."
        )


def _joined(object_id: int, one: ObjectTrack, two: ObjectTrack) -> ObjectTrack:
    """One track of two that are never present together: at each time the word of the one that was seen or came last counts."""
    picks, carrier = [], one
    for t in range(one.num_times):
        for wanted in (Presence.UNKNOWN, Presence.PRESENT):
            for track in (one, two):
                came = t == 0 or track.presence[t - 1] == Presence.ABSENT
                if track.presence[t] == wanted and (came or wanted == Presence.PRESENT):
                    carrier = track
        picks.append(carrier)

    def pick(name: str) -> NDArray:
        return np.stack([getattr(track, name)[t] for t, track in enumerate(picks)])

    return ObjectTrack(
        object_id, pick("presence"), pick("world_from_object"), pick("pose_covariance"), pick("registration_error"),
        one.pinned | two.pinned,
    )


def _absent_at(track: ObjectTrack, where: NDArray[np.bool_]) -> ObjectTrack:
    """The track with the object absent where [T] says so."""
    def blank(values: Array) -> Array:
        out = values.copy()
        out[where] = np.nan
        return out

    presence = np.where(where, np.uint8(Presence.ABSENT), track.presence).astype(np.uint8)
    return ObjectTrack(
        track.object_id, presence, blank(track.world_from_object), blank(track.pose_covariance),
        blank(track.registration_error), frozenset(t for t in track.pinned if not where[t]),
    )


def _with(
    chronology: Chronology, templates: Mapping[int, Template], tracks: Mapping[int, ObjectTrack], known: list[Event] | tuple[Event, ...]
) -> Chronology:
    """New templates and tracks with the events that follow."""
    events = derive_events(templates, tracks, known=known, known_steps=all_steps(chronology.tracks))
    return replace(chronology, templates=templates, tracks=tracks, events=events)


def _times(there: NDArray[np.bool_]) -> str:
    return "times " + ", ".join(map(str, np.flatnonzero(there))) if there.any() else "no time"
