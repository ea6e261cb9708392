"""New objects of rendered rooms, started from stereo points and from their hull alone: held-out views of the visit they came with.

    python -m tests.bench.new_objects --rooms DIR --scenes DIR [--only desk] [--last 2] [--json out.json]

`--scenes` holds one stored scene per room with its first visit, or more (`ltgs reconstruct ROOM/photos/<first visit> -o SCENES/ROOM`).
The visits that follow are run as `ltgs update` does. Where one brings new objects, what was decided is built and refined a second
time without stereo, so that both are compared from the same state; completion and the light field follow later and are left out. PSNR is
pooled over the pixels of all held-out views of the visit, in the visit's light. For what becomes of it over all visits compare
`ltgs reconstruct ROOM/photos -o S [--set update.stereo_seeds=false]` by `ltgs eval S --room ROOM`. The scenes are not altered.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ltgs.change.light import visit_light
from ltgs.core.progress import silent
from ltgs.core.scene import Scene, VisitRecord
from ltgs.data.rooms import Room, read_room
from ltgs.eval.room import align_scene
from ltgs.eval.room_images import heldout_views, placed_in, region_psnr
from ltgs.io.scene_store import SceneStore
from ltgs.pipeline import stages
from ltgs.pipeline.config import RunConfig, load_config
from ltgs.pipeline.update import _Update, update_visit
from ltgs.pipeline.update_assemble import Decisions, assemble
from ltgs.pipeline.update_captures import VisitCaptures
from ltgs.pipeline.update_decide import Decider
from ltgs.pipeline.update_seeds import StereoSeeds
from ltgs.poses.map import LocalizationMap


@dataclass(frozen=True)
class Row:
    """One room, visit and way."""

    room: str
    time: int
    way: str
    """What the record of the visit says about the templates."""
    objects: int
    """New objects."""
    changed: float | None
    """PSNR where the visit differs from the first one, dB."""
    frame: float
    """Mean PSNR of the whole views, dB."""
    cpu_s: float
    """Building and refining, processor seconds."""


def build(captures: VisitCaptures, decisions: Decisions, room: Room, stereo: bool) -> Row:
    """Build and refine what was decided, and compare it with the room's held-out views."""
    start = time.process_time()
    config, old = captures.config, captures.old
    captures = copy.copy(captures)
    captures.rng = np.random.default_rng(captures.seed + 7919 * captures.time)
    measure = StereoSeeds(decisions.views, grow_px=config.hull.grow_px, use=stereo, config=config.seeds)
    light = visit_light(captures.fits, old.appearance[-1], config=config.light)
    chronology, items = assemble(old, replace(decisions, record=None), light, build=config.build, rng=captures.rng, measure=measure)
    chronology = _Update(captures)._refine(chronology, items, decisions.views)
    spent = time.process_time() - start
    shown = replace(room, tests=tuple(p for p in room.tests if p.time == captures.time))
    views = heldout_views(chronology, shown, placed_in(captures.scene, align_scene(captures.scene, room).inverse()))
    frame = float(np.mean([v.metrics["psnr"] for v in views]))
    changed = region_psnr(views, "changed", captures.time)["psnr"]
    return Row(room.name, captures.time, measure.method()["templates"], len(decisions.new), changed, frame, spent)


def run_visit(store: SceneStore, scene: Scene, room: Room, config: RunConfig, *, last: bool) -> tuple[Scene, list[Row]]:
    """The scene one visit longer unless it is the last one, and a row per way if the visit brings new objects."""
    at = scene.chronology.num_times
    visit = stages.scan_visit(room.captures()[at], silent)
    base = LocalizationMap.from_tensors(scene.side_data["localization_map"])
    poses = stages.pose_later_visit(visit, None, base, config, silent)
    records, images = stages.make_records(store, at, visit, poses, config, silent)
    photos, replay = stages.training_photos(records, images), stages.stored_photos(store, scene.photos(time=0))
    captures = VisitCaptures(scene, photos, replay, config.update, "auto", 0, silent)
    decisions = Decider(captures).decide(captures.before())
    rows = [build(captures, decisions, room, stereo) for stereo in (True, False)] if decisions.new else []
    if last:
        return scene, rows
    update = update_visit(scene, photos, replay, config=config.update)
    visits = (*scene.visits, VisitRecord(at, visit.capture.name, None, tuple(records), decisions=update.decisions))
    return replace(scene, chronology=update.chronology, visits=visits), rows


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| room, visit | new objects from | changed regions, dB | full frame, dB | CPU s |", "|---|---|---|---|---|"]
    for r in rows:
        changed = "-" if r.changed is None else f"{r.changed:.2f}"
        lines.append(f"| {r.room}, {r.time}: {r.objects} new | {r.way} | {changed} | {r.frame:.2f} | {r.cpu_s:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", type=Path, required=True)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--last", type=int, help="last visit to run")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config, rows = load_config("cpu_full"), []
    for root in sorted(p for p in options.rooms.iterdir() if (p / "truth").is_dir()):
        if options.only and root.name not in options.only:
            continue
        room = read_room(root)
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(options.scenes / root.name, Path(folder) / "scene")
            store = SceneStore.open(Path(folder) / "scene")
            scene = store.load()
            end = min(room.num_times - 1, options.last or room.num_times)
            for at in range(scene.chronology.num_times, end + 1):
                scene, found = run_visit(store, scene, room, config, last=at == end)
                rows += found
    print(table(rows))
    if options.json:
        plain: list[dict[str, Any]] = [vars(r) for r in rows]
        options.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
