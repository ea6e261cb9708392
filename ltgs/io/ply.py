"""Gaussian scenes as PLY in the layout that 3DGS viewers share: 62 float32 columns, binary, little endian."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.core.gaussians import Gaussians
from ltgs.errors import FormatError
from ltgs.io.atomic import explained, write_file

logger = logging.getLogger("ltgs.io.ply")

_COLUMNS = (
    ["x", "y", "z", "nx", "ny", "nz"] + [f"f_dc_{i}" for i in range(3)] + [f"f_rest_{i}" for i in range(45)]
    + ["opacity"] + [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
)
_NEEDED = [c for c in _COLUMNS if c[0] != "n" and not c.startswith("f_rest")]
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER_BYTES = 64 << 10
_MAX_LOG_SCALE = 80.0
"""exp(80) = 5.5e34 still fits float32 and its square does not; nothing real is that large."""


def write_ply(path: Path | str, gaussians: Gaussians) -> None:
    """Write the 62-column layout of INRIA's 3DGS: degree 3 always, missing bands zero, normals zero.

    Columns: x y z nx ny nz f_dc_0..2 f_rest_0..44 (all coefficients of red, then green, then blue) opacity (logit)
    scale_0..2 (natural log) rot_0..3 (wxyz, unit).

    Raises:
        InputError: the file cannot be written.
    """
    path, g = Path(path), gaussians.detach().to("cpu").with_sh_degree(3)
    n = len(g)
    quats = g.quats / g.quats.norm(dim=1, keepdim=True).clamp_min(1e-12)
    rest = g.sh[:, 1:].transpose(1, 2).reshape(n, 45)
    columns = [g.means, torch.zeros(n, 3), g.sh[:, 0], rest, g.opacity_logits[:, None], g.log_scales, quats]
    rows = torch.cat([c.to(torch.float32) for c in columns], dim=1).numpy().astype("<f4")
    header = ["ply", "format binary_little_endian 1.0", "comment SplatRenderMode: default", f"element vertex {n}"]
    header += [f"property float {c}" for c in _COLUMNS] + ["end_header", ""]
    data = "\n".join(header).encode() + rows.tobytes()
    with explained("write", path, len(data)):
        write_file(path, data)


def write_points_ply(path: Path | str, xyz: NDArray[Any], rgb: NDArray[np.uint8]) -> None:
    """Write a coloured point cloud.

    Args:
        xyz: [M, 3] scene units.
        rgb: [M, 3] uint8.

    Raises:
        InputError: the file cannot be written.
        ValueError: the shapes do not match.
    """
    path, xyz, rgb = Path(path), np.asarray(xyz), np.asarray(rgb)
    if xyz.ndim != 2 or xyz.shape[1] != 3 or rgb.shape != xyz.shape or rgb.dtype != np.uint8:
        raise ValueError(f"points need xyz [M, 3] and uint8 rgb [M, 3], got {xyz.shape} and {rgb.dtype} {rgb.shape}.")
    rows = np.zeros(len(xyz), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    rows["xyz"], rows["rgb"] = xyz, rgb
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(xyz)}"]
    header += [f"property float {c}" for c in "xyz"] + [f"property uchar {c}" for c in ("red", "green", "blue")]
    data = "\n".join([*header, "end_header", ""]).encode() + rows.tobytes()
    with explained("write", path, len(data)):
        write_file(path, data)


def read_ply(path: Path | str) -> Gaussians:
    """Read a Gaussian PLY with its columns in any order and type, SH degree 0 to 3, with or without normals.

    Rows with non-finite numbers, a zero rotation or an absurd size (log scale above 80) are dropped and counted in a warning.

    Raises:
        FormatError: not such a PLY, truncated, or its header promises more than the file holds.
        InputError: the file cannot be read.
    """
    path = Path(path)
    with explained("read", path):
        size = path.stat().st_size
        with path.open("rb") as stream:
            dtype, count = _read_header(stream, path)
            offset = stream.tell()
            if count * dtype.itemsize > size - offset:
                raise FormatError(
                    f"{path}: the header promises {count} Gaussians of {dtype.itemsize} bytes, but only {size - offset} bytes "
                    "follow. The file is truncated; copy or export it again."
                )
            rows = np.fromfile(stream, dtype=dtype, count=count)
    if len(rows) != count:
        raise FormatError(f"{path}: the file became shorter while it was read. Copy or export it again.")
    return _to_gaussians(rows, path)


def _read_header(stream: BinaryIO, path: Path) -> tuple[np.dtype[Any], int]:
    """Parse the header and leave the stream at the first vertex."""
    head = stream.read(_MAX_HEADER_BYTES)
    match = re.search(rb"\nend_header[ \t]*\r?\n", head)
    if not head.startswith((b"ply\n", b"ply\r\n")) or match is None:
        raise FormatError(f"{path}: not a PLY file. Export the scene as a standard 3DGS .ply.")
    lines = head[: match.start()].decode("latin-1").splitlines()[1:]
    stream.seek(match.end())
    order, count, columns, elements = "", -1, [], 0
    for line in lines:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3 and words[1] in _ORDERS and not order:
            order = _ORDERS[words[1]]
        elif words[0] == "element" and len(words) == 3 and re.fullmatch(r"[0-9]{1,15}", words[2]):
            elements += 1
            if elements == 1 and words[1] == "vertex":
                count = int(words[2])
        elif words[0] == "property" and len(words) == 3 and words[1] in _TYPES and elements >= 1:
            # Elements after the vertices are not needed; before them they would have to be skipped, which no 3DGS file asks.
            if elements == 1:
                columns.append((words[2], words[1]))
        elif not (words[0] == "property" and elements > 1):
            raise FormatError(
                f"{path}: cannot use the header line {line[:80]!r}. Export the scene as an uncompressed binary 3DGS .ply."
            )
    names = [c for c, _ in columns]
    missing = [c for c in _NEEDED if c not in names]
    rest = [c for c in names if c.startswith("f_rest_")]
    if not order or count < 0 or missing or len(set(names)) != len(names):
        lacking = f"the columns {', '.join(missing[:5])} are missing"
        reason = lacking if missing and count >= 0 else "its header is not that of one"
        raise FormatError(f"{path}: not a Gaussian scene: {reason}. Export the scene as a standard 3DGS .ply.")
    if len(rest) not in (0, 9, 24, 45) or set(rest) != {f"f_rest_{i}" for i in range(len(rest))}:
        raise FormatError(f"{path}: {len(rest)} f_rest columns; 0, 9, 24 or 45 are possible. Export the scene again.")
    return np.dtype([(c, order + _TYPES[t]) for c, t in columns]), count


def _to_gaussians(rows: NDArray[Any], path: Path) -> Gaussians:
    def take(names: list[str]) -> NDArray[np.float32]:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.stack([rows[c].astype(np.float32) for c in names], axis=1)

    num_rest = sum(c.startswith("f_rest_") for c in rows.dtype.names or ())
    names = (["x", "y", "z"], [f"rot_{i}" for i in range(4)], [f"scale_{i}" for i in range(3)], ["opacity"])
    parts = [take(n) for n in names]
    sh = take([f"f_dc_{i}" for i in range(3)])[:, None]
    if num_rest:
        rest = take([f"f_rest_{i}" for i in range(num_rest)]).reshape(len(rows), 3, num_rest // 3)
        sh = np.concatenate([sh, rest.transpose(0, 2, 1)], axis=1)
    means, quats, log_scales, opacity = parts
    sound = np.asarray(np.isfinite(sh).all((1, 2)) & (np.abs(quats) > 0).any(1) & (log_scales <= _MAX_LOG_SCALE).all(1))
    for part in parts:
        sound &= np.isfinite(part).all(1)
    if not sound.all():
        logger.warning("%s: dropped %d of %d Gaussians with unusable numbers.", path, int((~sound).sum()), len(sound))
    tensors = [torch.from_numpy(np.ascontiguousarray(a[sound])) for a in (means, quats, log_scales, opacity[:, 0], sh)]
    return Gaussians(*tensors)
