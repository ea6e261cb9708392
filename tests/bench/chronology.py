"""Chronologies of rooms with full truth, beside five baselines: events, identities, poses, change masks, pictures and cost.

    python -m tests.bench.chronology --rooms DIR --json out.json [--preset cpu_full] [--given] [--only desk] [--work DIR]
        [--first DIR] [--baselines all|none|frozen,finetune,...] [--baseline-steps 500]

Every room is reconstructed from its photos alone (`--given`: with its true cameras) with one configuration, then measured by
`ltgs.eval`. Scenes already in the work folder are completed and measured, not made again; `--first` takes stored first visits
(DIR/room) and adds the later ones. The baselines (`ltgs.eval.baselines`) get the stored photos and poses.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from ltgs.core.scene import Scene
from ltgs.data.rooms import Room, read_room
from ltgs.eval.baselines import BASELINES, BaselineConfig, run_baseline, stored_visits
from ltgs.eval.room import RoomEvaluation, align_scene, evaluate_room, room_json, summary
from ltgs.eval.room_figures import baseline_figures, difference
from ltgs.eval.room_images import placed_in
from ltgs.io.scene_store import SceneStore
from tests.bench.first_visit import add_visits, copy_first_visit, reconstruct_first_visit
from tests.bench.machine import machine

Row = dict[str, Any]
GOALS: dict[str, tuple[str, float]] = {
    "events_precision": (">=", 0.95), "events_recall": (">=", 0.95), "identity_f1": (">=", 0.95),
    "objects_at_light_only_visits": ("<=", 0), "light_right_share": (">=", 1),
    "motions_measured": ("", 0), "motions_expected": ("", 0),
    "pose_rotation_deg_median": ("<=", 2), "pose_rotation_deg_p90": ("<=", 6),
    "pose_translation_percent_median": ("<=", 2), "pose_translation_percent_p90": ("<=", 6), "pose_covered_share": (">=", 0.85),
    "mask_iou": (">=", 0.75), "mask_f1": (">=", 0.85), "psnr_t0": ("", 0), "psnr_drop_mean": ("<=", 1.0),
    "psnr_colour_fit_drop_mean": ("<=", 1.0), "unchanged_psnr_mean": ("", 0), "changed_psnr_mean": ("", 0),
    "changed_psnr_colour_fit_mean": ("", 0), "changed_psnr_drop_mean": ("<=", 2.5),
    "changed_psnr_colour_fit_drop_mean": ("<=", 2.5), "forgetting": (">=", -0.1),
    "bytes_per_update": ("<=", 5e6), "bytes_per_motion": ("<=", 1e4), "seconds_per_update": ("<=", 120),
    "localisation_localised": ("", 0), "localisation_rotation_deg_median": ("<=", 0.05),
    "localisation_center_percent_median": ("<=", 0.1), "localisation_center_percent_p90": ("", 0),
    "localisation_covered_share": ("", 0),
    "gain_over_best_baseline": (">=", 2.0), "gain_over_best_baseline_colour_fit": (">=", 2.0),
}
"""Figure to its goal; without a sign it is shown only."""
BESIDE = (
    "changed_psnr_mean", "changed_psnr_colour_fit_mean", "psnr_drop_mean", "psnr_colour_fit_drop_mean", "unchanged_psnr_mean",
    "forgetting", "num_gaussians", "cpu_seconds_per_visit",
)
"""Figures of every baseline in the table."""


def make(room: Room, folder: Path, options: argparse.Namespace) -> SceneStore:
    """The stored scene of a room; what is missing of it is made."""
    cameras = room.root / "cameras.json" if options.given else None
    if not SceneStore.exists(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if options.first is not None:
            copy_first_visit(options.first / room.root.name, folder)
        else:
            reconstruct_first_visit(room, folder, folder.parent / f"{room.root.name}-work", options.preset, cameras)
    add_visits(folder, [room.root / "photos" / date for date in room.dates[1:]], cameras=cameras)
    return SceneStore.open(folder)


def measure_baselines(store: SceneStore, scene: Scene, room: Room, names: list[str], config: BaselineConfig) -> dict[str, Row]:
    """Name of every baseline to its figures."""
    visits = stored_visits(store, scene)
    place = placed_in(scene, align_scene(scene, room).inverse())
    out = {}
    for name in names:
        print(f"{room.root.name}: {name}", flush=True)
        out[name] = dict(baseline_figures(run_baseline(name, visits, config=config), room, place))
    return out


def with_gains(own: Row, beside: dict[str, Row]) -> Row:
    """The summary and how far changed regions lie above the best baseline, dB."""
    gains: Row = {}
    for metric, name in (("changed_psnr_mean", ""), ("changed_psnr_colour_fit_mean", "_colour_fit")):
        known = [row[metric] for row in beside.values() if row[metric] is not None]
        gains[f"gain_over_best_baseline{name}"] = difference(own[metric], max(known)) if known else None
    return own | gains


def table(rows: dict[str, Row], beside: dict[str, dict[str, Row]]) -> str:
    """Figures as rows, goals, rooms and their mean as columns; a mean that misses its goal is marked."""
    lines = ["| figure | goal | " + " | ".join([*rows, "mean"]) + " |", "|---" * (len(rows) + 3) + "|"]
    for name, (sign, goal) in GOALS.items():
        lines.append(_line(name.replace("_", " "), [row.get(name) for row in rows.values()], sign, goal))
    names = list(dict.fromkeys(n for room in beside.values() for n in room))
    for baseline in names:
        for figure in BESIDE:
            values = [beside[room].get(baseline, {}).get(figure) for room in rows]
            lines.append(_line(f"{baseline}: {figure.replace('_', ' ')}", values, "", 0))
    return "\n".join(lines)


def _line(name: str, values: list[float | None], sign: str, goal: float) -> str:
    known = [v for v in values if v is not None]
    mean = sum(known) / len(known) if known else None
    missed = mean is not None and sign != "" and not (mean >= goal if sign == ">=" else mean <= goal)
    shown = ["-" if v is None else f"{v:.4g}" for v in [*values, mean]]
    return f"| {name} | {f'{sign} {goal:g}' if sign else ''} | " + " | ".join(shown) + f"{' (missed)' if missed else ''} |"


def chosen_baselines(text: str) -> list[str]:
    """Names from `all`, `none` or a list.

    Raises:
        argparse.ArgumentTypeError: a name that does not exist.
    """
    names = list(BASELINES) if text == "all" else [] if text == "none" else text.split(",")
    wrong = [n for n in names if n not in BASELINES]
    if wrong:
        raise argparse.ArgumentTypeError(f"no baseline {wrong[0]!r}; all, none, or some of {','.join(BASELINES)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--preset", default="cpu_full")
    parser.add_argument("--given", action="store_true", help="take the true cameras")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--work", type=Path, help="folder of the scenes; default: a new temporary one")
    parser.add_argument("--first", type=Path, help="folder of stored first visits, one per room")
    parser.add_argument("--baselines", type=chosen_baselines, default="all", help="all, none or names with commas")
    parser.add_argument("--baseline-steps", type=int, default=BaselineConfig().steps, help="training steps per visit")
    options = parser.parse_args()
    work = options.work or Path(mkdtemp(prefix="ltgs-rooms-"))
    budget = BaselineConfig(steps=options.baseline_steps)
    rows: dict[str, Row] = {}
    details: dict[str, Any] = {}
    beside: dict[str, dict[str, Row]] = {}
    roots = sorted(p for p in options.rooms.iterdir() if (p / "truth").is_dir() and p.name in (options.only or [p.name]))
    for root in roots:
        room = read_room(root)
        store = make(room, work / root.name, options)
        scene = store.load()
        result: RoomEvaluation = evaluate_room(scene, room, store=store)
        beside[root.name] = measure_baselines(store, scene, room, options.baselines, budget)
        rows[root.name] = with_gains(summary(result), beside[root.name])
        details[root.name] = room_json(result)
        print(f"{root.name}: missed {list(result.tracks.missed)}, false {list(result.tracks.false)}", flush=True)
    print(table(rows, beside))
    if options.json:
        record = {
            "machine": machine(), "preset": options.preset, "given_cameras": options.given,
            "baseline_budget": {"steps_per_visit": budget.steps, "gaussians_of_the_first_visit_times": budget.room_to_grow},
            "rooms": rows, "baselines": beside, "details": details,
        }
        options.json.write_text(json.dumps(record, indent=1, allow_nan=False))


if __name__ == "__main__":
    main()
