"""Durable file writes: a file is either wholly there or not there at all, even if the process is killed at any instant.

Recipe: unique temporary name in the same folder, write, fsync, rename over the final name, fsync of the folder. Every
action on the disk announces itself through `step`, so that the tests can fail or kill the process at each one of them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from ltgs.errors import FormatError, InputError

logger = logging.getLogger("ltgs.io.atomic")

TEMPORARY = re.compile(r"^\.tmp-(\d+)-[0-9a-f]{8}-")
"""Names of half-written files; the first group is the id of the process that was writing."""
_PIECE_BYTES = 4 << 20

on_step: Callable[[str, Path], None] | None = None
"""Test hook, called before each disk action as (action, path); action is one of open, write, fsync, rename, unlink."""


def step(action: str, path: Path) -> None:
    """Announce a disk action; a test's hook may raise here to simulate a full disk or a killed process."""
    if on_step is not None:
        on_step(action, path)


def write_file(path: Path, data: bytes, *, sync_folder: bool = True) -> None:
    """Create or replace `path` with `data` in one visible step.

    Args:
        path: final name; its folder must exist.
        data: whole content.
        sync_folder: also make the new name itself durable; a caller that writes many files may sync the folder once.

    Raises:
        OSError: the disk is full, the folder is read-only or gone; the old content of `path` is untouched.
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{path.name[-40:]}")
    step("open", temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        try:
            _write_all(descriptor, data, temporary)
            step("fsync", temporary)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        step("rename", path)
        temporary.replace(path)
    except OSError:
        # The temporary file only wastes space; failing to remove it must not hide the first error.
        with contextlib.suppress(OSError):
            remove_file(temporary)
        raise
    if sync_folder:
        fsync_folder(path.parent)


def _write_all(descriptor: int, data: bytes, path: Path) -> None:
    """Write in at least two pieces, so that a fault between them leaves a torn file in the tests as it would in life."""
    piece = min(_PIECE_BYTES, max(1, (len(data) + 1) // 2))
    view = memoryview(data)
    for start in range(0, len(data), piece):
        step("write", path)
        rest = view[start : start + piece]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable; a no-op where folders cannot be opened (Windows)."""
    step("fsync", folder)
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_file(path: Path) -> None:
    """Delete one file; a file that is already gone is fine."""
    step("unlink", path)
    path.unlink(missing_ok=True)


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_capped(path: Path, max_bytes: int) -> bytes:
    """Read a whole file that must not be larger than `max_bytes`.

    Raises:
        FormatError: the file is larger.
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise FormatError(
            f"{path}: larger than {max_bytes} bytes, more than a file of this kind can sensibly hold. "
            "Check that this is the right file."
        )
    return data


@contextlib.contextmanager
def explained(action: str, path: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn an OSError of the block into an InputError with the file, the reason and the remedy."""
    try:
        yield
    except OSError as error:
        raise InputError(f"Could not {action} {error.filename or path}: {_reason(error, needed_bytes)}") from error


def _reason(error: OSError, needed_bytes: int | None) -> str:
    text = (error.strerror or str(error)).rstrip(".").lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        amount = f"at least {needed_bytes} bytes" if needed_bytes else "some space"
        return f"{text}. Free {amount} on that disk and run the same command again; what was stored before is intact."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{text}. Make the folder writable or choose another one."
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{text}. The folder may have been moved or deleted while it was in use; check the path."
    return f"{text}. Check the disk, then run `ltgs verify` on the scene."
