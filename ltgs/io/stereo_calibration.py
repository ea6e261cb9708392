"""Calibration of a stereo rig: Middlebury calib.txt, KITTI calibration text, or OpenCV YAML; rectified, or with lenses and motion."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltgs.errors import FormatError
from ltgs.io.atomic import explained, read_capped

_MAX_BYTES = 1 << 20
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class StereoCalibration:
    """Z = focal * baseline / (disparity + offset)."""

    focal: float
    """Pixels."""
    cx: float
    """Principal point of the left camera; OpenCV's indices, the first pixel's centre is (0, 0)."""
    cy: float
    offset: float
    """Column of the right principal point minus that of the left, pixels (Middlebury's doffs)."""
    baseline: float
    """In `unit`s."""
    unit: str
    """"m", or "unknown" where the file does not say it."""
    width: int | None = None
    height: int | None = None

    def depth(self, disparity: NDArray[np.floating]) -> NDArray[np.float32]:
        """[...] disparity, pixels, to depth in the unit of the baseline; NaN at or behind infinity."""
        shift = np.asarray(disparity, np.float64) + self.offset
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(shift > 0, self.focal * self.baseline / shift, np.nan).astype(np.float32)

    def points(self, disparity: NDArray[np.floating]) -> NDArray[np.float64]:
        """[H, W, 3] points in the left camera (x right, y down, z forward); NaN where there is no depth."""
        z = self.depth(disparity).astype(np.float64)
        x = (np.arange(z.shape[1])[None] - self.cx) / self.focal
        y = (np.arange(z.shape[0])[:, None] - self.cy) / self.focal
        return np.stack([z * x, z * y, z], -1)


@dataclass(frozen=True)
class RigCalibration:
    """Two cameras as OpenCV's stereoCalibrate leaves them: the photos are not rectified yet."""

    left: NDArray[np.float64]
    """[3, 3] intrinsics of the left camera; OpenCV's indices, the first pixel's centre is (0, 0)."""
    left_lens: NDArray[np.float64]
    """[4..14] distortion in OpenCV's order."""
    right: NDArray[np.float64]
    """[3, 3]"""
    right_lens: NDArray[np.float64]
    rotation: NDArray[np.float64]
    """[3, 3] left to right camera."""
    translation: NDArray[np.float64]
    """[3] left to right camera, in the unit of the calibration board."""


def read_rig_calibration(paths: Sequence[Path]) -> RigCalibration | None:
    """Cameras, lenses and motion of a rig from OpenCV YAML, or None if the files do not hold all of them.

    Args:
        paths: one file, or the two that OpenCV's sample writes (intrinsics and extrinsics).

    Raises:
        InputError: a file cannot be read.
        FormatError: a camera matrix or the rotation is impossible.
    """
    text = ""
    for path in paths:
        with explained("read", path):
            text += "\n" + read_capped(path, _MAX_BYTES).decode("utf-8", "replace")
    found = [_matrix(text, names, sizes) for names, sizes in _RIG_PARTS]
    if any(f is None for f in found):
        return None
    left, left_lens, right, right_lens, rotation, translation = (f for f in found if f is not None)
    rig = RigCalibration(
        left.reshape(3, 3), left_lens, right.reshape(3, 3), right_lens, rotation.reshape(3, 3), translation.reshape(3)
    )
    proper = np.allclose(rig.rotation @ rig.rotation.T, np.eye(3), atol=1e-3) and np.linalg.det(rig.rotation) > 0
    if not proper or min(rig.left[0, 0], rig.right[0, 0]) <= 0 or not np.linalg.norm(rig.translation) > 0:
        names = ", ".join(str(p) for p in paths)
        raise FormatError(f"{names}: focal lengths must be positive, R a rotation and T not zero. Calibrate the rig again.")
    return rig


_RIG_PARTS = (
    (("M1", "K1", "cameraMatrix1", "camera_matrix_1"), (9,)), (("D1", "distCoeffs1", "dist_coeffs_1"), (4, 5, 8, 12, 14)),
    (("M2", "K2", "cameraMatrix2", "camera_matrix_2"), (9,)), (("D2", "distCoeffs2", "dist_coeffs_2"), (4, 5, 8, 12, 14)),
    (("R",), (9,)), (("T",), (3,)),
)
"""Names under which OpenCV's samples and common scripts store each part, and how many numbers it has."""


def _matrix(text: str, names: Sequence[str], sizes: Sequence[int]) -> NDArray[np.float64] | None:
    """Numbers of the first of these entries."""
    for name, body in re.findall(r"^(\w+)\s*:(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL):
        if name in names:
            data = re.search(r"data\s*:\s*\[(.*?)\]", body, re.DOTALL)
            values = _numbers(data[1] if data else body)
            if len(values) in sizes and np.isfinite(values).all():
                return np.array(values)
    return None


def read_stereo_calibration(path: Path | str) -> StereoCalibration:
    """Read the calibration of a rectified pair; the content decides the format.

    - Middlebury and ETH3D: lines `cam0=[f 0 cx; 0 f cy; 0 0 1]`, `cam1=...`, `doffs=`, `baseline=`. Middlebury's baseline is in
      millimetres; the format does not say so, and a baseline above 20 is taken for millimetres.
    - KITTI: lines `P2: ...` and `P3: ...` (or `P_rect_02`, `P_rect_03`), 12 numbers each, metres.
    - OpenCV: matrices `P1` and `P2` of stereoRectify (also under `data:`), in the unit of its calibration board: unknown.

    Raises:
        InputError: the file cannot be read.
        FormatError: none of these, or numbers that no rectified pair has.
    """
    path = Path(path)
    with explained("read", path):
        text = read_capped(path, _MAX_BYTES).decode("utf-8", "replace")
    found = _middlebury(text) or _kitti(text) or _opencv(text)
    if found is None:
        raise FormatError(
            f"{path}: not a stereo calibration. Accepted: Middlebury calib.txt (cam0, cam1, baseline), KITTI (P2, P3), "
            "OpenCV YAML (P1, P2)."
        )
    numbers = (found.focal, found.cx, found.cy, found.offset, found.baseline)
    if not np.isfinite(numbers).all() or found.focal <= 0 or found.baseline <= 0:
        raise FormatError(
            f"{path}: focal length {found.focal:g} and baseline {found.baseline:g} must be positive; for a pair in the wrong order "
            "exchange the photos and the matrices."
        )
    return found


def _numbers(text: str) -> list[float]:
    return [float(x) for x in re.findall(_NUMBER, text)]


def _middlebury(text: str) -> StereoCalibration | None:
    pairs: dict[str, str] = dict(re.findall(r"^\s*(\w+)\s*=\s*(.+?)\s*$", text, re.MULTILINE))
    if "cam0" not in pairs or "baseline" not in pairs:
        return None
    cam0, cam1 = _numbers(pairs["cam0"]), _numbers(pairs.get("cam1", pairs["cam0"]))
    baseline, doffs = _numbers(pairs["baseline"]), _numbers(pairs.get("doffs", ""))
    if len(cam0) != 9 or len(cam1) != 9 or len(baseline) != 1:
        return None
    size = [_numbers(pairs.get(k, "")) for k in ("width", "height")]
    width, height = (int(s[0]) if s else None for s in size)
    metres = baseline[0] / 1000 if baseline[0] > 20 else baseline[0]
    offset = doffs[0] if doffs else cam1[2] - cam0[2]
    return StereoCalibration(cam0[0], cam0[2], cam0[5], offset, metres, "m", width, height)


def _kitti(text: str) -> StereoCalibration | None:
    lines = {k: _numbers(v) for k, v in re.findall(r"^(P\w*?\d+)\s*:\s*(.+?)\s*$", text, re.MULTILINE)}
    for left, right in (("P2", "P3"), ("P_rect_02", "P_rect_03"), ("P0", "P1"), ("P_rect_00", "P_rect_01")):
        if len(lines.get(left, [])) == 12 and len(lines.get(right, [])) == 12:
            return _from_projections(np.reshape(lines[left], (3, 4)), np.reshape(lines[right], (3, 4)), "m")
    return None


def _opencv(text: str) -> StereoCalibration | None:
    matrices: dict[str, Any] = {}
    for name, body in re.findall(r"^(P[12])\s*:(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL):
        data = re.search(r"data\s*:\s*\[(.*?)\]", body, re.DOTALL)
        values = _numbers(data[1] if data else body)
        if len(values) == 12:
            matrices[name] = np.reshape(values, (3, 4))
    return _from_projections(matrices["P1"], matrices["P2"], "unknown") if len(matrices) == 2 else None


def _from_projections(left: NDArray[np.float64], right: NDArray[np.float64], unit: str) -> StereoCalibration:
    """Baseline from the fourth columns, which hold -f times the camera's position."""
    focal = float(left[0, 0])
    baseline = float(left[0, 3] - right[0, 3]) / focal if focal else float("nan")
    return StereoCalibration(focal, float(left[0, 2]), float(left[1, 2]), float(right[0, 2] - left[0, 2]), baseline, unit)
