"""Are two photos a rectified pair in the right order? Measured from point matches, refused with the way out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltgs.depth.matches import PointMatches
from ltgs.errors import InputError

MIN_MATCHES = 30
"""Fewer say nothing."""
MAX_VERTICAL = 1.0
"""Largest median vertical offset, pixels at up to 1000 columns and proportional above; semi-global matching searches along rows only."""
SWAPPED_SHARE = 0.95
"""Share of negative disparities from which on the photos are taken for exchanged."""


@dataclass(frozen=True)
class Rectification:
    """What point matches say about a pair."""

    num_matches: int
    vertical: float | None
    """Median absolute vertical offset, pixels; None with too few matches."""
    swapped: bool
    """Nearly all points lie farther right in the right photo."""

    def limit(self, width: int) -> float:
        """The largest `vertical` that is accepted for photos of this width, pixels."""
        return MAX_VERTICAL * max(1.0, width / 1000)


def measure_rectification(matches: PointMatches, width: int) -> Rectification:
    """Vertical offset and order of a pair.

    Args:
        matches: see `find_matches`.
        width: columns of the photos.
    """
    if len(matches) < MIN_MATCHES:
        return Rectification(len(matches), None, False)
    vertical = float(np.median(np.abs(matches.vertical)))
    on_rows = matches.disparity[np.abs(matches.vertical) < max(1.5, 0.002 * width)]
    swapped = len(on_rows) >= MIN_MATCHES and float((on_rows < 0).mean()) >= SWAPPED_SHARE and float(np.median(on_rows)) < -2
    return Rectification(len(matches), vertical, bool(swapped))


def require_rectified(matches: PointMatches, width: int, *, order: bool = True) -> Rectification:
    """Refuse pairs that matching along rows cannot serve. A pair with too few matches is let through; the caller may warn.

    Args:
        matches: see `find_matches`.
        width: columns of the photos.
        order: also refuse exchanged photos.

    Raises:
        InputError: the photos are not rectified, do not show the same place, or are exchanged.
    """
    found = measure_rectification(matches, width)
    if found.vertical is not None and found.vertical > found.limit(width):
        raise InputError(
            f"The photos are not a rectified pair: {found.num_matches} matched points differ by {found.vertical:.1f} pixels in height "
            f"(median; at most {found.limit(width):.1f} is accepted). Rectify them first: `ltgs depth rig FOLDER --calib FILE` does it for "
            "a calibrated rig, ltgs.depth.views.measure_view for two photos with known cameras. Or check that both show the same place."
        )
    if found.swapped and order:
        raise InputError(
            "The photos are exchanged: nearly all points lie farther right in the right photo. Pass the left photo first, "
            "or give a range of disparities if the photos were shifted on purpose."
        )
    return found
