"""Parts of the page about the visit as a whole: its light, where its photos stood, what it cost."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ltgs.core.chronology import Appearance
from ltgs.core.scene import PhotoRecord
from ltgs.pipeline.explain.facts import camera_sigma
from ltgs.pipeline.explain.words import Explanation, length, percent, signed, text

Array = NDArray[np.float64]
RAMP = tuple((v, v, v) for v in (0.08, 0.25, 0.42, 0.6, 0.78)) + ((0.75, 0.3, 0.25), (0.3, 0.6, 0.3), (0.25, 0.35, 0.7))
"""Colours shown in the light of the visit before and of the visit."""


def light_section(e: Explanation) -> str:
    """The visit's light next to that of the visit before."""
    before, now = e.scene.chronology.appearance[e.time - 1], e.scene.chronology.appearance[e.time]
    words = "differs from the visit before by more than the photos' own scatter" if now.changed else "as at the visit before"
    return (
        f'<div class="card"><h3>Light</h3><p>{words[:1].upper()}{words[1:]}: {signed(now.exposure_ev)} EV against the first visit '
        f"({signed(before.exposure_ev)} EV at the visit before).</p>"
        f'<span class="soft">the same greys and colours at the visit before</span>{_ramp(before.colour)}'
        f'<span class="soft">and at this visit</span>{_ramp(now.colour)}{_places(now)}</div>'
    )


def _places(light: Appearance) -> str:
    """How much the light differs from place to place beyond that."""
    if light.field is None:
        return ""
    stops = 2.2 / math.log(2) * light.field.log_gain.mean(-1)
    low, high = (float(stops.quantile(q)) for q in (0.05, 0.95))
    return f"<p>Beyond that it differs from place to place by {signed(low)} to {signed(high)} EV.</p>"


def _ramp(affine: Array) -> str:
    colours = np.clip(np.array(RAMP) @ affine[:, :3].T + affine[:, 3], 0, 1)
    return f'<div class="ramp">{"".join(f"<i style=background:{_hex(c)}></i>" for c in colours)}</div>'


def _hex(colour: Array) -> str:
    return "#" + "".join(f"{round(255 * float(v)):02x}" if math.isfinite(v) else "00" for v in colour)


def photos_table(e: Explanation) -> str:
    """Where the visit's photos stood and how sure that is."""
    photos = e.scene.visits[e.time].photos
    if not photos:
        return '<p class="soft">The visit has no photos.</p>'
    head = (
        "<tr><th>Photo</th><th>Placed</th><th>Inliers</th><th>Share</th><th>σ position</th><th>σ orientation</th>"
        "<th>Own exposure</th></tr>"
    )
    rows = "".join(_photo_row(p, e.scene.chronology.metres_per_unit) for p in photos)
    return f'<div class="card"><h3>Photos and poses</h3><div class="wide"><table>{head}{rows}</table></div></div>'


def _photo_row(photo: PhotoRecord, metres_per_unit: float | None) -> str:
    centre, turn = camera_sigma(photo)
    state = "yes" if photo.localised else "no"
    word = ("held out" if photo.holdout else "yes") if photo.localised else f"no: {text(photo.reason)}"
    ratio = percent(photo.inlier_ratio) if photo.num_inliers and math.isfinite(photo.inlier_ratio) else "–"
    used = photo.localised and not photo.holdout
    cells = (
        f"{photo.num_inliers:,}" if photo.num_inliers else "–", ratio,
        length(float(f"{centre:.2g}"), metres_per_unit) if math.isfinite(centre) else "–", f"{turn:.3f}°" if math.isfinite(turn) else "–",
        f"{signed(_stops(photo.exposure))} EV" if used else "–",
    )
    return (
        f'<tr class="{state}"><td>{text(photo.name, limit=120)}</td><td class="what">{word}</td>'
        f'{"".join(f"""<td class="n">{c}</td>""" for c in cells)}</tr>'
    )


def _stops(exposure: Array) -> float:
    """Brightness of a colour affine at mid-grey in stops; sRGB is close to a power of 2.2 of linear light."""
    level = float((exposure[:, :3] @ np.full(3, 0.4) + exposure[:, 3]).mean())
    return 2.2 * math.log2(max(level, 1e-3) / 0.4) if math.isfinite(level) else 0.0


def timing_section(e: Explanation) -> str:
    """Wall-clock seconds per stage and the methods used."""
    visit = e.scene.visits[e.time]
    if not visit.timing and not visit.method:
        return ""
    longest = max([*visit.timing.values(), 1e-9])
    bars = "".join(
        f'<span>{text(stage)}</span><div style="--v:{100 * max(seconds, 0) / longest:.1f}%"></div><span>{seconds:.1f} s</span>'
        for stage, seconds in sorted(visit.timing.items(), key=lambda item: -item[1])
    )
    methods = "".join(f"<dt>{text(stage)}</dt><dd>{text(method)}</dd>" for stage, method in visit.method.items())
    quality = "".join(f"<dt>{text(name)}</dt><dd>{value:.4g}</dd>" for name, value in visit.quality.items())
    parts = [
        f'<div class="card"><h3>Seconds per stage</h3><div class="time">{bars}</div></div>' if bars else "",
        f'<div class="card"><h3>Methods and figures</h3><dl>{methods}{quality}</dl></div>' if methods or quality else "",
    ]
    return f'<div class="pair">{"".join(parts)}</div>'
