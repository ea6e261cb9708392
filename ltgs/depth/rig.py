"""A stereo rig: rectification from its calibration, and one cloud from many posed pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.depth.agree import DepthView, count_votes
from ltgs.depth.pictures import Photo
from ltgs.depth.points import merge_voxels
from ltgs.depth.types import Map, StereoResult
from ltgs.depth.views import discontinuity
from ltgs.errors import InputError
from ltgs.io.stereo_calibration import RigCalibration, StereoCalibration

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rectifier:
    """Lookup maps of a calibrated rig."""

    left: tuple[Map, Map]
    right: tuple[Map, Map]
    calibration: StereoCalibration
    """Of the rectified photos, in the unit of the calibration board."""

    def __call__(self, left: Photo, right: Photo) -> tuple[Photo, Photo]:
        """Rectified photos; black outside of the originals."""
        out = [np.asarray(cv2.remap(p, *m, cv2.INTER_CUBIC), np.uint8) for p, m in ((left, self.left), (right, self.right))]
        return out[0], out[1]


def make_rectifier(rig: RigCalibration, width: int, height: int) -> Rectifier:
    """Rectification of photos of a size (OpenCV's stereoRectify without cropping of what both see).

    Raises:
        InputError: the cameras stand one above the other, or the second one stands to the left.
    """
    # OpenCV 5 needs the translation as a column.
    rotation_1, rotation_2, first, second, *_ = cv2.stereoRectify(
        rig.left, rig.left_lens, rig.right, rig.right_lens, (width, height), rig.rotation, rig.translation.reshape(3, 1), alpha=0,
    )
    if abs(second[1, 3]) > abs(second[0, 3]):
        raise InputError("The rig's cameras stand one above the other. Turn the photos by a quarter and calibrate them so.")
    if second[0, 3] > 0:
        raise InputError("The rig's second camera stands to the left of the first. Exchange the folders and the calibration's cameras.")
    maps = [
        cv2.initUndistortRectifyMap(k, d, r, p[:, :3], (width, height), cv2.CV_32FC1)
        for k, d, r, p in ((rig.left, rig.left_lens, rotation_1, first), (rig.right, rig.right_lens, rotation_2, second))
    ]
    focal = float(first[0, 0])
    calibration = StereoCalibration(
        focal, float(first[0, 2]), float(first[1, 2]), float(second[0, 2] - first[0, 2]), -float(second[0, 3]) / focal, "unknown",
        width, height,
    )
    left, right = ((np.asarray(x, np.float32), np.asarray(y, np.float32)) for x, y in maps)
    return Rectifier(left, right, calibration)


@dataclass(frozen=True)
class RigConfig:
    """Fusion of posed pairs."""

    min_confidence: float = 0.5
    floor: float = 0.25
    """Standard deviation of a match with confidence 1, pixels."""
    max_jump: float = 1.0
    """Disparity difference to a neighbour from which on a pixel is left out, pixels."""
    agree: float = 4.0
    """Difference that counts as the same, standard deviations."""
    stride: int = 2
    """Every so many pixels become a point."""


def rig_camera(calibration: StereoCalibration, name: str, width: int, height: int, cam_from_world: Array | None = None) -> Camera:
    """The rectified left camera, the first pixel's centre at (0.5, 0.5); at the origin without a pose."""
    K = np.array([[calibration.focal, 0, calibration.cx + 0.5], [0, calibration.focal, calibration.cy + 0.5], [0, 0, 1]])
    return Camera(name, 0, width, height, K, np.eye(4) if cam_from_world is None else cam_from_world)


def rig_depth(result: StereoResult, calibration: StereoCalibration, camera: Camera, config: RigConfig | None = None) -> DepthView:
    """Depth of a matched pair where the photos themselves determine it, away from discontinuities."""
    config = config or RigConfig()
    depth = calibration.depth(result.disparity)
    kept = result.measured & (result.confidence >= config.min_confidence) & ~discontinuity(result.disparity, config.max_jump)
    kept &= np.isfinite(depth)
    depth = np.where(kept, depth, np.float32(np.nan)).astype(np.float32)
    pixels = config.floor / np.maximum(result.confidence, 0.05)
    sigma = depth**2 * pixels / (calibration.focal * calibration.baseline)
    return DepthView(camera, depth, sigma.astype(np.float32))


def fuse_rig(
    views: Sequence[DepthView], photos: Sequence[Photo], config: RigConfig | None = None
) -> tuple[Array, NDArray[np.uint8]]:
    """One cloud of all pairs: what more pairs look through than measure is dropped, the rest merged by certainty.

    Args:
        views: posed left cameras with their depth.
        photos: [H, W, 3] uint8 rectified left photos.
        config: settings.

    Returns:
        [P, 3] points in the world of the poses, and [P, 3] colours.
    """
    config = config or RigConfig()
    clouds, colours, sigmas, spacing = [np.zeros((0, 3))], [np.zeros((0, 3), np.uint8)], [np.zeros(0)], []
    for index, (view, photo) in enumerate(zip(views, photos, strict=True)):
        where = np.zeros(view.depth.shape, bool)
        where[:: config.stride, :: config.stride] = True
        where &= np.isfinite(view.depth)
        if not where.any():
            continue
        points, sigma = view.camera.surface(view.depth)[where], view.sigma[where].astype(np.float64)
        agree, against = count_votes(points, sigma, [v for k, v in enumerate(views) if k != index], config.agree)
        keep = agree >= against
        clouds.append(points[keep])
        colours.append(photo[where][keep])
        sigmas.append(sigma[keep])
        spacing.append(float(np.median(view.depth[where])) * config.stride / float(view.camera.K[0, 0]))
    xyz = np.concatenate(clouds)
    if not len(xyz):
        return xyz, np.concatenate(colours)
    merged, rgb, _, _ = merge_voxels(xyz, np.concatenate(colours).astype(np.float64), np.concatenate(sigmas), float(np.median(spacing)))
    return merged, rgb


def metric_scale(views: Sequence[DepthView], points: Array) -> tuple[float, float]:
    """Units of measured depth per unit of the poses, from points known in the poses' unit.

    Args:
        views: measured depth with poses in another unit. points: [P, 3] in the unit of the poses, e.g. of structure from motion.

    Returns:
        The median ratio, and its relative spread (median absolute deviation over the median).

    Raises:
        InputError: fewer than 20 points lie on measured pixels.
    """
    ratios = [np.zeros(0)]
    for view in views:
        camera = view.camera
        local = points @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
        uv = local @ camera.K.T
        with np.errstate(divide="ignore", invalid="ignore"):
            columns, rows = np.floor(uv[:, 0] / uv[:, 2]), np.floor(uv[:, 1] / uv[:, 2])
        inside = (local[:, 2] > 0) & (columns >= 0) & (columns < camera.width) & (rows >= 0) & (rows < camera.height)
        found = view.depth[rows[inside].astype(int), columns[inside].astype(int)] / local[inside, 2]
        ratios.append(found[np.isfinite(found)].astype(np.float64))
    every = np.concatenate(ratios)
    if len(every) < 20:
        raise InputError(f"Only {len(every)} points of the poses lie on measured pixels; at least 20 are needed to find their unit.")
    middle = float(np.median(every))
    return middle, float(np.median(np.abs(every - middle))) / middle
