"""Everything that a room with full truth can tell about a scene: events, identities, poses, change masks, pictures, cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltgs.core.progress import Progress, silent
from ltgs.core.scene import Scene
from ltgs.data.rooms import Room
from ltgs.errors import InputError
from ltgs.eval.report import mean_metrics
from ltgs.eval.room_images import MaskScore, RoomView, change_masks, heldout_views, region_psnr
from ltgs.eval.room_tracks import TrackReport, track_report
from ltgs.poses.align import align_cameras, pose_errors
from ltgs.poses.gauge import Similarity


@dataclass(frozen=True)
class RoomEvaluation:
    """A scene of a room against its truth."""

    room: str
    num_times: int
    tracks: TrackReport
    views: tuple[RoomView, ...]
    masks: tuple[MaskScore, ...]
    localisation: dict[str, float]
    """Photos of later visits: number, localised, and their pose errors after aligning the first visit."""
    seconds: tuple[float, ...]
    """Wall-clock seconds of each visit."""


def evaluate_room(
    scene: Scene, room: Room, *, backend: str = "auto", progress: Progress = silent
) -> RoomEvaluation:
    """Measure a scene reconstructed from the photos of a room, in any frame of reference.

    Raises:
        InputError: the scene's photos are not those of the room.
    """
    room_from_scene = _align(scene, room)
    scene_from_room = room_from_scene.inverse()
    chronology = scene.chronology
    return RoomEvaluation(
        room.name, min(chronology.num_times, room.num_times),
        track_report(chronology, room, room_from_scene),
        tuple(heldout_views(chronology, room, scene_from_room, backend=backend, progress=progress)),
        tuple(change_masks(chronology, room, scene_from_room, backend=backend)),
        _localisation(scene, room, room_from_scene),
        tuple(float(sum(v.timing.values())) for v in scene.visits),
    )


def _align(scene: Scene, room: Room) -> Similarity:
    ours = {p.name: p.camera.cam_from_world for p in scene.photos(time=0) if p.camera is not None}
    truth = {p.name: p.camera.cam_from_world for p in room.photos}
    if not set(ours) & set(truth):
        raise InputError(
            f"{room.root}: none of its photos is in the scene (the scene has {next(iter(ours), 'none')!r}, the room "
            f"{next(iter(truth), 'none')!r}). Reconstruct the room's photos/ folder first."
        )
    return align_cameras(ours, truth)


def _localisation(scene: Scene, room: Room, room_from_scene: Similarity) -> dict[str, float]:
    later = [p for p in scene.photos(localised=False) if p.timestep > 0]
    placed = {p.name: room_from_scene.camera(p.camera.cam_from_world) for p in later if p.localised and p.camera is not None}
    out = {"photos": float(len(later)), "localised": float(len(placed))}
    if placed:
        errors = pose_errors(placed, {p.name: p.camera.cam_from_world for p in room.photos}, align=False)
        first = np.array([p.camera.center for p in room.photos if p.time == 0])
        extent = np.linalg.norm(first - first.mean(0), axis=1).max()
        out |= {
            "rotation_deg_median": float(np.median(errors.rotation_deg)), "rotation_deg_max": float(errors.rotation_deg.max()),
            "center_percent_median": 100 * float(np.median(errors.center)) / extent,
            "center_percent_max": 100 * float(errors.center.max()) / extent,
        }
    return out


def summary(evaluation: RoomEvaluation) -> dict[str, Any]:
    """The figures in a flat mapping; None where there is nothing to measure."""
    tracks, times = evaluation.tracks, range(evaluation.num_times)
    rotation = [p.rotation_deg for p in tracks.poses]
    shift = [p.translation_percent for p in tracks.poses]
    covered = [p.covered for p in tracks.poses if p.covered is not None]
    changed = [m for m in evaluation.masks if m.expected]
    quiet = [m for m in evaluation.masks if not m.expected]
    full = [mean_metrics_at(evaluation, t) for t in times]
    region = [region_psnr(evaluation.views, "changed", t) for t in times]
    before = region_psnr(evaluation.views, "objects", 0)
    return {
        "events_precision": tracks.precision, "events_recall": tracks.recall, "identity_f1": tracks.identity_f1,
        "pose_rotation_deg_median": _quantile(rotation, 0.5), "pose_rotation_deg_p90": _quantile(rotation, 0.9),
        "pose_translation_percent_median": _quantile(shift, 0.5), "pose_translation_percent_p90": _quantile(shift, 0.9),
        "pose_covered_share": float(np.mean(covered)) if covered else None,
        "mask_iou": float(np.mean([m.iou for m in changed])) if changed else None,
        "mask_f1": float(np.mean([m.f1 for m in changed])) if changed else None,
        "mask_pixels_where_nothing_changed": int(sum(m.predicted for m in quiet)),
        "psnr_t0": full[0]["psnr"] if full else None,
        "psnr_drop_mean": _drop(full, "psnr"),
        "psnr_colour_fit_drop_mean": _drop(full, "psnr_colour_fit"),
        "changed_psnr_mean": _mean([r["psnr"] for r in region[1:]]),
        "changed_psnr_colour_fit_mean": _mean([r["psnr_colour_fit"] for r in region[1:]]),
        "objects_psnr_t0": before["psnr"], "objects_psnr_colour_fit_t0": before["psnr_colour_fit"],
        "seconds_per_update": _mean(list(evaluation.seconds[1:])),
        **{f"localisation_{k}": v for k, v in evaluation.localisation.items()},
    }


def mean_metrics_at(evaluation: RoomEvaluation, time: int) -> Mapping[str, float | None]:
    """Mean full-frame metrics of a time's held-out views."""
    return mean_metrics([v for v in evaluation.views if v.time == time])


