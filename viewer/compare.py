"""Two pictures of the same view at different times in one: side by side, wiped over one another, or their difference."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
CompareStyle = Literal["wipe", "side by side", "difference"]
COMPARE_STYLES: tuple[CompareStyle, ...] = get_args(CompareStyle)
_SEAM = 2
"""Width of the white line between the two pictures, pixels."""


def compose(before: Image, after: Image, style: CompareStyle, position: float = 0.5) -> Image:
    """One picture of two.

    Args:
        before, after: [H, W, 3] uint8 of the same size.
        style: how to combine them.
        position: where the wipe cuts, 0 = only `after`, 1 = only `before`.

    Raises:
        ValueError: the sizes differ or the style is not known.
    """
    if before.shape != after.shape:
        raise ValueError(f"both pictures must have one size, got {before.shape} and {after.shape}.")
    height, width = before.shape[:2]
    if style == "side by side":
        return np.concatenate([before, np.full((height, _SEAM, 3), 255, np.uint8), after], axis=1)
    if style == "difference":
        return difference(before, after)
    if style != "wipe":
        raise ValueError(f"unknown style {style!r}; use one of {', '.join(COMPARE_STYLES)}.")
    cut = int(round(min(max(position, 0.0), 1.0) * width))
    out = after.copy()
    out[:, :cut] = before[:, :cut]
    if 0 < cut < width:
        out[:, max(cut - _SEAM // 2, 0) : cut + _SEAM // 2] = 255
    return out


def difference(before: Image, after: Image) -> Image:
    """[H, W, 3] grey `after` with what changed in colour: the mean absolute difference, amplified three times."""
    gap = np.abs(before.astype(np.int16) - after.astype(np.int16)).mean(axis=2)
    strength = np.clip(gap * 3, 0, 255).astype(np.uint8)
    heat = cv2.cvtColor(cv2.applyColorMap(strength, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    grey = np.repeat((after.mean(axis=2, keepdims=True) * 0.4).astype(np.uint8), 3, axis=2)
    alpha = (strength / 255.0)[..., None]
    return (heat * alpha + grey * (1 - alpha)).astype(np.uint8)
