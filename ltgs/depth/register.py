"""Bring a relative inverse-depth map to disparity: a robust global line, then local fits from coarse to fine windows.

The registration of Yao et al. (ICCV 2025) without weights: their network predicts a scale and an offset per pixel; here they are
weighted least squares in windows, shrunk to the coarser level where a window cannot decide, and gated by the ordering map. The wide
windows also fit how the offset drifts across the photo, so that a gap (the band that only one camera sees, an occlusion) continues the
drift of what was matched beside it instead of its mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.depth.ordering import ordering_agreement, ring_offsets
from ltgs.depth.types import Map, Mask

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RegisterConfig:
    """Windows and gates; lengths are pixels of the working grid."""

    windows: tuple[int, ...] = (80, 32, 12, 5)
    """Half sizes of the windows from coarse to fine."""
    tolerances: tuple[float, ...] = (10.0, 5.0, 3.0, 2.0)
    """Residual in pixels of disparity at which a weight falls to a quarter, per level."""
    shrinkage: float = 40.0
    """Weight of the coarser level, in pixels."""
    slope_shrinkage: float = 0.05
    """The same for the scale and for the drift, in units of the variance of the prior and of the positions in a full window."""
    smoothing: float = 0.1
    """Half size of the average over the fields of a wide window, as a share of the window's. Reflection at the photo's border would
    flatten the drift if it were the whole window."""
    radii: tuple[int, ...] = (2, 6, 14)
    """Radii of the ordering neighbours."""
    decided: float = 1.5
    """Pixels of disparity from which on a pair of pixels is ordered."""
    first_gate: float = 0.35
    """Ordering agreement at which the weight leaves its floor, for the coarser half of the levels."""
    second_gate: float = 0.45
    """The same for the finer half."""
    gate_width: float = 0.3
    """Rise of agreement over which the weight grows to one."""


@dataclass(frozen=True)
class Registration:
    """disparity = a * prior + b."""

    a: Map
    """[H, W]"""
    b: Map
    """[H, W] pixels."""
    agreement: Map
    """[H, W] ordering agreement of the match and the registered prior, in [0, 1]."""

    def apply(self, prior: Map) -> Map:
        """[H, W] prior in pixels of disparity."""
        return self.a * prior + self.b


def fit_line(x: Map, y: Map, *, rounds: int = 20, tolerance: float | None = None) -> tuple[float, float]:
    """Robust line y = a x + b by iteratively reweighted least squares with Cauchy weights.

    Args:
        x, y: [K] samples.
        rounds: iterations.
        tolerance: scale of the residuals; None = 1.5 times their robust standard deviation, annealed from above.

    Returns:
        (a, b). With constant x the slope is 0 and b the median of y.

    Raises:
        ValueError: fewer than two samples.
    """
    if len(x) < 2:
        raise ValueError(f"a line needs at least 2 samples, got {len(x)}.")
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    centre, spread = float(np.median(x64)), float(x64.std())
    if spread < 1e-12 * max(1.0, abs(centre)):
        return 0.0, float(np.median(y64))
    u = (x64 - centre) / spread
    slope, level = _first_line(u, y64, tolerance)
    for _ in range(rounds):
        residual = y64 - slope * u - level
        scale = tolerance or max(1.5 * 1.4826 * float(np.median(np.abs(residual))), 1e-9)
        weight = 1 / (1 + (residual / scale) ** 2)
        total, mean_u, mean_y = weight.sum(), (weight * u).sum(), (weight * y64).sum()
        mean_u, mean_y = mean_u / total, mean_y / total
        variance = (weight * (u - mean_u) ** 2).sum()
        if variance <= 1e-12 * total:
            break
        slope = float((weight * (u - mean_u) * (y64 - mean_y)).sum() / variance)
        level = float(mean_y - slope * mean_u)
    return slope / spread, level - slope * centre / spread


def _share_alike(x: Map, y: Map, threshold: float) -> float:
    """Share of random pairs with clearly different y that x orders alike; 1 if there are none."""
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, len(x), (2, 4000))
    step = y[second] - y[first]
    decided = np.abs(step) > threshold
    same = np.sign(x[second] - x[first]) * np.sign(step)
    return float((0.5 * (same[decided] + 1)).mean()) if decided.sum() > 50 else 1.0


def _first_line(u: np.ndarray, y: np.ndarray, tolerance: float | None) -> tuple[float, float]:
    """A start that a third of gross outliers does not move: the best of the lines through random pairs.

    The best has the least median residual or, with a tolerance, the least mean residual truncated at three times it.
    """
    rng = np.random.default_rng(0)
    few = rng.integers(0, len(u), min(len(u), 1000))
    pairs = few[rng.integers(0, len(few), (200, 2))]
    run = u[pairs[:, 1]] - u[pairs[:, 0]]
    good = np.abs(run) > 0.1
    if not good.any():
        return 0.0, float(np.median(y))
    slopes = (y[pairs[good, 1]] - y[pairs[good, 0]]) / run[good]
    levels = y[pairs[good, 0]] - slopes * u[pairs[good, 0]]
    residual = np.abs(y[few] - slopes[:, None] * u[few] - levels[:, None])
    cost = np.median(residual, axis=1) if tolerance is None else np.minimum(residual, 3 * tolerance).mean(1)
    best = int(cost.argmin())
    return float(slopes[best]), float(levels[best])


def _box(values: Map, radius: int) -> Map:
    return np.asarray(cv2.blur(values, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT), np.float32)


def _local_line(
    prior: Map, disparity: Map, weight: Map, a: Map, b: Map, radius: int, config: RegisterConfig, variance: float
) -> tuple[Map, Map]:
    """One level: box-filtered weighted least squares, shrunk to the coarser level (a, b)."""
    area = np.float32((2 * radius + 1) ** 2)
    mass = _box(weight, radius)
    safe = np.maximum(mass, 1e-6)
    mean_m, mean_d = _box(weight * prior, radius) / safe, _box(weight * disparity, radius) / safe
    covariance = _box(weight * prior * disparity, radius) / safe - mean_m * mean_d
    spread = np.maximum(_box(weight * prior * prior, radius) / safe - mean_m * mean_m, 0)
    samples = mass * area
    ridge = np.float32(config.shrinkage * config.slope_shrinkage * variance)
    slope = (samples * covariance + ridge * a) / (samples * spread + ridge)
    trust = samples / (samples + np.float32(config.shrinkage))
    offset = trust * (mean_d - slope * mean_m) + (1 - trust) * (a * mean_m + b - slope * mean_m)
    # A window without samples keeps the coarser level.
    known = mass > 1e-6
    slope, offset = np.where(known, slope, a), np.where(known, offset, b)
    return _box(slope, radius), _box(offset, radius)


def _local_drift(
    prior: Map, disparity: Map, weight: Map, a: Map, b: Map, radius: int, config: RegisterConfig, variance: float
) -> tuple[Map, Map]:
    """One wide level: as `_local_line`, with an offset that may change linearly along rows and columns."""
    height, width = prior.shape
    side = 2 * radius + 1

    def total(values: Array) -> Array:
        return np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_CONSTANT), np.float64) * side**2

    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    # What explains the residual of the coarser level: the prior, the column and the row.
    terms = [prior.astype(np.float64), columns - width / 2, rows - height / 2]
    w = weight.astype(np.float64)
    residual = w * (disparity - (a * prior + b))
    mass = total(w)
    safe = np.maximum(mass, 1e-6)
    means, mean = [total(w * t) / safe for t in terms], total(residual) / safe
    moments = np.empty((height, width, 3, 3))
    right = np.empty((height, width, 3, 1))
    for i, first in enumerate(terms):
        right[..., i, 0] = total(residual * first) - means[i] * mean * mass
        for j, second in enumerate(terms[: i + 1]):
            moments[..., i, j] = moments[..., j, i] = total(w * first * second) - means[i] * means[j] * mass
    ridge = config.shrinkage * config.slope_shrinkage
    for i, scale in enumerate((variance, radius**2 / 3, radius**2 / 3)):
        moments[..., i, i] += ridge * scale + 1e-9
    slope, across, down = np.moveaxis(np.linalg.solve(moments, right)[..., 0], -1, 0)
    trust = mass / (mass + config.shrinkage)
    here = mean + across * (terms[1] - means[1]) + down * (terms[2] - means[2])
    known = mass > 1e-6 * side**2
    scale_field = np.where(known, a + slope, a).astype(np.float32)
    offset = np.where(known, b + trust * here - slope * means[0], b).astype(np.float32)
    smooth = max(1, round(config.smoothing * radius))
    return _box(scale_field, smooth), _box(offset, smooth)


def register_prior(
    disparity: Map, valid: Mask, prior: Map, prior_valid: Mask, *, weight: Map | None = None, config: RegisterConfig | None = None
) -> Registration:
    """Find the fields a, b that bring the prior to disparity.

    Args:
        disparity, valid: [H, W] matched disparity, pixels, and where it may be trusted.
        prior, prior_valid: [H, W] relative inverse depth (larger = nearer; any scale and offset), and where it is known.
        weight: [H, W] extra weight of each match in [0, 1].
        config: windows and gates.

    Returns:
        Fields for every pixel, also where there was no match.

    Raises:
        ValueError: fewer than 30 pixels have both values, or the prior falls where the photos show nearer surfaces.
    """
    config = config or RegisterConfig()
    both = valid & prior_valid
    if int(both.sum()) < 30:
        raise ValueError(f"registration needs 30 pixels with a match and a prior, got {int(both.sum())}.")
    m = _centred(prior, prior_valid)
    d = np.where(both, disparity, np.float32(0))
    base = both.astype(np.float32) if weight is None else both * weight.astype(np.float32)
    picks = np.flatnonzero(both)
    picks = picks[:: max(1, len(picks) // 20000)]
    chosen = m.values.ravel()[picks], d.ravel()[picks]
    if _share_alike(*chosen, config.decided) < 0.35:
        raise ValueError("the prior is larger where the photos show farther surfaces; it must be inverse depth, larger = nearer")
    # A scale that spans the surfaces: on the noise of one large wall, everything that stands before it would be an outlier.
    spread = float(np.subtract(*np.quantile(chosen[1], (0.98, 0.02))))
    slope, level = fit_line(*chosen, tolerance=max(1.0, 0.05 * spread))
    a, b = np.full_like(d, slope), np.full_like(d, level)
    variance = float(m.values[both].var()) or 1.0
    offsets = ring_offsets(config.radii)
    agreement = np.ones_like(d)
    levels = list(zip(config.windows, config.tolerances, strict=True))
    half = (len(levels) + 1) // 2
    for index, (radius, tolerance) in enumerate(levels):
        if index in (0, half):
            agreement = ordering_agreement(
                d, both, a * m.values + b, prior_valid, offsets=offsets, threshold=config.decided
            )
            floor, gate = (0.02, config.first_gate) if index < half else (0.01, config.second_gate)
            gated = base * np.clip((agreement - gate) / config.gate_width, floor, 1)
        residual = d - (a * m.values + b)
        fit = _local_drift if index < half else _local_line
        a, b = fit(
            m.values, d, gated / (1 + (residual / tolerance) ** 2) ** 2, a, b, min(radius, min(d.shape) // 2), config, variance
        )
    agreement = ordering_agreement(d, both, a * m.values + b, prior_valid, offsets=offsets, threshold=config.decided)
    return Registration(
        np.asarray(a / np.float32(m.scale), np.float32), np.asarray(b - a * np.float32(m.centre / m.scale), np.float32), agreement
    )


@dataclass(frozen=True)
class _Centred:
    """A prior with median 0 and unit spread, so that single precision suffices for the sums."""

    values: Map
    centre: float
    scale: float


def _centred(prior: Map, known: Mask) -> _Centred:
    centre = float(np.median(prior[known]))
    scale = float(prior[known].std()) or 1.0
    values = np.where(known, (prior - np.float32(centre)) / np.float32(scale), np.float32(0))
    return _Centred(values.astype(np.float32), centre, scale)
