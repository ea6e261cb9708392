"""The scene's log (one proven JSON line per entry) and its timings: what differs between equal runs, off the manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ltgs.errors import FormatError
from ltgs.io.atomic import read_capped, sha256_bytes, step, write_file
from ltgs.io.json_files import MAX_JSON_BYTES, need, parse_json
from ltgs.io.manifest import seal, unseal

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX = '{"sum": "'


def append_log(path: Path, record: Mapping[str, Any]) -> None:
    """Append one entry durably, with the time added; a last line torn by a kill is cut off first.

    Raises:
        OSError: the file cannot be written.
        ValueError: the record is not plain JSON.
    """
    entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **record}
    body = json.dumps(entry, ensure_ascii=True, allow_nan=False)
    line = f'{_PREFIX}{sha256_bytes(body.encode())[:16]}", {body[1:]}\n'.encode()
    step("open", path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0), 0o644)
    with os.fdopen(descriptor, "r+b") as stream:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX)
        end = stream.seek(0, os.SEEK_END)
        tail_start = max(0, end - (1 << 20))
        stream.seek(tail_start)
        tail = stream.read()
        if tail and not tail.endswith(b"\n"):
            end = tail_start + tail.rfind(b"\n") + 1
            stream.truncate(end)
        stream.seek(end)
        step("write", path)
        stream.write(line)
        stream.flush()
        step("fsync", path)
        os.fsync(stream.fileno())


def read_log(path: Path) -> tuple[list[dict[str, Any]], list[int], bool]:
    """Read all entries.

    Returns:
        The sound entries, the numbers (from 1) of damaged lines, and whether the last line was torn by a kill.
    """
    if not path.exists():
        return [], [], False
    lines = read_capped(path, MAX_JSON_BYTES).split(b"\n")
    torn = bool(lines.pop())
    entries, damaged = [], []
    for number, line in enumerate(lines, start=1):
        entry = _parse_line(line)
        if entry is None:
            damaged.append(number)
        else:
            entries.append(entry)
    return entries, damaged, torn


def _parse_line(line: bytes) -> dict[str, Any] | None:
    head = len(_PREFIX)
    body = b"{" + line[head + 19 :]
    if line[: head + 19] != f'{_PREFIX}{sha256_bytes(body)[:16]}", '.encode():
        return None
    try:
        entry = parse_json(body, "log")
    except FormatError:
        return None
    return entry if isinstance(entry, dict) else None


Timings = dict[str, list[dict[str, float]]]
"""Manifest checksum to, per visit, stage name to seconds."""


def write_timings(path: Path, timings: Timings) -> None:
    """Replace the timing file in one visible step."""
    write_file(path, seal({"timings": timings}), sync_folder=False)


def read_timings(path: Path) -> Timings:
    """Read the timing file; a missing one is empty.

    Raises:
        FormatError: damaged.
        OSError: cannot be read.
    """
    if not path.exists():
        return {}
    _, body = unseal(read_capped(path, MAX_JSON_BYTES), str(path))
    timings: Timings = {}
    for checksum, visits in need(body, "timings", dict, str(path)).items():
        if not isinstance(visits, list) or not all(isinstance(v, dict) for v in visits):
            raise FormatError(f"{path}: the timings of {checksum[:12]} are not a list of objects.")
        numbers = [x for v in visits for x in v.values()]
        if any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in numbers):
            raise FormatError(f"{path}: a timing is not a number.")
        timings[checksum] = [{k: float(x) for k, x in v.items()} for v in visits]
    return timings
