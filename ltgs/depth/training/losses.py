"""Loss over the sequence of predictions, and the learning-rate schedule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ltgs.core.checks import check_shape


def sequence_loss(predictions: Sequence[Tensor], truth: Tensor, valid: Tensor, *, max_disparity: float = 700.0) -> Tensor:
    """sum_i g^(n - 1 - i) mean |d_i - d| over known pixels, with g = 0.9^(15 / (n - 1)) (RAFT-Stereo).

    Args:
        predictions: n maps [B, 1, H, W], pixels, worst first.
        truth: [B, 1, H, W] pixels.
        valid: [B, 1, H, W] bool; truth that is not finite or beyond `max_disparity` counts as unknown.

    Returns:
        Scalar; 0 (with gradient) if no truth is known.
    """
    check_shape("valid", valid, " ".join(map(str, truth.shape)))
    known = valid & (truth.abs() < max_disparity)
    count = known.sum().clamp_min(1)
    n = len(predictions)
    decay = 0.9 ** (15 / (n - 1)) if n > 1 else 1.0
    total = truth.new_zeros(())
    for i, prediction in enumerate(predictions):
        # Unknown truth may be infinite; it is replaced before the difference so that no gradient becomes NaN.
        error = (prediction - torch.where(known, truth, 0)).abs()
        total = total + decay ** (n - 1 - i) * torch.where(known, error, 0).sum() / count
    return total


def one_cycle(step: int, steps: int, peak: float, *, warm_up: float = 0.01) -> float:
    """Linear one-cycle learning rate: from peak / 25 up to the peak during `warm_up`, then down to peak / 250,000.

    Equal to torch's OneCycleLR with anneal_strategy="linear" and its defaults, but a function of the step alone.

    Args:
        step: counted from 0.
    """
    turn = warm_up * steps - 1
    last = steps - 1
    start, end = peak / 25, peak / 25e4
    if step <= turn:
        return start + (peak - start) * step / turn
    return peak + (end - peak) * (min(step, last) - turn) / (last - turn) if last > turn else peak
