"""Fine light of a visit: shadows and patches of light that a coarse field cannot hold, as brightness gains on a sparse grid in space.

A shadow has an edge, and it moves when the light or an object does. Like the coarse field it belongs to space: what is cut out of
the background, fitted again or edited later keeps the light of its place. Where no photo looked, nothing is stored and nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ltgs.core.checks import check_finite, check_shape


@dataclass(frozen=True)
class LightDetail:
    """log(brightness in a visit's light / brightness by its coarse light field) at some points of a regular grid."""

    origin: Tensor
    """[3] place of the grid's first point, scene units."""
    cell: float
    """Distance of neighbouring grid points, scene units."""
    shape: tuple[int, int, int]
    """Grid points along each axis."""
    index: Tensor
    """[M] int64 flat positions (row-major) of the points that are stored, ascending."""
    log_gain: Tensor
    """[M] natural logarithm of the gain; 0 at all other points."""

    def __post_init__(self) -> None:
        check_shape("origin", self.origin, "3")
        check_shape("index", self.index, "M")
        check_shape("log_gain", self.log_gain, f"{len(self.index)}")
        check_finite("log_gain", self.log_gain)
        if min(self.shape) < 2 or not self.cell > 0:
            raise ValueError(f"fine light needs two grid points per axis and a positive cell, got {self.shape} and {self.cell}.")
        count = self.shape[0] * self.shape[1] * self.shape[2]
        rising = bool((self.index[1:] > self.index[:-1]).all())
        if len(self.index) and not (rising and int(self.index[0]) >= 0 and int(self.index[-1]) < count):
            raise ValueError(f"fine light: the stored points must be ascending and within a grid of {self.shape}.")

    def gains(self, means: Tensor) -> Tensor:
        """[N, 1] brightness gains at points [N, 3]; 1 outside of the grid."""
        if len(self.index) == 0:
            return torch.ones_like(means[:, :1])
        flat, weight = corners(self.origin, self.cell, self.shape, means)
        index = self.index.to(means.device)
        row = torch.searchsorted(index, flat.reshape(-1)).clamp_max(len(index) - 1).reshape(flat.shape)
        known = self.log_gain.to(means)[row] * (index[row] == flat)
        return (known * weight).sum(1, keepdim=True).exp()


def corners(origin: Tensor, cell: float, shape: tuple[int, int, int], means: Tensor) -> tuple[Tensor, Tensor]:
    """The eight grid points around points [N, 3]: flat positions [N, 8] and trilinear weights [N, 8], all 0 outside of the grid."""
    size = torch.tensor(shape, device=means.device)
    place = (means - origin.to(means)) / cell
    inside = ((place >= 0) & (place < (size - 1).to(place))).all(1)
    low = torch.minimum(place.clamp_min(0).floor().long(), size - 2)
    part = place - low
    flat, weight = [], []
    for corner in range(8):
        bits = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1], device=means.device)
        at = low + bits
        flat.append((at[:, 0] * size[1] + at[:, 1]) * size[2] + at[:, 2])
        weight.append(torch.where(bits.bool(), part, 1 - part).prod(1) * inside)
    return torch.stack(flat, 1), torch.stack(weight, 1)
