"""Everything that a room with full truth can tell about a scene: events, identities, poses, change masks, pictures, cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltgs.core.chronology import Chronology
from ltgs.core.progress import Progress, silent
from ltgs.core.scene import Scene
from ltgs.data.rooms import Room
from ltgs.errors import InputError
from ltgs.eval.report import mean_metrics
from ltgs.eval.room_cameras import localisation_figures
from ltgs.eval.room_figures import forgetting, mean_known, picture_figures
from ltgs.eval.room_images import MaskScore, RoomView, change_masks, heldout_views, placed_in, region_psnr
from ltgs.eval.room_tracks import TrackReport, track_report
from ltgs.eval.storage import VisitBytes, visit_bytes
from ltgs.io.scene_store import SceneStore
from ltgs.poses.align import align_cameras
from ltgs.poses.gauge import Similarity


@dataclass(frozen=True)
class LightReport:
    """Whether changes of light were told from changes of objects."""

    light_only: Mapping[int, int]
    """Later times at which no object changed in truth, to the number of objects that the scene reports there."""
    right: int
    """Later times at which "the light changed since the visit before" is what the truth says."""
    expected: int
    """Later times."""


@dataclass(frozen=True)
class RoomEvaluation:
    """A scene of a room against its truth."""

    room: Room
    num_times: int
    tracks: TrackReport
    views: tuple[RoomView, ...]
    first_alone: tuple[RoomView, ...]
    """Held-out views of the first visit, shown by the first generation's background alone."""
    masks: tuple[MaskScore, ...]
    localisation: dict[str, float]
    """Photos of later visits: number, localised, and their pose errors after aligning the first visit."""
    light: LightReport
    seconds: tuple[float, ...]
    """Wall-clock seconds of each visit."""
    storage: tuple[VisitBytes, ...] = ()
    """Empty if the scene was not read from a folder."""


def evaluate_room(
    scene: Scene, room: Room, *, store: SceneStore | None = None, backend: str = "auto", progress: Progress = silent
) -> RoomEvaluation:
    """Measure a scene reconstructed from the photos of a room, in any frame of reference.

    Args:
        store: where the scene was read from, for the bytes of every visit.

    Raises:
        InputError: the scene's photos are not those of the room.
    """
    room_from_scene = align_scene(scene, room)
    place = placed_in(scene, room_from_scene.inverse())
    chronology = scene.chronology
    alone = Chronology.initial(chronology.background)
    return RoomEvaluation(
        room, min(chronology.num_times, room.num_times),
        track_report(chronology, room, room_from_scene),
        tuple(heldout_views(chronology, room, place, backend=backend, progress=progress)),
        tuple(heldout_views(alone, room, place, backend=backend)),
        tuple(change_masks(chronology, room, place, backend=backend)),
        localisation_figures(scene, room, room_from_scene),
        light_report(chronology, room),
        tuple(float(sum(v.timing.values())) for v in scene.visits),
        () if store is None else visit_bytes(store, scene),
    )


def align_scene(scene: Scene, room: Room) -> Similarity:
    """The similarity room_from_scene, from the cameras of the first visit.

    Raises:
        InputError: the scene's photos are not those of the room, or too few.
    """
    ours = {p.name: p.camera.cam_from_world for p in scene.photos(time=0) if p.camera is not None}
    truth = {p.name: p.camera.cam_from_world for p in room.photos}
    if not set(ours) & set(truth):
        raise InputError(
            f"{room.root}: none of its photos is in the scene (the scene has {next(iter(ours), 'none')!r}, the room "
            f"{next(iter(truth), 'none')!r}). Reconstruct the room's photos/ folder first."
        )
    return align_cameras(ours, truth)


def light_report(chronology: Chronology, room: Room) -> LightReport:
    """What the scene says about visits at which only the light, or nothing, changed."""
    times = range(1, min(chronology.num_times, room.num_times))
    quiet = {t for t in times if all(e.time != t for e in room.events)}
    reported = {t: len({e.object_id for e in chronology.events if e.time == t}) for t in sorted(quiet)}
    right = sum(chronology.appearance[t].changed == room.lights[t].changed_vs_previous for t in times)
    return LightReport(reported, right, len(times))


def summary(evaluation: RoomEvaluation) -> dict[str, Any]:
    """The figures in a flat mapping; None where there is nothing to measure."""
    tracks, light = evaluation.tracks, evaluation.light
    rotation = [p.rotation_deg for p in tracks.poses]
    shift = [p.translation_percent for p in tracks.poses]
    covered = [p.covered for p in tracks.poses if p.covered is not None]
    changed = [m for m in evaluation.masks if m.expected]
    quiet = [m for m in evaluation.masks if not m.expected]
    return {
        "events_precision": tracks.precision, "events_recall": tracks.recall, "identity_f1": tracks.identity_f1,
        "motions_measured": len(tracks.poses), "motions_expected": tracks.motions,
        "pose_rotation_deg_median": _quantile(rotation, 0.5), "pose_rotation_deg_p90": _quantile(rotation, 0.9),
        "pose_translation_percent_median": _quantile(shift, 0.5), "pose_translation_percent_p90": _quantile(shift, 0.9),
        "pose_covered_share": float(np.mean(covered)) if covered else None,
        "mask_iou": float(np.mean([m.iou for m in changed])) if changed else None,
        "mask_f1": float(np.mean([m.f1 for m in changed])) if changed else None,
        "mask_pixels_where_nothing_changed": int(sum(m.predicted for m in quiet)),
        "objects_at_light_only_visits": sum(light.light_only.values()) if light.light_only else None,
        "light_right_share": light.right / light.expected if light.expected else None,
        **picture_figures(evaluation.views, evaluation.room, evaluation.num_times),
        **forgetting(evaluation.views, evaluation.first_alone),
        "seconds_per_update": mean_known(list(evaluation.seconds[1:])),
        **_storage_figures(evaluation),
        **{f"localisation_{k}": v for k, v in evaluation.localisation.items()},
    }


def _storage_figures(evaluation: RoomEvaluation) -> dict[str, float | None]:
    later = [v for v in evaluation.storage if v.time > 0]
    return {
        "bytes_per_update": mean_known([v.written for v in later]),
        "bytes_kept_per_update": mean_known([v.kept for v in later]),
        "bytes_per_motion": mean_known([b for v in later for b in v.motions]),
    }


def mean_metrics_at(evaluation: RoomEvaluation, time: int) -> Mapping[str, float | None]:
    """Mean full-frame metrics of a time's held-out views."""
    return mean_metrics([v for v in evaluation.views if v.time == time])


def room_json(evaluation: RoomEvaluation) -> dict[str, Any]:
    """Everything as plain JSON values."""
    tracks = evaluation.tracks
    return {
        "kind": "rendered room with full truth", "room": evaluation.room.name, "num_times": evaluation.num_times,
        "summary": summary(evaluation),
        "events": {"right": tracks.true_positives, "predicted": tracks.predicted, "expected": tracks.expected,
                   "missed": list(tracks.missed), "false": list(tracks.false)},
        "identity": dict(zip(("right", "wrong", "missing"), tracks.identity, strict=True)),
        "poses": [vars(p) | {"covered": p.covered} for p in tracks.poses],
        "times": [
            {
                "time": t, **mean_metrics_at(evaluation, t),
                **{k: region_psnr(evaluation.views, k, t) for k in ("changed", "unchanged", "objects")},
                "objects_reported_though_none_changed": evaluation.light.light_only.get(t), "seconds": evaluation.seconds[t],
            }
            for t in range(evaluation.num_times)
        ],
        "storage": [vars(v) for v in evaluation.storage],
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
