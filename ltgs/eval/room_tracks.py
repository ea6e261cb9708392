"""A scene's objects, events and poses against the truth of a room: who is who by place, then what happened and how exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ltgs.core.chronology import Chronology, Presence
from ltgs.core.se3 import so3_log
from ltgs.data.rooms import Room, RoomObject
from ltgs.poses.gauge import Similarity

Array = NDArray[np.float64]
REACH = 0.5
"""An object of the scene stands for a true one if their centres are closer than this share of the true one's diameter."""
CHI2_95_6DOF = 12.592
"""95 % quantile of the chi-squared distribution with six degrees of freedom."""


@dataclass(frozen=True)
class PoseError:
    """Error of one found motion, symmetry-aware."""

    time: int
    object_name: str
    rotation_deg: float
    translation_percent: float
    """Of the object's diameter."""
    chi2: float | None
    """Squared Mahalanobis distance of the error under the stored covariance; None if none is stored."""

    @property
    def covered(self) -> bool | None:
        """Whether the error lies inside the 95 % region of the stored covariance."""
        return None if self.chi2 is None else self.chi2 <= CHI2_95_6DOF


@dataclass(frozen=True)
class TrackReport:
    """Everything about objects and events."""

    true_positives: int
    predicted: int
    expected: int
    missed: tuple[str, ...]
    false: tuple[str, ...]
    identity: tuple[int, int, int]
    """True positives, false positives and false negatives of object-times under the best one-to-one naming."""
    poses: tuple[PoseError, ...]
    motions: int = 0
    """True motions (moved or returned) in these times; those that were not found or not recognised have no entry in `poses`."""

    @property
    def precision(self) -> float:
        return self.true_positives / self.predicted if self.predicted else 1.0

    @property
    def recall(self) -> float:
        return self.true_positives / self.expected if self.expected else 1.0

    @property
    def identity_f1(self) -> float:
        tp, fp, fn = self.identity
        return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0


def diameter(item: RoomObject) -> float:
    """Diagonal of the object's box, metres."""
    return float(np.linalg.norm(item.extents))


def object_ids(chronology: Chronology) -> list[int]:
    """Ids of what is an object, not a revealed surface."""
    return [k for k, t in sorted(chronology.templates.items()) if t.kind == "object"]


def first_form(chronology: Chronology, object_id: int) -> int:
    """The object that another one is a later form of, or itself."""
    seen = {object_id}
    while (former := chronology.templates[object_id].replaces) in chronology.templates and former not in seen:
        object_id = former
        seen.add(object_id)
    return object_id


def match_by_place(chronology: Chronology, room: Room, room_from_scene: Similarity, time: int) -> dict[int, int]:
    """Scene object id to true object id at one time: the assignment of least distance within `REACH`."""
    ours = [k for k in object_ids(chronology) if chronology.tracks[k].presence[time] == Presence.PRESENT]
    theirs = [o for o in room.objects if o.present[time]]
    if not ours or not theirs:
        return {}
    at = room_from_scene.points(np.array([_middle(chronology, k, time) for k in ours]))
    distance = np.array([
        [np.linalg.norm(p - o.world_from_object[time, :3, 3]) / diameter(o) for o in theirs] for p in at
    ])
    # Beyond reach all distances are alike: a stray object must not push another one off its place.
    rows, columns = linear_sum_assignment(np.minimum(distance, REACH))
    return {ours[r]: theirs[c].object_id for r, c in zip(rows, columns, strict=True) if distance[r, c] <= REACH}


def _middle(chronology: Chronology, object_id: int, time: int) -> Array:
    """[3] where the median of an object's Gaussians is at a time, scene frame."""
    pose = chronology.tracks[object_id].world_from_object[time]
    means = chronology.templates[object_id].gaussians.means.double().numpy()
    return pose[:3, :3] @ (np.median(means, axis=0) if len(means) else np.zeros(3)) + pose[:3, 3]


