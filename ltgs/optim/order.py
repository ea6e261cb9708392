"""Gaussians in the order of a space-filling curve, so that what is drawn together lies together in memory."""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = 10
_TAIL = 0.01
"""Share of Gaussians cut off at either end of an axis, so that a few distant ones do not press the others into one cell."""


def morton_order(means: Tensor) -> Tensor:
    """Rows in the order of the Morton code (z curve) of their position on a grid of 1024^3 cubic cells.

    Args:
        means: [N, 3] positions, any unit.

    Returns:
        [N] int64 permutation; rows of one cell keep their order.
    """
    if len(means) < 2:
        return torch.arange(len(means), device=means.device)
    ordered = means.detach().sort(0).values
    first = int(_TAIL * (len(means) - 1))
    low, high = ordered[first], ordered[len(means) - 1 - first]
    size = (high - low).max().clamp_min(torch.finfo(means.dtype).tiny)
    cells = 1 << _BITS
    place = ((means.detach() - low) / size * cells).clamp(0, cells - 1).long()
    code = _spread(place[:, 0]) | _spread(place[:, 1]) << 1 | _spread(place[:, 2]) << 2
    return code.argsort(stable=True)


def _spread(x: Tensor) -> Tensor:
    """Two zero bits after each of the ten bits."""
    for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        x = (x | x << shift) & mask
    return x
