"""transforms.json of nerfstudio and instant-ngp: OpenGL camera-to-world poses, intrinsics for all frames or per frame."""

from __future__ import annotations

import math
import posixpath
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ltgs.core.se3 import invert_rigid
from ltgs.errors import FormatError
from ltgs.io.camera_codec import checked_photo_name
from ltgs.io.json_files import need, need_array, need_int, need_number, read_json
from ltgs.io.posed import PosedPhoto

_FISHEYE_MODELS = ("OPENCV_FISHEYE", "EQUIRECTANGULAR", "FISHEYE", "FISHEYE624", "ORTHOPHOTO")


def read_transforms_json(path: Path | str) -> list[PosedPhoto]:
    """Read poses and lenses, in file order.

    Sizes and intrinsics are those of the file, which often describes the photos before they were reduced: compare with the
    real size and call `PosedPhoto.resized`.

    Raises:
        InputError: the file cannot be read.
        FormatError: an entry is missing, contradictory or of an unsupported lens (fisheye, k3, k4).
    """
    path = Path(path)
    content = read_json(path)
    frames = need(content, "frames", list, str(path))
    if not frames:
        raise FormatError(f"{path}: holds no frames.")
    photos = [_read_frame(frame, content, path, i) for i, frame in enumerate(frames)]
    names = [p.name for p in photos]
    repeated = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise FormatError(f"{path}: the photo {repeated[0]} is listed twice. Remove one entry.")
    return photos


def _read_frame(frame: Any, content: dict[str, Any], path: Path, index: int) -> PosedPhoto:
    where = f"{path}, frame {index}"
    name = checked_photo_name(posixpath.normpath(need(frame, "file_path", str, where).replace("\\", "/")), where)
    where = f"{where} ({name})"
    merged = {**content, **frame}
    if merged.get("camera_model") in _FISHEYE_MODELS or merged.get("is_fisheye") is True:
        raise FormatError(f"{where}: fisheye and panorama lenses are not supported. Undistort the photos first.")
    if any(need_number(merged, k, where, 0.0) != 0 for k in ("k3", "k4", "k5", "k6")):
        raise FormatError(f"{where}: distortion terms beyond k1, k2, p1, p2 are not supported. Undistort the photos first.")
    width, height = _size(merged, path, name, where)
    fx = _focal(merged, "x", width, where)
    if fx is None:
        raise FormatError(f"{where}: neither fl_x nor camera_angle_x is given.")
    fy = _focal(merged, "y", height, where) or fx
    cx, cy = need_number(merged, "cx", where, width / 2), need_number(merged, "cy", where, height / 2)
    distortion = tuple(need_number(merged, k, where, 0.0) for k in ("k1", "k2", "p1", "p2"))
    model, params = ("OPENCV", (fx, fy, cx, cy, *distortion)) if any(distortion) else ("PINHOLE", (fx, fy, cx, cy))
    try:
        return PosedPhoto(name, width, height, model, params, _cam_from_world(frame, where))
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from error


def _size(merged: dict[str, Any], path: Path, name: str, where: str) -> tuple[int, int]:
    """Width and height of the file, else of the photo itself (Blender-style files give only the angle)."""
    if "w" in merged and "h" in merged:
        return need_int(merged, "w", where, 1, 1 << 17), need_int(merged, "h", where, 1, 1 << 17)
    root = path.parent.resolve()
    for candidate in (root / name, root / f"{name}.png"):
        if candidate.resolve().is_relative_to(root) and candidate.is_file():
            try:
                with Image.open(candidate, formats=("JPEG", "PNG", "TIFF", "WEBP")) as image:
                    return image.size
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise FormatError(f"{candidate}: its size is needed, but it cannot be opened ({error}).") from error
    raise FormatError(f"{where}: w and h are missing and the photo is not beside the file. Add w and h in pixels.")


def _focal(merged: dict[str, Any], axis: str, size: int, where: str) -> float | None:
    if f"fl_{axis}" in merged:
        return need_number(merged, f"fl_{axis}", where)
    if f"camera_angle_{axis}" not in merged:
        return None
    angle = need_number(merged, f"camera_angle_{axis}", where)
    if not 0 < angle < math.pi:
        raise FormatError(f"{where}: camera_angle_{axis} must lie between 0 and pi, got {angle:g}.")
    return size / 2 / math.tan(angle / 2)


def _cam_from_world(frame: dict[str, Any], where: str) -> Any:
    """OpenGL world_from_cam (+y up, -z forward) to OpenCV cam_from_world, the rotation made exactly orthonormal."""
    rows = need(frame, "transform_matrix", list, where)
    matrix = need_array(rows if len(rows) == 4 else [*rows, [0, 0, 0, 1]], (4, 4), f"{where}, transform_matrix")
    u, sigma, vt = np.linalg.svd(matrix[:3, :3])
    # Files with few digits deviate by about 1e-4; a scale or a shear is a mistake that must not be absorbed silently.
    if np.abs(sigma - 1).max() > 1e-2 or np.linalg.det(u @ vt) < 0:
        raise FormatError(f"{where}: transform_matrix is not a rigid motion (scales {np.round(sigma, 4).tolist()}).")
    matrix[:3, :3] = u @ vt
    return invert_rigid(matrix @ np.diag([1.0, -1.0, -1.0, 1.0]))
