"""Fractions of a pixel: matches aligned by least squares, because semi-global matching leans towards whole pixels."""

from __future__ import annotations

import cv2
import numpy as np

from ltgs.depth.arbitrate import equal_light, warp_right
from ltgs.depth.pictures import Photo
from ltgs.depth.types import Map, Mask

WINDOW = 11
"""Side of the window, pixels."""
ROUNDS = 2
LARGEST = 0.5
"""Largest move of a match, pixels; what is farther off is another match, not a fraction."""
RIDGE = 9.0
"""Squared grey levels per pixel: mean squared gradient at which a match moves half of the way. Keeps smooth regions where they are."""
DETAIL = 15
"""Side of the window whose mean is subtracted, so that differences of light do not move matches."""


def refine_matches(left: Photo, right: Photo, disparity: Map, valid: Mask) -> Map:
    """Move each match by up to half a pixel to where the photos agree best (Lucas and Kanade, IJCAI 1981, along rows).

    Args:
        left, right: [H, W] uint8 grey.
        disparity: [H, W] pixels, finite.
        valid: [H, W] matches; others neither move nor count.

    Returns:
        [H, W] pixels.
    """
    first = left.astype(np.float32)
    second = equal_light(first, right.astype(np.float32), disparity, valid)
    detail, weight = first - _mean(first, DETAIL), valid.astype(np.float32)
    slope = cv2.Sobel(first, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
    share = np.maximum(_mean(weight, WINDOW), 1e-3)
    moved = disparity
    for _ in range(ROUNDS):
        warped = warp_right(second, moved)
        error = detail - (warped - _mean(warped, DETAIL))
        # The mean of both photos' gradients converges faster and is less biased by noise than either.
        gradient = 0.5 * (slope + cv2.Sobel(warped, cv2.CV_32F, 1, 0, ksize=3, scale=0.125))
        step = -_mean(gradient * error * weight, WINDOW) / (_mean(gradient * gradient * weight, WINDOW) + RIDGE * share)
        moved = np.where(valid, np.clip(moved + np.clip(step, -LARGEST, LARGEST), disparity - LARGEST, disparity + LARGEST), disparity)
    return moved.astype(np.float32)


def _mean(values: Map, window: int) -> Map:
    return np.asarray(cv2.blur(values, (window, window), borderType=cv2.BORDER_REFLECT), np.float32)
