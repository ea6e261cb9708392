"""Render a room model to disk in the layout of the rooms collection: photos, held-out photos, cameras and truth."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ltgs.core.cameras import Camera
from ltgs.core.se3 import invert_rigid, rotation_angle_deg
from ltgs.data.synthetic.layout import ObjectModel, Visit, piece_corners, world_from_object
from ltgs.data.synthetic.room import RoomModel
from ltgs.data.synthetic.tracer import Part, RenderConfig, Texture, bake, render_photo, trace

log = logging.getLogger("ltgs.data")
Array = NDArray[np.float64]

FOCAL_35MM = 28
"""Whole millimetres, as EXIF stores it; the horizontal field of view follows from a 36 mm wide frame."""
CONVENTION = "OpenCV axes, metres; the centre of the first pixel is (0.5, 0.5)"


@dataclass(frozen=True)
class WriteConfig:
    """Size and quality of a rendered collection."""

    width: int = 400
    height: int = 300
    seed: int = 7
    jpeg_quality: int = 92
    """Pillow's scale; 92 leaves no visible blocks at this size."""
    texture_scale: float = 1.0
    """Factor on texture resolution; below 1 only for quick tests."""
    render: RenderConfig = field(default_factory=RenderConfig)


@dataclass(frozen=True)
class _Shot:
    file: str
    role: str
    time: int
    camera: Camera


def write_room(model: RoomModel, out: Path, config: WriteConfig) -> list[Path]:
    """Render every photo of every visit, with truth, into `out`.

    Returns:
        The photo files written (photos/ and test/), in order.
    """
    shots = _shots(model, config)
    textures = _paint_all(model, config)
    written, states = [], []
    for time, visit in enumerate(model.visits):
        parts = _place(model, visit, textures)
        states.append(parts)
        lamps, ambient = visit.light.lamps or model.lamps, visit.light.ambient or model.ambient
        baked = bake(parts, lamps, ambient, config=config.render, rng=np.random.default_rng([config.seed, 3, time]))
        mine = [s for s in shots if s.time == time]
        for number, shot in enumerate(mine):
            picture = render_photo(baked, shot.camera, visit.light.gain(), supersample=config.render.supersample)
            path = out / shot.file
            _save_photo(path, picture, visit, number, config)
            _write_view_truth(out / "truth", shot, states)
            written.append(path)
        log.info("%s: visit %s, %d photos", model.name, visit.date, len(mine))
    _write_json(out, "cameras.json", _camera_file([s for s in shots if s.role != "test"]))
    _write_json(out, "test_cameras.json", _camera_file([s for s in shots if s.role == "test"]))
    _write_json(out, "truth/cameras.json", _truth_cameras(model, shots, config))
    _write_json(out, "truth/objects.json", _truth_objects(model))
    _write_json(out, "truth/changes.json", _truth_changes(model, config.seed))
    return written


def _shots(model: RoomModel, config: WriteConfig) -> list[_Shot]:
    focal = FOCAL_35MM / 36 * config.width
    K = np.array([[focal, 0, config.width / 2], [0, focal, config.height / 2], [0, 0, 1]])
    shots, number = [], 0
    for time, visit in enumerate(model.visits):
        roles = [("train" if time == 0 else "update", p) for p in visit.photo_poses] + [
            ("test", p) for p in visit.test_poses
        ]
        for role, pose in roles:
            number += 1
            name = f"{visit.date}/IMG_{number:04d}.jpg"
            camera = Camera(name, time, config.width, config.height, K, np.round(pose, 9))
            shots.append(_Shot(f"{'test' if role == 'test' else 'photos'}/{name}", role, time, camera))
    return shots


def _paint_all(model: RoomModel, config: WriteConfig) -> dict[int, list[Texture]]:
    """Draw the picture of every face once; keyed by the identity of the piece, shared by all visits."""
    pieces = [model.shell, *model.furniture, *(p for m in model.models for p in m.pieces)]
    textures = {}
    for index, piece in enumerate(pieces):
        faces = []
        for face in range(piece.shape.num_faces):
            rng = np.random.default_rng([config.seed, 2, index, face])
            size = piece.shape.face_size(face)
            w, h = (max(int(s * piece.texels_per_m * config.texture_scale), 8) for s in size)
            faces.append(Texture(piece.painters[min(face, len(piece.painters) - 1)](w, h, rng), size))
        textures[id(piece)] = faces
    return textures


