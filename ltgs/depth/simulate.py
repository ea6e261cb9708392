"""Simulated faults of a prior, made from a true disparity map: for measuring fusion where no rendered or learned prior exists."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from ltgs.depth.types import Map, Mask

GAMMA = 0.8
"""Exponent: relative depth from one photo is not even linear in disparity."""
WARP = 0.06
"""Largest relative low-frequency error."""
BLUR = 1.5
"""Standard deviation of the blur, pixels."""


def distorted_truth(truth: Map, *, seed: int) -> Map:
    """A dense relative map with the scale, offset, curvature, low-frequency error and soft edges of a learned prior.

    It keeps the true ordering of surfaces, so it is kinder than a real monocular network; figures made with it must say so.

    Args:
        truth: [H, W] disparity, pixels, NaN where unknown (taken from the nearest known pixel).
        seed: of the random scale, offset and warp.
    """
    rng = np.random.default_rng(seed)
    rows, columns = distance_transform_edt(~np.isfinite(truth), return_distances=False, return_indices=True)
    dense = np.maximum(truth[rows, columns], 0)
    shape = (dense / max(float(dense.max()), 1e-6)) ** GAMMA
    coarse = rng.uniform(-1, 1, (4, 5)).astype(np.float32)
    warp = np.clip(cv2.resize(coarse, (truth.shape[1], truth.shape[0]), interpolation=cv2.INTER_CUBIC), -1, 1)
    soft = cv2.GaussianBlur((shape * (1 + WARP * warp)).astype(np.float32), (0, 0), BLUR)
    return np.asarray(rng.uniform(0.3, 3) * soft + rng.uniform(-1, 1), np.float32)


def stale_box(prior: Map) -> tuple[Map, Mask]:
    """The prior with an older, farther plane in the middle of the picture: an object has been put there since.

    Args:
        prior: [H, W] relative inverse depth.

    Returns:
        The stale prior and [H, W] the box.
    """
    height, width = prior.shape
    box = np.zeros(prior.shape, bool)
    box[int(0.35 * height) : int(0.7 * height), int(0.35 * width) : int(0.65 * width)] = True
    spread = float(prior.std())
    slope = np.linspace(-0.1, 0.1, width, dtype=np.float32)[None] * spread
    plane = np.float32(np.quantile(prior[box], 0.05) - 0.5 * spread) + np.broadcast_to(slope, prior.shape)
    return np.where(box, plane, prior).astype(np.float32), box
