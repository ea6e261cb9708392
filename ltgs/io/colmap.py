"""COLMAP models, text or binary, read by a strict reader of our own: COLMAP's own aborts the process on some bad files."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.core.se3 import make_rigid, quat_to_matrix
from ltgs.errors import FormatError, InputError
from ltgs.io.atomic import explained, read_capped
from ltgs.io.camera_codec import checked_photo_name
from ltgs.io.posed import MODEL_PARAMS, PosedPhoto

_MODEL_NAMES = (
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV",
    "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE",
)
_MAX_BYTES = 4 << 30
_Lens = tuple[str, int, int, tuple[float, ...]]


@dataclass(frozen=True)
class ColmapPoints:
    """The sparse points of a model."""

    xyz: NDArray[np.float64]
    """[M, 3] scene units."""
    rgb: NDArray[np.uint8]
    """[M, 3]"""
    error_px: NDArray[np.float64]
    """[M] mean reprojection error, pixels."""


def find_colmap_model(folder: Path | str) -> Path | None:
    """The folder holding cameras.bin or .txt: `folder` itself, `sparse/0` or `sparse` in it; None if there is none."""
    for candidate in (Path(folder), Path(folder) / "sparse" / "0", Path(folder) / "sparse"):
        if any((candidate / f"cameras.{e}").is_file() and (candidate / f"images.{e}").is_file() for e in ("bin", "txt")):
            return candidate
    return None


def read_colmap(folder: Path | str) -> list[PosedPhoto]:
    """Read cameras and images of a model, sorted by name.

    Args:
        folder: see `find_colmap_model`.

    Raises:
        InputError: there is no model, or it cannot be read.
        FormatError: a file is damaged, or a camera model is not supported (fisheye lenses, for instance).
    """
    model = _model_folder(folder)
    binary = (model / "cameras.bin").is_file() and (model / "images.bin").is_file()
    cameras = _cameras_bin(model / "cameras.bin") if binary else _cameras_txt(model / "cameras.txt")
    path = model / ("images.bin" if binary else "images.txt")
    photos: dict[str, PosedPhoto] = {}
    for name, quat, translation, camera_id in _images_bin(path) if binary else _images_txt(path):
        name = checked_photo_name(name.replace("\\", "/"), str(path))
        if camera_id not in cameras or name in photos:
            raise FormatError(f"{path}: {name} has an unknown camera ({camera_id}) or is listed twice. Export the model again.")
        norm = math.hypot(*quat)
        if not (np.isfinite([*quat, *translation]).all() and 0.9 < norm < 1.1):
            raise FormatError(f"{path}: the pose of {name} is not a rigid motion. Export the model again.")
        rotation = quat_to_matrix(torch.tensor(quat, dtype=torch.float64)).numpy()
        try:
            photos[name] = PosedPhoto(name, *_sized(cameras[camera_id]), make_rigid(rotation, np.array(translation)))
        except ValueError as error:
            raise FormatError(f"{path}: {error} Undistort the photos with COLMAP's image_undistorter first.") from error
    if not photos:
        raise FormatError(f"{path}: the model holds no images. Run the reconstruction again.")
    return [photos[name] for name in sorted(photos)]


def read_colmap_points(folder: Path | str) -> ColmapPoints | None:
    """Read the sparse points of a model; None if it has none.

    Raises:
        InputError, FormatError: as `read_colmap`.
    """
    model = _model_folder(folder)
    rows: list[tuple[Any, ...]]
    if (model / "points3D.bin").is_file():
        rows = list(_points_bin(model / "points3D.bin"))
    elif (model / "points3D.txt").is_file():
        path = model / "points3D.txt"
        rows = [tuple(_words(words[1:8], 7, path)) for words in _lines(path)]
    else:
        return None
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    table = table[np.isfinite(table).all(1)]
    return ColmapPoints(table[:, :3], table[:, 3:6].clip(0, 255).astype(np.uint8), table[:, 6])


def _model_folder(folder: Path | str) -> Path:
    model = find_colmap_model(folder)
    if model is None:
        raise InputError(f"{folder}: no COLMAP model (cameras.bin|txt, images.bin|txt) here or in sparse/0. Check the path.")
    return model


def _sized(lens: _Lens) -> tuple[int, int, str, tuple[float, ...]]:
    name, width, height, params = lens
    return width, height, name, params


def _lens(model: str, width: int, height: int, params: tuple[float, ...], path: Path) -> _Lens:
    if not (1 <= width < 1 << 17 and 1 <= height < 1 << 17):
        raise FormatError(f"{path}: a camera has the size {width}x{height}. Export the model again.")
    return model, width, height, params


def _unsupported(model: str, path: Path) -> FormatError:
    return FormatError(
        f"{path}: the camera model {model} is not supported, only {', '.join(MODEL_PARAMS)}. "
        "Undistort the photos with COLMAP's image_undistorter and use its output."
    )


# -- binary -----------------------------------------------------------------------------------------------------------

class _Cursor:
    """Reads packed numbers and refuses to run past the end."""

    def __init__(self, path: Path) -> None:
        with explained("read", path):
            self._data = read_capped(path, _MAX_BYTES)
        self._path, self._at = path, 0

    def unpack(self, layout: str) -> tuple[Any, ...]:
        size = struct.calcsize(layout)
        self.skip(size)
        return struct.unpack_from(layout, self._data, self._at - size)

    def count(self, least_bytes: int) -> int:
        """A uint64 number of records of at least `least_bytes`; more than the file can hold is refused before any loop."""
        (count,) = self.unpack("<Q")
        if count * least_bytes > len(self._data) - self._at:
            self._refuse()
        return count

    def skip(self, size: int) -> None:
        if size > len(self._data) - self._at:
            self._refuse()
        self._at += size

    def text(self) -> str:
        end = self._data.find(b"\0", self._at, self._at + 4097)
        if end < 0:
            self._refuse()
        start, self._at = self._at, end + 1
        return self._data[start:end].decode("utf-8", "surrogateescape")

    def _refuse(self) -> None:
        raise FormatError(f"{self._path}: truncated or damaged at byte {self._at}. Export the model again.")


def _cameras_bin(path: Path) -> dict[int, _Lens]:
    cursor, cameras = _Cursor(path), {}
    for _ in range(cursor.count(24)):
        camera_id, model_id, width, height = cursor.unpack("<IiQQ")
        model = _MODEL_NAMES[model_id] if 0 <= model_id < len(_MODEL_NAMES) else f"number {model_id}"
        if model not in MODEL_PARAMS:
            raise _unsupported(model, path)
        cameras[camera_id] = _lens(model, width, height, cursor.unpack(f"<{MODEL_PARAMS[model]}d"), path)
    return cameras


def _images_bin(path: Path) -> Iterator[tuple[str, tuple[float, ...], tuple[float, ...], int]]:
    cursor = _Cursor(path)
    for _ in range(cursor.count(73)):
        values = cursor.unpack("<I7dI")
        name = cursor.text()
        cursor.skip(24 * cursor.count(24))
        yield name, values[1:5], values[5:8], values[8]


def _points_bin(path: Path) -> Iterator[tuple[float, ...]]:
    cursor = _Cursor(path)
    for _ in range(cursor.count(51)):
        values = cursor.unpack("<Q3d3Bd")
        cursor.skip(8 * cursor.count(8))
        yield values[1:]


# -- text -------------------------------------------------------------------------------------------------------------

def _lines(path: Path, *, keep_empty: bool = False) -> Iterator[list[str]]:
    with explained("read", path):
        data = read_capped(path, _MAX_BYTES)
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        if not line.startswith("#") and (keep_empty or line.strip()):
            yield line.split()


def _words(words: list[str], count: int, path: Path) -> list[float]:
    """Exactly `count` numbers."""
    try:
        numbers = [float(w) for w in words]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise FormatError(f"{path}: expected {count} numbers, got {' '.join(words)[:80]!r}. Export the model again.")
    return numbers


def _whole(text: str, path: Path) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise FormatError(f"{path}: expected a whole number, got {text[:40]!r}. Export the model again.")
    return int(text)


def _cameras_txt(path: Path) -> dict[int, _Lens]:
    cameras = {}
    for words in _lines(path):
        if len(words) < 4:
            raise FormatError(f"{path}: a camera line has only {len(words)} words. Export the model again.")
        if words[1] not in MODEL_PARAMS:
            raise _unsupported(words[1][:40], path)
        params = tuple(_words(words[4:], MODEL_PARAMS[words[1]], path))
        cameras[_whole(words[0], path)] = _lens(words[1], _whole(words[2], path), _whole(words[3], path), params, path)
    return cameras


def _images_txt(path: Path) -> Iterator[tuple[str, tuple[float, ...], tuple[float, ...], int]]:
    # Two lines per image; the second one, its 2-D points, may be empty.
    lines = _lines(path, keep_empty=True)
    for words in lines:
        if not words:
            continue
        if len(words) < 10:
            raise FormatError(f"{path}: an image line has only {len(words)} words. Export the model again.")
        numbers = _words(words[1:8], 7, path)
        yield " ".join(words[9:]), tuple(numbers[:4]), tuple(numbers[4:]), _whole(words[8], path)
        next(lines, None)
