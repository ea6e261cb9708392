"""Depth of one posed photo from a second one, with the depth of a rendered scene as the prior where the place is unchanged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.depth.fuse import StereoConfig, match_stereo
from ltgs.depth.pictures import as_array, rgb8
from ltgs.depth.rectify import RectifiedPair, depth_at_original, pixel_map, rectify_cameras, warp_depth, warp_photo
from ltgs.depth.sgm import at_match
from ltgs.depth.types import DisparityRange, Map, Mask, Source, StereoResult
from ltgs.errors import InputError


@dataclass(frozen=True)
class ViewDepthConfig:
    """Filters of depth from a posed pair."""

    stereo: StereoConfig = field(default_factory=StereoConfig)
    nearer: float = 0.5
    """A new object may stand this much nearer than the nearest known surface, as a share of its depth."""
    farther: float = 0.25
    """The same behind the farthest known surface."""
    max_jump: float = 1.0
    """Disparity difference to a direct neighbour, pixels per pixel, from which on a pixel lies on a discontinuity or grazes the view."""
    gate: float = 1.5
    """Largest median difference of match and prior on unchanged pixels, pixels; above it the poses of the pair are not trusted."""
    gate_share: float = 0.02
    """The same as a share of the parallax: a rendered depth that is one percent off moves matches of a wide pair by more pixels."""
    floor: float = 0.25
    """Smallest standard deviation of a matched disparity, pixels."""


@dataclass(frozen=True)
class ViewDepth:
    """Depth of a reference view from one pair; maps have the rectified view's size [h, w]."""

    pair: RectifiedPair
    rgb: NDArray[np.uint8]
    """[h, w, 3] rectified reference photo."""
    depth: Map
    """[h, w] along z of the rectified camera, scene units; NaN where nothing was measured or a filter dropped it."""
    sigma: Map
    """[h, w] standard deviation of the depth, scene units; NaN as above."""
    confidence: Map
    """[h, w] in [0, 1]."""
    source: NDArray[np.uint8]
    """[h, w] values of `Source`; NONE where the depth is NaN."""
    occlusion: Mask
    """[h, w] not seen by the second camera."""
    gap: float | None
    """Median |match - prior| on unchanged pixels, pixels of disparity; None without a prior."""
    timings: dict[str, float]

    def at_view(self, camera: Camera) -> tuple[Map, NDArray[np.uint8]]:
        """Depth along z of the original reference camera and its source, both [H, W]."""
        depth = depth_at_original(self.depth, camera, self.pair.left, self.pair.left_from)
        return depth, np.where(np.isfinite(depth), self.warped(self.source, camera), Source.NONE).astype(np.uint8)

    def warped(self, values: NDArray[Any], camera: Camera) -> NDArray[Any]:
        """A map [h, w] of the rectified view as the original reference camera sees it, [H, W], nearest pixel; 0 outside."""
        x, y = pixel_map(camera, np.asarray(np.linalg.inv(self.pair.left_from), np.float64))
        return np.asarray(cv2.remap(values, x, y, cv2.INTER_NEAREST))


