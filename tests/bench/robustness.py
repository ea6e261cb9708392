"""How later visits come out when what should not matter is varied, on one stored first visit that is trained only once.

    python -m tests.bench.robustness --scene FIRST_VISIT --room ROOM --json out.json [--variations NAME,...] [--visits N]
        [--repeats 10] [--other PHOTOS] [--work DIR]

    reference         the room's later visits as they are
    again             the same in processes of their own with another hash seed: manifest and blobs must not differ by a bit
    smaller, larger   the stored first visit scaled by 0.1 and by 10
    halved            later photos at half their size
    single            one photo per later visit
    repeated          the last visit again and again after the others, each time slightly brighter or darker: nothing may be
                      reported, cost must stay flat
    nothing_changed   held-out photos of the first visit as a visit of its own
    light_only        the same photos in an evening light
    other_place       photos of another place: none may be placed
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from ltgs.data.rooms import Room, read_room
from ltgs.eval.room import evaluate_room, summary
from ltgs.eval.storage import visit_bytes
from ltgs.io.scene_store import SceneStore
from tests.bench.first_visit import Spent, add_visits, copy_first_visit
from tests.bench.machine import machine
from tests.bench.photo_variants import copied, halved, relit

Row = dict[str, Any]
REPOSITORY = Path(__file__).resolve().parents[2]
COMPARED = (
    "events_precision", "events_recall", "identity_f1", "pose_rotation_deg_median", "pose_translation_percent_median", "mask_iou",
    "psnr_drop_mean", "unchanged_psnr_mean", "changed_psnr_mean", "localisation_photos", "localisation_localised",
    "localisation_rotation_deg_median", "localisation_center_percent_median",
)


@dataclass
class Bench:
    """What all variations start from."""

    room: Room
    start: Path
    """A scene folder with the first visit only, written by this version."""
    work: Path
    folders: list[Path]
    """The later visits' photos."""
    repeats: int
    """Later visits of `repeated` altogether."""
    other: Path | None
    """Photos of another place."""

    def copy(self, name: str, scale: float = 1.0) -> Path:
        """A scene folder of its own for a variation."""
        if scale != 1:
            copy_first_visit(self.start, self.work / name, scale=scale)
        else:
            shutil.copytree(self.start, self.work / name)
        return self.work / name

    def photos(self, variation: str, make: Callable[[Path, Path], Path]) -> list[Path]:
        """Altered photos of every later visit."""
        return [make(folder, self.work / "photos" / variation / folder.name) for folder in self.folders]


def measured(bench: Bench, scene_path: Path, spent: list[Spent]) -> Row:
    """A scene with the room's visits against the truth, and what each visit cost."""
    store = SceneStore.open(scene_path)
    scene = store.load()
    result = evaluate_room(scene, bench.room, store=store)
    figures = summary(result)
    return {
        **{k: figures.get(k) for k in COMPARED}, **costs(store, spent),
        "missed": list(result.tracks.missed), "false": list(result.tracks.false),
        "uncertain": sum(e.uncertain for e in scene.chronology.events), "events": len(scene.chronology.events),
    }


def costs(store: SceneStore, spent: list[Spent]) -> Row:
    """Processor seconds and bytes of every later visit."""
    written = [v.written for v in visit_bytes(store, store.load()) if v.time > 0]
    return {"cpu_seconds": [round(s.cpu_seconds, 1) for s in spent], "bytes": written}


def reported(scene_path: Path, spent: list[Spent]) -> Row:
    """What a scene says about its last visit, for visits in which nothing happened."""
    store = SceneStore.open(scene_path)
    scene = store.load()
    last = scene.visits[-1]
    objects = {e.object_id for e in scene.chronology.events if e.time == last.timestep}
    return {
        "objects_reported": len(objects), "light_changed": scene.chronology.appearance[-1].changed, "photos": len(last.photos),
        "placed": sum(p.localised for p in last.photos), **costs(store, spent),
    }


def reference(bench: Bench) -> Row:
    scene = bench.copy("reference")
    return measured(bench, scene, add_visits(scene, bench.folders))


def again(bench: Bench) -> Row:
    """Needs the reference."""
    scene, spent = bench.copy("again"), []
    for folder in bench.folders:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "PYTHONHASHSEED": "20011", "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "ltgs", "update", scene, folder, "--quiet"]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(Spent(folder.name, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return {"identical": same_bytes(bench.work / "reference", scene), **costs(SceneStore.open(scene), spent)}


