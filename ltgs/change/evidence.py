"""Pixel-level change between a capture and the render of the known scene, measured against the expected residual."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.change.harmonise import robust_scale

Image = NDArray[np.float32]


@dataclass(frozen=True)
class EvidenceConfig:
    """Cues, their noise and the decision."""

    structure_floor: float = 0.12
    """Smallest standard deviation of the 1 - SSIM cue; it absorbs sub-pixel pose errors."""
    colour_floor: float = 0.02
    """Smallest standard deviation of the colour cue."""
    inflate: float = 1.5
    """Training residuals are this much too optimistic on a new photo, at least; the photo's own median may raise it."""
    level: float = 3.0
    """Standard deviations at which a pixel counts as changed."""
    colour_share: float = 0.5
    """Weight of the colour cue; it reacts to shadows, the structure cue hardly does."""
    smooth_px: float = 1.5
    """Gaussian smoothing of the score, pixels at an image of 640 px; scales with the image."""
    agree: float = 0.9
    """Score below which a pixel agrees, were it as well known as the best of the scene."""
    min_alpha: float = 0.6
    """Pixels the known scene covers less than this are unknown, never changed."""
    min_area: float = 1.0e-4
    """Connected regions smaller than this share of the image are dropped."""


@dataclass(frozen=True)
class PhotoNoise:
    """What one photo's cues exceed their expectation by everywhere: blurrier or noisier than the first visit's photos.

    Fitted once on the whole photo, most of which is unchanged, and then the same for every hypothesis about it.
    """

    offset: NDArray[np.float64]
    """[2] median excess of the colour and structure cue, at least 0."""
    spread: NDArray[np.float64]
    """[2] robust standard deviation of the rest relative to the expected one, at least 1."""


def photo_noise(
    cues: Image,  # [H, W, 2] colour and structure residual, see imaging.cues.residual_cues
    expected_mean: Image,  # [H, W, 2] rendered expectation of the cues
    expected_std: Image,  # [H, W, 2]
    alpha: Image,  # [H, W]
    *,
    config: EvidenceConfig | None = None,
) -> PhotoNoise:
    """The photo's own offset and spread; none if the photo shows nothing known."""
    config = config or EvidenceConfig()
    known = alpha > config.min_alpha
    if not known.any():
        return PhotoNoise(np.zeros(2), np.ones(2))
    excess = cues[known] - expected_mean[known] * config.inflate
    offset = np.maximum(0.0, np.median(excess, axis=0))
    relative = (excess - offset) / _std(expected_std[known], config)
    return PhotoNoise(offset, np.array([max(1.0, robust_scale(relative[:, k])) for k in range(2)]))


def _std(expected: Image, config: EvidenceConfig) -> Image:
    """[..., 2] standard deviation of the cues that is counted on."""
    floor = np.array([config.colour_floor, config.structure_floor], np.float32)
    return np.maximum(expected, 0) * np.float32(config.inflate) + floor


def change_score(
    cues: Image,  # [H, W, 2] colour and structure residual
    expected_mean: Image,  # [H, W, 2]
    expected_std: Image,  # [H, W, 2]
    alpha: Image,  # [H, W]
    *,
    noise: PhotoNoise | None = None,
    full_size: int | None = None,
    config: EvidenceConfig | None = None,
) -> Image:
    """[H, W] score; 1 is the decision level. A photo that is blurrier or noisier than the first visit raises its own bar.

    Args:
        noise: the photo's own, if it is known already.
        full_size: longer side of the photo, pixels, if the images are a crop of it.
    """
    config = config or EvidenceConfig()
    noise = noise or photo_noise(cues, expected_mean, expected_std, alpha, config=config)
    excess = cues - expected_mean * config.inflate - noise.offset.astype(np.float32)
    z = excess / (_std(expected_std, config) * noise.spread.astype(np.float32))
    combined = (z[..., 1] + config.colour_share * z[..., 0]) / np.sqrt(1 + config.colour_share**2)
    sigma = smoothing_px(full_size or max(cues.shape[:2]), config)
    smooth = cv2.GaussianBlur(combined.astype(np.float32), (0, 0), sigma)
    return np.where(alpha > config.min_alpha, np.clip(smooth / config.level, 0, 10), 0).astype(np.float32)


def smoothing_px(full_size: int, config: EvidenceConfig) -> float:
    """Standard deviation of the score's smoothing for a photo whose longer side is `full_size` pixels."""
    return max(config.smooth_px * full_size / 640, 0.5)


def agreement(
    cues: Image, alpha: Image, *, noise: PhotoNoise | None = None, full_size: int | None = None, config: EvidenceConfig | None = None
) -> NDArray[np.bool_]:
    """[H, W] where a pixel would pass for unchanged even if the scene were perfectly known there.

    A blurred region passes any lenient test; that says nothing about whether its objects are still there.
    """
    config = config or EvidenceConfig()
    nothing = np.zeros_like(cues)
    score = change_score(cues, nothing, nothing, alpha, noise=noise, full_size=full_size, config=config)
    return (score < config.agree) & (alpha > config.min_alpha)


def change_mask(score: Image, *, config: EvidenceConfig | None = None) -> NDArray[np.bool_]:
    """[H, W] hysteresis threshold: regions above 0.6 that reach 1 somewhere, opened, holes closed, specks removed."""
    config = config or EvidenceConfig()
    loose = (score > 0.6).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    closed = cv2.morphologyEx(cv2.morphologyEx(loose, cv2.MORPH_OPEN, kernel), cv2.MORPH_CLOSE, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    strong = np.zeros(count, np.int64)
    np.add.at(strong, labels[score >= 1].astype(np.int64), 1)
    keep = (stats[:, cv2.CC_STAT_AREA] >= config.min_area * score.size) & (strong >= 0.25 * config.min_area * score.size)
    keep[0] = False
    return keep[labels]