def track_report(chronology: Chronology, room: Room, room_from_scene: Similarity) -> TrackReport:
    """Events, identities and poses of all times that both the scene and the room have."""
    times = range(min(chronology.num_times, room.num_times))
    places = [match_by_place(chronology, room, room_from_scene, t) for t in times]
    truth: Counter[tuple[int, str, int]] = Counter((e.time, e.kind, e.object_id) for e in room.events if e.time in times)
    found, false = Counter[tuple[int, str, int]](), []
    for event in chronology.events:
        if event.time not in times or event.object_id not in object_ids(chronology):
            continue
        # What left is recognised by where it stood; the rest by where it stands now, and moved objects by both.
        before = chronology.templates[event.object_id].replaces if event.kind == "replaced" else event.object_id
        where = [places[event.time - 1].get(before)] if event.kind in ("removed", "moved", "replaced") else []
        where += [places[event.time].get(event.object_id)] if event.kind != "removed" else []
        # The truth knows rigid things only: what is there in a new form has moved.
        kind = "moved" if event.kind == "replaced" else event.kind
        key = (event.time, kind, where[0] if where[0] is not None and len(set(where)) == 1 else -1)
        if found[key] < truth[key]:
            found[key] += 1
        else:
            place = ", ".join("nothing" if w is None else room.object(w).name for w in where)
            false.append(f"t{event.time} {event.kind} object {event.object_id} (at {place})")
    missed = [f"t{t} {kind} {room.object(i).name}" for t, kind, i in (truth - found).elements()]
    poses = _pose_errors(chronology, room, room_from_scene, places)
    return TrackReport(
        found.total(), found.total() + len(false), truth.total(), tuple(missed), tuple(false),
        _identity(chronology, room, places), tuple(poses),
        sum(e.kind in ("moved", "returned") for e in room.events if e.time in times),
    )


def _identity(chronology: Chronology, room: Room, places: Sequence[Mapping[int, int]]) -> tuple[int, int, int]:
    """Object-times right, wrong and missing under the best one-to-one naming (IDF1 of multi-object tracking).

    The forms of an object are one.
    """
    changing = sorted({e.object_id for e in room.events if e.time < len(places)})
    ids = object_ids(chronology)
    ours = sorted({first_form(chronology, k) for k in ids})
    counts = np.zeros((len(ours), len(changing)))
    for place in places:
        for k, i in place.items():
            if i in changing:
                counts[ours.index(first_form(chronology, k)), changing.index(i)] += 1
    right = int(counts[linear_sum_assignment(-counts)].sum()) if counts.size else 0
    predicted = sum(
        int((chronology.tracks[k].presence[: len(places)] == Presence.PRESENT).sum()) for k in ids
    )
    expected = sum(int(room.object(i).present[: len(places)].sum()) for i in changing)
    return right, predicted - right, expected - right


def _pose_errors(
    chronology: Chronology, room: Room, room_from_scene: Similarity, places: Sequence[Mapping[int, int]]
) -> list[PoseError]:
    """Errors of every true motion whose object the scene names the same at its last place and at the new one."""
    out = []
    for event in room.events:
        if event.kind not in ("moved", "returned") or event.time >= len(places):
            continue
        item = room.object(event.object_id)
        before = max(t for t in range(event.time) if item.present[t])
        ours = next((k for k, i in places[event.time].items() if i == event.object_id), None)
        if ours is None or places[before].get(ours) != event.object_id:
            continue
        track = chronology.tracks[ours]
        out.append(_pose_error(
            item, event.time, before, track.world_from_object, track.pose_covariance[event.time], room_from_scene
        ))
    return out


def _pose_error(
    item: RoomObject, time: int, before: int, poses: Array, covariance: Array, room_from_scene: Similarity
) -> PoseError:
    """The scene's motion applied to the true pose before, against the true pose after.

    A symmetric object may be turned about its axis freely: only the tilt of the axis counts.
    """
    metric = [_in_room(poses[t], room_from_scene) for t in (before, time)]
    estimated = metric[1] @ np.linalg.inv(metric[0]) @ item.world_from_object[before]
    true = item.world_from_object[time]
    off = so3_log(estimated[:3, :3] @ true[:3, :3].T)
    if item.symmetric and item.symmetry_axis is not None:
        a, b = true[:3, :3] @ item.symmetry_axis, estimated[:3, :3] @ item.symmetry_axis
        cross = np.cross(a, b)
        angle = float(np.arctan2(np.linalg.norm(cross), a @ b))
        off = cross / max(np.linalg.norm(cross), 1e-12) * angle
    shift = estimated[:3, 3] - true[:3, 3]
    chi2 = None
    if np.isfinite(covariance).all():
        # Both parts are compared in the scene's frame, where the covariance lives.
        error = np.concatenate([
            room_from_scene.rotation.T @ shift / room_from_scene.scale, room_from_scene.rotation.T @ off
        ])
        chi2 = float(error @ np.linalg.pinv(covariance) @ error)
    return PoseError(
        time, item.name, float(np.rad2deg(np.linalg.norm(off))),
        100 * float(np.linalg.norm(shift)) / diameter(item), chi2,
    )


def _in_room(pose: Array, room_from_scene: Similarity) -> Array:
    """[4, 4] world_from_object of the scene as a rigid pose in the room (the template keeps the room's size)."""
    out = np.eye(4)
    out[:3, :3] = room_from_scene.rotation @ pose[:3, :3]
    out[:3, 3] = room_from_scene.points(pose[None, :3, 3])[0]
    return out
