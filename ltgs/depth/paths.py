"""Smoothness of a cost volume along paths: the recursion of semi-global matching for volumes that OpenCV cannot take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ltgs.core.checks import check_shape
from ltgs.depth.types import Mask

Volume = NDArray[np.float32]


def aggregate_paths(cost: Volume, where: Mask, small_step: float, large_step: float) -> Volume:
    """Mean of the path costs along rows and columns, both ways (Hirschmueller, PAMI 2008).

    Args:
        cost: [D, H, W] finite cost of each label.
        where: [H, W] pixels that paths run through; a path starts anew behind a gap.
        small_step: penalty of a step to the next label.
        large_step: penalty of a larger step.

    Returns:
        [D, H, W]
    """
    height, width = where.shape
    check_shape("cost", cost, f"D {height} {width}")
    total = np.zeros_like(cost)
    for turned in (False, True):
        volume, mask = (cost.transpose(0, 2, 1), where.T) if turned else (cost, where)
        for backward in (False, True):
            paths = _along(volume, mask, np.float32(small_step), np.float32(large_step), backward)
            total += paths.transpose(0, 2, 1) if turned else paths
    return total / np.float32(4)


def _along(volume: Volume, mask: Mask, small: np.float32, large: np.float32, backward: bool) -> Volume:
    """Path costs of all columns at once, row after row."""
    rows = range(mask.shape[0])
    out = np.empty_like(volume)
    before, through = np.zeros_like(volume[:, 0]), np.zeros(mask.shape[1], np.float32)
    for row in reversed(rows) if backward else rows:
        best = before.min(0)
        reached = np.minimum(before, best + large)
        np.minimum(reached[1:], before[:-1] + small, out=reached[1:])
        np.minimum(reached[:-1], before[1:] + small, out=reached[:-1])
        # Subtracting the best keeps the sums bounded; it is the same for every label.
        out[:, row] = before = volume[:, row] + (reached - best) * through
        through = mask[row].astype(np.float32)
    return out
