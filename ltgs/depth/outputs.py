"""Files of a stereo result: disparity, confidence, occlusion, source, a coloured picture and, with calibration, points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.depth.types import Map, Mask, Source, StereoResult
from ltgs.depth.views import discontinuity
from ltgs.io.atomic import explained
from ltgs.io.images import write_png
from ltgs.io.pfm import write_pfm
from ltgs.io.ply import write_points_ply
from ltgs.io.stereo_calibration import StereoCalibration

DISPARITY_SCALE = 256
"""Stored value per pixel of disparity in disparity.png, as in KITTI; 0 = no value."""


def disparity_picture(disparity: Map, valid: Mask) -> NDArray[np.uint8]:
    """[H, W, 3] colours from far (blue) to near (red), between the 1st and 99th percentile; black without a value."""
    if not valid.any():
        return np.zeros((*disparity.shape, 3), np.uint8)
    low, high = np.quantile(disparity[valid], (0.01, 0.99))
    share = np.clip((np.where(valid, disparity, low) - low) / max(float(high - low), 1e-6), 0, 1)
    colours = cv2.applyColorMap(np.rint(share * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.ascontiguousarray(np.where(valid[..., None], colours, 0).astype(np.uint8))


def encode_disparity(disparity: Map, valid: Mask) -> NDArray[np.uint16]:
    """[H, W] 16-bit values, 256 per pixel of disparity; 0 = no value, not positive, or above 255.99 pixels."""
    scaled = np.rint(np.where(valid, disparity, 0).astype(np.float64) * DISPARITY_SCALE)
    return np.where((scaled > 0) & (scaled <= 65535), scaled, 0).astype(np.uint16)


def cloud(
    result: StereoResult, rgb: NDArray[np.uint8], calibration: StereoCalibration, *, max_jump: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Points [P, 3] in the left camera, unit of the baseline, and colours [P, 3], without filled pixels and discontinuities.

    Args:
        result: of the rectified pair. rgb: [H, W, 3] left photo. calibration: of the rig.
        max_jump: disparity difference to a neighbour from which on a pixel is left out, pixels.
    """
    points = calibration.points(result.disparity)
    kept = result.valid & np.isin(result.source, (Source.STEREO, Source.PRIOR)) & ~discontinuity(result.disparity, max_jump)
    kept &= np.isfinite(points).all(-1)
    return points[kept], rgb[kept]


def write_stereo(
    folder: Path | str, result: StereoResult, rgb: NDArray[np.uint8], calibration: StereoCalibration | None = None
) -> list[Path]:
    """Write all files of a result.

    disparity.pfm: pixels of the left view, infinity = no value. disparity.png: 16-bit, value / 256, 0 = no value. confidence.png: 8-bit,
    255 = 1. occlusion.png: 255 = seen by the left camera only. source.png: 8-bit, 0 none, 1 stereo, 2 prior, 3 filled.
    colour.png: disparity in colours. cloud.ply: with calibration only.

    Returns:
        The files.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    with explained("create", folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "disparity.pfm"]
    write_pfm(written[0], np.where(result.valid, result.disparity, np.float32(np.inf)))
    pictures: dict[str, NDArray[Any]] = {
        "disparity.png": encode_disparity(result.disparity, result.valid),
        "confidence.png": np.rint(np.clip(result.confidence, 0, 1) * 255).astype(np.uint8),
        "occlusion.png": np.where(result.occlusion, 255, 0).astype(np.uint8), "source.png": result.source.astype(np.uint8),
        "colour.png": disparity_picture(result.disparity, result.valid),
    }
    for name, picture in pictures.items():
        written.append(folder / name)
        write_png(written[-1], picture)
    if calibration is not None:
        written.append(folder / "cloud.ply")
        write_points_ply(written[-1], *cloud(result, rgb, calibration))
    return written
