"""Photos of any common form as the 8-bit arrays that matching needs."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.errors import InputError

Photo = NDArray[np.uint8]
MIN_SIDE = 16
"""Pixels; below this a matching window does not fit."""


def as_array(image: Any) -> NDArray[Any]:
    """A tensor or array as an array on the processor, without copying where possible."""
    return image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)


def rgb8(image: Any, name: str = "image") -> Photo:
    """[H, W, 3] uint8 from grey, colour or colour with alpha.

    Args:
        image: array or tensor [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (alpha is ignored); uint8, uint16, or floats in [0, 1].

    Raises:
        InputError: another shape, fewer than 16 pixels on a side, non-finite values or another range.
    """
    array = as_array(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise InputError(f"{name}: needs shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got {list(np.shape(image))}.")
    if min(array.shape[:2]) < MIN_SIDE:
        raise InputError(f"{name}: {array.shape[1]}x{array.shape[0]} pixels are too few; at least {MIN_SIDE} on each side are needed.")
    array = array[..., :3]
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise InputError(f"{name}: floating-point colours must be finite and within [0, 1], found [{low:g}, {high:g}].")
        array = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(f"{name}: colours must be uint8, uint16 or floats in [0, 1], got {array.dtype}.")
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array)


def grey8(rgb: Photo) -> Photo:
    """[H, W] luma of [H, W, 3]."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def check_pair(left: Photo, right: Photo) -> None:
    """Refuse photos of different sizes.

    Raises:
        InputError: the sizes differ.
    """
    if left.shape != right.shape:
        (h1, w1), (h2, w2) = left.shape[:2], right.shape[:2]
        raise InputError(f"The photos differ in size ({w1}x{h1} and {w2}x{h2}). Rectified pairs have one size; rectify them first.")
