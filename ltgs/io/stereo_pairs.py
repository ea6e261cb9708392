"""Readers of stereo pairs with true disparity: one folder per pair with left, right and disp_gt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ltgs.errors import FormatError, InputError
from ltgs.io.atomic import explained, read_capped
from ltgs.io.images import decode_png, read_photo
from ltgs.io.pfm import read_pfm

_SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm", ".webp", ".tif", ".tiff", ".bmp")
_SCALE = re.compile(r"disparity\s*=\s*png\s*/\s*([0-9.]+)", re.IGNORECASE)
_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class StereoPair:
    """Two rectified photos and the left view's true disparity."""

    name: str
    left: NDArray[np.uint8]
    """[H, W, 3]"""
    right: NDArray[np.uint8]
    """[H, W, 3]"""
    truth: NDArray[np.float32]
    """[H, W] pixels, NaN where unknown."""
    truth_right: NDArray[np.float32] | None = None
    """[H, W] of the right view, if stored."""


def read_disparity(path: Path | str, *, scale: float | None = None) -> NDArray[np.float32]:
    """Read a disparity map.

    Args:
        path: PFM in pixels (infinity, NaN or not positive = unknown), or PNG (0 = unknown).
        scale: stored value per pixel of an 8-bit PNG; a 16-bit PNG always holds 256 times the disparity, as in KITTI.

    Returns:
        [H, W] pixels, NaN where unknown.

    Raises:
        InputError: the file cannot be read.
        FormatError: not one channel, damaged, or an 8-bit PNG without a scale.
    """
    path = Path(path)
    if path.suffix.lower() == ".pfm":
        values = read_pfm(path)
    else:
        with explained("read", path):
            data = read_capped(path, _MAX_BYTES)
        stored = decode_png(data, str(path))
        divisor = 256.0 if stored.dtype == np.uint16 else scale
        if divisor is None:
            raise FormatError(f"{path}: an 8-bit disparity needs its scale. Write a line `disparity = png/4` into the folder's README.")
        values = stored.astype(np.float32) / np.float32(divisor)
    if values.ndim != 2:
        raise FormatError(f"{path}: a disparity map has one channel, this has {values.shape[2]}.")
    return np.where(np.isfinite(values) & (values > 0), values, np.float32(np.nan)).astype(np.float32)


def read_pair(folder: Path | str) -> StereoPair:
    """Read `left.*`, `right.*` and `disp_gt.pfm` or `disp_gt.png` (and `disp_gt_right.*`) of a folder.

    The scale of 8-bit maps is read from a line `disparity = png/N` of the folder's README.

    Raises:
        InputError: a file is missing.
        FormatError: a file is damaged, a scale is missing, or the sizes differ.
    """
    folder = Path(folder)
    scale = _scale(folder)
    left, right = (read_photo(_find(folder, side, _SUFFIXES)).rgb for side in ("left", "right"))
    truth = read_disparity(_find(folder, "disp_gt", (".pfm", ".png")), scale=scale)
    other = next((p for s in (".pfm", ".png") if (p := folder / f"disp_gt_right{s}").is_file()), None)
    truth_right = None if other is None else read_disparity(other, scale=scale)
    for name, shape in (("right", right.shape[:2]), ("disp_gt", truth.shape)):
        if shape != left.shape[:2]:
            raise FormatError(f"{folder}: {name} has another size ({shape[1]}x{shape[0]}) than left. Restore the files.")
    return StereoPair(folder.name, left, right, truth, truth_right)


def find_pairs(root: Path | str) -> list[Path]:
    """Folders below `root` (or `root` itself) that hold a pair with true disparity, sorted.

    Raises:
        InputError: there is none.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: is not a folder. Pass a folder with one folder per pair (left.png, right.png, disp_gt.pfm or .png).")
    found = [p for p in (root, *sorted(root.iterdir())) if p.is_dir() and any((p / f"disp_gt{s}").is_file() for s in (".pfm", ".png"))]
    if not found:
        raise InputError(f"{root}: holds no pair. Each pair is a folder with left.png, right.png and disp_gt.pfm or disp_gt.png.")
    return found


def _scale(folder: Path) -> float | None:
    for name in ("README", "README.md", "README.txt"):
        path = folder / name
        if path.is_file():
            with explained("read", path):
                match = _SCALE.search(read_capped(path, 1 << 20).decode("utf-8", "replace"))
            if match and float(match[1]) > 0:
                return float(match[1])
    return None


def _find(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path:
    for suffix in suffixes:
        if (path := folder / f"{stem}{suffix}").is_file():
            return path
    raise InputError(f"{folder}: there is no {stem} ({', '.join(suffixes)}).")
