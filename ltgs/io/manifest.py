"""The manifest: one JSON text that names every blob of a generation and carries its own checksum."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltgs.errors import FormatError, InputError
from ltgs.io.atomic import read_capped, sha256_bytes
from ltgs.io.json_files import MAX_JSON_BYTES, need, need_int, parse_json

FORMAT = "ltgs-scene"
FORMAT_VERSION = 1
BLOB_NAME = re.compile(r"[0-9a-f]{64}\.(safetensors|png)")
_HEAD = '{"checksum": "'
_HEAD_END = '",\n'


@dataclass(frozen=True)
class Manifest:
    """A manifest read from disk, its checksum proven."""

    data: bytes
    """The exact bytes of the file."""
    checksum: str
    body: dict[str, Any]

    @property
    def generation(self) -> int:
        """0 = nothing committed yet."""
        return int(self.body["generation"])

    @property
    def blobs(self) -> dict[str, dict[str, int]]:
        """Blob name to {"bytes", "introduced_at"}."""
        return self.body["blobs"]

    def bytes_by_time(self) -> dict[int, int]:
        """Time to bytes of the blobs it introduced and this generation still refers to."""
        totals = dict.fromkeys(range(self.body["num_times"]), 0)
        for entry in self.blobs.values():
            if entry["introduced_at"] in totals:
                totals[entry["introduced_at"]] += entry["bytes"]
        return totals

    def templates_stored_at(self) -> dict[int, int]:
        """Object id to the time whose commit stored its template as it is now."""
        return {t["object_id"]: self.blobs[t["gaussians"]]["introduced_at"] for t in self.body.get("templates", [])}


def seal(body: Mapping[str, Any]) -> bytes:
    """Serialise with a leading checksum over all that follows; equal bodies give equal bytes.

    The first line is `{"checksum": "<sha256 of every byte after this line>",` so one comparison proves the whole file. Lists
    and objects of the top level go one entry per line to stay readable and to give small differences.
    """
    lines = ",\n".join(f"{json.dumps(key)}: {_dump_top(value)}" for key, value in body.items())
    rest = (lines + "\n}\n").encode("ascii")
    return f"{_HEAD}{sha256_bytes(rest)}{_HEAD_END}".encode("ascii") + rest


def checksum_of(sealed: bytes) -> str:
    """The checksum written at the head of a sealed text, unproven."""
    return sealed[len(_HEAD) : len(_HEAD) + 64].decode("ascii", "replace")


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, sort_keys=True)


def _dump_top(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n " + ",\n ".join(_dump(v) for v in value) + "\n]"
    if isinstance(value, dict) and value:
        return "{\n " + ",\n ".join(f"{json.dumps(k)}: {_dump(value[k])}" for k in sorted(value)) + "\n}"
    return _dump(value)


def unseal(data: bytes, where: str) -> tuple[str, dict[str, Any]]:
    """Prove the checksum and parse.

    Returns:
        The checksum and the body without it.

    Raises:
        FormatError: any byte differs from what was written, or the content is no JSON object.
    """
    head, _, rest = data.partition(b"\n")
    checksum = checksum_of(head)
    if head + b"\n" != f"{_HEAD}{checksum}{_HEAD_END}".encode() or checksum != sha256_bytes(rest):
        raise FormatError(f"{where}: damaged (its checksum does not match its content).")
    body = parse_json(b"{" + rest, where)
    if not isinstance(body, dict):
        raise FormatError(f"{where}: not a JSON object.")
    return checksum, body


def read_manifest(path: Path) -> Manifest:
    """Read and prove one manifest file and its table of blobs.

    Raises:
        InputError: the file cannot be read, or was written by a newer version of this package.
        FormatError: it is damaged or not a manifest.
    """
    try:
        data = read_capped(path, MAX_JSON_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Is this a scene folder?") from error
    checksum, body = unseal(data, str(path))
    where = str(path)
    if need(body, "format", str, where) != FORMAT:
        raise FormatError(f"{where}: not the manifest of a scene.")
    version = need_int(body, "format_version", where, 0, 1 << 31)
    if version > FORMAT_VERSION:
        raise InputError(
            f"{where}: the scene has format version {version}, this program reads up to {FORMAT_VERSION}. "
            "Upgrade ltgs (pip install --upgrade ltgs) and try again."
        )
    need_int(body, "generation", where, 0, 1 << 53)
    need_int(body, "num_times", where, 0, 1 << 20)
    for name, entry in need(body, "blobs", dict, where).items():
        if not BLOB_NAME.fullmatch(name):
            raise FormatError(f"{where}: {name[:100]!r} is not a valid blob name.")
        need_int(entry, "bytes", f"{where}, blob {name}", 0, 1 << 53)
        need_int(entry, "introduced_at", f"{where}, blob {name}", 0, 1 << 20)
    return Manifest(data, checksum, body)
