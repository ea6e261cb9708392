"""Masks of pixels."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """[H, W] a mask and everything within so many pixels (>= 1) of it."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return cv2.dilate(mask.astype(np.uint8), disc) > 0
