"""The last look at one update: do the photos need what was decided, now that it is fitted to them?"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch

from ltgs.core.chronology import Chronology, Event, ObjectTrack, Template
from ltgs.core.track_times import Entry, with_entry
from ltgs.pipeline.update_captures import VisitCaptures
from ltgs.pipeline.update_proofs import explains_change, needed

log = logging.getLogger("ltgs.pipeline")


def review(chronology: Chronology, visit: VisitCaptures, camouflaged: Collection[int] = ()) -> Chronology:
    """The chronology without those arrivals of its last time that the photos do not need.

    Args:
        camouflaged: ids of new objects that have the colours of what lies around them; they must explain more.

    A new object that fails becomes a surface, if the pictures gain by what it brought, or nothing at all: nothing has appeared. A
    known object that fails was not found.
    """
    config = visit.config.review
    arrived = [e for e in chronology.events if e.time == visit.time and e.kind != "removed"]
    if not arrived:
        return chronology
    views, state = visit.compare_final(chronology), chronology.state_at(visit.time)
    expected = visit.expected_of(chronology, state.object_ids)
    for event in arrived:
        kept = state.object_ids != event.object_id
        without = visit.compare_altered(views, state.gaussians[~kept], state.gaussians[kept], expected[kept])
        gain = needed(without, views, config)
        log.info("%s %d: with it the score drops by %s", event.kind, event.object_id, gain)
        if gain is None:
            continue
        alike = event.object_id in camouflaged
        short = gain[0] < (config.new_mean_camouflaged if alike else config.new_mean) or gain[1] < config.new_least
        if event.is_of_new and short and (alike or not explains_change(without, views, config)):
            patch = gain[0] >= config.patch_mean and gain[1] >= config.patch_least
            chronology = (_as_surface if patch else _dropped)(_alone(chronology, event.object_id), event.object_id)
            reason = "fitted to the photos it explains too little of them"
        elif not event.is_of_new and gain[0] < config.known_mean:
            chronology = _not_found(chronology, event.object_id, sure=len(views) > 1)
            reason = "fitted there the object explains too little of the photos"
        else:
            continue
        visit.record.withdraw(event.object_id, reason)
        visit.undecided.append(f"What was taken for object {event.object_id} does not explain the photos: not counted.")
    return chronology


def _alone(chronology: Chronology, object_id: int) -> Chronology:
    """The chronology in which an object of the last time is no next form of another one: that one was removed."""
    template = chronology.templates[object_id]
    if not template.replaces:
        return chronology
    removed = Event(chronology.num_times - 1, "removed", template.replaces, uncertain=True)
    return replace(
        chronology, templates={**chronology.templates, object_id: replace(template, replaces=0)}, events=(*chronology.events, removed),
    )


def _as_surface(chronology: Chronology, object_id: int) -> Chronology:
    """An object of the last time as a patch of the static scene."""
    time, template = chronology.num_times - 1, chronology.templates[object_id]
    pose = torch.as_tensor(chronology.tracks[object_id].world_from_object[time], dtype=torch.float32)
    surface = Template(object_id, "surface", template.gaussians.transformed(pose), template.created_at)
    return replace(
        chronology, templates={**chronology.templates, object_id: surface},
        tracks={**chronology.tracks, object_id: ObjectTrack.start(object_id, time, np.eye(4))},
        events=tuple(e for e in chronology.events if e.object_id != object_id),
    )


def _dropped(chronology: Chronology, object_id: int) -> Chronology:
    """The chronology without an object of the last time; its id stays taken."""
    return replace(
        chronology, templates={k: t for k, t in chronology.templates.items() if k != object_id},
        tracks={k: t for k, t in chronology.tracks.items() if k != object_id}, retired=max(chronology.retired, object_id),
        events=tuple(e for e in chronology.events if e.object_id != object_id),
    )


def _not_found(chronology: Chronology, object_id: int, *, sure: bool) -> Chronology:
    """A known object that is not there at the last time; if it had stood somewhere before, it was removed.

    Args:
        sure: more than one photo says so.
    """
    time, events = chronology.num_times - 1, []
    for event in chronology.events:
        if event.object_id != object_id or event.time != time:
            events.append(event)
        elif event.kind == "moved":
            events.append(replace(event, kind="removed", translation=0.0, rotation_deg=0.0, uncertain=not sure, note=""))
    gone = with_entry(chronology.tracks[object_id], time, Entry.absent())
    return replace(chronology, events=tuple(events), tracks={**chronology.tracks, object_id: gone})
