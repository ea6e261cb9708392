"""Portable float maps (PFM): the file format of disparity maps in SceneFlow, ETH3D and Middlebury."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ltgs.errors import FormatError
from ltgs.io.atomic import explained, read_capped, write_file

MAX_PFM_BYTES = 2 << 30
_HEADER = re.compile(rb"(P[Ff])\s+(\d{1,6})\s+(\d{1,6})\s+([-+0-9.eE]{1,32})[ \t\r]*\n")


def read_pfm(path: Path | str) -> NDArray[np.float32]:
    """Read a PFM file; rows come top first although the file stores the bottom row first.

    Returns:
        [H, W] for one channel ("Pf") or [H, W, 3] for three ("PF"), float32, values as stored (infinity = unknown).

    Raises:
        InputError: the file cannot be read.
        FormatError: not a PFM file, or truncated.
    """
    path = Path(path)
    with explained("read", path):
        data = read_capped(path, MAX_PFM_BYTES)
    match = _HEADER.match(data[:256])
    if match is None:
        raise FormatError(f"{path}: not a PFM file (its header must be Pf or PF, width, height and scale). Check the path.")
    channels = 3 if match[1] == b"PF" else 1
    width, height = int(match[2]), int(match[3])
    try:
        scale = float(match[4])
    except ValueError:
        scale = 0.0
    if width * height == 0 or scale == 0 or not np.isfinite(scale):
        raise FormatError(f"{path}: the PFM header has no pixels or no byte order (scale {match[4].decode()}). Write it again.")
    count = width * height * channels
    body = data[match.end() :]
    if len(body) < 4 * count:
        raise FormatError(f"{path}: truncated, {len(body)} bytes instead of {4 * count}. Copy the file again.")
    values = np.frombuffer(body, "<f4" if scale < 0 else ">f4", count).astype(np.float32)
    shape = (height, width) if channels == 1 else (height, width, 3)
    return np.ascontiguousarray(values.reshape(shape)[::-1])


def write_pfm(path: Path | str, values: NDArray[np.floating]) -> None:
    """Write [H, W] or [H, W, 3] as PFM in this machine's byte order.

    Raises:
        InputError: the file cannot be written.
        ValueError: another shape.
    """
    path, values = Path(path), np.asarray(values, np.float32)
    if values.size == 0 or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)):
        raise ValueError(f"a PFM needs [H, W] or [H, W, 3] values, got shape {list(values.shape)}.")
    kind = "Pf" if values.ndim == 2 else "PF"
    scale = "-1.0" if sys.byteorder == "little" else "1.0"
    header = f"{kind}\n{values.shape[1]} {values.shape[0]}\n{scale}\n".encode()
    data = header + np.ascontiguousarray(values[::-1]).tobytes()
    with explained("write", path, len(data)):
        write_file(path, data, sync_folder=False)
