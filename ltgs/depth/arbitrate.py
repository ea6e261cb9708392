"""Which of two disparity maps do the photos themselves support? Colour and gradient costs after warping."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ltgs.depth.pictures import Photo
from ltgs.depth.register import fit_line
from ltgs.depth.types import Map, Mask


@dataclass(frozen=True)
class ArbitrateConfig:
    """Costs, and how much evidence decides; pixels and 8-bit grey levels."""

    reach: int = 6
    """Half side of the guided filter's window."""
    smoothness: float = 30.0
    """Variance of the guide below which the filter averages across."""
    colour_share: float = 0.4
    """Share of the colour cost; the rest is the cost of horizontal gradients, which ignore light."""
    colour_limit: float = 15.0
    """Grey levels at which the colour cost saturates."""
    gradient_limit: float = 6.0
    """Grey levels per pixel at which the gradient cost saturates."""
    agree: float = 1.0
    """Pixels of disparity up to which the two maps say the same."""
    wide: int = 15
    """Side of the smallest square that fits into a disagreement that cannot be an outline's."""
    wide_evidence: tuple[float, float] = (-0.05, 0.0)
    """Advantage from which on the match is believed, in part and wholly, where the disagreement is wide. A match that both directions
    confirm over a wide area is right unless the photos contradict it: this is what a stale prior looks like."""
    thin_evidence: tuple[float, float] = (0.1, 0.25)
    """The same along outlines, where matching windows mix two surfaces and the prior is usually right."""
    agreed_share: float = 0.5
    """Weight of the match where both agree: two estimates of like accuracy are averaged."""
    neighbourhood: int = 31
    """Side of the window in which a gap asks its neighbours whether the prior was overruled."""


@dataclass(frozen=True)
class Verdict:
    """How match and registered prior are to be combined."""

    share: Map
    """[H, W] weight of the match in [0, 1]; 0 where there is none."""
    overruled: Mask
    """[H, W] the prior is stale here, also in gaps of the match."""


