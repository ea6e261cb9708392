"""Boxes of pixels: rows and columns of an image as a pair of slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice]
"""Rows and columns; indexes an image of any number of channels."""


def bounding_box(mask: NDArray[np.bool_]) -> Box | None:
    """Rows and columns around all set pixels of [H, W]; None without any."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def grown(box: Box, border: int, shape: tuple[int, int]) -> Box:
    """The box with a border, cut off at the edges of an image of a shape (height, width)."""
    rows, columns = (slice(max(0, s.start - border), min(n, s.stop + border)) for s, n in zip(box, shape, strict=True))
    return rows, columns
