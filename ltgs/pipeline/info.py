"""A stored scene in words and plain JSON values: what `ltgs info` shows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.core.chronology import Event, ObjectTrack, Presence
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.errors import UsageError
from ltgs.io.scene_store import SceneStore


def resolve_time(scene: Scene, text: str) -> int:
    """Index of the visit that `text` means: an index, a visit's name, or a date (the last visit on or before it).

    Raises:
        UsageError: no visit fits; the message lists what there is.
    """
    text = text.strip()
    names = [v.timestep for v in scene.visits if v.name == text]
    if names:
        return names[0]
    count = len(scene.visits)
    try:
        index = int(text)
    except ValueError:
        index = None
    # Eight digits are a date like 20240301, not the index of a visit.
    if index is not None and len(text.lstrip("-")) < 8:
        if -count <= index < count:
            return index % count
        raise UsageError(f"--time {text}: the scene has the times 0..{count - 1}.")
    try:
        wanted = date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--time {text}: neither an index, a date (2024-03-01) nor a visit. {_choices(scene)}") from None
    dated = [v for v in scene.visits if v.captured_at is not None and v.captured_at.date() <= wanted]
    if not dated:
        raise UsageError(f"--time {text}: no visit on or before that date. {_choices(scene)}")
    return max(dated, key=lambda v: (v.captured_at.date(), v.timestep)).timestep  # type: ignore[union-attr]


def _choices(scene: Scene) -> str:
    return "Visits: " + ", ".join(f"{v.timestep} = {visit_title(v)}" for v in scene.visits) + "."


def visit_title(visit: VisitRecord) -> str:
    """Name and date, without saying the same twice."""
    day = visit.captured_at.date().isoformat() if visit.captured_at else ""
    return visit.name if not day or day == visit.name else f"{visit.name} ({day})"


def describe_event(
    event: Event, visit: VisitRecord, metres_per_unit: float | None = None, *, name: str = "", former: str = ""
) -> str:
    """One event in words: "2024-02-11: object 3 (red box) moved 0.42 units, turned 47 deg".

    Args:
        former: name of the object that a new form replaced.
    """
    words = f"{_day(visit)}: object {event.object_id}{f' ({name})' if name else ''} {event.kind}{f' {former}' if former else ''}"
    length = f"{event.translation:.3g} units" if metres_per_unit is None else f"{event.translation * metres_per_unit:.3g} m"
    if event.kind == "replaced":
        words += f", {length} away"
    if event.kind in ("moved", "returned"):
        words += f" {length}" if event.kind == "moved" else f", {length} from where it was"
        words += f", turned {event.rotation_deg:.0f} deg"
    if event.uncertain:
        words += " (uncertain)"
    return words + (f"; {event.note}" if event.note else "")


def event_in_words(event: Event, scene: Scene) -> str:
    """`describe_event` with the object's name and the scene's scale."""
    templates = scene.chronology.templates
    name = templates[event.object_id].name if event.object_id in templates else ""
    former = f"object {templates[event.object_id].replaces}" if event.kind == "replaced" else ""
    return describe_event(event, scene.visits[event.time], scene.chronology.metres_per_unit, name=name, former=former)


def _day(visit: VisitRecord) -> str:
    return visit.captured_at.date().isoformat() if visit.captured_at else visit.name


def event_lines(scene: Scene) -> list[str]:
    """All events in order of time, and one line for every later visit without any."""
    lines = []
    for visit in scene.visits[1:]:
        events = [e for e in scene.chronology.events if e.time == visit.timestep]
        lines += [event_in_words(e, scene) for e in events]
        light = scene.chronology.appearance[visit.timestep]
        if light.changed:
            lines.append(f"{_day(visit)}: light changed ({light.exposure_ev:+.2f} EV against the first visit)")
        if not events:
            lines.append(f"{_day(visit)}: no object changed")
        lines += [f"{_day(visit)}: undecided: {text}" for text in visit.undecided]
    return lines


def scene_info(store: SceneStore, scene: Scene) -> dict[str, Any]:
    """Everything about a scene as plain JSON values; the layout is described in the README."""
    chronology = scene.chronology
    cameras = [camera_entry(p.camera) for p in scene.photos() if p.camera is not None]
    method: dict[str, str] = {}
    timing: dict[str, float] = {}
    for visit in scene.visits:
        method |= {k if visit.timestep == 0 or k not in ("poses",) else f"{k}_later": v for k, v in visit.method.items()}
        for stage, seconds in visit.timing.items():
            timing[stage] = round(timing.get(stage, 0.0) + seconds, 3)
    peaks = [float(e["peak_memory_mb"]) for e in store.read_log() if isinstance(e.get("peak_memory_mb"), (int, float))]
    return {
        "scene": store.path.name,
        "generation": store.generation,
        "num_times": len(scene.visits),
        "num_gaussians": len(chronology.background) + sum(len(t.gaussians) for t in chronology.templates.values()),
        "metres_per_unit": chronology.metres_per_unit,
        "captures": [_capture_entry(scene, v) for v in scene.visits],
        "cameras": cameras,
        "objects": [
            {
                "id": k, "kind": template.kind, "name": template.name, "num_gaussians": len(template.gaussians),
                "created_at": template.created_at, "track": _track_entries(chronology.tracks[k]),
                **({"replaces": template.replaces} if template.replaces else {}),
            }
            for k, template in sorted(chronology.templates.items())
        ],
        "events": [
            {
                "time": e.time, "kind": e.kind, "object": e.object_id, "translation": e.translation,
                "rotation_deg": e.rotation_deg, "uncertain": e.uncertain, "note": e.note,
                "words": event_in_words(e, scene),
            }
            for e in chronology.events
        ],
        "edits": [
            {"operation": e.operation, "arguments": dict(e.arguments), "made_at": e.made_at.isoformat(), "words": e.words()}
            for e in scene.edits
        ],
        "storage": {str(t): size for t, size in store.storage_by_time().items()},
        "timing": timing,
        "peak_memory_mb": max(peaks, default=None),
        "method": method,
        "config": dict(scene.config),
    }


def camera_entry(camera: Camera) -> dict[str, Any]:
    """A camera as in the cameras file."""
    return {
        "name": camera.name, "time": camera.time, "width": camera.width, "height": camera.height,
        "K": camera.K.tolist(), "cam_from_world": camera.cam_from_world.tolist(),
    }


def _capture_entry(scene: Scene, visit: VisitRecord) -> dict[str, Any]:
    light = scene.chronology.appearance[visit.timestep]
    return {
        "time": visit.timestep,
        "name": visit.name,
        "date": visit.captured_at.isoformat() if visit.captured_at else None,
        "photos": [_photo_entry(p) for p in visit.photos],
        "light": {"changed": light.changed, "exposure_ev": light.exposure_ev, "colour": np.asarray(light.colour).tolist()},
        "quality": {k: _finite(v) for k, v in visit.quality.items()},
        "timing": {k: round(v, 3) for k, v in visit.timing.items()},
        "method": dict(visit.method),
        "undecided": list(visit.undecided),
    }


def _photo_entry(photo: PhotoRecord) -> dict[str, Any]:
    return {
        "name": photo.name, "localised": photo.localised, "reason": photo.reason, "holdout": photo.holdout,
        "num_inliers": photo.num_inliers, "inlier_ratio": _finite(photo.inlier_ratio),
        "covariance": _matrix(photo.covariance), "camera": None if photo.camera is None else camera_entry(photo.camera),
    }


def _track_entries(track: ObjectTrack) -> list[dict[str, Any]]:
    return [
        {
            "time": t, "presence": Presence(int(track.presence[t])).name.lower(),
            "world_from_object": _matrix(track.world_from_object[t]), "covariance": _matrix(track.pose_covariance[t]),
            "registration_error": _finite(float(track.registration_error[t])), "pinned": t in track.pinned,
        }
        for t in range(track.num_times)
    ]


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if np.isfinite(value) else None


def _matrix(value: NDArray[np.float64] | None) -> list[list[float]] | None:
    return None if value is None or not np.isfinite(value).all() else np.asarray(value).tolist()


def summary_rows(scene: Scene) -> list[dict[str, str]]:
    """One row per visit for the closing table: photos, placed, held out, objects, PSNR, seconds."""
    rows = []
    for visit in scene.visits:
        placed = [p for p in visit.photos if p.localised]
        events = [e for e in scene.chronology.events if e.time == visit.timestep]
        rows.append({
            "time": str(visit.timestep),
            "visit": visit_title(visit),
            "photos": str(len(visit.photos)),
            "placed": str(len(placed)),
            "held out": str(sum(p.holdout for p in placed)),
            "events": str(len(events)) if visit.timestep else "-",
            "PSNR photos": _decibel(visit.quality, "train_psnr", "psnr_after"),
            "PSNR held out": _decibel(visit.quality, "heldout_psnr"),
            "seconds": f"{sum(visit.timing.values()):.0f}",
        })
    return rows


def _decibel(quality: Mapping[str, float], *names: str) -> str:
    return next((f"{quality[n]:.2f}" for n in names if n in quality and np.isfinite(quality[n])), "-")
