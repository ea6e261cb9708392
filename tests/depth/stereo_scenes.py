"""Made-up rectified pairs with exact disparity."""

from __future__ import annotations

import cv2
import numpy as np


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """[H, W] float32 grey levels of smooth random dots."""
    dots = np.random.default_rng(seed).uniform(0, 255, (height, width)).astype(np.float32)
    soft = cv2.GaussianBlur(dots, (0, 0), 1.2)
    return np.clip((soft - soft.mean()) * (50 / soft.std()) + 127, 0, 255)


def pair_from_disparity(truth: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Left and right [H, W, 3] uint8 for a disparity map of the left view with a nearer front surface painted last.

    The right photo is drawn from far to near, so that near surfaces hide far ones; what only it sees is another texture.
    """
    height, width = truth.shape
    left = texture(height, width, seed)
    right = texture(height, width, seed + 1)
    rows = np.mgrid[0:height, 0:width][0]
    for level in np.unique(np.round(truth, 3)):
        layer = np.abs(truth - level) < 5e-4
        target = np.arange(width, dtype=np.float32)[None] + np.float32(level)
        grid = np.broadcast_to(target, truth.shape).astype(np.float32)
        shifted = cv2.remap(left, np.ascontiguousarray(grid), rows.astype(np.float32), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        covered = cv2.remap(
            layer.astype(np.float32), np.ascontiguousarray(grid), rows.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        ) > 0.5
        right = np.where(covered, shifted, right)
    return tuple(np.repeat(np.clip(np.rint(x), 0, 255).astype(np.uint8)[..., None], 3, 2) for x in (left, right))


def box_scene(height: int = 120, width: int = 200, back: float = 8.0, front: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Disparity of a wall with a nearer box in the middle, and where the box is."""
    box = np.zeros((height, width), bool)
    box[height // 4 : 3 * height // 4, 2 * width // 5 : 7 * width // 10] = True
    return np.where(box, front, back).astype(np.float32), box
