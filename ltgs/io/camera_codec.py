"""One camera as JSON, as the manifest of a scene and cameras files hold it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.errors import FormatError
from ltgs.io.json_files import need, need_array, need_int

Array = NDArray[np.float64]
_MAX_TIME = 1 << 31


def encode_camera(camera: Camera) -> dict[str, Any]:
    """A camera as plain JSON values, numbers exact."""
    return {
        "name": camera.name, "time": int(camera.time), "width": int(camera.width), "height": int(camera.height),
        "K": camera.K.tolist(), "cam_from_world": camera.cam_from_world.tolist(), "sampling": float(camera.sampling),
    }


def decode_camera(record: Any, where: str) -> Camera:
    """One entry of a manifest or cameras file as a Camera, checked."""
    name = checked_photo_name(need(record, "name", str, where), where)
    place = f"{where}, camera {name}"
    pose = need_array(record.get("cam_from_world"), (4, 4), f"{place}, cam_from_world")
    if np.abs(pose[3] - [0.0, 0.0, 0.0, 1.0]).max() > 1e-9:
        raise FormatError(f"{place}: the last row of cam_from_world must be 0 0 0 1.")
    try:
        return Camera(
            name, need_int(record, "time", place, 0, _MAX_TIME),
            need_int(record, "width", place, 1, 1 << 17), need_int(record, "height", place, 1, 1 << 17),
            _checked_intrinsics(need_array(record.get("K"), (3, 3), f"{place}, K"), place),
            pose, _sampling(record, place),
        )
    except ValueError as error:
        raise FormatError(f"{place}: {error}") from error


def _sampling(record: Any, where: str) -> float:
    """The sampling of a camera, 1 where it was not stored."""
    value = float(need(record, "sampling", (int, float), where)) if "sampling" in record else 1.0
    if not 0 < value < 1e6:
        raise FormatError(f"{where}: sampling must be a positive number, got {value}.")
    return value


def _checked_intrinsics(K: Array, where: str) -> Array:
    if K[0, 0] <= 0 or K[1, 1] <= 0 or not np.array_equal(K[2], [0.0, 0.0, 1.0]) or K[1, 0] != 0:
        raise FormatError(f"{where}: K must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with positive focal lengths.")
    return K


def checked_photo_name(name: str, where: str) -> str:
    """A photo name that cannot point outside of the folder it is relative to.

    Raises:
        FormatError: empty, longer than 4096 characters, absolute, with a NUL, a backslash drive or a `..` part.
    """
    parts = name.split("/")
    if not name or len(name) > 4096 or "\0" in name or name.startswith("/") or ".." in parts or name[1:3] in (":\\", ":/"):
        raise FormatError(f"{where}: {name[:100]!r} is not a name relative to the photo folder.")
    return name