def same_bytes(a: Path, b: Path) -> bool:
    """Whether two scene folders have the same manifest and blobs, byte for byte."""
    names = [sorted(p.name for p in (folder / "blobs").iterdir()) for folder in (a, b)]
    if names[0] != names[1] or (a / "manifest.json").read_bytes() != (b / "manifest.json").read_bytes():
        return False
    return all((a / "blobs" / n).read_bytes() == (b / "blobs" / n).read_bytes() for n in names[0])


def scaled_by(factor: float, name: str) -> Callable[[Bench], Row]:
    def run(bench: Bench) -> Row:
        scene = bench.copy(name, factor)
        return measured(bench, scene, add_visits(scene, bench.folders))

    return run


def half_size(bench: Bench) -> Row:
    scene = bench.copy("halved")
    return measured(bench, scene, add_visits(scene, bench.photos("halved", halved)))


def single_photo(bench: Bench) -> Row:
    scene = bench.copy("single")
    return measured(bench, scene, add_visits(scene, bench.photos("single", lambda a, b: copied(a, b, first=1))))


def repeated(bench: Bench) -> Row:
    """Needs the reference; goes on from it."""
    shutil.copytree(bench.work / "reference", bench.work / "repeated")
    last = bench.folders[-1]
    day = date.fromisoformat(last.name)
    dates = [day + timedelta(days=k + 1) for k in range(max(2, bench.repeats - len(bench.folders)))]
    # Exposures of their own keep the store from recognising the same photos, which would make these visits cost nothing on disk.
    exposures = [2 ** (0.03 * (k % 5 - 2)) for k in range(len(dates))]
    folders = [
        relit(last, bench.work / "photos" / "repeated" / d.isoformat(), (e, e, e)) for d, e in zip(dates, exposures, strict=True)
    ]
    spent = add_visits(bench.work / "repeated", folders)
    store = SceneStore.open(bench.work / "repeated")
    scene = store.load()
    written = [v.written or 0 for v in visit_bytes(store, scene)][-len(folders):]
    later = [e for e in scene.chronology.events if e.time > len(bench.folders)]
    return {
        "objects_reported": len({(e.time, e.object_id) for e in later}), "visits": len(scene.visits) - 1,
        "cpu_seconds": [round(s.cpu_seconds, 1) for s in spent], "bytes": written,
        "last_over_first_seconds": spent[-1].cpu_seconds / spent[0].cpu_seconds, "last_over_first_bytes": written[-1] / written[0],
    }


def first_again(name: str, change: Callable[[Path, Path], Path]) -> Callable[[Bench], Row]:
    """Held-out photos of the first visit, perhaps changed in colour, as the only later visit."""
    def run(bench: Bench) -> Row:
        day = date.fromisoformat(bench.room.dates[0]) + timedelta(days=1)
        source = bench.room.root / "test" / bench.room.dates[0]
        scene = bench.copy(name)
        return reported(scene, add_visits(scene, [change(source, bench.work / "photos" / name / day.isoformat())]))

    return run


def other_place(bench: Bench) -> Row:
    if bench.other is None:
        return {"skipped": "no --other folder and no second room beside this one"}
    scene = bench.copy("other_place")
    day = date.fromisoformat(bench.room.dates[0]) + timedelta(days=1)
    return reported(scene, add_visits(scene, [copied(bench.other, bench.work / "photos" / "other_place" / day.isoformat())]))


VARIATIONS: dict[str, Callable[[Bench], Row]] = {
    "reference": reference, "again": again, "smaller": scaled_by(0.1, "smaller"), "larger": scaled_by(10.0, "larger"),
    "halved": half_size, "single": single_photo, "repeated": repeated, "nothing_changed": first_again("nothing_changed", copied),
    "light_only": first_again("light_only", relit), "other_place": other_place,
}


