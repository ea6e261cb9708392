"""What a stored scene says about one visit: which objects it touched, how far they moved and how sure that is, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltgs.core.chronology import Chronology, Event, Presence
from ltgs.core.decisions import DecisionRecord, InstanceVerdict, PairTest, RemovalTest
from ltgs.core.gaussians import template_radius
from ltgs.core.scene import PhotoRecord, Scene
from ltgs.core.se3 import so3_log
from ltgs.poses.gauge import up_direction
from ltgs.poses.localize import center_covariance

Array = NDArray[np.float64]
UPRIGHT_DEG = 15.0
"""A turn counts as one about the vertical up to this tilt of its axis."""


@dataclass(frozen=True)
class Motion:
    """From an object's last known pose to its pose at a visit."""

    distance: float
    """Scene units."""
    distance_sigma: float
    """Standard deviation along the direction of motion, scene units; NaN if no covariance is stored."""
    turn_deg: float
    turn_sigma_deg: float
    """Standard deviation about the axis of the turn; NaN if no covariance is stored."""
    axis_tilt_deg: float
    """Angle between the axis of the turn and the vertical, 0..90."""


@dataclass(frozen=True)
class ObjectFacts:
    """One object that a visit touched."""

    object_id: int
    events: tuple[Event, ...]
    left: bool
    """It is no longer where it was at the visit before."""
    came: bool
    """It is somewhere where it was not at the visit before."""
    motion: Motion | None
    diameter: float
    """Scene units."""
    num_gaussians: int
    created_at: int
    presence: tuple[Presence, ...]
    """Per visit."""
    removals: tuple[RemovalTest, ...]
    pairs: tuple[PairTest, ...]
    why: tuple[str, ...]
    """What speaks for the decision, in sentences."""
    former: int = 0
    """The object of which it is the next form, 0 = none."""

    @property
    def deeds(self) -> list[str]:
        """What happened to it in a word each; of a new form also what it replaced."""
        return [f"{e.kind} object {self.former}" if e.kind == "replaced" else e.kind for e in self.events]

    @property
    def ambiguous(self) -> bool:
        """A clearly different rotation explains the photos as well."""
        return any(p.ambiguous for p in self.pairs if p.chosen and p.object_id == self.object_id)


def touched_objects(scene: Scene, time: int) -> list[ObjectFacts]:
    """Every object (no surfaces) that left, came or has an event at a visit, by id."""
    chronology = scene.chronology
    record = scene.visits[time].decisions
    found = []
    for k, template in sorted(chronology.templates.items()):
        if template.kind != "object":
            continue
        events = tuple(e for e in chronology.events if e.time == time and e.object_id == k)
        left, came = left_and_came(chronology, k, time)
        if not (events or left or came):
            continue
        removals, pairs = tests_of(record, k)
        found.append(ObjectFacts(
            k, events, left, came, motion_of(scene, k, time) if came else None, 2 * template_radius(template.gaussians),
            len(template.gaussians), template.created_at,
            tuple(Presence(int(p)) for p in chronology.tracks[k].presence), removals, pairs,
            tuple(reasons(record, k, left=left, came=came)) if record is not None else (), template.replaces,
        ))
    return found


def left_and_came(chronology: Chronology, object_id: int, time: int) -> tuple[bool, bool]:
    """Whether an object is no longer where it was, and whether it is where it was not."""
    track = chronology.tracks[object_id]
    was, stands = (track.presence[t] != Presence.ABSENT for t in (time - 1, time))
    if was and stands:
        moved = not np.allclose(track.world_from_object[time - 1], track.world_from_object[time], atol=1e-9)
        return moved, moved
    return bool(was), bool(stands)


def motion_of(scene: Scene, object_id: int, time: int) -> Motion | None:
    """How an object moved since it was last seen; None if it was never seen before.

    The covariance of the pose before counts as well, where one is stored.
    """
    track = scene.chronology.tracks[object_id]
    earlier = np.flatnonzero(np.isfinite(track.world_from_object[:time, 0, 0]))
    if len(earlier) == 0:
        return None
    before, now = track.world_from_object[earlier[-1]], track.world_from_object[time]
    shift, turn = now[:3, 3] - before[:3, 3], so3_log(now[:3, :3] @ before[:3, :3].T)
    covariance = track.pose_covariance[time]
    if np.isfinite(track.pose_covariance[earlier[-1]]).all():
        covariance = covariance + track.pose_covariance[earlier[-1]]
    distance, angle = float(np.linalg.norm(shift)), float(np.linalg.norm(turn))
    axis = turn / angle if angle > 1e-9 else np.array([0.0, 0, 1])
    tilt = float(np.degrees(np.arccos(min(1.0, abs(float(axis @ _up(scene)))))))
    return Motion(
        distance, _sigma(covariance[:3, :3], shift), float(np.degrees(angle)), float(np.degrees(_sigma(covariance[3:, 3:], turn))),
        tilt,
    )


def _sigma(covariance: Array, direction: Array) -> float:
    """Standard deviation along a direction, the largest one if there is no direction; NaN if the covariance is unknown."""
    if not np.isfinite(covariance).all():
        return float("nan")
    length = float(np.linalg.norm(direction))
    if length < 1e-9:
        return float(np.sqrt(max(float(np.linalg.eigvalsh(covariance)[-1]), 0.0)))
    unit = direction / length
    return float(np.sqrt(max(float(unit @ covariance @ unit), 0.0)))


