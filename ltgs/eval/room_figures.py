"""Figures of a room's held-out views, the same for a chronology and for every baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ltgs.core.progress import Progress, silent
from ltgs.data.rooms import Room
from ltgs.eval.baselines import BaselineStates
from ltgs.eval.report import mean_metrics
from ltgs.eval.room_images import Place, RoomView, heldout_views, object_region, region_psnr

Figures = dict[str, float | None]
Optional = float | None


def picture_figures(views: Sequence[RoomView], room: Room, num_times: int) -> Figures:
    """PSNR of full frames and regions over all times, and how far it falls below the first visit's own.

    Args:
        views: held-out views of the times 0..num_times - 1.

    Returns:
        dB by name, None where there is nothing to measure: `psnr_t0`; `psnr_drop_mean` of later full frames against it;
        `changed_psnr_mean` and `unchanged_psnr_mean` over later visits; `objects_psnr_t0`, all changing objects as the first
        visit shows them; `changed_psnr_drop_mean`, how far changed regions stay below the first visit's quality of the very
        objects that had changed by then. Each also after the best colour affine per image (`_colour_fit_`).
    """
    out: Figures = {}
    for metric in ("psnr", "psnr_colour_fit"):
        full = [mean_metrics([v for v in views if v.time == t])[metric] for t in range(num_times)]
        changed, unchanged = (
            [region_psnr(views, k, t)[metric] for t in range(1, num_times)] for k in ("changed", "unchanged")
        )
        reference = [_objects_before(views, room, t)[metric] for t in range(1, num_times)]
        out |= {
            f"{metric}_t0": full[0] if full else None,
            f"{metric}_drop_mean": mean_known([difference(full[0], v) for v in full[1:]]) if full else None,
            f"changed_{metric}_mean": mean_known(changed),
            f"unchanged_{metric}_mean": mean_known(unchanged),
            f"objects_{metric}_t0": region_psnr(views, "objects", 0)[metric],
            f"changed_{metric}_drop_mean": mean_known([
                difference(a, b) for a, b in zip(reference, changed, strict=True)
            ]),
        }
    return out


def _objects_before(views: Sequence[RoomView], room: Room, time: int) -> Mapping[str, Optional]:
    """Quality at the first visit of the objects that had changed by a time; of all changing ones if none of these was there."""
    changed = {object_region(e.object_id) for e in room.events if e.time <= time}
    own = region_psnr(views, changed, 0)
    return own if own["psnr"] is not None else region_psnr(views, "objects", 0)


def forgetting(after: Sequence[RoomView], before: Sequence[RoomView]) -> Figures:
    """Full-frame PSNR of the first visit's held-out views after all updates minus before any, dB; negative = forgotten."""
    out: Figures = {}
    for metric, name in (("psnr", "forgetting"), ("psnr_colour_fit", "forgetting_colour_fit")):
        first = [mean_metrics([v for v in views if v.time == 0])[metric] for views in (after, before)]
        out[name] = difference(first[0], first[1])
    return out


def baseline_figures(
    states: BaselineStates, room: Room, place: Place, *, backend: str = "auto", progress: Progress = silent
) -> Figures:
    """The pictures of a baseline measured as a chronology's are, and its cost per later visit.

    Its forgetting is that of the last scene, shown again at the first visit's held-out views.
    """
    views = heldout_views(states, room, place, backend=backend, progress=progress)
    again = heldout_views(replace(states, states=(states.first_again,)), room, place, backend=backend)
    return {
        **picture_figures(views, room, min(states.num_times, room.num_times)), **forgetting(again, views),
        "cpu_seconds_per_visit": mean_known(states.cpu_seconds[1:]),
        "num_gaussians": mean_known([float(len(s.gaussians)) for s in states.states[1:]]),
    }


def mean_known(values: Sequence[Optional]) -> Optional:
    """Mean of the values that are not None; None if there are none."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def difference(a: Optional, b: Optional) -> Optional:
    """a - b, None if one is unknown."""
    return None if a is None or b is None else a - b
