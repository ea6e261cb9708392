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


def change_score(
    cues: Image,  # [H, W, 2] colour and structure residual, see optim.residual.residual_cues
    expected_mean: Image,  # [H, W, 2] rendered expectation of the cues
    expected_std: Image,  # [H, W, 2]
    alpha: Image,  # [H, W]
    *,
    config: EvidenceConfig | None = None,
) -> Image:
    """[H, W] score; 1 is the decision level. A photo that is blurrier or noisier than the first visit raises its own bar."""
    config = config or EvidenceConfig()
    known = alpha > config.min_alpha
    floors = np.array([config.colour_floor, config.structure_floor], np.float32)
    std = np.maximum(expected_std, 0) * config.inflate + floors
    z = np.zeros_like(cues)
    for k in range(2):
        excess = cues[..., k] - expected_mean[..., k] * config.inflate
        if known.any():
            # Most pixels are unchanged: their median excess is the photo's own offset, their spread its own noise.
            offset = max(0.0, float(np.median(excess[known])))
            spread = robust_scale((excess[known] - offset) / std[..., k][known])
            excess = (excess - offset) / max(1.0, spread)
        z[..., k] = excess / std[..., k]
    combined = (z[..., 1] + config.colour_share * z[..., 0]) / np.sqrt(1 + config.colour_share**2)
    sigma = config.smooth_px * max(cues.shape[:2]) / 640
    smooth = cv2.GaussianBlur(combined.astype(np.float32), (0, 0), max(sigma, 0.5))
    return np.where(known, np.clip(smooth / config.level, 0, 10), 0).astype(np.float32)


def agreement(cues: Image, alpha: Image, *, config: EvidenceConfig | None = None) -> NDArray[np.bool_]:
    """[H, W] where a pixel would pass for unchanged even if the scene were perfectly known there.

    A blurred region passes any lenient test; that says nothing about whether its objects are still there.
    """
    config = config or EvidenceConfig()
    nothing = np.zeros_like(cues)
    return (change_score(cues, nothing, nothing, alpha, config=config) < config.agree) & (alpha > config.min_alpha)


def change_mask(score: Image, *, config: EvidenceConfig | None = None) -> NDArray[np.bool_]:
    """[H, W] hysteresis threshold: regions above 0.6 that reach 1 somewhere, opened, holes closed, specks removed."""
    config = config or EvidenceConfig()
    loose = (score > 0.6).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    loose = cv2.morphologyEx(cv2.morphologyEx(loose, cv2.MORPH_OPEN, kernel), cv2.MORPH_CLOSE, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(loose, connectivity=8)
    strong = np.zeros(count, np.int64)
    np.add.at(strong, labels[score >= 1], 1)
    keep = (stats[:, cv2.CC_STAT_AREA] >= config.min_area * score.size) & (strong >= 0.25 * config.min_area * score.size)
    keep[0] = False
    return keep[labels]
