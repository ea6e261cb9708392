"""Depth that guides training: what was measured from a photo by other means, and the loss that holds the render to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Map = NDArray[np.float32]
TOLERANCE = 0.01
"""Difference of inverse depths, as a share of their spread, up to which the loss is quadratic."""


@dataclass(frozen=True)
class DepthGuide:
    """Measured depth of one photo."""

    inverse: Map
    """[H, W] inverse depth along z, per scene unit; NaN where nothing was measured."""
    certainty: Map
    """[H, W] in [0, 1]: weight in the loss."""


class GuideLoss:
    """Huber loss between rendered and measured inverse depth, relative to the spread of what was measured in all photos."""

    def __init__(self, guides: Sequence[DepthGuide | None]) -> None:
        """Prepare.

        Args:
            guides: [P] one per photo; None for photos of which nothing was measured.
        """
        self.guides = list(guides)
        known = [g.inverse[np.isfinite(g.inverse)] for g in self.guides if g is not None]
        every = np.concatenate(known) if known else np.zeros(0, np.float32)
        low, high = np.quantile(every, (0.02, 0.98)) if len(every) else (0.0, 1.0)
        self.spread = float(max(high - low, 1e-3 * abs(high), 1e-12))
        self._maps: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    def guides_photo(self, index: int) -> bool:
        """Whether anything was measured of a photo."""
        return self.guides[index] is not None

    def __call__(self, index: int, depth: Tensor, alpha: Tensor) -> Tensor:
        """Loss of a photo's render, the mean over all its pixels; 1 = every pixel is off by the spread.

        Args:
            index: the photo; one with a guide.
            depth, alpha: [H, W] of the render, at the photo's size or smaller. Pixels that are not solid do not count.
        """
        inverse, certainty = self._at_size(index, depth.shape[1], depth.shape[0], depth.device)
        weight = certainty * (alpha.detach() > 0.5)
        # Where the weight is 0 the depth may be 0; its inverse must not reach the gradient.
        shown = 1 / torch.where(weight > 0, depth, 1.0).clamp_min(1e-9)
        wanted = torch.where(weight > 0, inverse, shown.detach())
        off = F.huber_loss(shown / self.spread, wanted / self.spread, reduction="none", delta=TOLERANCE)
        return (weight * off).mean() / TOLERANCE

    def _at_size(self, index: int, width: int, height: int, device: torch.device) -> tuple[Tensor, Tensor]:
        key = (index, width, height)
        if key not in self._maps:
            guide = self.guides[index]
            assert guide is not None
            # A mean over an edge lies on neither side, so pixels are picked.
            maps = [cv2.resize(m, (width, height), interpolation=cv2.INTER_NEAREST) for m in (guide.inverse, guide.certainty)]
            inverse, certainty = (torch.from_numpy(np.ascontiguousarray(m, np.float32)) for m in maps)
            self._maps[key] = inverse.to(device), torch.where(torch.isfinite(inverse), certainty, 0.0).to(device)
        return self._maps[key]
