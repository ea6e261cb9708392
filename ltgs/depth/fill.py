"""Values for pixels that no match explains: the farther neighbour of the row, then a vote among pixels of like colour."""

from __future__ import annotations

import cv2
import numpy as np

from ltgs.depth.pictures import Photo
from ltgs.depth.types import Map, Mask

CHUNK = 50_000
"""Pixels that vote at a time; bounds the memory."""
REACH = 6
"""Half side of the voting window, pixels."""
STRIDE = 2
"""Every second pixel votes."""
COLOUR = 30.0
"""Sum of absolute differences of 8-bit colours over which a vote falls to 1/e."""
EDGE_STEP = 2.0
"""Pixels of disparity within a 3x3 window from which on a pixel is at an edge."""
EDGE_BAND = 4
"""Pixels around an edge whose match is biased by the window of the other side."""


def background_fill(disparity: Map, valid: Mask) -> Map:
    """Fill each gap of a row with the smaller (farther) of the values at its two ends: what is hidden is the background.

    Args:
        disparity: [H, W] pixels.
        valid: [H, W] known values, at least one.

    Returns:
        [H, W]; rows without any value take the median of the image.

    Raises:
        ValueError: nothing is known.
    """
    if not valid.any():
        raise ValueError("background_fill needs at least one known pixel.")
    width = disparity.shape[1]
    index = np.arange(width, dtype=np.int32)
    left = np.maximum.accumulate(np.where(valid, index, -1), axis=1)
    right = np.minimum.accumulate(np.where(valid, index, width)[:, ::-1], axis=1)[:, ::-1]
    values = np.where(valid, disparity, np.float32(0)).astype(np.float32)
    from_left = np.where(left >= 0, np.take_along_axis(values, left.clip(0), 1), np.float32(np.inf))
    from_right = np.where(right < width, np.take_along_axis(values, right.clip(max=width - 1), 1), np.float32(np.inf))
    filled = np.where(valid, values, np.minimum(from_left, from_right))
    return np.where(np.isfinite(filled), filled, np.float32(np.median(values[valid]))).astype(np.float32)


def vote(disparity: Map, rgb: Photo, where: Mask, *, reach: int = REACH, stride: int = STRIDE, colour: float = COLOUR) -> Map:
    """Replace pixels by the median of their neighbourhood, weighted by likeness of colour.

    The constant-time form of this filter refines box-filtered matching in Ma et al., ICCV 2013; here only few pixels need it.

    Args:
        disparity: [H, W] pixels, finite.
        rgb: [H, W, 3] uint8 photo of the same view.
        where: [H, W] pixels to replace; all others are returned as they are.
        reach: half side of the window, pixels.
        stride: step between voting pixels.
        colour: sum of absolute colour differences over which a vote falls to 1/e.
    """
    if disparity.shape != where.shape or rgb.shape[:2] != where.shape:
        raise ValueError(f"disparity, photo and mask must share one size, got {disparity.shape}, {rgb.shape}, {where.shape}.")
    steps = range(-reach, reach + 1, stride)
    offsets = [(dy, dx) for dy in steps for dx in steps]
    padded = cv2.copyMakeBorder(disparity, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
    photo = cv2.copyMakeBorder(rgb, reach, reach, reach, reach, cv2.BORDER_REPLICATE).astype(np.int16)
    out = disparity.copy()
    rows, columns = np.nonzero(where)
    for start in range(0, len(rows), CHUNK):
        y, x = rows[start : start + CHUNK] + reach, columns[start : start + CHUNK] + reach
        centre = photo[y, x]
        values = np.empty((len(y), len(offsets)), np.float32)
        weights = np.empty_like(values)
        for k, (dy, dx) in enumerate(offsets):
            values[:, k] = padded[y + dy, x + dx]
            weights[:, k] = np.abs(photo[y + dy, x + dx] - centre).sum(1)
        np.exp(weights / np.float32(-colour), out=weights)
        order = np.argsort(values, axis=1)
        rank = np.cumsum(np.take_along_axis(weights, order, 1), axis=1)
        middle = (rank >= 0.5 * rank[:, -1:]).argmax(1)
        picked = np.take_along_axis(order, middle[:, None], 1)
        out[y - reach, x - reach] = np.take_along_axis(values, picked, 1)[:, 0]
    return out


def near_edges(disparity: Map, *, step: float = EDGE_STEP, band: int = EDGE_BAND) -> Mask:
    """[H, W] pixels within `band` pixels of a disparity step, where matching windows mix both sides."""
    kernel = np.ones((3, 3), np.uint8)
    jump = cv2.dilate(disparity, kernel) - cv2.erode(disparity, kernel) > step
    return cv2.dilate(jump.astype(np.uint8), np.ones((2 * band + 1, 2 * band + 1), np.uint8)) > 0


def fill_gaps(disparity: Map, valid: Mask, rgb: Photo, *, edges: bool = True) -> Map:
    """Dense disparity without a prior.

    Args:
        disparity, valid: [H, W] matches and where they are trusted.
        rgb: [H, W, 3] uint8 photo of the same view.
        edges: also let pixels near disparity steps vote, which straightens the fattened outlines of near objects.

    Returns:
        [H, W] pixels.
    """
    dense = background_fill(disparity, valid)
    where = ~valid | near_edges(dense) if edges else ~valid
    return vote(dense, rgb, where)