def verdicts(rows: dict[str, Row]) -> list[tuple[str, str, bool]]:
    """Claim, what was found, and whether the claim holds; for the variations that ran."""
    out: list[tuple[str, str, bool]] = []
    ref = rows.get("reference", {})
    if "again" in rows:
        out.append(("same seed: manifest and blobs bit-identical", str(rows["again"]["identical"]), rows["again"]["identical"]))
    for name in ("smaller", "larger", "halved"):
        if name in rows:
            same = all(rows[name][k] == ref[k] for k in ("events_precision", "events_recall", "missed"))
            out.append((f"{name}: events as in the reference", f"missed {rows[name]['missed']}, false {rows[name]['false']}", same))
    for name in ("smaller", "larger"):
        for figure in ("psnr_drop_mean", "changed_psnr_mean", "unchanged_psnr_mean"):
            if name in rows and None not in (rows[name][figure], ref[figure]):
                gap = rows[name][figure] - ref[figure]
                out.append((f"{name}: {figure.replace('_', ' ')} within 0.1 dB", f"{gap:+.3f} dB", abs(gap) <= 0.1))
    if "halved" in rows:
        figure = "localisation_center_percent_median"
        ratio = rows["halved"][figure] / ref[figure]
        out.append(("halved: camera position error within 1.5 times", f"{ratio:.2f} times", ratio <= 1.5))
    if "single" in rows:
        recall = rows["single"]["events_recall"]
        out.append(("single: recall >= 0.8", f"{recall:.2f}, {rows['single']['uncertain']} of {rows['single']['events']} marked uncertain",
                    recall >= 0.8))
    if "repeated" in rows:
        row = rows["repeated"]
        for what in ("seconds", "bytes"):
            value = row[f"last_over_first_{what}"]
            claim = f"repeated: {what} of visit {row['visits']} within 20 % of the first repetition"
            out.append((claim, f"{value:.2f} times", value <= 1.2))
    for name in ("repeated", "nothing_changed", "light_only", "other_place"):
        if "objects_reported" in rows.get(name, {}):
            found = rows[name]["objects_reported"]
            out.append((f"{name}: no object reported", str(found), found == 0))
    if "placed" in rows.get("other_place", {}):
        out.append(("other_place: no photo placed", str(rows["other_place"]["placed"]), rows["other_place"]["placed"] == 0))
    return out


def table(rows: dict[str, Row]) -> str:
    """One row per variation, then the verdicts."""
    lines = ["| variation | precision | recall | identity | placed | CPU s per visit | kB per visit |", "|---" * 7 + "|"]
    for name, row in rows.items():
        figures = [row.get(k) for k in ("events_precision", "events_recall", "identity_f1")]
        shown = ["-" if v is None else f"{v:.2f}" for v in figures]
        placed = row.get("placed", row.get("localisation_localised"))
        of = row.get("photos", row.get("localisation_photos"))
        seconds = " ".join(f"{s:.0f}" for s in row.get("cpu_seconds", []))
        size = " ".join("-" if b is None else f"{b / 1e3:.0f}" for b in row.get("bytes", []))
        lines.append(f"| {name} | {' | '.join(shown)} | {'-' if placed is None else f'{placed:.0f}/{of:.0f}'} | {seconds} | {size} |")
    lines += ["", "| claim | found | holds |", "|---" * 3 + "|"]
    return "\n".join([*lines, *(f"| {claim} | {found} | {'yes' if ok else 'NO'} |" for claim, found, ok in verdicts(rows))])


def another_place(room: Path) -> Path | None:
    """A visit of a room that lies beside this one."""
    for folder in sorted(p for p in room.parent.iterdir() if p.name != room.name and (p / "truth").is_dir() and (p / "photos").is_dir()):
        visits = sorted(p for p in (folder / "photos").iterdir() if p.is_dir())
        if len(visits) > 1:
            return visits[1]
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scene", type=Path, required=True, help="scene of the room; only its first visit is used")
    parser.add_argument("--room", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--variations", default=",".join(VARIATIONS))
    parser.add_argument("--visits", type=int, help="use only the first N later visits")
    parser.add_argument("--repeats", type=int, default=10, help="later visits of `repeated`, those of the room included")
    parser.add_argument("--other", type=Path, help="photos of another place; default: a room beside this one")
    parser.add_argument("--work", type=Path, help="empty folder of the scenes; default: a new temporary one")
    options = parser.parse_args()
    names = options.variations.split(",")
    if wrong := [n for n in names if n not in VARIATIONS]:
        parser.error(f"no variation {wrong[0]!r}; there are {', '.join(VARIATIONS)}")
    names = [n for n in VARIATIONS if n in {"reference", *names}]
    work = options.work or Path(mkdtemp(prefix="ltgs-robustness-"))
    work.mkdir(parents=True, exist_ok=True)
    room = read_room(options.room)
    copy_first_visit(options.scene, work / "start")
    folders = [room.root / "photos" / d for d in room.dates[1:][: options.visits]]
    bench = Bench(room, work / "start", work, folders, options.repeats, options.other or another_place(room.root))
    rows: dict[str, Row] = {}
    for name in names:
        rows[name] = VARIATIONS[name](bench)
        print(f"{name}: {json.dumps(rows[name])}", flush=True)
        if options.json:
            record = {"machine": machine(), "scene": str(options.scene), "room": room.name, "rows": rows, "verdicts": verdicts(rows)}
            options.json.write_text(json.dumps(record, indent=1, allow_nan=False))
    print(table(rows))


if __name__ == "__main__":
    main()
