"""The light of a visit from the colour fits of its photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltgs.change.harmonise import ColourFit
from ltgs.core.chronology import Appearance


@dataclass(frozen=True)
class LightConfig:
    """What counts as a change of light."""

    changed: float = 0.06
    """Mean relative colour change against the visit before above which the light counts as changed."""
    exposure_scatter: float = 0.05
    """Expected scatter of a photo's own exposure, standard deviation of log2 of its sRGB level (about 0.1 EV)."""


def visit_light(fits: Sequence[ColourFit], before: Appearance, *, config: LightConfig | None = None) -> Appearance:
    """The mean of the photos' colour affines, pulled to the light of the visit before as far as the photos disagree.

    Single photos scatter by their own exposure; only what they share is light. Photos that show too little of the scene say
    nothing about it; if all are such, the light is taken to be the same as before.
    """
    config = config or LightConfig()
    affines = np.array([f.affine for f in fits if f.known] or [before.colour])
    grey = np.append(np.full(3, 0.4), 1.0)
    reference = max(float((before.colour @ grey).mean()), 1e-3)
    levels = np.log2(np.maximum((affines @ grey).mean(1), 1e-3) / reference)
    own = float(levels.var(ddof=1)) if len(levels) > 1 else 0.0
    scatter = max(own, config.exposure_scatter**2) / len(levels)
    trust = float(levels.mean() ** 2 / (levels.mean() ** 2 + scatter))
    colour = before.colour + trust * (affines.mean(0) - before.colour)
    ratio = (colour @ grey) / np.maximum(before.colour @ grey, 1e-3)
    # sRGB is close to a power of 2.2 of linear light.
    stops = 2.2 * float(np.log2(max(float((colour @ grey).mean()), 1e-3) / 0.4))
    return Appearance(colour, bool(np.abs(ratio - 1).mean() > config.changed), stops)
