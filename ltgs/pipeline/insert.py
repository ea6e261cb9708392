"""A late visit between stored ones: an update of the chronology as it was before it, joined with everything known later.

The photos of later visits stay the authority on their own times: what they saw stands. The inserted visit decides its own
time, and through it only such later times as no photo could decide: an object that nobody could have seen since is where the
inserted visit saw it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.core.chronology import Event, ObjectTrack, Presence, Template
from ltgs.core.decisions import renumbered
from ltgs.core.events import all_steps, derive_events, step_at
from ltgs.core.gaussians import template_radius
from ltgs.core.scene import Scene, VisitRecord
from ltgs.core.se3 import invert_rigid
from ltgs.core.track_times import Entry, entry, shifted, with_entry, with_time
from ltgs.errors import UsageError
from ltgs.pipeline.object_frames import SAME_PLACE, first_seen, looks_alike
from ltgs.pipeline.update_config import UpdateConfig

Array = NDArray[np.float64]


@dataclass(frozen=True)
class InsertConfig:
    """When an object of the inserted visit is one that a later visit knows."""

    same_place: float = SAME_PLACE
    """Largest distance of the middles, relative to the larger radius."""
    same_size: float = 2.5
    """Largest ratio of the radii; half-seen objects are built too small."""
    same_look: float = 0.0
    """Least share of the one's picture that the other must explain; at 0 it is better than nothing."""
    same_pose: float = 0.25
    """Poses that move the object's points by less than this share of its radius on average are one: it stood still."""


def insert_position(scene: Scene, captured_at: datetime | None, name: str) -> int:
    """Time that a new visit gets: the end, or before the first later-dated visit.

    Raises:
        UsageError: it is earlier than the first visit, on which everything stands.
    """
    count = len(scene.visits)
    if captured_at is None:
        return count
    # A date without a time of day counts as that day's midnight; zone offsets do not decide the order of visits.
    new = captured_at.replace(tzinfo=None)
    later = [v.timestep for v in scene.visits if v.captured_at is not None and v.captured_at.replace(tzinfo=None) > new]
    if later and later[0] == 0:
        first = scene.visits[0].captured_at
        assert first is not None
        raise UsageError(
            f"{name} is dated {captured_at.date()}, before the first visit ({first.date()}), on which the scene stands. "
            "Reconstruct anew with all visits, or correct the date with --time."
        )
    return later[0] if later else count


def before_time(scene: Scene, time: int) -> Scene:
    """The scene as its visits before `time` left it, except that later objects are known.

    What later visits cut out of the background stays cut out. Objects that only later visits saw come along as absent, so
    that the update can find them. Their first pose stands at the last time to say how they were last seen to stand.
    """
    old, short = scene.chronology, scene.chronology.until(time)
    tracks: dict[int, ObjectTrack] = {}
    for k, track in short.tracks.items():
        if (track.presence == Presence.ABSENT).all():
            whole = old.tracks[k]
            if old.templates[k].kind == "surface" or (whole.presence == Presence.ABSENT).all():
                continue
            hint = replace(Entry.absent(), world_from_object=whole.world_from_object[first_seen(whole)])
            track = with_entry(track, time - 1, hint)
        tracks[k] = track
    chronology = replace(short, tracks=tracks, templates={k: old.templates[k] for k in tracks})
    return replace(scene, chronology=chronology, visits=scene.visits[:time])


def insert_visit(
    whole: Scene, updated: Scene, time: int, *, update: UpdateConfig | None = None, config: InsertConfig | None = None,
    backend: str = "auto",
) -> tuple[Scene, tuple[str, ...]]:
    """Join a scene with an update of `before_time(whole, time)`.

    Args:
        whole: the stored scene.
        updated: its first `time` visits and the new one.

    Returns:
        the scene one visit longer, and what was concluded about later times, one sentence each.
    """
    return _Insertion(whole, updated, time, update or UpdateConfig(), config or InsertConfig(), backend).run()


