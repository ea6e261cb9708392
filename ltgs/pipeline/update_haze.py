"""What a visit's photos must look through is taken out of the scene from that visit on; before, it is drawn as it was."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ltgs.change.compare import CompareConfig, Shot
from ltgs.change.haze import HazeConfig, find_haze
from ltgs.core.chronology import BACKGROUND_ID, Chronology, ObjectTrack, Presence, Template
from ltgs.core.scene import Scene

log = logging.getLogger("ltgs.pipeline")


def without_haze(scene: Scene, shots: Sequence[Shot], *, config: HazeConfig, compare: CompareConfig, backend: str) -> Chronology:
    """The scene's chronology without the haze before some photos of a new visit; the same one if there is none.

    What is taken out becomes a surface that is absent at all times; `haze_until_now` shows it at the earlier ones again.
    """
    old = scene.chronology
    data = scene.side_data.get("expected_residual")
    if data is None or "weight" not in data:
        return old
    state = old.state_at(old.num_times - 1)
    weight = torch.full((len(state.gaussians),), torch.inf)
    weight[state.object_ids == BACKGROUND_ID] = data["weight"][old.static_mask]
    found = find_haze(
        state.gaussians.detach(), weight, shots, harmonise=compare.harmonise, config=config, backend=backend
    )[state.object_ids == BACKGROUND_ID]
    if not found.any():
        return old
    members = old.static_mask.nonzero()[:, 0][found]
    log.info("haze before the photos: %d Gaussians of the first visit", len(members))
    k = old.next_id
    return replace(
        old, lifted=torch.cat([old.lifted, members]).unique(),
        templates={**old.templates, k: Template(k, "surface", old.background[members], 0, members=members, haze=True)},
        tracks={**old.tracks, k: _absent(ObjectTrack.start(k, old.num_times - 1, np.eye(4)))},
    )


def haze_until_now(chronology: Chronology, stored: Chronology) -> Chronology:
    """A chronology one visit longer than the stored one, with the haze that was taken out of it drawn at all times but the last."""
    time, tracks = stored.num_times, dict(chronology.tracks)
    for k, template in chronology.templates.items():
        if template.haze and k not in stored.tracks:
            tracks[k] = ObjectTrack.start(k, time - 1, np.eye(4), before=Presence.PRESENT).extended(Presence.ABSENT)
    return replace(chronology, tracks=tracks)


def hazes(chronology: Chronology, time: int) -> list[int]:
    """Ids of the surfaces that were in the way of a visit's photos: there until then, and away at that time."""
    def drawn(k: int, when: int) -> bool:
        return bool(chronology.tracks[k].presence[when] != Presence.ABSENT)

    return [k for k, t in chronology.templates.items() if t.haze and time > 0 and drawn(k, time - 1) and not drawn(k, time)]


def before_visit(chronology: Chronology, time: int) -> Chronology:
    """The visits before `time` as the update to that visit saw them: without what its photos looked through."""
    past = chronology.until(time)
    return replace(past, tracks={**past.tracks, **{k: _absent(past.tracks[k]) for k in hazes(chronology, time)}})


def _absent(track: ObjectTrack) -> ObjectTrack:
    """A track of the same length that never was there."""
    times = track.num_times
    return ObjectTrack(
        track.object_id, np.full(times, Presence.ABSENT, np.uint8), np.full((times, 4, 4), np.nan), np.full((times, 6, 6), np.nan),
        np.full(times, np.nan),
    )