def _up(scene: Scene) -> Array:
    poses = [p.camera.cam_from_world for p in scene.photos(time=0) if p.camera is not None]
    return up_direction(np.array(poses)) if poses else np.array([0.0, 0, 1])


def camera_sigma(photo: PhotoRecord) -> tuple[float, float]:
    """Standard deviations of a photo's camera: centre in scene units (root mean square over the axes), orientation in degrees.

    NaN where no covariance is stored.
    """
    if photo.camera is None or photo.covariance is None or not np.isfinite(photo.covariance).all():
        return float("nan"), float("nan")
    centre = center_covariance(photo.camera.cam_from_world, photo.covariance)
    turn = float(np.trace(photo.covariance[:3, :3])) / 3
    return float(np.sqrt(float(np.trace(centre)) / 3)), float(np.degrees(np.sqrt(turn)))


# -- why --------------------------------------------------------------------------------------------------------------

def tests_of(record: DecisionRecord | None, object_id: int) -> tuple[tuple[RemovalTest, ...], tuple[PairTest, ...]]:
    """Removals that belong to an object, and pairs that tried it or tried others against its content."""
    if record is None:
        return (), ()
    own = {i.number for i in record.instances if i.object_id == object_id and i.verdict in ("matched", "new")}
    return (
        tuple(t for t in record.removals if t.object_id == object_id),
        tuple(p for p in record.pairs if p.object_id == object_id or p.instance in own),
    )


def reasons(record: DecisionRecord, object_id: int, *, left: bool, came: bool) -> Iterable[str]:
    """Sentences that say what speaks for what was decided about an object."""
    removals, pairs = tests_of(record, object_id)
    if left:
        yield from (_removal_sentence(t) for t in removals if t.taken)
    own = [p for p in pairs if p.object_id == object_id]
    chosen = [p for p in own if p.chosen]
    if chosen:
        yield _match_sentence(chosen[-1], pairs)
    elif came:
        elsewhere = {p.object_id for p in record.pairs if p.chosen}
        yield from (_new_sentence(i, pairs, elsewhere) for i in record.instances if i.object_id == object_id and i.verdict == "new")
    elif left:
        yield _gone_sentence(own)


def percent(share: float) -> str:
    """A share in words: "25%", with a real minus sign."""
    words = f"{100 * share:.0f}%"
    return "0%" if words == "-0%" else words.replace("-", "−")


def _removal_sentence(test: RemovalTest) -> str:
    if test.reason:
        return f"{test.num_gaussians:,} of its Gaussians cannot be where they were: {test.reason}. So it left."
    words = f"Taking {test.num_gaussians:,} Gaussians away explains the photos better"
    details = []
    if "explained" in test.scores:
        details.append(f"{percent(test.scores['explained'])} of the altered pixels then match")
    if "outline" in test.scores:
        details.append(f"they cover {percent(test.scores['outline'])} of the change they touch")
    if "contradicted" in test.scores:
        details.append(f"the photos contradict {percent(test.scores['contradicted'])} of what they show, or more")
    return f"{words}: {', and '.join(details)}. So it left." if details else f"{words}. So it left."


def _match_sentence(pair: PairTest, pairs: Iterable[PairTest]) -> str:
    rivals = [p for p in pairs if p.instance == pair.instance and p.object_id != pair.object_id and p.gain is not None]
    words = f"Drawn at content #{pair.instance} it explains {percent(pair.gain or 0)} of what differs there"
    if rivals:
        best = max(rivals, key=lambda p: p.gain or 0)
        words += f"; the next best, object {best.object_id}, explains {percent(best.gain or 0)}"
    return words + ". So it is this object."


def _new_sentence(content: InstanceVerdict, pairs: Iterable[PairTest], elsewhere: Collection[int]) -> str:
    """Args: elsewhere: objects found again at other content."""
    tried = [p for p in pairs if p.instance == content.number]
    seen = f"Content #{content.number} is seen in {content.num_views} photo{'s' if content.num_views != 1 else ''}"
    if not tried:
        return f"{seen}. No object was missing that it could be. So it is new."
    best = max((p for p in tried if p.gain is not None), key=lambda p: p.gain or 0, default=None)
    count = len({p.object_id for p in tried})
    words = f"{seen}. {count} missing object{'s were' if count != 1 else ' was'} tried: "
    if best is None:
        return f"{words}none comes close. So it is new."
    fits = ", but it fits better elsewhere" if best.object_id in elsewhere else ""
    return f"{words}object {best.object_id} explains most, {percent(best.gain or 0)}{fits}. So it is new."


def _gone_sentence(own: Iterable[PairTest]) -> str:
    tried = list(own)
    if not tried:
        return "There was no new content that could be it. So it is gone."
    best = max((p.gain for p in tried if p.gain is not None), default=None)
    explained = "it came close to none" if best is None else f"at best it explains {percent(best)}"
    return f"It was tried against {len({p.instance for p in tried})} pieces of new content: {explained}. So it is gone."
