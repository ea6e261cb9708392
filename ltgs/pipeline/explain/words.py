"""What a page about one visit holds, and how its numbers and the user's own texts become harmless HTML."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from ltgs.core.decisions import InstanceVerdict, RemovalTest
from ltgs.core.scene import Scene
from ltgs.pipeline.explain.facts import UPRIGHT_DEG, Motion, ObjectFacts, percent
from ltgs.pipeline.explain.pictures import Label

MAX_TEXT = 300


@dataclass(frozen=True)
class Figure:
    """One picture of a photo's row."""

    title: str
    note: str
    file: str
    """Address relative to the page."""
    width: int
    height: int
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True)
class PhotoRow:
    """One photo and how it was judged."""

    name: str
    figures: tuple[Figure, ...]
    changed_before: float
    """Share of its pixels that differ from the scene of the visit before."""
    changed_after: float
    noise: float
    """Robust standard deviation of what remains on unchanged pixels, colour units in [0, 1]."""


@dataclass(frozen=True)
class Crop:
    """The same window of the render before, the photo and the render after; addresses relative to the page."""

    photo_name: str
    where: str
    before: str
    photo: str
    after: str


@dataclass(frozen=True)
class Other:
    """Content or a removal that became no object."""

    name: str
    instance: InstanceVerdict | None
    removal: RemovalTest | None
    crop: Crop | None


@dataclass(frozen=True)
class Explanation:
    """Everything on the page."""

    scene_name: str
    scene: Scene
    time: int
    rows: tuple[PhotoRow, ...]
    objects: tuple[ObjectFacts, ...]
    crops: Mapping[int, tuple[Crop, ...]]
    """Object id to its crops."""
    others: tuple[Other, ...]
    refused: tuple[Other, ...]


def shown_as_other(instance: InstanceVerdict) -> bool:
    """Whether content is listed among what became no object; what is only looked at again later is not."""
    return instance.verdict in ("leftover", "newly seen", "light", "dropped") or (instance.verdict == "open" and instance.in_hole)


def text(value: object, *, limit: int = MAX_TEXT) -> str:
    """Any text as harmless HTML: one line, no control or direction-changing characters, everything special escaped."""
    kept = []
    for char in str(value):
        if char.isspace():
            kept.append(" ")
        elif unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn"):
            kept.append(char)
    line = " ".join("".join(kept).split())
    return html.escape(line if len(line) <= limit else line[: limit - 1] + "…", quote=True)


def length(value: float, metres_per_unit: float | None) -> str:
    """A length in metres if the scale is known, else in scene units."""
    if metres_per_unit is None:
        return f"{value:.3g} units"
    metres = value * metres_per_unit
    return f"{metres * 100:.3g} cm" if metres < 1 else f"{metres:.3g} m"


def signed(value: float) -> str:
    """Two decimals with a real minus sign."""
    words = f"{value:+.2f}"
    return "0.00" if float(words) == 0 else words.replace("-", "−")


def with_sigma(value: float, sigma: float, unit: str) -> str:
    """"1.04 ± 0.02 units": the value to the first digit of its standard deviation, which is shown with two digits below 2."""
    if not math.isfinite(sigma) or sigma <= 0:
        return f"{value:.3g}{unit}"
    decimals = max(0, min(6, -math.floor(math.log10(sigma)) + (1 if sigma < 2 * 10 ** math.floor(math.log10(sigma)) else 0)))
    return f"{value:.{decimals}f} ± {sigma:.{decimals}f}{unit}"


def distance_words(motion: Motion, diameter: float, metres_per_unit: float | None) -> str:
    """"1.04 ± 0.02 units (1.9 times its diameter)"."""
    if metres_per_unit is None:
        words = with_sigma(motion.distance, motion.distance_sigma, " units")
    else:
        centimetres = motion.distance * metres_per_unit < 1
        factor, unit = metres_per_unit * (100 if centimetres else 1), " cm" if centimetres else " m"
        words = with_sigma(motion.distance * factor, motion.distance_sigma * factor, unit)
    return f"{words} ({motion.distance / diameter:.2g} times its diameter)" if diameter > 0 else words


def turn_words(motion: Motion) -> str:
    """"73° ± 2°, about the vertical"."""
    words = with_sigma(motion.turn_deg, motion.turn_sigma_deg, "°")
    if motion.turn_deg < 1:
        return words
    if motion.axis_tilt_deg <= UPRIGHT_DEG:
        return f"{words}, about the vertical"
    return f"{words}, about an axis {motion.axis_tilt_deg:.0f}° off the vertical"


_SCORES = {
    "explained": ("matches without it", True), "outline": ("outline", True), "holes": ("left empty", True),
    "altered_px": ("pixels", False), "num_views": ("photos", False),
}
"""Scores of removals by name: words, and whether it is a share. Others are shown under their own name."""


def score_words(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """(words, value) of every score, known ones first."""
    known = [
        (words, percent(scores[name]) if share else f"{scores[name]:,.0f}")
        for name, (words, share) in _SCORES.items() if name in scores
    ]
    return known + [(text(name, limit=40), f"{value:.3g}") for name, value in sorted(scores.items()) if name not in _SCORES]
