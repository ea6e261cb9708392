"""The project's own cameras file, and one reader for every kind of camera file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ltgs.core.cameras import Camera
from ltgs.errors import FormatError, InputError
from ltgs.io.atomic import explained, write_file
from ltgs.io.camera_codec import decode_camera, encode_camera
from ltgs.io.colmap import find_colmap_model, read_colmap
from ltgs.io.json_files import need, read_json
from ltgs.io.posed import PosedPhoto
from ltgs.io.transforms_json import read_transforms_json

_CONVENTION = "OpenCV axes, scene units; cam_from_world maps world to camera; the centre of the first pixel is (0.5, 0.5)"


def write_cameras_json(path: Path | str, cameras: Sequence[Camera]) -> None:
    """Write `{"cameras": [{"name", "time", "width", "height", "K", "cam_from_world"}]}`, numbers exact.

    Raises:
        InputError: the file cannot be written.
        ValueError: a number is not finite.
    """
    path = Path(path)
    # The sampling belongs to the scene that was fitted to them, not to the photos.
    entries = [json.dumps({k: v for k, v in encode_camera(c).items() if k != "sampling"}, allow_nan=False) for c in cameras]
    text = f'{{"convention": {json.dumps(_CONVENTION)},\n "cameras": [\n  ' + ",\n  ".join(entries) + "\n ]}\n"
    with explained("write", path, len(text)):
        write_file(path, text.encode())


def read_cameras_json(path: Path | str) -> list[Camera]:
    """Read the project's own cameras file, in file order.

    Raises:
        InputError: the file cannot be read.
        FormatError: an entry is missing or wrong, a pose is no rigid motion, or a name is used twice.
    """
    path = Path(path)
    cameras, seen = [], set()
    for index, record in enumerate(need(read_json(path), "cameras", list, str(path))):
        camera = decode_camera(record, f"{path}, entry {index}")
        if camera.name in seen:
            raise FormatError(f"{path}: the camera {camera.name} is listed twice. Remove one entry.")
        seen.add(camera.name)
        cameras.append(camera)
    return cameras


def read_cameras(path: Path | str) -> list[PosedPhoto]:
    """Read a cameras file of this project, a transforms.json, or a COLMAP model folder; the content decides.

    A folder may hold the model itself, `sparse/0`, or a transforms.json.

    Raises:
        InputError, FormatError: as the reader of that kind; an unknown kind is named with what would be accepted.
    """
    path = Path(path)
    if path.is_dir():
        if find_colmap_model(path) is not None:
            return read_colmap(path)
        for name in ("transforms.json", "cameras.json"):
            if (path / name).is_file():
                return read_cameras(path / name)
        raise InputError(f"{path}: holds neither a COLMAP model (also in sparse/0) nor transforms.json nor cameras.json.")
    if path.suffix.lower() in (".bin", ".txt") and find_colmap_model(path.parent) == path.parent:
        return read_colmap(path.parent)
    content = read_json(path)
    if isinstance(content, dict) and "frames" in content:
        return read_transforms_json(path)
    if isinstance(content, dict) and "cameras" in content:
        return [_posed(camera, path) for camera in read_cameras_json(path)]
    raise FormatError(
        f'{path}: neither a cameras file ({{"cameras": [...]}}) nor a transforms.json ({{"frames": [...]}}). Check the path.'
    )


def _posed(camera: Camera, path: Path) -> PosedPhoto:
    if camera.K[0, 1] != 0:
        raise FormatError(f"{path}: the camera {camera.name} has a skewed K, which is not supported. Set K[0][1] to 0.")
    k = camera.K
    params = (float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]))
    return PosedPhoto(camera.name, camera.width, camera.height, "PINHOLE", params, camera.cam_from_world, camera.time)
