"""Sparse point matches between two photos: for measuring rectification and for the range of disparities."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.depth.pictures import Photo

MAX_SIDE = 1000
"""Pixels; larger photos are reduced first, because a median over hundreds of matches needs no more."""
MAX_KEYPOINTS = 2000
MAX_RATIO = 0.8
"""Best over second-best descriptor distance (Lowe 2004)."""
MAX_REFINEMENT = 3.0
"""Pixels that subpixel alignment may move a match before it counts as lost."""


@dataclass(frozen=True)
class PointMatches:
    """K points seen in both photos."""

    left: NDArray[np.float32]
    """[K, 2] x, y; the centre of the first pixel is (0, 0)."""
    right: NDArray[np.float32]
    """[K, 2]"""

    def __len__(self) -> int:
        return len(self.left)

    @property
    def disparity(self) -> NDArray[np.float32]:
        """[K] x left minus x right, pixels."""
        return self.left[:, 0] - self.right[:, 0]

    @property
    def vertical(self) -> NDArray[np.float32]:
        """[K] y left minus y right, pixels; zero in a rectified pair."""
        return self.left[:, 1] - self.right[:, 1]


def find_matches(left: Photo, right: Photo) -> PointMatches:
    """ORB matches (Rublee et al., ICCV 2011) with the ratio test, aligned to a fraction of a pixel by Lucas-Kanade.

    Args:
        left, right: [H, W] uint8 grey.

    Returns:
        Matches in pixels of the given photos; possibly none.
    """
    scale = min(1.0, MAX_SIDE / max(left.shape))
    if scale < 1:
        left, right = (np.asarray(cv2.resize(p, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8) for p in (left, right))
    detector = cv2.ORB.create(MAX_KEYPOINTS, 1.2, 6, fastThreshold=7)
    keys_left, code_left = detector.detectAndCompute(left, None)
    keys_right, code_right = detector.detectAndCompute(right, None)
    none = np.zeros((0, 2), np.float32)
    if len(keys_left) < 2 or len(keys_right) < 2:
        return PointMatches(none, none)
    candidates = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(code_left, code_right, k=2)
    pairs = [(c[0].queryIdx, c[0].trainIdx) for c in candidates if len(c) == 2 and c[0].distance < MAX_RATIO * c[1].distance]
    if not pairs:
        return PointMatches(none, none)
    first, second = np.array(pairs).T
    start = np.array([keys_left[i].pt for i in first], np.float32)
    guess = np.array([keys_right[i].pt for i in second], np.float32)
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        left, right, start[:, None], guess[:, None].copy(), winSize=(11, 11), maxLevel=0, flags=cv2.OPTFLOW_USE_INITIAL_FLOW
    )
    moved = moved.reshape(-1, 2)
    sound = (found.ravel() > 0) & (np.linalg.norm(moved - guess, axis=1) < MAX_REFINEMENT)
    # Pixel centres scale about (-0.5, -0.5) in this convention.
    factor = np.float32(1 / scale)
    return PointMatches((start[sound] + 0.5) * factor - 0.5, (moved[sound] + 0.5) * factor - 0.5)
