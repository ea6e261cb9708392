"""What stereo matching returns, and where each pixel's value comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ltgs.core.checks import check_shape

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Source(IntEnum):
    """Where a disparity comes from; the values of `source.png`."""

    NONE = 0
    """No value."""
    STEREO = 1
    """Matched in both photos."""
    PRIOR = 2
    """The registered prior outweighs the match, or there is no match."""
    FILLED = 3
    """Interpolated from neighbours; no photo confirms it."""


@dataclass(frozen=True)
class DisparityRange:
    """Disparities that are searched, whole pixels; `low` may be negative."""

    low: int
    high: int
    """Exclusive."""

    def __post_init__(self) -> None:
        if self.high <= self.low:
            raise ValueError(f"a disparity range needs low < high, got [{self.low}, {self.high}).")

    def __len__(self) -> int:
        return self.high - self.low


@dataclass(frozen=True)
class StereoResult:
    """Disparity of the left view: the left pixel (x, y) matches the right pixel (x - disparity, y)."""

    disparity: Map
    """[H, W] pixels; NaN where `valid` is false."""
    valid: Mask
    """[H, W] there is a value."""
    confidence: Map
    """[H, W] in [0, 1]; a rank of trust, not a calibrated probability."""
    occlusion: Mask
    """[H, W] seen by the left camera only."""
    source: NDArray[np.uint8]
    """[H, W] values of `Source`."""
    a: Map | None = None
    """[H, W] local scale that brings the prior to disparity; None without a prior."""
    b: Map | None = None
    """[H, W] local offset, pixels."""
    search: DisparityRange | None = None
    """Disparities that were searched."""
    timings: dict[str, float] = field(default_factory=dict)
    """Processor seconds per step."""

    def __post_init__(self) -> None:
        h, w = self.disparity.shape
        for name in ("valid", "confidence", "occlusion", "source", "a", "b"):
            if (value := getattr(self, name)) is not None:
                check_shape(name, value, f"{h} {w}")

    @property
    def measured(self) -> Mask:
        """[H, W] pixels whose disparity the photos themselves determine."""
        return self.source == Source.STEREO
