"""The binary local ordering map: what of a depth map survives an unknown scale and shift (Yao et al., ICCV 2025).

For every pixel p and neighbour offset o the map holds sigma(D(p + o) - D(p)). Only which of two points is nearer enters, so
disparity and relative inverse depth can be compared although their units cannot.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ltgs.depth.net.config import Offsets
from ltgs.depth.net.layers import robust_spread

SPREAD_FRACTION = 0.05
"""Difference, as a fraction of the map's spread, at which the relative form of the logistic reaches 0.73."""


def neighbour_differences(values: Tensor, offsets: Offsets) -> Tensor:
    """D(p + o) - D(p) for every (dy, dx) in `offsets`; outside of the image the border repeats.

    Args:
        values: [B, 1, H, W].

    Returns:
        [B, len(offsets), H, W].
    """
    _, _, h, w = values.shape
    reach = max(max(abs(dy), abs(dx)) for dy, dx in offsets)
    padded = F.pad(values, (reach,) * 4, mode="replicate")
    shifted = [padded[..., reach + dy : reach + dy + h, reach + dx : reach + dx + w] for dy, dx in offsets]
    return torch.cat(shifted, 1) - values


@torch.no_grad()
def ordering_map(values: Tensor, offsets: Offsets, *, scale: float | Tensor = 1.0) -> Tensor:
    """Soft ordering map sigma((D(p + o) - D(p)) / scale), without gradient.

    Args:
        values: [B, 1, H, W] disparity or inverse depth: larger is nearer.
        scale: unit of differences; 1 is the published form, a tensor [B, 1, 1, 1] sets it per image.

    Returns:
        [B, len(offsets), H, W] in [0, 1]; above 0.5 where the neighbour is nearer.
    """
    return torch.sigmoid(neighbour_differences(values.detach().float(), offsets) / scale)


@torch.no_grad()
def relative_ordering_map(values: Tensor, offsets: Offsets, valid: Tensor | None = None) -> Tensor:
    """Soft ordering map whose unit is a fraction of the map's own spread: unchanged by any positive scale and any shift.

    Args:
        values: [B, 1, H, W]; where `valid` [B, 1, H, W] is false the codes are 0.5 (undecided), as for pairs with such a neighbour.
    """
    _, spread = robust_spread(values, valid)
    codes = ordering_map(values, offsets, scale=SPREAD_FRACTION * spread)
    return codes if valid is None else mask_codes(codes, valid, offsets)


@torch.no_grad()
def hard_ordering_map(values: Tensor, offsets: Offsets, *, threshold: float = 0.0) -> Tensor:
    """Binary ordering map: 1 where D(p + o) - D(p) > threshold. With threshold 0 every increasing map of D leaves it unchanged."""
    return (neighbour_differences(values.detach().float(), offsets) > threshold).float()


def mask_codes(codes: Tensor, valid: Tensor, offsets: Offsets) -> Tensor:
    """Set codes to 0.5 wherever the pixel or its neighbour is not valid.

    Args:
        codes: [B, len(offsets), H, W].
        valid: [B, 1, H, W] bool.
    """
    # A neighbour is valid where validity does not fall from the pixel to it.
    known = (neighbour_differences(valid.float(), offsets) >= 0) & valid
    return torch.where(known, codes, codes.new_tensor(0.5))
