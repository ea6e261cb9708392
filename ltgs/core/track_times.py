"""Tracks along another row of times: cut short, with a time in between, with single entries replaced."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ltgs.core.chronology import ObjectTrack, Presence

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Entry:
    """A track at one time."""

    presence: Presence
    world_from_object: Array
    """[4, 4], NaN where absent."""
    pose_covariance: Array
    """[6, 6] as in a track, NaN where not estimated."""
    registration_error: float = float("nan")

    @staticmethod
    def absent() -> Entry:
        """Not in the place."""
        return Entry(Presence.ABSENT, np.full((4, 4), np.nan), np.full((6, 6), np.nan))

    @staticmethod
    def at(pose: Array, presence: Presence = Presence.PRESENT) -> Entry:
        """In the place at a pose [4, 4] that no photo of the time has measured."""
        return Entry(presence, pose, np.full((6, 6), np.nan))


def entry(track: ObjectTrack, time: int) -> Entry:
    """One time of a track."""
    return Entry(
        Presence(int(track.presence[time])), track.world_from_object[time], track.pose_covariance[time],
        float(track.registration_error[time]),
    )


def with_entry(track: ObjectTrack, time: int, new: Entry) -> ObjectTrack:
    """The track with one time replaced. A pin of that time stays only if the object is present."""
    kept = np.arange(track.num_times) != time
    thinned = replace(
        track, presence=track.presence[kept], world_from_object=track.world_from_object[kept],
        pose_covariance=track.pose_covariance[kept], registration_error=track.registration_error[kept], pinned=frozenset(),
    )
    pinned = track.pinned if new.presence == Presence.PRESENT else track.pinned - {time}
    return replace(with_time(thinned, time, new), pinned=pinned)


def with_time(track: ObjectTrack, time: int, new: Entry) -> ObjectTrack:
    """The track one time longer: `new` at `time`, what was there and later follows."""
    return replace(
        track, presence=np.insert(track.presence, time, np.uint8(new.presence)),
        world_from_object=np.insert(track.world_from_object, time, new.world_from_object, axis=0),
        pose_covariance=np.insert(track.pose_covariance, time, new.pose_covariance, axis=0),
        registration_error=np.insert(track.registration_error, time, new.registration_error),
        pinned=frozenset(shifted(t, time) for t in track.pinned),
    )


def shifted(time: int, inserted: int) -> int:
    """What a time is called after another one was inserted."""
    return time + 1 if time >= inserted else time
