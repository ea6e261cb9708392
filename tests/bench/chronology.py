"""Chronologies of rooms with full truth: events, identities, poses, change masks, pictures and cost, beside doing nothing.

    python -m tests.bench.chronology --rooms DIR --json out.json [--preset cpu_full] [--given] [--only desk] [--work DIR]

Every room is reconstructed from its photos alone (`--given`: with its true cameras) with one configuration, then measured by
`ltgs.eval.room`. Scenes already in the work folder are measured again, not made again. "frozen" shows the first visit's scene at
every later time: what a viewer without a chronology would show.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from ltgs.core.chronology import Chronology
from ltgs.core.scene import Scene
from ltgs.data.rooms import Room, read_room
from ltgs.eval.room import RoomEvaluation, evaluate_room, room_json, summary
from ltgs.eval.room_images import region_psnr
from ltgs.io.scene_store import SceneStore
from ltgs.pipeline.config import load_config
from ltgs.pipeline.run import Job, reconstruct

SHOWN = (
    "events_precision", "events_recall", "identity_f1", "pose_rotation_deg_median", "pose_translation_percent_median",
    "pose_covered_share", "mask_iou", "mask_f1", "psnr_t0", "psnr_drop_mean", "changed_psnr_mean", "frozen_changed_psnr_mean",
    "seconds_per_update",
)


def frozen(scene: Scene) -> Scene:
    """The scene as if nothing had been noticed since the first visit."""
    first = Chronology.initial(scene.chronology.background)
    still = replace(first, appearance=first.appearance * scene.chronology.num_times)
    return replace(scene, chronology=still)


def make(room: Room, folder: Path, preset: str, given: bool) -> Scene:
    """The stored scene of a room, reconstructed first if need be."""
    if not SceneStore.exists(folder):
        cameras = room.root / "cameras.json" if given else None
        reconstruct(Job(room.root / "photos", folder, load_config(preset), cameras))
    return SceneStore.open(folder).load()


def measure(scene: Scene, room: Room) -> tuple[RoomEvaluation, dict[str, Any]]:
    """The evaluation and its summary, with the changed region's PSNR of the frozen scene."""
    result = evaluate_room(scene, room)
    idle = evaluate_room(frozen(scene), room)
    values = [region_psnr(idle.views, "changed", t)["psnr"] for t in range(1, idle.num_times)]
    known = [v for v in values if v is not None]
    return result, summary(result) | {"frozen_changed_psnr_mean": sum(known) / len(known) if known else None}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Figures as rows, rooms and their mean as columns."""
    lines = ["| figure | " + " | ".join([*rows, "mean"]) + " |", "|---" * (len(rows) + 2) + "|"]
    for name in SHOWN:
        values = [row[name] for row in rows.values()]
        known = [v for v in values if v is not None]
        shown = ["-" if v is None else f"{v:.3g}" for v in [*values, sum(known) / len(known) if known else None]]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--preset", default="cpu_full")
    parser.add_argument("--given", action="store_true", help="take the true cameras")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--work", type=Path, help="folder of the scenes; default: a new temporary one")
    options = parser.parse_args()
    work = options.work or Path(mkdtemp(prefix="ltgs-rooms-"))
    rows, details = {}, {}
    for root in sorted(p for p in options.rooms.iterdir() if (p / "truth").is_dir()):
        if options.only and root.name not in options.only:
            continue
        room = read_room(root)
        result, rows[root.name] = measure(make(room, work / root.name, options.preset, options.given), room)
        details[root.name] = room_json(result)
        print(f"{root.name}: missed {list(result.tracks.missed)}, false {list(result.tracks.false)}", flush=True)
    print(table(rows))
    if options.json:
        machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        record = {"machine": machine, "preset": options.preset, "given_cameras": options.given, "rooms": rows, "details": details}
        options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
