"""The chronology one visit longer: what was decided about every object, before anything is refined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.change.compare import footprint
from ltgs.core.cameras import Camera
from ltgs.core.chronology import Appearance, Chronology, Event, ObjectTrack, Presence, Template
from ltgs.core.decisions import DecisionRecorder
from ltgs.core.events import next_form_event
from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.objects.associate import Match
from ltgs.objects.hull import HullInstance
from ltgs.objects.templates import BuildConfig, Measure, build_template, grow_template, revealed_surface
from ltgs.optim.refine import RefineItem
from ltgs.pipeline.update_parts import Cutting, KnownObject, motion_event, place


@dataclass(frozen=True)
class Decisions:
    """What the photos of a visit say about the objects."""

    known: Mapping[int, KnownObject]
    """Objects that left now or were absent before."""
    matches: Sequence[Match]
    """Which of them were found again, and where."""
    new: Sequence[HullInstance]
    """New content that none of them explains."""
    views: Sequence[ComparedView]
    """Captures against what is still in its place."""
    holes: Sequence[NDArray[np.bool_]]
    """Per view [H, W]: what departed objects left open."""
    record: DecisionRecorder | None = None
    """Is told the ids of new objects."""
    remains: Sequence[tuple[int, Cutting]] = ()
    """Pieces that go now, by the id of the object or surface which they belong to: they were not cut out with it, or were wrong."""
    camouflaged: Sequence[bool] = ()
    """For every new content whether it has the colours of what lies around it."""
    former: Sequence[int] = ()
    """For every new content the object that left of which it is the next form, 0 = none."""


def assemble(
    old: Chronology, decisions: Decisions, light: Appearance, *, build: BuildConfig, rng: np.random.Generator,
    measure: Measure | None = None, backend: str = "auto",
) -> tuple[Chronology, list[RefineItem]]:
    """The chronology with one more time, and what should be refined.

    Args:
        measure: asked for the surfaces of new objects, see `build_template`.
    """
    return _Assembly(old, decisions, build, rng, measure, backend).run(light)


class _Assembly:
    """Templates, tracks and events while they are collected."""

    def __init__(
        self, old: Chronology, decisions: Decisions, build: BuildConfig, rng: np.random.Generator, measure: Measure | None,
        backend: str,
    ) -> None:
        self.old, self.decisions, self.build, self.rng, self.measure, self.backend = old, decisions, build, rng, measure, backend
        self.time = old.num_times
        self.templates = dict(old.templates)
        self.tracks: dict[int, ObjectTrack] = {}
        self.lifted = [old.lifted]
        self.events: list[Event] = []
        self.items: list[RefineItem] = []
        self.cut: dict[int, list[Tensor]] = {}

    def run(self, light: Appearance) -> tuple[Chronology, list[RefineItem]]:
        self._carry_on(self._lift())
        new = self.decisions.new
        for instance, former in zip(new, self.decisions.former or [0] * len(new), strict=True):
            self._add_new(instance, former)
        self._add_surface()
        chronology = replace(
            self.old, lifted=torch.cat(self.lifted).unique(), templates=self.templates, tracks=self.tracks,
            appearance=(*self.old.appearance, light), events=(*self.old.events, *self.events),
        )
        return chronology, self.items

    def _lift(self) -> dict[int, ObjectTrack]:
        """Give objects cut out of the background a template; all tracks up to the visit before."""
        tracks = dict(self.old.tracks)
        for k, obj in self.decisions.known.items():
            if obj.cut is not None:
                self.templates[k] = Template(k, "object", obj.template, 0, members=obj.cut.members, surface_parts=self._cut_out(obj.cut))
            if k not in tracks:
                tracks[k] = ObjectTrack.start(k, self.time - 1, obj.last_pose, before=Presence.PRESENT)
        footings = [(obj.object_id, obj.footing) for obj in self.decisions.known.values() if obj.footing is not None]
        for owner, cut in [*footings, *self.decisions.remains]:
            for origin, piece in self._by_origin(cut):
                k = self._next_id()
                self.templates[k] = Template(
                    k, "surface", piece.gaussians, 0, members=piece.members, surface_parts=self._cut_out(piece), footing_of=owner
                )
                # Part of a surface is shown as long as that was.
                start = ObjectTrack.start(k, self.time - 1, np.eye(4), before=Presence.PRESENT)
                tracks[k] = replace(tracks[origin], object_id=k) if origin else start
        for surface, parts in self.cut.items():
            gaussians = self.templates[surface].gaussians
            stays = torch.ones(len(gaussians), dtype=torch.bool)
            stays[torch.cat(parts)] = False
            self.templates[surface] = self.templates[surface].of(gaussians[stays])
        return tracks

    def _by_origin(self, cut: Cutting) -> list[tuple[int, Cutting]]:
        """The parts of what is cut: of the background (0), and of each surface, by its id."""
        none = torch.zeros(0, dtype=torch.int64)
        parts = [(0, Cutting(self.old.background[cut.members], cut.members))] if len(cut.members) else []
        surfaces = sorted(cut.surface_rows.items())
        return parts + [(k, Cutting(self.old.templates[k].gaussians[rows], none, {k: rows})) for k, rows in surfaces]

    def _cut_out(self, cutting: Cutting) -> dict[int, Gaussians]:
        """Take note of what is cut; returns what each surface loses."""
        self.lifted.append(cutting.members)
        for surface, rows in cutting.surface_rows.items():
            self.cut.setdefault(surface, []).append(rows)
        return {s: self.old.templates[s].gaussians[rows] for s, rows in cutting.surface_rows.items()}

    def _carry_on(self, tracks: Mapping[int, ObjectTrack]) -> None:
        """Extend every track: found again, left, or as before."""
        known = self.decisions.known
        by_object = {m.object_id: m for m in self.decisions.matches}
        for k, track in tracks.items():
            match = by_object.get(k)
            if match is not None:
                pose = match.hypothesis.world_from_object
                self.tracks[k] = track.extended(Presence.PRESENT, pose, match.hypothesis.covariance)
                self.events.append(motion_event(self.time, k, known[k], match))
                known_part = self.templates[k].gaussians
                grown = grow_template(
                    known_part, pose, match.instance, self.decisions.views, extent=known[k].model.gaussians, config=self.build,
                    rng=self.rng,
                )
                self.items.append(RefineItem(k, grown, pose, track.seen_before(self.time), len(known_part), True))
            elif self.templates[k].footing_of and k not in self.old.tracks:
                self.tracks[k] = track.extended(Presence.ABSENT)
            elif k in known and known[k].left:
                self.tracks[k] = track.extended(Presence.ABSENT)
                if k not in self.decisions.former:
                    self.events.append(Event(self.time, "removed", k, uncertain=len(self.decisions.views) < 2))
            else:
                cameras = [v.camera for v in self.decisions.views]
                self.tracks[k] = track.extended(carried_presence(track, self.templates[k].kind, cameras))

    def _next_id(self) -> int:
        return max([self.old.next_id - 1, *self.templates]) + 1

    def _add_new(self, instance: HullInstance, former: int) -> None:
        k = self._next_id()
        degree = self.old.background.sh_degree
        gaussians, pose = build_template(
            instance, self.decisions.views, sh_degree=degree, config=self.build, rng=self.rng, measure=self.measure
        )
        if self.decisions.record is not None:
            self.decisions.record.verdict(instance, "new", k)
        self.templates[k] = Template(k, "object", gaussians, self.time, replaces=former)
        self.tracks[k] = ObjectTrack.start(k, self.time, pose)
        came = next_form_event(k, self.time, pose, self.tracks[former]) if former else None
        self.events.append(came or Event(self.time, "appeared", k, uncertain=instance.num_views < 2))
        self.items.append(RefineItem(k, gaussians, pose, {}, 0, False))

    def _add_surface(self) -> None:
        """What departed objects had hidden."""
        free = [h.copy() for h in self.decisions.holes]
        for instance in [*self.decisions.new, *(m.instance for m in self.decisions.matches)]:
            free = [f & ~p for f, p in zip(free, instance.pixels, strict=True)]
        for match in self.decisions.matches:
            # Of content that was found in parts the instance is only one; nor is it surface what its object hides.
            placed = place(self.decisions.known[match.object_id], match)
            views = self.decisions.views
            free = [f & ~footprint(placed, v.camera, above=0.3, backend=self.backend) for f, v in zip(free, views, strict=True)]
        degree = self.old.background.sh_degree
        surface = revealed_surface(self.decisions.views, free, sh_degree=degree, config=self.build)
        if surface is None:
            return
        k = self._next_id()
        self.templates[k] = Template(k, "surface", surface, self.time)
        self.tracks[k] = ObjectTrack.start(k, self.time, np.eye(4))
        self.items.append(RefineItem(k, surface, np.eye(4), {}, 0, False, surface=True))


def carried_presence(track: ObjectTrack, kind: str, cameras: Sequence[Camera]) -> Presence:
    """Present objects stay present if a photo of this visit could see them, else unknown; absent ones stay absent."""
    if track.presence[-1] == Presence.ABSENT:
        return Presence.ABSENT
    centre = track.last_pose()[:3, 3]
    for camera in cameras:
        local = camera.cam_from_world[:3, :3] @ centre + camera.cam_from_world[:3, 3]
        uv = camera.K @ local
        if local[2] > 0 and 0 <= uv[0] / uv[2] < camera.width and 0 <= uv[1] / uv[2] < camera.height:
            return Presence.PRESENT
    return Presence.PRESENT if kind == "surface" else Presence.UNKNOWN