def measure_view(
    photos: tuple[Any, Any], cameras: tuple[Camera, Camera], *, depth: Any = None, depth_valid: Any = None,
    depth_range: tuple[float, float] | None = None, config: ViewDepthConfig | None = None,
) -> ViewDepth:
    """Depth of the first of two posed photos.

    Args:
        photos: two [H, W, 3] uint8 or floats in [0, 1].
        cameras: their pinhole cameras.
        depth: [H, W] depth along z of the first camera as the known scene shows it, scene units; NaN or not positive = unknown.
        depth_valid: [H, W] where it may be trusted; pass False inside of (dilated) change masks.
        depth_range: nearest and farthest surface; default: from `depth`, else estimated from the photos.
        config: filters.

    Raises:
        InputError: the pair cannot be rectified (see `rectify_cameras`), shares nothing, or disagrees with the known depth where the
            place is unchanged.
    """
    config = config or ViewDepthConfig()
    pair = rectify_cameras(*cameras)
    left, inside = warp_photo(rgb8(photos[0], cameras[0].name), pair.left, pair.left_from)
    right, inside_right = warp_photo(rgb8(photos[1], cameras[1].name), pair.right, pair.right_from)
    prior, trusted = None, None
    if depth is not None:
        known = as_array(depth).astype(np.float32)
        prior = pair.disparity(warp_depth(known, cameras[0], pair.left, pair.left_from))
        valid = np.ones(known.shape, np.uint8) if depth_valid is None else as_array(depth_valid).astype(np.uint8)
        marked, _ = warp_photo(valid[..., None].repeat(3, 2) * 255, pair.left, pair.left_from)
        trusted = np.isfinite(prior) & inside & (marked[..., 0] > 250)
    usable = prior is not None and trusted is not None and int(trusted.sum()) > 1000
    search = _search(pair, depth, depth_range, config)
    result = match_stereo(
        left, right, prior=prior if usable else None, prior_valid=trusted if usable else None, disparity_range=search, check=False,
        config=config.stereo,
    )
    measured = result.measured & inside & (np.nan_to_num(at_match(inside_right.astype(np.float32), result.disparity)) > 0)
    gap = None
    if usable and prior is not None and trusted is not None:
        compared = measured & trusted
        gap = float(np.median(np.abs(result.disparity - prior)[compared])) if int(compared.sum()) > 500 else None
        if gap is not None:
            allowed = max(config.gate, config.gate_share * float(np.median(prior[compared] - pair.offset)))
            if gap > allowed:
                raise InputError(
                    f"{cameras[0].name} and {cameras[1].name}: matches differ from the known depth by {gap:.1f} pixels (median on "
                    f"unchanged pixels; at most {allowed:.1f} is accepted). The poses of one of them are off; leave the pair out."
                )
    return _package(pair, left, inside, result, measured, trusted if usable else None, gap, config)


def _search(
    pair: RectifiedPair, depth: Any, given: tuple[float, float] | None, config: ViewDepthConfig
) -> DisparityRange | None:
    """Disparities of the surfaces that may appear, within the picture's width."""
    if given is None and depth is not None:
        known = as_array(depth)
        known = known[np.isfinite(known) & (known > 0)]
        if len(known) > 100:
            near, far = np.quantile(known, (0.01, 0.99))
            given = float(near) * (1 - config.nearer), float(far) * (1 + config.farther)
    if given is None:
        return None
    wide = pair.search_range(*given, margin=0.0)
    width = pair.left.width
    low = max(wide.low, -width + 1)
    return DisparityRange(low, max(low + 16, min(wide.high, width)))


def _package(
    pair: RectifiedPair, rgb: NDArray[np.uint8], inside: Mask, result: StereoResult, measured: Mask, trusted: Mask | None,
    gap: float | None, config: ViewDepthConfig,
) -> ViewDepth:
    from_prior = np.zeros_like(inside) if trusted is None else (result.source == Source.PRIOR) & trusted & inside
    smooth = ~discontinuity(result.disparity, config.max_jump)
    kept = (measured | from_prior) & smooth
    depth = np.where(kept, pair.depth(result.disparity), np.float32(np.nan))
    kept &= np.isfinite(depth)
    # Confidence 1 is worth the floor; half the confidence doubles the deviation.
    pixels = (config.floor / np.maximum(result.confidence, 0.05)).astype(np.float32)
    sigma = np.where(kept, pair.depth_deviation(np.where(kept, depth, 1), pixels), np.float32(np.nan))
    source = np.where(kept, result.source, Source.NONE).astype(np.uint8)
    confidence = np.where(kept, result.confidence, 0).astype(np.float32)
    return ViewDepth(
        pair, rgb, depth.astype(np.float32), sigma.astype(np.float32), confidence, source, result.occlusion, gap, result.timings
    )


def discontinuity(disparity: Map, jump: float) -> Mask:
    """[H, W] pixels that differ by more than `jump` from one of their eight neighbours: flying points live there."""
    kernel = np.ones((3, 3), np.uint8)
    values = np.nan_to_num(disparity, nan=1e6).astype(np.float32)
    return np.maximum(cv2.dilate(values, kernel) - values, values - cv2.erode(values, kernel)) > jump
