"""Binary local ordering maps: which of two pixels is nearer, the only thing that a relative depth map says for certain.

After Yao et al., "Diving into the Fusion of Monocular Priors for Generalized Stereo Matching", ICCV 2025.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ltgs.depth.types import Map, Mask

Offset = tuple[int, int]
PUBLISHED_OFFSETS: tuple[Offset, ...] = ((-5, -5), (5, 5), (5, -5), (-5, 5), (-3, 0), (3, 0), (0, -3), (0, 3))
"""(dy, dx) of the eight neighbours of the published model, at a quarter of the image's resolution."""
DIRECTIONS: tuple[Offset, ...] = ((0, 1), (1, 0), (1, 1), (1, -1), (0, -1), (-1, 0), (-1, -1), (-1, 1))


def ring_offsets(radii: Sequence[int]) -> tuple[Offset, ...]:
    """Eight directions at each radius: the general form of the neighbourhood.

    Args:
        radii: pixels, each at least 1.
    """
    if any(r < 1 for r in radii):
        raise ValueError(f"radii of neighbours must be at least 1 pixel, got {list(radii)}.")
    return tuple((dy * r, dx * r) for r in radii for dy, dx in DIRECTIONS)


def _shifted(values: NDArray[np.float32], offset: Offset) -> NDArray[np.float32]:
    """[H, W] values at the neighbour, the border repeated."""
    height, width = values.shape
    rows = np.clip(np.arange(height) + offset[0], 0, height - 1)
    columns = np.clip(np.arange(width) + offset[1], 0, width - 1)
    return values[rows][:, columns]


def ordering_map(
    values: Map, offsets: Sequence[Offset] = PUBLISHED_OFFSETS, *, softness: float | None = None
) -> NDArray[np.float32]:
    """The local ordering map of a depth-like map.

    Args:
        values: [H, W] disparity or inverse depth, finite.
        offsets: (dy, dx) of N neighbours; the border is repeated.
        softness: None for the hard threshold: 1 where the neighbour is larger, 0 where it is smaller, 1/2 where equal. A number
            divides the difference before the logistic function, which is the published form with 1.

    Returns:
        [N, H, W] in [0, 1]. The hard map is unchanged by any strictly increasing function of `values`, and m becomes 1 - m for -values.
    """
    if softness is not None and not softness > 0:
        raise ValueError(f"softness must be positive, got {softness}.")
    out = np.empty((len(offsets), *values.shape), np.float32)
    for plane, offset in zip(out, offsets, strict=True):
        difference = _shifted(values, offset) - values
        if softness is None:
            plane[:] = 0.5 * (np.sign(difference) + 1)
        else:
            plane[:] = 0.5 * (1 + np.tanh(np.clip(difference / softness, -80, 80) / 2))
    return out


def ordering_agreement(
    disparity: Map, valid: Mask, prior: Map, prior_valid: Mask, *, offsets: Sequence[Offset], threshold: float
) -> Map:
    """Share of neighbours that two maps of one unit order alike.

    A pair of pixels counts if at least one map decides it, that is, differs by more than `threshold`; it scores 1 if both decide
    alike, 1/2 if one is undecided and 0 if they contradict each other.

    Args:
        disparity, valid: [H, W] pixels and where they are known.
        prior, prior_valid: [H, W] prior brought to pixels of disparity, and where it is known.
        offsets: (dy, dx) of the neighbours.
        threshold: pixels.

    Returns:
        [H, W] in [0, 1]; 1 where no pair is decided, so that flat regions are not distrusted.
    """
    first = np.where(valid, disparity, np.float32(0))
    second = np.where(prior_valid, prior, np.float32(0))
    both = (valid & prior_valid).astype(np.float32)
    score, count = np.zeros_like(first), np.zeros_like(first)
    for offset in offsets:
        known = _shifted(both, offset) * both
        step, prior_step = _shifted(first, offset) - first, _shifted(second, offset) - second
        sign = (step > threshold).astype(np.int8) - (step < -threshold)
        prior_sign = (prior_step > threshold).astype(np.int8) - (prior_step < -threshold)
        decided = ((sign != 0) | (prior_sign != 0)) * known
        # |difference| is 0 for alike, 1 for one undecided, 2 for a contradiction.
        score += decided * (1 - 0.5 * np.abs(sign - prior_sign))
        count += decided
    return np.where(count > 0, score / np.maximum(count, 1), np.float32(1)).astype(np.float32)
