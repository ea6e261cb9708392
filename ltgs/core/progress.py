"""Typed progress events, so that the command line, a log file and a viewer can share one stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ProgressEvent:
    """One report of a long-running stage."""

    stage: str
    """Stable stage name, e.g. "poses", "train", "change"."""
    done: float = 0.0
    """Units finished; meaningful with `total`."""
    total: float | None = None
    message: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    level: str = "info"
    """"info" or "warning"."""


Progress = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """A progress sink that ignores everything."""
