"""Argument checks that name the variable, what was expected and what was given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch


def check_shape(name: str, value: Any, pattern: str) -> None:
    """Raise ValueError unless `value.shape` matches `pattern`.

    Args:
        name: variable name used in the message.
        value: array or tensor.
        pattern: dimensions separated by blanks; an integer must match exactly, a letter matches anything,
            and the same letter must stand for the same size, e.g. ``"C 3 3"``.
    """
    wanted = pattern.split()
    shape = tuple(value.shape)
    seen: dict[str, int] = {}
    ok = len(shape) == len(wanted)
    for size, dim in zip(shape, wanted, strict=False):
        ok = ok and (size == int(dim) if dim.isdigit() else seen.setdefault(dim, size) == size)
    if not ok:
        raise ValueError(f"{name} must have shape [{', '.join(wanted)}], got {list(shape)}.")


def check_finite(name: str, value: Any) -> None:
    """Raise ValueError if `value` holds NaN or infinity, with the count."""
    finite = torch.isfinite(value) if isinstance(value, torch.Tensor) else np.isfinite(value)
    if not bool(finite.all()):
        count = int((~finite).sum())
        raise ValueError(f"{name} holds {count} non-finite values of {math.prod(value.shape)}.")


def check_rotation(name: str, value: Any, tolerance: float = 1e-3) -> None:
    """Raise ValueError unless the trailing 3x3 block is a proper rotation within `tolerance` (max abs of R R^T - I)."""
    m = value.detach().cpu().double().numpy() if isinstance(value, torch.Tensor) else np.asarray(value, dtype=np.float64)
    r = m[..., :3, :3]
    # Numbers near the largest float overflow here; the infinite error that results is the right answer, not a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(r @ np.swapaxes(r, -1, -2) - np.eye(3)).max(initial=0.0)
    if not error <= tolerance or np.any(np.linalg.det(r) < 0):
        raise ValueError(f"{name} must be a proper rotation; R R^T differs from the identity by {error:.3g}.")
