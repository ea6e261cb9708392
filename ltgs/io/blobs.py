"""The immutable, content-addressed files of a scene: a name is the content's SHA-256, so equal content is stored once."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from ltgs.errors import FormatError, InputError
from ltgs.io.atomic import TEMPORARY, explained, fsync_folder, remove_file, sha256_bytes, sha256_file, write_file
from ltgs.io.lock import process_is_alive
from ltgs.io.manifest import BLOB_NAME

logger = logging.getLogger("ltgs.io.blobs")


class BlobFolder:
    """Reads and writes `blobs/` of one scene."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.folder = root / "blobs"
        self.written: set[str] = set()
        """Blobs put by this process; they are never collected by it before a commit names them."""

    def path_of(self, name: str) -> Path:
        """The file of a blob, proven to lie inside the scene folder.

        Raises:
            FormatError: not a blob name, or a symbolic link leads out of the scene.
        """
        if not BLOB_NAME.fullmatch(name):
            raise FormatError(f"{self._root}: {name[:100]!r} is not a valid blob name.")
        path = self.folder / name
        if not path.resolve().is_relative_to(self._root.resolve()):
            raise FormatError(f"{path}: leads out of the scene folder through a link. Replace the link by the file.")
        return path

    def put(self, data: bytes, suffix: str) -> tuple[str, bool]:
        """Store content and return its name and whether a file had to be written.

        An existing file of that name is compared with its name first, so that a damaged one is healed.

        Raises:
            InputError: the disk is full or not writable.
        """
        name = f"{sha256_bytes(data)}.{suffix}"
        path = self.path_of(name)
        with explained("write", path, len(data)):
            known = path.exists() and path.stat().st_size == len(data) and sha256_file(path) == name.partition(".")[0]
            if not known:
                write_file(path, data, sync_folder=False)
        self.written.add(name)
        return name, not known

    def read(self, name: str, expected_bytes: int | None = None) -> bytes:
        """Content of a blob, its hash proven.

        Raises:
            FileNotFoundError: there is no such blob.
            FormatError: the content is not what the name says.
        """
        path = self.path_of(name)
        try:
            size = path.stat().st_size
            data = path.read_bytes() if expected_bytes is None or size == expected_bytes else b""
        except FileNotFoundError:
            raise
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}). Check the disk and the permissions.") from error
        if sha256_bytes(data) != name.partition(".")[0]:
            raise FormatError(
                f"{path}: damaged (its SHA-256 does not match its name). Run `ltgs verify` on the scene; "
                "`ltgs verify --restore-previous` goes back to the generation before if that one is whole."
            )
        return data

    def size(self, name: str) -> int | None:
        """Bytes of a stored blob, None if there is none."""
        try:
            return self.path_of(name).stat().st_size
        except FileNotFoundError:
            return None

    def sync(self) -> None:
        """Make all names written so far durable."""
        fsync_folder(self.folder)

    def names(self) -> set[str]:
        """All well-formed blob names on disk."""
        return {entry.name for entry in os.scandir(self.folder) if BLOB_NAME.fullmatch(entry.name)}

    def remove(self, names: set[str]) -> int:
        """Delete blobs; returns how many are gone. Failures are logged, for wasted space is no reason to fail."""
        count = 0
        for name in sorted(names):
            try:
                remove_file(self.path_of(name))
                count += 1
            except (OSError, FormatError) as error:
                logger.warning("%s could not be deleted: %s", self.folder / name, error)
            self.written.discard(name)
        return count


def remove_dead_temporaries(folders: list[Path]) -> int:
    """Delete half-written files of processes that no longer run; returns how many were deleted."""
    count = 0
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            for entry in sorted(os.scandir(folder), key=lambda e: e.name):
                match = TEMPORARY.match(entry.name)
                if match and int(match.group(1)) != os.getpid() and not process_is_alive(int(match.group(1))):
                    remove_file(Path(entry.path))
                    count += 1
    return count
