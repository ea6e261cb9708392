"""Ctrl-C and SIGTERM: stop at once where nothing is lost, at the next safe point where a checkpoint can be written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """What the signal handlers and the training loop share."""

    def __init__(self) -> None:
        self.requested = False
        self._deferring = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside of this block the first signal only sets `requested`; a second one interrupts at once."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGINT and SIGTERM.

        Raises:
            KeyboardInterrupt: no safe point was asked for, or this is the second signal.
        """
        if self._deferring and not self.requested:
            self.requested = True
            return
        raise KeyboardInterrupt

    def raise_if_requested(self) -> None:
        """Called at a safe point, after the checkpoint was written."""
        if self.requested:
            raise KeyboardInterrupt


@contextmanager
def stop_signal() -> Iterator[StopSignal]:
    """Install the handlers for a block; off the main thread, where Python allows none, the block just runs."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
