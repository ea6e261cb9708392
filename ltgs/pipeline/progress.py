"""Sinks for progress events: a bar on a terminal, plain lines in a log, JSON lines for programs, nothing if quiet."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from ltgs.core.progress import Progress, ProgressEvent, silent

LINE_EVERY_SECONDS = 10.0
"""Plain mode: at most one line per stage in this time, besides messages and the end of the stage."""


@contextmanager
def progress_sink(stream: TextIO, *, quiet: bool = False, as_json: bool = False) -> Iterator[Progress]:
    """The sink that fits the stream: JSON lines if asked for, a bar on a terminal, plain lines otherwise.

    NO_COLOR is honoured; TERM=dumb counts as no terminal. Warnings pass even if `quiet`.
    """
    if as_json:
        yield JsonSink(stream)
    elif quiet:
        yield WarningSink(stream)
    elif stream.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(stream) as sink:
            yield sink
    else:
        yield LineSink(stream)


def tee(*sinks: Progress) -> Progress:
    """One sink that feeds several."""
    used = [s for s in sinks if s is not silent]

    def send(event: ProgressEvent) -> None:
        for sink in used:
            sink(event)

    return send


class JsonSink:
    """One JSON object per event and line."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __call__(self, event: ProgressEvent) -> None:
        body = {"event": "progress", "stage": event.stage, "level": event.level}
        if event.total is not None:
            body |= {"done": event.done, "total": event.total}  # type: ignore[dict-item]
        if event.message:
            body["message"] = event.message
        if event.figures:
            # JSON has no NaN; a figure that is not a number yet is left out.
            body["figures"] = {k: v for k, v in event.figures.items() if v == v}  # type: ignore[assignment]
        self.stream.write(json.dumps(body, ensure_ascii=False) + "\n")
        self.stream.flush()


class WarningSink:
    """Only what the user must know."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __call__(self, event: ProgressEvent) -> None:
        if event.level == "warning":
            self.stream.write(f"warning: {event.message}\n")
            self.stream.flush()


class LineSink:
    """Plain lines, rarely: for log files and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.last: dict[str, float] = {}

    def __call__(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        finished = event.total is not None and event.done >= event.total
        due = now - self.last.get(event.stage, -1e9) >= LINE_EVERY_SECONDS
        # A message beside a count names the item at work; one of its own is worth a line.
        if not (due or finished or (event.message and event.total is None) or event.level == "warning"):
            return
        self.last[event.stage] = now
        self.stream.write(event_line(event) + "\n")
        self.stream.flush()


def event_line(event: ProgressEvent) -> str:
    """One event as a line of text."""
    parts = ["warning:" if event.level == "warning" else f"{event.stage}:"]
    if event.total:
        parts.append(f"{event.done:g}/{event.total:g}")
    if event.message:
        parts.append(event.message)
    if event.figures:
        parts.append(figures_text(event))
    return " ".join(parts)


def figures_text(event: ProgressEvent) -> str:
    """The figures of an event, short."""
    return ", ".join(f"{k.replace('_', ' ')} {v:,.4g}" for k, v in event.figures.items())


@contextmanager
def _bar(stream: TextIO) -> Iterator[Progress]:
    """A rich progress display with one row per running stage; messages scroll above it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(file=stream)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        rows: dict[str, int] = {}

        def show(event: ProgressEvent) -> None:
            if event.message and (event.total is None or event.level == "warning"):
                style = "[yellow]warning:[/yellow] " if event.level == "warning" else f"[bold]{event.stage}[/bold]: "
                console.print(style + escape(event.message), highlight=False)
            if event.total is None:
                return
            if event.stage not in rows:
                rows[event.stage] = bar.add_task(event.stage, total=event.total, note="")
            bar.update(
                rows[event.stage], completed=event.done, total=event.total,  # type: ignore[arg-type]
                note=escape(figures_text(event) or event.message),
            )
            if event.done >= event.total:
                bar.remove_task(rows.pop(event.stage))  # type: ignore[arg-type]

        yield show
