"""One-dimensional correlation pyramid along rows (RAFT-Stereo): kept as a volume, or computed at lookup for large images."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_VOLUME_BYTES = 512 << 20
"""Largest first level that "auto" keeps: 1920x1080 at 1/4 resolution takes 250 MB in float32."""


class Correlation(Protocol):
    """Similarity of left pixels with right pixels around given columns."""

    def __call__(self, columns: Tensor) -> Tensor:
        """Columns [B, 1, H, W] in the right view -> [B, levels * (2 radius + 1), H, W]; outside of the image 0."""


def make_correlation(left: Tensor, right: Tensor, levels: int, radius: int, kind: Literal["auto", "volume", "on_the_fly"]) -> Correlation:
    """Correlation of features [B, C, H, W], computed in float32 and divided by sqrt(C).

    Level i halves the right view's columns i times. Within a level the samples run from -radius to +radius.

    Raises:
        ValueError: unequal shapes, or fewer columns than the pyramid halves.
    """
    if left.shape != right.shape:
        raise ValueError(f"left and right features must have equal shapes, got {list(left.shape)} and {list(right.shape)}.")
    b, _, h, w = left.shape
    if w < 2 ** (levels - 1):
        raise ValueError(f"features are {w} columns wide; {levels} pyramid levels need at least {2 ** (levels - 1)}.")
    if kind == "auto":
        kind = "volume" if 4 * b * h * w * w <= MAX_VOLUME_BYTES else "on_the_fly"
    made = CorrelationVolume if kind == "volume" else CorrelationOnTheFly
    # Half precision loses matches here, so mixed precision is switched off for the products.
    with torch.autocast(left.device.type, enabled=False):
        return made(left.float(), right.float(), levels, radius)


def _taps(columns: Tensor, width: int, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Integer columns [B, H, W, 2r + 2] around the positions, whether they lie inside, and the fractions [B, H, W, 1]."""
    columns = columns[:, 0].float()
    start = columns.floor()
    # Far outside everything is zero anyway; the clamp keeps the conversion to integers defined for runaway states.
    first = start.clamp(-(radius + 2.0), width + radius + 1.0).long() - radius
    index = first[..., None] + torch.arange(2 * radius + 2, device=columns.device)
    return index.clamp(0, width - 1), (index >= 0) & (index < width), (columns - start)[..., None]


def _between(samples: Tensor, fraction: Tensor) -> Tensor:
    """Linear interpolation of neighbouring taps: [B, H, W, 2r + 2] -> [B, H, W, 2r + 1]."""
    return samples[..., :-1] * (1 - fraction) + samples[..., 1:] * fraction


class CorrelationVolume:
    """All pairs of a row, [B, H, W, W] per level."""

    def __init__(self, left: Tensor, right: Tensor, levels: int, radius: int) -> None:
        self.radius = radius
        volume = torch.einsum("bchw,bchv->bhwv", left, right) / left.shape[1] ** 0.5
        self.pyramid = [volume]
        for _ in range(levels - 1):
            b, h, w, v = self.pyramid[-1].shape
            self.pyramid.append(F.avg_pool1d(self.pyramid[-1].reshape(b, h * w, v), 2).reshape(b, h, w, v // 2))

    def __call__(self, columns: Tensor) -> Tensor:
        out = []
        for level, volume in enumerate(self.pyramid):
            index, inside, fraction = _taps(columns / 2**level, volume.shape[-1], self.radius)
            out.append(_between(volume.gather(3, index) * inside, fraction))
        return torch.cat(out, -1).permute(0, 3, 1, 2)


class CorrelationOnTheFly:
    """Same values with memory proportional to the features: averaging features and averaging correlations commute."""

    def __init__(self, left: Tensor, right: Tensor, levels: int, radius: int) -> None:
        self.radius = radius
        self.left = left / left.shape[1] ** 0.5
        self.pyramid = [right]
        for _ in range(levels - 1):
            self.pyramid.append(F.avg_pool2d(self.pyramid[-1], (1, 2)))

    def __call__(self, columns: Tensor) -> Tensor:
        out = []
        for level, right in enumerate(self.pyramid):
            index, inside, fraction = _taps(columns / 2**level, right.shape[-1], self.radius)
            taps = [self._dot(right, index[..., k]) for k in range(index.shape[-1])]
            out.append(_between(torch.stack(taps, -1) * inside, fraction))
        return torch.cat(out, -1).permute(0, 3, 1, 2)

    def _dot(self, right: Tensor, index: Tensor) -> Tensor:
        """[B, H, W] product of every left pixel with the right pixel in its row at `index`."""
        picked = right.gather(3, index[:, None].expand(-1, right.shape[1], -1, -1))
        return (self.left * picked).sum(1)
