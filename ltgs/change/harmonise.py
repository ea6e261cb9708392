"""Light before geometry: fit how a photo's colours follow from the render's, so that what remains is change."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Image = NDArray[np.float32]


@dataclass(frozen=True)
class HarmoniseConfig:
    """Robust colour affine plus a low-frequency gain field."""

    iterations: int = 12
    """Re-weighting rounds of the affine fit."""
    affine_pixels: int = 60_000
    """Most pixels that the affine is fitted to, evenly spread over those that may be used."""
    ridge: float = 1e-3
    """Pull of the affine to the identity per pixel, in squared colour units; matters only where colours hardly vary."""
    gain_sigma: float = 0.08
    """Standard deviation of the gain field's window relative to the longer image side."""
    gain_rounds: int = 2
    """Re-weighting rounds of the gain field."""
    gain_limits: tuple[float, float] = (0.5, 2.0)
    """Bounds of the gain."""
    gain_shrink: float = 0.02
    """Prior weight of gain 1 in squared colour units per pixel."""


@dataclass(frozen=True)
class ColourFit:
    """photo = gain * affine(render) + noise"""

    affine: Array
    """[3, 4]"""
    gain: Image
    """[H, W, 3]"""
    noise: float
    """Robust standard deviation of what remains, colour units."""
    known: bool = True
    """False: too little of the photo shows the scene, so that the affine is the identity for want of anything better."""

    def apply(self, render: Image) -> Image:
        """[H, W, 3] render colours as the photo's camera and light would show them."""
        shown = render @ self.affine[:, :3].T.astype(np.float32) + self.affine[:, 3].astype(np.float32)
        return np.clip(shown * self.gain, 0, 1).astype(np.float32)

    def part(self, box: tuple[slice, slice]) -> ColourFit:
        """The same fit for a crop of the photo (rows, columns)."""
        return replace(self, gain=self.gain[box])


def robust_scale(values: NDArray) -> float:
    """1.4826 times the median absolute value, at least 1e-4."""
    return max(1.4826 * float(np.median(np.abs(values))), 1e-4) if values.size else 1e-4


def fit_colour(
    render: Image,  # [H, W, 3] in [0, 1]
    photo: Image,  # [H, W, 3] in [0, 1]
    valid: NDArray[np.bool_],  # [H, W]
    *,
    config: HarmoniseConfig | None = None,
) -> ColourFit:
    """Fit the light of one photo on the pixels that agree with the render.

    Saturated photo pixels are left out. With fewer than 50 valid pixels the fit is the identity, marked as not known.

    Convention: maps render colours to photo colours.
    """
    config = config or HarmoniseConfig()
    usable = valid & (photo.max(-1) < 0.985) & (photo.max(-1) > 0.01)
    if usable.sum() < 50:
        return ColourFit(np.eye(3, 4), np.ones_like(render, dtype=np.float32), 1e-2, known=False)
    picks = np.flatnonzero(usable)
    picks = picks[:: -(-len(picks) // config.affine_pixels)]
    source, target = (image.reshape(-1, 3)[picks].astype(np.float64) for image in (render, photo))
    affine = _fit_affine(source, target, config)
    shown = np.clip(render @ affine[:, :3].T.astype(np.float32) + affine[:, 3].astype(np.float32), 0, 1)
    gain = np.ones_like(render, dtype=np.float32)
    sigma = config.gain_sigma * max(render.shape[:2])
    for _ in range(config.gain_rounds):
        residual = np.abs(photo - shown * gain).max(-1)
        scale = 2.5 * robust_scale(residual[usable])
        weight = (usable / (1 + (residual / scale) ** 2) ** 2).astype(np.float32)[..., None]
        top = _blurred(weight * shown * photo, sigma) + config.gain_shrink * 0.25
        low = _blurred(weight * shown * shown, sigma) + config.gain_shrink * 0.25
        gain = np.clip(top / low, *config.gain_limits).astype(np.float32)
    noise = robust_scale((photo - shown * gain)[usable])
    return ColourFit(affine, gain, noise)


def _blurred(image: Image, sigma: float) -> NDArray:
    """Gaussian blur; a wide one on a smaller image, where it looks the same."""
    step = max(1, int(sigma / 8))
    height, width = image.shape[:2]
    small = cv2.resize(image, (-(-width // step), -(-height // step)), interpolation=cv2.INTER_AREA) if step > 1 else image
    small = cv2.GaussianBlur(small, (0, 0), sigma / step)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR) if step > 1 else small


def _fit_affine(source: Array, target: Array, config: HarmoniseConfig) -> Array:
    """Iteratively re-weighted (Geman-McClure) least squares of target = A [source 1], pulled to the identity."""
    design = np.concatenate([source, np.ones((len(source), 1))], 1)
    # A per-channel gain on the median is a safer start than the identity under a strong light change.
    start = np.clip(np.median(target, 0) / np.maximum(np.median(source, 0), 1e-3), 0.2, 5.0)
    affine = np.concatenate([np.diag(start), np.zeros((3, 1))], 1)
    pull = config.ridge * len(source) * np.eye(4)
    for _ in range(config.iterations):
        residual = np.sqrt(((target - design @ affine.T) ** 2).mean(1))
        scale = 2.0 * robust_scale(residual)
        weight = 1 / (1 + (residual / scale) ** 2) ** 2
        weighted = design * weight[:, None]
        prior = np.concatenate([np.diag(start), np.zeros((3, 1))], 1)
        affine = np.linalg.solve(weighted.T @ design + pull, weighted.T @ target + pull @ prior.T).T
    return affine