def room_json(evaluation: RoomEvaluation) -> dict[str, Any]:
    """Everything as plain JSON values."""
    tracks = evaluation.tracks
    return {
        "kind": "rendered room with full truth", "room": evaluation.room, "num_times": evaluation.num_times,
        "summary": summary(evaluation),
        "events": {"right": tracks.true_positives, "predicted": tracks.predicted, "expected": tracks.expected,
                   "missed": list(tracks.missed), "false": list(tracks.false)},
        "identity": dict(zip(("right", "wrong", "missing"), tracks.identity, strict=True)),
        "poses": [vars(p) | {"covered": p.covered} for p in tracks.poses],
        "times": [
            {"time": t, **mean_metrics_at(evaluation, t), "changed": region_psnr(evaluation.views, "changed", t),
             "objects": region_psnr(evaluation.views, "objects", t), "seconds": evaluation.seconds[t]}
            for t in range(evaluation.num_times)
        ],
        "masks": [vars(m) | {"iou": m.iou, "f1": m.f1} for m in evaluation.masks],
        "views": [{"name": v.name, "time": v.time, **v.metrics} for v in evaluation.views],
    }


def room_rows(evaluation: RoomEvaluation) -> list[dict[str, str]]:
    """Name and value of every figure, for a table."""
    rows = [{"figure": k.replace("_", " "), "value": "-" if v is None else f"{v:.4g}"} for k, v in summary(evaluation).items()]
    rows += [{"figure": "missed", "value": text} for text in evaluation.tracks.missed]
    return rows + [{"figure": "false", "value": text} for text in evaluation.tracks.false]


def _quantile(values: list[float], q: float) -> float | None:
    return float(np.quantile(values, q)) if values else None


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _drop(full: list[Mapping[str, float | None]], name: str) -> float | None:
    values = [f[name] for f in full]
    if not values or values[0] is None:
        return None
    later = [values[0] - v for v in values[1:] if v is not None]
    return float(np.mean(later)) if later else None
