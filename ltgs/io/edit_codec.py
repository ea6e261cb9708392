"""What the user corrected, as entries of the manifest: the list of edits, names and pinned poses. Older scenes have none of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ltgs.core.edits import MAX_NAME
from ltgs.core.scene import Edit
from ltgs.errors import FormatError
from ltgs.io.json_files import need

MAX_TEXT = 4096
"""Longest text argument of an edit, characters."""


def encode_edit(edit: Edit) -> dict[str, Any]:
    """One edit as plain JSON."""
    return {"operation": edit.operation, "arguments": dict(edit.arguments), "made_at": edit.made_at.isoformat()}


def decode_edits(body: Mapping[str, Any], where: str) -> tuple[Edit, ...]:
    """The list of edits; a manifest without one has none.

    Raises:
        FormatError: an entry is not what `encode_edit` writes.
    """
    records = need(body, "edits", list, where) if "edits" in body else []
    return tuple(_decode_edit(record, f"{where}, edit {i}") for i, record in enumerate(records))


def _decode_edit(record: Any, where: str) -> Edit:
    arguments = need(record, "arguments", dict, where)
    for key, value in arguments.items():
        if not _is_plain(value):
            raise FormatError(f"{where}: the argument {key[:40]!r} is not a number, a short text or a list of numbers.")
    return Edit(need(record, "operation", str, where), arguments, datetime.fromisoformat(need(record, "made_at", str, where)))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(v, (int, float)) and math.isfinite(v) for v in value)
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    return isinstance(value, (int, float)) and math.isfinite(value)


def decode_name(record: Mapping[str, Any], where: str) -> str:
    """The name of a template, empty if it has none.

    Raises:
        FormatError: too long, or with characters that do not print.
    """
    name = need(record, "name", str, where) if "name" in record else ""
    if len(name) > MAX_NAME or not name.isprintable():
        raise FormatError(f"{where}: the name {name[:MAX_NAME]!r} is too long or not printable.")
    return name


def decode_pinned(record: Mapping[str, Any], where: str) -> frozenset[int]:
    """The pinned times of a track; that they exist is checked by the track.

    Raises:
        FormatError: not a list of integers.
    """
    times = need(record, "pinned", list, where) if "pinned" in record else []
    if any(type(t) is not int for t in times):
        raise FormatError(f"{where}: the pinned times must be integers.")
    return frozenset(times)
