"""Strict JSON: bounded size, no NaN literals, no duplicate keys, typed getters that name the place of a mistake."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ltgs.errors import FormatError, InputError
from ltgs.io.atomic import read_capped

MAX_JSON_BYTES = 64 << 20
"""More than any scene or camera file needs (5,000 photos take about 8 MB); larger input is refused unread."""

T = TypeVar("T")


def parse_json(data: bytes, where: str) -> Any:
    """Parse UTF-8 JSON strictly.

    Raises:
        FormatError: not UTF-8, not JSON, NaN or Infinity literals, duplicate keys, or nested too deeply.
    """

    def no_constants(text: str) -> Any:
        raise ValueError(f"the number {text} is not allowed in JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) != len(pairs):
            raise ValueError("an object names the same key twice")
        return keys

    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=no_constants, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not valid JSON ({error}). Restore the file from a copy or write it again.") from error


def read_json(path: Path) -> Any:
    """Read a JSON file of at most 64 MB.

    Raises:
        InputError: the file cannot be read.
        FormatError: see `parse_json`.
    """
    try:
        data = read_capped(path, MAX_JSON_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    return parse_json(data, str(path))


def need(record: Any, key: str, kind: type[T] | tuple[type, ...], where: str) -> T:
    """`record[key]`, which must exist and be of `kind` (a bool is never taken for a number).

    Raises:
        FormatError: the record is no object, the key is missing or has another type.
    """
    if not isinstance(record, dict) or key not in record:
        raise FormatError(f"{where}: the entry {key!r} is missing.")
    value = record[key]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise FormatError(f"{where}: {key!r} must be {wanted}, got {type(value).__name__}.")
    return value  # type: ignore[return-value]


def need_number(record: Any, key: str, where: str, default: float | None = None) -> float:
    """`record[key]` as a finite float; `default` stands for a missing key unless it is None."""
    if default is not None and isinstance(record, dict) and key not in record:
        return default
    value = float(need(record, key, (int, float), where))  # type: ignore[arg-type]
    if not math.isfinite(value):
        raise FormatError(f"{where}: {key!r} is not a finite number.")
    return value


def need_int(record: Any, key: str, where: str, minimum: int, maximum: int) -> int:
    """`record[key]` as an integer within [minimum, maximum]; 1920.0 counts as the integer it is."""
    value = need_number(record, key, where)
    if value != int(value) or not minimum <= value <= maximum:
        raise FormatError(f"{where}: {key!r} must be an integer in [{minimum}, {maximum}], got {value:g}.")
    return int(value)


def need_array(value: Any, shape: tuple[int, ...], where: str) -> NDArray[np.float64]:
    """Nested lists of finite numbers as a float64 array of exactly `shape`."""
    try:
        array = np.array(value, dtype=np.float64) if _all_numbers(value) else None
    except (ValueError, TypeError, OverflowError):
        array = None
    if array is None or array.shape != shape or not np.isfinite(array).all():
        raise FormatError(f"{where}: must be {'x'.join(map(str, shape))} finite numbers.")
    return array


def _all_numbers(value: Any, depth: int = 0) -> bool:
    if isinstance(value, list):
        return depth < 4 and all(_all_numbers(v, depth + 1) for v in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)
