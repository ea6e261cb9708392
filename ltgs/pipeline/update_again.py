"""Objects that stand still but that an earlier visit built from a few photos: what the new ones show of them improves them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ltgs.core.chronology import Chronology, ObjectTrack, Presence
from ltgs.core.views import ComparedView
from ltgs.optim.refine import RefineItem
from ltgs.render.lift import splat_features

log = logging.getLogger("ltgs.pipeline")


@dataclass(frozen=True)
class AgainConfig:
    """Which objects are fitted again."""

    score: tuple[float, float] = (0.07, 0.75)
    """Bounds of the mean change score, cut at 1, of an object's pixels: below it looks as it should, above perhaps it is not there.
    In seven rooms objects that three photos had built had .03 to .55 in photos of later visits."""
    agreed: float = 0.15
    """Least share of its pixels that agree with the photos: one that was not seen to leave must not become what stands there now."""
    shown: float = 0.001
    """Least share of a photo's pixels, summed over all photos, that must show it."""
    most: int = 3
    """Most objects per visit: those of which most is wrong."""


def seen_again(
    chronology: Chronology, time: int, views: Sequence[ComparedView], taken: Collection[int], config: AgainConfig, *,
    backend: str = "auto",
) -> list[RefineItem]:
    """Objects of earlier visits that stand where they stood, and look otherwise in these photos.

    Args:
        chronology: with `time` as its newest one.
        views: captures against what is still in its place at that time.
        taken: ids of objects that are refined anyway.
    """
    ids = [
        k for k, track in chronology.tracks.items()
        if k not in taken and chronology.templates[k].kind == "object" and _stands(track, time)
    ]
    if not ids or not views:
        return []
    state = chronology.state_at(time)
    flags = torch.stack([(state.object_ids == k).float() for k in ids], 1)
    shares = [splat_features(state.gaussians.detach(), flags, v.camera, backend=backend)[0] > 0.5 for v in views]
    pixels = np.array([s.sum((0, 1)) for s in shares]).sum(0)
    wrong = np.array([(np.clip(v.score, 0, 1)[..., None] * s).sum((0, 1)) for v, s in zip(views, shares, strict=True)]).sum(0)
    right = np.array([((v.agreed & ~v.mask)[..., None] & s).sum((0, 1)) for v, s in zip(views, shares, strict=True)]).sum(0)
    mean = wrong / np.maximum(pixels, 1)
    fits = (mean >= config.score[0]) & (mean <= config.score[1]) & (pixels >= config.shown * views[0].mask.size)
    fits &= right >= config.agreed * pixels
    picks = [i for i in np.argsort(-wrong, kind="stable") if fits[i]][: config.most]
    log.info("wrong and right shares of what stands: %s", {
        k: (round(float(m), 2), round(float(r / max(p, 1)), 2)) for k, m, r, p in zip(ids, mean, right, pixels, strict=True)
    })
    log.info("fitted again: %s", [ids[i] for i in picks])
    return [_item(chronology, ids[i], time) for i in picks]


def _stands(track: ObjectTrack, time: int) -> bool:
    """Whether an object is at a time where it was at the time before."""
    seen = track.presence[time] == Presence.PRESENT and track.presence[time - 1] == Presence.PRESENT
    return bool(seen and np.array_equal(track.world_from_object[time], track.world_from_object[time - 1]))


def _item(chronology: Chronology, object_id: int, time: int) -> RefineItem:
    track, gaussians = chronology.tracks[object_id], chronology.templates[object_id].gaussians
    return RefineItem(object_id, gaussians, track.world_from_object[time], track.seen_before(time), len(gaussians), False)