def _place(model: RoomModel, visit: Visit, textures: dict[int, list[Texture]]) -> list[Part]:
    parts = [Part(model.shell.shape, model.shell.pose(), textures[id(model.shell)], casts_shadow=False)]
    parts += [Part(p.shape, p.pose(), textures[id(p)]) for p in model.furniture]
    for thing in model.models:
        if thing.name in visit.placements:
            pose = world_from_object(thing, visit.placements[thing.name])
            parts += [Part(p.shape, pose @ p.pose(), textures[id(p)], thing.object_id) for p in thing.pieces]
    return parts


def _save_photo(path: Path, picture: NDArray[np.uint8], visit: Visit, number: int, config: WriteConfig) -> None:
    """JPEG with the EXIF entries a camera would write: model, date and focal length."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "LTGS", "synthetic ray caster"
    details = exif.get_ifd(0x8769)
    details[0x9003] = (visit.captured_at + timedelta(seconds=20 * number)).strftime("%Y:%m:%d %H:%M:%S")
    details[0x920A] = float(FOCAL_35MM)
    details[0xA405] = FOCAL_35MM
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=config.jpeg_quality, subsampling=0, exif=exif)


def _ids_and_depth(parts: Sequence[Part], camera: Camera) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    depth, hit, _ = trace(parts, camera)
    ids = np.array([p.object_id for p in parts] + [0], np.uint8)[hit]
    millimetres = np.where(np.isfinite(depth), np.clip(depth * 1000 + 0.5, 0, 65535), 0)
    return ids, millimetres.astype(np.uint16)


def _moved_parts(now: Sequence[Part], then: Sequence[Part]) -> set[int]:
    """Ids of objects whose pose or presence differs between two states."""
    poses = [{p.object_id: p.world_from_local for p in parts if p.object_id} for parts in (now, then)]
    return {
        i
        for i in poses[0].keys() | poses[1].keys()
        if i not in poses[0] or i not in poses[1] or not np.allclose(poses[0][i], poses[1][i])
    }


def _write_view_truth(truth: Path, shot: _Shot, states: list[list[Part]]) -> None:
    """Object mask of every view; change masks of later visits; depth of update and test views."""
    name = str(Path(shot.camera.name).with_suffix(".png"))
    ids, millimetres = _ids_and_depth(states[shot.time], shot.camera)
    _save_png(truth / "masks" / name, ids)
    if shot.role == "test":
        _save_png(truth / "depth" / name, millimetres)
    if shot.time == 0:
        return
    for folder, then in (("change_masks", states[0]), ("change_masks_prev", states[shot.time - 1])):
        changed = list(_moved_parts(states[shot.time], then))
        before, _ = _ids_and_depth(then, shot.camera)
        mask = np.where(np.isin(ids, changed), 1, np.where(np.isin(before, changed), 2, 0)).astype(np.uint8)
        _save_png(truth / folder / name, mask)


def _save_png(path: Path, values: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, optimize=True)


def _write_json(out: Path, name: str, content: dict[str, Any]) -> None:
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _camera_entry(camera: Camera) -> dict[str, Any]:
    return {
        "name": camera.name,
        "time": camera.time,
        "width": camera.width,
        "height": camera.height,
        "K": camera.K.tolist(),
        "cam_from_world": camera.cam_from_world.tolist(),
    }


def _camera_file(shots: Sequence[_Shot]) -> dict[str, Any]:
    return {"convention": CONVENTION, "cameras": [_camera_entry(s.camera) for s in shots]}


def _truth_cameras(model: RoomModel, shots: Sequence[_Shot], config: WriteConfig) -> dict[str, Any]:
    images = [
        {
            "file": s.file,
            "role": s.role,
            "timestep": s.time,
            "date": model.visits[s.time].date,
            "exposure_ev": model.visits[s.time].light.ev,
            **_camera_entry(s.camera),
        }
        for s in shots
    ]
    return {
        "convention": {
            "pixel_centre": "the centre of the first (top-left) pixel is (0.5, 0.5)",
            "axes": "OpenCV camera: x right, y down, z forward; world: z up; metres; cam_from_world maps world to camera",
            "distortion": "none (pinhole)",
            "depth": "16-bit PNG, planar z in millimetres, sampled at pixel centres, 0 = none",
        },
        "width": config.width,
        "height": config.height,
        "images": images,
    }


def _truth_objects(model: RoomModel) -> dict[str, Any]:
    objects = [
        {
            "id": thing.object_id,
            "name": thing.name,
            "extents": np.round(thing.extents(), 6).tolist(),
            "symmetric": thing.symmetric,
            "symmetry_axis": [0, 0, 1] if thing.symmetric else None,
            "timesteps": [_object_state(thing, t, v) for t, v in enumerate(model.visits)],
        }
        for thing in model.models
    ]
    return {
        "convention": "x_world = world_from_object @ x_object; extents: bounding box in the object frame, metres, centred",
        "objects": objects,
    }


def _object_state(thing: ObjectModel, time: int, visit: Visit) -> dict[str, Any]:
    state: dict[str, Any] = {"timestep": time, "date": visit.date, "present": thing.name in visit.placements}
    if not state["present"]:
        return state | {"world_from_object": None, "world_aabb_min": None, "world_aabb_max": None}
    pose = world_from_object(thing, visit.placements[thing.name])
    corners = np.concatenate([piece_corners(p, pose) for p in thing.pieces])
    return state | {
        "world_from_object": np.round(pose, 9).tolist(),
        "world_aabb_min": np.round(corners.min(0), 6).tolist(),
        "world_aabb_max": np.round(corners.max(0), 6).tolist(),
    }


def _events(model: RoomModel, time: int) -> list[dict[str, Any]]:
    if time == 0:
        return []
    before, now = model.visits[time - 1].placements, model.visits[time].placements
    earlier = {name for v in model.visits[:time] for name in v.placements}
    events: list[dict[str, Any]] = []
    for thing in model.models:
        name = thing.name
        if name in before and name not in now:
            events.append({"type": "removed", "object": name})
        elif name in now and name not in before:
            events.append({"type": "returned" if name in earlier else "added", "object": name})
        elif name in now and now[name] != before[name]:
            old, new = world_from_object(thing, before[name]), world_from_object(thing, now[name])
            turn = rotation_angle_deg((new @ invert_rigid(old))[:3, :3])
            shift = float(np.linalg.norm(new[:3, 3] - old[:3, 3]))
            events.append(
                {"type": "moved", "object": name, "translation_m": round(shift, 4), "rotation_deg": round(turn, 2)}
            )
    return events


def _changed_ids(model: RoomModel, time: int, reference: int) -> list[int]:
    a, b = model.visits[reference].placements, model.visits[time].placements
    return [m.object_id for m in model.models if a.get(m.name) != b.get(m.name)]


def _truth_changes(model: RoomModel, seed: int) -> dict[str, Any]:
    steps = []
    for time, visit in enumerate(model.visits):
        previous = model.visits[max(time - 1, 0)].light
        steps.append(
            {
                "timestep": time,
                "date": visit.date,
                "events": _events(model, time) or [{"type": "none"}],
                "changed_ids_vs_t0": _changed_ids(model, time, 0),
                "changed_ids_vs_previous": _changed_ids(model, time, max(time - 1, 0)),
                "light": {
                    "name": visit.light.name,
                    "changed_vs_previous": visit.light != previous,
                    "changed_vs_t0": visit.light != model.visits[0].light,
                    "target_ev_vs_t0": visit.light.ev,
                    "tint": list(visit.light.tint),
                },
            }
        )
    return {"scene": model.name, "seed": seed, "timesteps": steps}
