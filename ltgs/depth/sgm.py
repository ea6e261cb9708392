"""Semi-global matching (Hirschmueller, PAMI 2008; OpenCV's SGBM) in both directions, checked left against right."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ltgs.depth.matches import PointMatches
from ltgs.depth.pictures import Photo
from ltgs.depth.types import DisparityRange, Map, Mask

CHECK_PIXELS = 1.0
"""Largest difference of left and right disparity, pixels (Hirschmueller 2008)."""
_STEP = 16
"""SGBM searches multiples of 16 disparities."""


@dataclass(frozen=True)
class SgmConfig:
    """Semi-global matching. Measured on real pairs; see the figures in the README."""

    block: int = 5
    """Side of the matching window, pixels."""
    small_step: int = 8
    """Penalty of a disparity step of one pixel over the window's area in pixels; OpenCV's recommendation."""
    large_step: int = 32
    """The same for larger steps."""
    speckle_pixels: int = 100
    """Connected regions smaller than this are dropped."""
    speckle_range: int = 2
    """Largest disparity difference within a region, pixels."""
    uniqueness: int = 0
    """Margin in percent by which the best cost must win. The check of both directions replaces it: it keeps more and errs less."""
    left_right: int = -1
    """OpenCV's own check of both directions within one pass, pixels; -1 = off, because `match_both_ways` runs the real one."""
    full: bool = False
    """Eight path directions instead of three; needs memory for the whole cost volume and was not better on the real pairs."""


@dataclass(frozen=True)
class TwoWay:
    """Disparities of both views."""

    left: Map
    """[H, W] pixels, NaN where unmatched."""
    right: Map
    """[H, W] positive in the same sense: the right pixel (x, y) matches the left pixel (x + disparity, y)."""
    consistent: Mask
    """[H, W] left pixels that the right view confirms."""


def match_one_way(left: Photo, right: Photo, search: DisparityRange, config: SgmConfig | None = None) -> Map:
    """Disparity of the left view.

    Both photos are padded by the search range with their border pixels, so that the band which the other photo does not
    show keeps a value where the image content allows one.

    Args:
        left, right: [H, W] or [H, W, 3] uint8, rectified.
        search: disparities to look at.

    Returns:
        [H, W] pixels in steps of 1/16, NaN where unmatched.
    """
    config = config or SgmConfig()
    count = -(-len(search) // _STEP) * _STEP
    before, after = max(0, search.low + count), max(0, -search.low)
    padded = [cv2.copyMakeBorder(p, 0, 0, before, after, cv2.BORDER_REPLICATE) for p in (left, right)]
    area = config.block**2 * (left.shape[2] if left.ndim == 3 else 1)
    matcher = cv2.StereoSGBM.create(
        search.low, count, config.block, P1=config.small_step * area, P2=config.large_step * area, disp12MaxDiff=config.left_right,
        uniquenessRatio=config.uniqueness, speckleWindowSize=config.speckle_pixels, speckleRange=config.speckle_range,
        mode=cv2.STEREO_SGBM_MODE_HH if config.full else cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )
    raw = matcher.compute(padded[0], padded[1])[:, before : before + left.shape[1]]
    values: Map = raw.astype(np.float32) / np.float32(16)
    # Unmatched pixels hold (low - 1) * 16.
    values[raw < search.low * 16] = np.nan
    return values


def match_both_ways(left: Photo, right: Photo, search: DisparityRange, config: SgmConfig | None = None) -> TwoWay:
    """Disparity of both views; the right one by mirroring the photos and exchanging their roles.

    Args:
        left, right: [H, W] or [H, W, 3] uint8, rectified.
        search: disparities to look at.
    """
    forward = match_one_way(left, right, search, config)
    mirrored = match_one_way(np.ascontiguousarray(right[:, ::-1]), np.ascontiguousarray(left[:, ::-1]), search, config)
    backward = np.ascontiguousarray(mirrored[:, ::-1])
    return TwoWay(forward, backward, consistent(forward, backward))


def at_match(values: Map, disparity: Map) -> Map:
    """Values of the right view at the pixel that each left pixel matches.

    Args:
        values: [H, W] map of the right view.
        disparity: [H, W] of the left view, pixels; may hold NaN.

    Returns:
        [H, W] nearest values; NaN where there is no disparity or the match lies outside.
    """
    width = disparity.shape[1]
    known = np.isfinite(disparity)
    column = np.rint(np.arange(width, dtype=np.float32) - np.where(known, disparity, 0)).astype(np.int32)
    inside = known & (column >= 0) & (column < width)
    found = np.take_along_axis(values, column.clip(0, width - 1), axis=1)
    return np.where(inside, found, np.float32(np.nan))


def consistent(forward: Map, backward: Map, tolerance: float = CHECK_PIXELS) -> Mask:
    """[H, W] left pixels whose match points back to them within `tolerance` pixels."""
    return np.abs(at_match(backward, forward) - forward) <= tolerance


def estimate_range(left: Photo, right: Photo, matches: PointMatches) -> DisparityRange:
    """The disparities worth searching, from point matches and from a coarse search of half of the image's width.

    Args:
        left, right: [H, W] uint8 grey, rectified.
        matches: see `find_matches`.

    Returns:
        The union of what both find, with a margin of 8 pixels plus a tenth of its length at each end, within the image's width.
    """
    width = left.shape[1]
    rows = np.abs(matches.vertical) < max(1.5, 0.002 * width)
    sparse = matches.disparity[rows]
    # A few wrong matches lie anywhere; only many of them say that the principal points were shifted against each other.
    shifted = len(sparse) >= 20 and bool((sparse < -1).mean() > 0.05)
    sparse = sparse if shifted else sparse[sparse >= -1]
    found = [np.quantile(sparse, (0.01, 0.99))] if len(sparse) >= 20 else []
    lowest = float(found[0][0]) if shifted else 0.0
    coarse = _coarse_disparities(left, right, lowest)
    if coarse.size >= 50:
        found.append(np.quantile(coarse, (0.002, 0.998)))
    if not found:
        return DisparityRange(0, min(width, max(_STEP, width // 4)))
    low, high = min(float(f[0]) for f in found), max(float(f[1]) for f in found)
    margin = 8 + 0.1 * (high - low)
    # A pair whose points lie at positive disparities has no reason to search behind infinity.
    start = low - margin if shifted else max(0.0, low - margin)
    return DisparityRange(int(np.floor(start)), int(min(width, np.ceil(max(high + margin, start + _STEP)))))


def _coarse_disparities(left: Photo, right: Photo, lowest: float) -> Map:
    """Consistent disparities of a search at about 160 columns, in full-size pixels."""
    factor = max(1, round(max(left.shape) / 160))
    size = (max(8, left.shape[1] // factor), max(8, left.shape[0] // factor))
    small = [np.asarray(cv2.resize(p, size, interpolation=cv2.INTER_AREA), np.uint8) for p in (left, right)]
    scale = left.shape[1] / size[0]
    search = DisparityRange(int(np.floor(lowest / scale)) - 1, max(size[0] // 2, int(np.floor(lowest / scale)) + _STEP))
    both = match_both_ways(small[0], small[1], search, SgmConfig(uniqueness=10))
    return both.left[both.consistent] * np.float32(scale)
