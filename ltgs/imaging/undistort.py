"""Working photos: undistorted, reduced, without black borders."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def working_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Size (width, height) whose longer side is at most `long_side`; smaller photos keep theirs."""
    factor = min(1.0, long_side / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def undistort_photo(
    rgb: NDArray[np.uint8],  # [H, W, 3]
    K: Array,  # [3, 3] of the photo, first pixel centre at (0.5, 0.5)
    distortion: Array,  # [4] k1, k2, p1, p2
    *,
    size: tuple[int, int],
) -> tuple[NDArray[np.uint8], Array]:
    """Resample a photo to a pinhole image of the given size (width, height).

    The photo is reduced with an area filter first, so that a single Lanczos remap near scale 1 follows. The view is
    narrowed just enough that every pixel of the result comes from inside the photo.

    Returns:
        [h, w, 3] uint8 and its K, first pixel centre at (0.5, 0.5).
    """
    height, width = rgb.shape[:2]
    scale = np.array([size[0] / width, size[1] / height])
    K = np.array(K, dtype=np.float64)
    K[:2] *= scale[:, None]
    if size != (width, height):
        filter_ = cv2.INTER_AREA if scale.min() < 1 else cv2.INTER_CUBIC
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=filter_), dtype=np.uint8)
    if not np.any(np.abs(distortion) > 1e-12):
        return np.ascontiguousarray(rgb), K
    K_new = _inner_camera(K, distortion, size)
    map_x, map_y = _distorted_grid(K, K_new, distortion, size)
    image = cv2.remap(
        rgb, map_x - np.float32(0.5), map_y - np.float32(0.5), cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(image, dtype=np.uint8), K_new


def distort_normalised(xy: Array, distortion: Array) -> Array:
    """[..., 2] ideal normalised coordinates -> distorted ones (OpenCV's and COLMAP's radial-tangential model)."""
    k1, k2, p1, p2 = distortion
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2 * r2
    return np.stack([
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    ], -1)


def _distorted_grid(K: Array, K_new: Array, distortion: Array, size: tuple[int, int]) -> tuple[NDArray, NDArray]:
    u, v = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    ideal = np.stack([(u - K_new[0, 2]) / K_new[0, 0], (v - K_new[1, 2]) / K_new[1, 1]], -1)
    bent = distort_normalised(ideal, distortion)
    return (bent[..., 0] * K[0, 0] + K[0, 2]).astype(np.float32), (bent[..., 1] * K[1, 1] + K[1, 2]).astype(np.float32)


def _inner_camera(K: Array, distortion: Array, size: tuple[int, int]) -> Array:
    """The camera with the same principal point whose whole image maps inside the photo; the smallest zoom that does."""
    width, height = size
    along = np.linspace(0, 1, 65)
    border = np.concatenate([
        np.stack([along * width, np.zeros(65)], 1), np.stack([along * width, np.full(65, height)], 1),
        np.stack([np.zeros(65), along * height], 1), np.stack([np.full(65, width), along * height], 1),
    ])

    def fits(zoom: float) -> bool:
        ideal = np.stack([(border[:, 0] - K[0, 2]) / (K[0, 0] * zoom), (border[:, 1] - K[1, 2]) / (K[1, 1] * zoom)], -1)
        bent = distort_normalised(ideal, distortion) * [K[0, 0], K[1, 1]] + [K[0, 2], K[1, 2]]
        slack = 0.01
        return bool(
            (bent[:, 0] >= -slack).all() and (bent[:, 1] >= -slack).all()
            and (bent[:, 0] <= width + slack).all() and (bent[:, 1] <= height + slack).all()
        )

    low, high = 0.5, 2.0
    if not fits(high):
        return K.copy()
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    out = K.copy()
    out[0, 0] *= high
    out[1, 1] *= high
    return out
