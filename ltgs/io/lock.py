"""One writer per scene folder: a lock file that names its holder and dies with it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ltgs.errors import InputError
from ltgs.io.atomic import explained, step

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no fcntl; the recorded process id then is the only guard.
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("ltgs.io.lock")
_MAX_BYTES = 4096


@dataclass(frozen=True)
class LockHolder:
    """Who holds a lock, as written into the lock file."""

    pid: int
    host: str
    boot_id: str
    """Changes at every start of the machine, so that a process id from before a power cut is known to be dead."""
    process_start: str
    """Start of the process in clock ticks since boot, so that a reused process id is not mistaken for the holder."""
    since: float
    """Unix time at which the lock was taken, seconds."""


class SceneLock:
    """Exclusive, re-entrant lock on a file.

    The kernel's flock decides: it is released when the holder dies for whatever reason, so a stale lock needs no clean-up.
    The recorded process is a second guard for file systems on which flock does nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._depth = 0
        # Two threads of one process may share a store; the second one waits.
        self._threads = threading.RLock()

    @property
    def held(self) -> bool:
        """Whether this object holds the lock now."""
        return self._depth > 0

    def acquire(self) -> None:
        """Take the lock, or count one level deeper if this object already holds it.

        Raises:
            InputError: a live process holds it, or the lock file cannot be written.
        """
        # A thread that may not wait for ever: the other thread's work on a scene can take hours, but it is our own process.
        self._threads.acquire()
        try:
            if self._depth == 0:
                self._descriptor = self._open_and_lock()
            self._depth += 1
        except BaseException:
            self._threads.release()
            raise

    def release(self) -> None:
        """Give one level back; the last one frees the lock."""
        self._depth -= 1
        try:
            if self._depth == 0 and self._descriptor is not None:
                descriptor, self._descriptor = self._descriptor, None
                try:
                    # An empty file says that the holder left in good order; it stays, since deleting a lock file is a race.
                    with contextlib.suppress(OSError):
                        os.ftruncate(descriptor, 0)
                finally:
                    os.close(descriptor)
        finally:
            self._threads.release()

    def _open_and_lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        with explained("lock the scene with", self._path):
            step("open", self._path)
            descriptor = os.open(self._path, flags, 0o644)
            try:
                holder = read_holder(os.pread(descriptor, _MAX_BYTES, 0))
                if not _try_flock(descriptor) or (holder is not None and _is_other_live_process(holder)):
                    raise InputError(self._refusal(holder))
                if holder is not None and holder.pid != os.getpid():
                    logger.warning("%s: took over the lock of process %d, which is gone.", self._path, holder.pid)
                step("write", self._path)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(asdict(describe_self())).encode(), 0)
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor

    def _refusal(self, holder: LockHolder | None) -> str:
        who = "another process"
        if holder is not None:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
            who = f"process {holder.pid} on {holder.host} (since {since})"
        return f"{self._path.parent}: the scene is being changed by {who}. Wait until it ends, or stop it, then run again."


def describe_self() -> LockHolder:
    """The record of the running process."""
    pid = os.getpid()
    return LockHolder(pid, socket.gethostname(), _boot_id(), _process_start(pid) or "", round(time.time(), 3))


def read_holder(content: bytes) -> LockHolder | None:
    """Parse a lock file; None if it is empty or was torn by a kill, which both mean that nobody is known to hold it."""
    try:
        record: Any = json.loads(content)
        host, boot_id, start = (str(record[key]) for key in ("host", "boot_id", "process_start"))
        return LockHolder(int(record["pid"]), host, boot_id, start, float(record["since"]))
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def process_is_alive(pid: int) -> bool:
    """Whether a process of this id exists on this machine."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError, OSError):
        return False
    return True


def _try_flock(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network file systems offer no flock at all; the recorded process id still guards against local writers.
        logger.warning("This file system does not support locks (%s); do not change the scene from two machines.", error)
    return True


def _is_other_live_process(holder: LockHolder) -> bool:
    """Judge a record found although flock succeeded: it is stale unless that very process still runs on this machine."""
    if holder.pid == os.getpid() or holder.host != socket.gethostname() or holder.boot_id != _boot_id():
        return False
    if not process_is_alive(holder.pid):
        return False
    start = _process_start(holder.pid)
    return start is None or not holder.process_start or start == holder.process_start


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """Field 22 of /proc/<pid>/stat, counted after the command name in brackets, which may itself hold blanks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
