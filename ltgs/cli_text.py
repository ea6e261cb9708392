"""What the command line prints: tables, the summary of a run, a scene in words. The only module besides cli that prints."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltgs.core.progress import Progress
from ltgs.errors import LtgsError
from ltgs.io.atomic import explained, write_file

if TYPE_CHECKING:
    # Both load torch, which takes seconds that `ltgs --help` should not wait for.
    from ltgs.core.scene import Scene
    from ltgs.pipeline.run import RunOutcome

WIDTH_WITHOUT_TERMINAL = 140
MAX_LISTED = 20
"""Photos that were not placed and are listed one by one; the rest is counted (`info --json` has all)."""


def print_table(title: str, rows: Sequence[dict[str, str]]) -> None:
    """Rows with equal keys as an aligned table on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for key in rows[0] if rows else ():
        numeric = all(r[key][:1].isdigit() or r[key] in ("-", "") for r in rows)
        table.add_column(key, justify="right" if numeric else "left")
    for row in rows:
        # Cells are file and folder names of unknown origin; as Text they cannot act as markup.
        from rich.text import Text

        table.add_row(*(Text(value) for value in row.values()))
    console.print(table)


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a file, or to standard output for "-".

    Raises:
        InputError: the file cannot be written.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    if str(path) == "-":
        print(text)
        return
    with explained("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text.encode())


def run_and_report(
    scene_path: Path, work: Callable[[Progress], RunOutcome], *, quiet: bool, as_json: bool, again: str
) -> int:
    """Run with a progress display, then say what came out; an interruption says how to go on.

    Raises:
        KeyboardInterrupt: passed on after the line that says how to continue.
    """
    from ltgs.io.scene_store import SceneStore
    from ltgs.pipeline.info import scene_info
    from ltgs.pipeline.progress import progress_sink

    try:
        with progress_sink(sys.stdout if as_json else sys.stderr, quiet=quiet, as_json=as_json) as sink:
            outcome = work(sink)
    except KeyboardInterrupt:
        print(f"\nStopped. What was finished is stored. Continue with: {again}", file=sys.stderr)
        raise
    if as_json:
        store = SceneStore.open(scene_path)
        body = scene_info(store, outcome.scene)
        summary = {
            "event": "done", "scene": str(scene_path), "committed": list(outcome.committed), "seconds": outcome.seconds,
            "peak_memory_mb": outcome.peak_memory_mb, "rasteriser": outcome.backend_reason, "order": outcome.order_rule,
            "events": body["events"], "objects": len(body["objects"]), "num_gaussians": body["num_gaussians"],
        }
        print(json.dumps(summary, ensure_ascii=False))
        return 0
    print_summary(scene_path, outcome)
    return 0


def print_summary(scene_path: Path, outcome: RunOutcome) -> None:
    """The closing words of a run."""
    scene = outcome.scene
    print_visits(scene)
    chronology = scene.chronology
    objects = sum(t.kind == "object" for t in chronology.templates.values())
    print(f"\nGaussians: {len(chronology.background)} in the first visit, {objects} objects with templates")
    if outcome.order_rule:
        print(f"Order of visits: {outcome.order_rule}")
    print(f"Rasteriser: {outcome.backend_reason}")
    if outcome.seconds:
        parts = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in outcome.seconds.items())
        print(f"Seconds: {parts}; total {sum(outcome.seconds.values()):.0f}")
    print(f"Peak memory: {outcome.peak_memory_mb:.0f} MiB")
    print(f"\nScene: {scene_path}\nLook at it with: ltgs view {scene_path}")


def print_visits(scene: Scene) -> None:
    """Table of visits, photos that were not placed, events, methods."""
    from ltgs.pipeline.info import event_lines, summary_rows

    print_table("Visits", summary_rows(scene))
    left_out = [p for v in scene.visits for p in v.photos if not p.localised]
    if left_out:
        print(f"\nPhotos not placed ({len(left_out)}):")
        for photo in left_out[:MAX_LISTED]:
            print(f"  {photo.name}: {photo.reason}")
        if len(left_out) > MAX_LISTED:
            print(f"  ... and {len(left_out) - MAX_LISTED} more (ltgs info --json lists all)")
    if len(scene.visits) > 1:
        print("\nEvents:")
        for line in event_lines(scene):
            print(f"  {line}")
    every = int(scene.config.get("run", {}).get("holdout_every", 0) or 0)
    if every:
        listed = f"photos 0, {every}, {2 * every}, ..."
        print(f"\nHeld out: {listed} of each visit with at least {every} photos, in natural order of their names")
    print("\nMethods:")
    said: set[tuple[str, str]] = set()
    for visit in scene.visits:
        for stage, method in visit.method.items():
            if (stage, method) not in said:
                print(f"  time {visit.timestep}, {stage}: {method}")
            said.add((stage, method))


def print_scene(scene: Scene, info: dict[str, Any]) -> None:
    """`ltgs info` for people."""
    print_visits(scene)
    if info["objects"]:
        rows = [
            {
                "object": str(o["id"]) + (f" {o['name']}" if o["name"] else ""), "kind": o["kind"], "Gaussians": str(o["num_gaussians"]),
                "presence": " ".join(entry["presence"] for entry in o["track"]),
            }
            for o in info["objects"]
        ]
        print()
        print_table("Objects", rows)
    if info["edits"]:
        print("\nEdits:")
        for edit in info["edits"]:
            print(f"  {edit['made_at'][:16].replace('T', ' ')} {edit['words']}")
    storage = ", ".join(f"{t}: {size / 2**20:.1f}" for t, size in info["storage"].items())
    print(f"\nGaussians: {info['num_gaussians']}\nStorage (MiB per time): {storage}")
    print("Seconds: " + ", ".join(f"{k} {v:.0f}" for k, v in info["timing"].items()))
    if info["peak_memory_mb"]:
        print(f"Peak memory: {info['peak_memory_mb']:.0f} MiB")


def read_text(path: Path) -> str:
    """A text file of this package.

    Raises:
        InputError: it cannot be read.
    """
    with explained("read", path):
        return path.read_text(encoding="utf-8")


def sanitise_stream_errors() -> None:
    """Point standard output at nothing after its reader went away, so that Python's exit does not fail on flushing."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())


def internal_error(error: Exception, *, debug: bool) -> int:
    """One line for the user, the traceback in a file that only the user can read; returns the exit code."""
    if debug:
        traceback.print_exception(error)
    descriptor, path = tempfile.mkstemp(prefix="ltgs-error-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        traceback.print_exception(error, file=stream)
    reason = str(error).splitlines()[0][:200] if str(error) else "no message"
    print(f"internal error: {type(error).__name__}: {reason} (details: {path}; --debug shows them here)", file=sys.stderr)
    return LtgsError.exit_code