@dataclass
class _Insertion:
    """Templates, tracks and remarks while they are joined. Times are those of the longer chronology."""

    whole: Scene
    updated: Scene
    time: int
    update: UpdateConfig
    config: InsertConfig
    backend: str
    templates: dict[int, Template] = field(default_factory=dict)
    tracks: dict[int, ObjectTrack] = field(default_factory=dict)
    names: dict[int, int] = field(default_factory=dict)
    """Id in the update to id in the result."""
    remarks: list[str] = field(default_factory=list)
    visits: list[VisitRecord] = field(default_factory=list)

    def run(self) -> tuple[Scene, tuple[str, ...]]:
        old, new = self.whole.chronology, self.updated.chronology
        self.visits = self._visits()
        # An update may give a new thing the id of a surface that only later visits revealed.
        given = before_time(self.whole, self.time).chronology.tracks
        for k, track in old.tracks.items():
            template = old.templates[k]
            self.templates[k] = replace(template, created_at=shifted(template.created_at, self.time))
            self.tracks[k] = with_time(track, self.time, entry(new.tracks[k], self.time) if k in given else Entry.absent())
        fresh = sorted(k for k in new.templates if k not in given)
        first = old.next_id
        self.names = {k: k for k in given} | {k: first + i for i, k in enumerate(fresh)}
        for k in fresh:
            if new.templates[k].kind == "object":
                self._add_object(k)
        open_times: set[int] = set()
        for k in [k for k, t in self.templates.items() if t.kind == "object"]:
            self._stand_still(k)
            followed = self._carry_on(k)
            if step_at(self.tracks[k], self.time).before != Presence.ABSENT:
                open_times |= followed
            self._say_if_earlier(k)
        for k in fresh:
            if new.templates[k].kind == "surface":
                self._add_surface(k, open_times)
        for k in given:
            if new.templates[k].kind == "surface" and len(new.templates[k].gaussians) != len(old.templates[k].gaussians):
                self._cut_surface(k, open_times)
        return self._result(), tuple(self.remarks)

    def _add_object(self, k: int) -> None:
        """An object that the inserted visit has found: cut out of the background, or built anew."""
        new, name = self.updated.chronology, self.names[k]
        former = self.names.get(new.templates[k].replaces, 0)
        template, track = replace(new.templates[k], object_id=name, replaces=former), replace(new.tracks[k], object_id=name)
        members = new.members_of(k)
        if len(members):
            # At all other times the very Gaussians of the background are shown, not their refined copy, and surfaces stay whole.
            pose = track.world_from_object[0]
            own = new.background[members].transformed(torch.as_tensor(invert_rigid(pose), dtype=torch.float32))
            template = replace(template.of(own), members=members, surface_parts={})
            for t in range(self.time + 1, len(self.visits)):
                there = Presence.PRESENT if self._seen(pose, t) else Presence.UNKNOWN
                track = with_time(track, t, Entry.at(pose, there))
        else:
            for t in range(self.time + 1, len(self.visits)):
                track = with_time(track, t, Entry.absent())
            if self._is_known_later(k, template, track):
                return
        self.templates[name], self.tracks[name] = template, track

    def _add_surface(self, k: int, open_times: Collection[int]) -> None:
        """A surface that the inserted visit revealed or completed: shown while its word counts; other visits have their own."""
        new = self.updated.chronology
        members = new.members_of(k)
        if new.tracks[k].presence[self.time] == Presence.ABSENT:
            # It left with its object, or was in the photos' way; at all other times the very Gaussians of the background are shown.
            left = replace(
                new.templates[k].of(new.background[members]), surface_parts={}, footing_of=self.names.get(new.templates[k].footing_of, 0)
            )
            self._show(self.names[k], left, set(range(len(self.visits))) - {self.time})
            return
        times = {self.time} if len(members) else {self.time, *open_times}
        self._show(self.names[k], replace(new.templates[k], members=None), times)
        if len(members):
            # What it takes the place of is shown at all other times, as it was.
            old = Template(self._next_id(), "surface", new.background[members], 0, members=members)
            self._show(old.object_id, old, set(range(len(self.visits))) - times)

    def _cut_surface(self, k: int, open_times: Collection[int]) -> None:
        """A stored surface of which a part has left: the rest of it stands in while that counts."""
        times = {t for t in (self.time, *open_times) if self.tracks[k].presence[t] != Presence.ABSENT}
        self._show(self._next_id(), replace(self.updated.chronology.templates[k], members=None), times)
        for t in times:
            self.tracks[k] = with_entry(self.tracks[k], t, Entry.absent())

    def _show(self, name: int, surface: Template, times: Collection[int]) -> None:
        presence = np.full(len(self.visits), Presence.ABSENT, np.uint8)
        presence[sorted(times)] = Presence.PRESENT
        poses = np.full((len(presence), 4, 4), np.nan)
        poses[sorted(times)] = np.eye(4)
        self.templates[name] = replace(surface, object_id=name)
        unknown = np.full((len(presence), 6, 6), np.nan)
        self.tracks[name] = ObjectTrack(name, presence, poses, unknown, np.full(len(presence), np.nan))

    def _next_id(self) -> int:
        return max([self.whole.chronology.next_id - 1, *self.templates, *self.names.values()]) + 1

    def _is_known_later(self, k: int, template: Template, track: ObjectTrack) -> bool:
        """Whether a new object is one that only later visits know, at the same place; then it becomes that one."""
        pose = track.world_from_object[self.time]
        radius = template_radius(template.gaussians)
        best: tuple[float, int] | None = None
        for other, its in self.tracks.items():
            there = its.presence != Presence.ABSENT
            if self.templates[other].kind != "object" or there[: self.time + 1].any() or not there.any():
                continue
            its_pose = its.world_from_object[first_seen(its)]
            its_radius = template_radius(self.templates[other].gaussians)
            large, small = max(radius, its_radius), max(min(radius, its_radius), 1e-12)
            distance = float(np.linalg.norm(_middle(template, pose) - _middle(self.templates[other], its_pose))) / max(large, 1e-12)
            if distance > self.config.same_place or large / small > self.config.same_size:
                continue
            look = looks_alike(
                template, pose, self.templates[other], its_pose, self.updated.visits[self.time].cameras,
                register=self.update.register, backend=self.backend,
            )
            if not look < self.config.same_look and (best is None or distance < best[0]):
                best = distance, other
        if best is None:
            return False
        other = best[1]
        self.names[k] = other
        its = self.tracks[other]
        self.tracks[other] = with_entry(its, self.time, Entry.at(its.world_from_object[first_seen(its)]))
        return True

    def _stand_still(self, k: int) -> None:
        """An object registered now almost where a later visit has it stood there already: its pose is the later one."""
        track = self.tracks[k]
        later = [t for t in range(self.time + 1, track.num_times) if track.presence[t] == Presence.PRESENT]
        step = step_at(track, self.time)
        if not later or step.pose is None or step.now != Presence.PRESENT:
            return
        if step.last is not None and np.array_equal(step.pose, step.last):
            return
        target = track.world_from_object[later[0]]
        points = self.templates[k].gaussians.means.double().numpy()
        if not len(points):
            return
        ambiguous = any(e.uncertain for e in self._events() if e.object_id == k and e.time in (self.time, later[0]))
        shift = np.linalg.norm(step.pose[:3, 3] - target[:3, 3])
        apart = np.linalg.norm(points @ (step.pose[:3, :3] - target[:3, :3]).T + step.pose[:3, 3] - target[:3, 3], axis=1)
        measure = float(shift if ambiguous else np.sqrt(np.mean(apart**2)))
        if measure <= self.config.same_pose * template_radius(self.templates[k].gaussians):
            here = entry(track, self.time)
            self.tracks[k] = with_entry(track, self.time, replace(here, world_from_object=target))

    def _carry_on(self, k: int) -> set[int]:
        """Later times at which nobody could have seen the object follow the inserted visit, up to the first that could.

        Returns:
            the times that changed.
        """
        track = self.tracks[k]
        here = entry(track, self.time)
        step = step_at(track, self.time)
        if here.presence == Presence.UNKNOWN or (step.last is None and step.pose is None):
            return set()
        stayed = step.last is not None and step.pose is not None and np.array_equal(step.last, step.pose)
        changed = set()
        for t in range(self.time + 1, track.num_times):
            now = Presence(int(track.presence[t]))
            if now == Presence.PRESENT:
                break
            if here.presence == Presence.ABSENT:
                if now == Presence.ABSENT:
                    break
                track = with_entry(track, t, Entry.absent())
            else:
                # Whoever found the old place empty has looked at it, whatever its middle's place in the photos is.
                if (stayed and now == Presence.ABSENT) or self._seen(here.world_from_object, t):
                    break
                if now == Presence.UNKNOWN and np.array_equal(track.world_from_object[t], here.world_from_object):
                    continue
                track = with_entry(track, t, Entry.at(here.world_from_object, Presence.UNKNOWN))
            changed.add(t)
        if changed:
            times = ", ".join(map(str, sorted(changed)))
            what = "absent" if here.presence == Presence.ABSENT else "taken to stand where this visit saw it"
            self.remarks.append(f"object {k} is {what} at time {times} too, where no photo could see it")
        self.tracks[k] = track
        return changed

    def _say_if_earlier(self, k: int) -> None:
        """Tell the user of an object that is older than was thought."""
        stored = self.whole.chronology.tracks.get(k)
        step = step_at(self.tracks[k], self.time)
        if stored is not None and step.last is None and step.now == Presence.PRESENT:
            first = self.whole.visits[first_seen(stored)].name
            self.remarks.append(f"object {k}, so far known since {first}, was there at this visit already")

    def _seen(self, pose: Array, time: int) -> bool:
        """Whether a photo of a later visit could have shown an object at a pose."""
        return any(c.sees(pose[:3, 3]) for c in self.visits[time].cameras)

    def _visits(self) -> list[VisitRecord]:
        visits = list(self.updated.visits)
        for visit in self.whole.visits[self.time :]:
            t = visit.timestep + 1
            photos = tuple(
                replace(p, timestep=t, camera=None if p.camera is None else replace(p.camera, time=t)) for p in visit.photos
            )
            visits.append(replace(visit, timestep=t, photos=photos))
        return visits

    def _events(self) -> list[Event]:
        """Events that were known, with the ids and times of the longer chronology."""
        stored = [replace(e, time=shifted(e.time, self.time)) for e in self.whole.chronology.events]
        found = [e for e in self.updated.chronology.events if e.time == self.time]
        return stored + [replace(e, object_id=self.names.get(e.object_id, e.object_id)) for e in found]

    def _result(self) -> Scene:
        old, new = self.whole.chronology, self.updated.chronology
        steps = {(k, shifted(t, self.time)): step for (k, t), step in all_steps(old.tracks).items()}
        # To the update an object that only later visits knew had been away and "returned"; in truth it appeared.
        found = {k: t for k, t in new.tracks.items() if (t.presence[: self.time] != Presence.ABSENT).any()}
        steps |= {(self.names[k], self.time): step_at(track, self.time) for k, track in found.items()}
        appearance = [*new.appearance, *old.appearance[self.time :]]
        after = self.time + 1
        if after < len(appearance):
            changed = appearance[after].distance(appearance[self.time]) > self.update.light.changed
            appearance[after] = replace(appearance[after], changed=changed)
        chronology = replace(
            old, lifted=new.lifted, templates=self.templates, tracks=self.tracks, appearance=tuple(appearance),
            events=derive_events(self.templates, self.tracks, known=self._events(), known_steps=steps),
        )
        record = self.visits[self.time].decisions
        if record is not None:
            self.visits[self.time] = replace(self.visits[self.time], decisions=renumbered(record, self.names))
        return replace(self.updated, chronology=chronology, visits=tuple(self.visits), edits=self.whole.edits)


def _middle(template: Template, pose: Array) -> Array:
    """[3] median of an object's centres in the world."""
    return pose[:3, :3] @ template.gaussians.means.median(0).values.double().numpy() + pose[:3, 3]