def warp_right(right: Map, disparity: Map) -> Map:
    """The right photo as the left camera would see it with this disparity, linearly interpolated.

    Args:
        right: [H, W] or [H, W, 3] float32.
        disparity: [H, W] pixels, finite.
    """
    height, width = disparity.shape
    columns = (np.arange(width, dtype=np.float32)[None] - disparity).astype(np.float32)
    rows = np.repeat(np.arange(height, dtype=np.float32)[:, None], width, axis=1)
    return np.asarray(cv2.remap(right, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def equal_light(left: Map, right: Map, disparity: Map, where: Mask) -> Map:
    """The right photo with the gain and offset that bring it to the left one at trusted matches.

    Args:
        left, right: [H, W] float32 grey.
        disparity: [H, W] pixels. where: [H, W] trusted matches.
    """
    picks = np.flatnonzero(where)
    if len(picks) < 100:
        return right
    picks = picks[:: max(1, len(picks) // 20000)]
    gain, offset = fit_line(warp_right(right, disparity).ravel()[picks], left.ravel()[picks], rounds=5)
    # A pair without contrast has no gain; leave it as it is.
    return right * np.float32(gain) + np.float32(offset) if 0.2 < gain < 5 else right


def _gradient(grey: Map) -> Map:
    return np.asarray(cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3, scale=0.25), np.float32)


def photo_cost(left: Map, right: Map, disparity: Map, config: ArbitrateConfig) -> Map:
    """[H, W] in [0, 1]: truncated differences of grey and of its horizontal gradient (Rhemann et al., CVPR 2011)."""
    colour = np.abs(left - warp_right(right, disparity)) / config.colour_limit
    gradient = np.abs(_gradient(left) - warp_right(_gradient(right), disparity)) / config.gradient_limit
    return config.colour_share * np.minimum(colour, 1) + (1 - config.colour_share) * np.minimum(gradient, 1)


def guided_filter(guide: Map, values: Map, reach: int, smoothness: float) -> Map:
    """Edge-preserving average (He et al., PAMI 2013) with a grey guide.

    Args:
        guide: [H, W] grey levels. values: [H, W].
        reach: half side of the window. smoothness: variance of the guide, squared grey levels.
    """
    def mean(x: Map) -> Map:
        return np.asarray(cv2.blur(x, (2 * reach + 1, 2 * reach + 1), borderType=cv2.BORDER_REFLECT), np.float32)

    mean_g, mean_v = mean(guide), mean(values)
    slope = (mean(guide * values) - mean_g * mean_v) / (np.maximum(mean(guide * guide) - mean_g * mean_g, 0) + smoothness)
    return mean(np.asarray(slope, np.float32)) * guide + mean(np.asarray(mean_v - slope * mean_g, np.float32))


def advantage(left: Photo, right: Photo, disparity: Map, rival: Map, valid: Mask, config: ArbitrateConfig | None = None) -> Map:
    """How much better `disparity` explains the photos than `rival`.

    Args:
        left, right: [H, W] uint8 grey.
        disparity, rival: [H, W] pixels, finite.
        valid: [H, W] trusted matches, used to bring both photos to one light.

    Returns:
        [H, W] about [-1, 1]; positive where `disparity` is better, near 0 where there is no texture to tell.
    """
    config = config or ArbitrateConfig()
    first = left.astype(np.float32)
    second = equal_light(first, right.astype(np.float32), disparity, valid)
    gain = photo_cost(first, second, rival, config) - photo_cost(first, second, disparity, config)
    return guided_filter(first, gain.astype(np.float32), config.reach, config.smoothness)


def judge(
    left: Photo, right: Photo, disparity: Map, valid: Mask, registered: Map, prior_valid: Mask, config: ArbitrateConfig | None = None
) -> Verdict:
    """Decide between match and registered prior, pixel by pixel, and find where the prior is stale.

    Args:
        left, right: [H, W] uint8 grey.
        disparity: [H, W] matches, filled in the gaps. valid: [H, W] where they were matched.
        registered: [H, W] the prior in pixels of disparity. prior_valid: [H, W] where it is known.
    """
    config = config or ArbitrateConfig()
    residual = np.where(prior_valid, registered - disparity, np.float32(0))
    evidence = advantage(left, right, disparity, np.where(prior_valid, registered, disparity), valid, config)
    differs = np.abs(residual) > config.agree
    wide = np.zeros_like(differs)
    kernel = np.ones((config.wide, config.wide), np.uint8)
    for sign in (1, -1):
        wide |= cv2.morphologyEx((residual * sign > config.agree).astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0
    share = np.where(
        wide, _ramp(evidence, config.wide_evidence),
        np.where(differs, _ramp(evidence, config.thin_evidence), np.float32(config.agreed_share)),
    )
    share = np.where(valid, np.where(prior_valid, share, 1), 0).astype(np.float32)
    size = (config.neighbourhood, config.neighbourhood)
    against = (wide & differs & valid & (share > 0.5)).astype(np.float32)
    others = (valid & prior_valid).astype(np.float32) - against
    overruled = (cv2.blur(against, size) > cv2.blur(others, size)) & prior_valid
    return Verdict(share, overruled | (against > 0))


def _ramp(values: Map, limits: tuple[float, float]) -> Map:
    return np.clip((values - limits[0]) / (limits[1] - limits[0]), 0, 1)


def correlation(left: Photo, right: Photo, disparity: Map, *, window: int = 9, noise: float = 1.5) -> Map:
    """Zero-mean normalised cross-correlation of the left photo and the warped right photo.

    Args:
        left, right: [H, W] uint8 grey.
        disparity: [H, W] pixels, finite.
        window: side, pixels.
        noise: standard deviation in grey levels under which a window holds no texture.

    Returns:
        [H, W] in [-1, 1]; towards 0 without texture, and 0 where the match lies outside of the right photo.
    """
    def mean(x: Map) -> Map:
        return np.asarray(cv2.blur(x, (window, window), borderType=cv2.BORDER_REFLECT), np.float32)

    first, second = left.astype(np.float32), warp_right(right.astype(np.float32), disparity)
    mean_1, mean_2 = mean(first), mean(second)
    var_1 = np.maximum(mean(first * first) - mean_1 * mean_1, 0) + noise**2
    var_2 = np.maximum(mean(second * second) - mean_2 * mean_2, 0) + noise**2
    value = (mean(first * second) - mean_1 * mean_2) / np.sqrt(var_1 * var_2)
    target = np.arange(left.shape[1], dtype=np.float32)[None] - disparity
    return np.where((target >= 0) & (target <= left.shape[1] - 1), value, np.float32(0)).astype(np.float32)
