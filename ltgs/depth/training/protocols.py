"""How published figures are computed; the same map scores differently under different rules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltgs.depth.training.datasets import StereoPair

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Protocol:
    """Rules of one benchmark as published comparisons apply them."""

    thresholds: tuple[float, ...]
    """Bad-pixel thresholds, pixels; an error counts if it is larger."""
    pooled: bool
    """Rates over all pixels of all pairs, or the mean of each pair's rate."""
    below: float | None = None
    """Truth of this many pixels or more is not scored."""
    skip_hopeless: bool = False
    """Leave out pairs with a mean error above 20 px or more than 95 % of the pixels off by 1 px: broken truth, they say."""


PROTOCOLS = {
    # Some SceneFlow truth is corrupt; leaving out hopeless pairs also flatters a method that fails on sound ones.
    "sceneflow": Protocol((1, 2, 3), pooled=False, below=192, skip_hopeless=True),
    # KITTI's own D1 demands 3 px and 5 %; published zero-shot figures leave the 5 % out, which is stricter.
    "kitti2012": Protocol((3,), pooled=True),
    "kitti2015": Protocol((3,), pooled=True),
    "eth3d": Protocol((1,), pooled=False),
    # All known pixels, occluded ones included; the figures for pixels seen by both stand beside.
    "middlebury": Protocol((2,), pooled=False),
    "booster": Protocol((2, 3, 5, 6, 8), pooled=False),
}


@dataclass
class _Sums:
    """Running totals of one region."""

    pixels: int = 0
    error: float = 0.0
    square: float = 0.0
    bad: NDArray[np.float64] | None = None
    means: list[NDArray[np.float64]] | None = None

    def add(self, error: Map, thresholds: tuple[float, ...]) -> None:
        bad = np.array([(error > t).sum() for t in thresholds], np.float64)
        sums = np.concatenate([[error.sum(dtype=np.float64), np.square(error, dtype=np.float64).sum()], bad])
        self.pixels += error.size
        self.error, self.square = self.error + sums[0], self.square + sums[1]
        self.bad = bad if self.bad is None else self.bad + bad
        self.means = [*(self.means or []), sums / error.size]


def score(results: Iterable[tuple[Map, StereoPair]], protocol: Protocol) -> dict[str, float]:
    """Figures over pairs.

    Args:
        results: (disparity [H, W] in pixels with a value at every pixel with truth, its pair).

    Returns:
        "all/epe", "all/rmse", "all/bad2" in percent, ..., the same for "nonoccluded" and "class0".."class3" where the pairs have
        them; "pairs" and "skipped".

    Raises:
        ValueError: a prediction has another size, or is not finite where the truth is known.
    """
    sums: dict[str, _Sums] = {}
    counts = {"pairs": 0, "skipped": 0}
    for prediction, pair in results:
        if prediction.shape != pair.disparity.shape:
            raise ValueError(f"the prediction has shape {list(prediction.shape)}, the truth {list(pair.disparity.shape)}.")
        known = np.isfinite(pair.disparity)
        if protocol.below is not None:
            known &= np.where(known, pair.disparity, 0) < protocol.below
        error = np.abs(prediction - np.where(known, pair.disparity, 0)).astype(np.float32)
        if not np.isfinite(error[known]).all():
            raise ValueError("the prediction has no value at pixels with truth; fill it before it is scored.")
        hopeless = known.any() and (error[known].mean() > 20 or (error[known] > 1).mean() > 0.95)
        if not known.any() or (protocol.skip_hopeless and hopeless):
            counts["skipped"] += 1
            continue
        counts["pairs"] += 1
        for name, region in _regions(pair, known).items():
            if region.any():
                sums.setdefault(name, _Sums()).add(error[region], protocol.thresholds)
    figures: dict[str, float] = {name: float(value) for name, value in counts.items()}
    for name, total in sums.items():
        figures |= {f"{name}/{key}": value for key, value in _figures(total, protocol).items()}
    return figures


def _regions(pair: StereoPair, known: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    regions = {"all": known}
    if pair.nonoccluded is not None:
        regions["nonoccluded"] = known & pair.nonoccluded
    if pair.classes is not None:
        regions |= {f"class{c}": known & (pair.classes == c) for c in range(4)}
    return regions


def _figures(total: _Sums, protocol: Protocol) -> dict[str, float]:
    assert total.bad is not None and total.means is not None
    if protocol.pooled:
        values = np.concatenate([[total.error, total.square], total.bad]) / total.pixels
    else:
        values = np.mean(total.means, axis=0)
    # The root of the mean square per pair would need its own mean; the square is averaged first, then rooted.
    out = {"epe": float(values[0]), "rmse": float(np.sqrt(values[1]))}
    return out | {f"bad{t:g}": float(100 * v) for t, v in zip(protocol.thresholds, values[2:], strict=True)}
