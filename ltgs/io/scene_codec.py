"""Translation between a Scene in memory and the manifest's JSON body plus tensor blobs. No file access here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from ltgs.core.chronology import Appearance, Chronology, Event, EventKind, ObjectTrack, Template
from ltgs.core.light_detail import LightDetail
from ltgs.core.light_field import LightField
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.errors import FormatError
from ltgs.io.camera_codec import checked_photo_name, decode_camera, encode_camera
from ltgs.io.decisions_codec import decode_decisions, encode_decisions
from ltgs.io.edit_codec import decode_edits, decode_pinned, encode_edit
from ltgs.io.json_files import need, need_int, need_number
from ltgs.io.template_codec import (
    GetTensors,
    PutTensors,
    blob_name,
    decode_gaussians,
    decode_indices,
    decode_template,
    encode_template,
)

Array = NDArray[np.float64]
_EVENT_KINDS = get_args(EventKind)
_MAX_INDEX = 1 << 31


# -- tensors ----------------------------------------------------------------------------------------------------------

def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise tensors as safetensors; equal values give equal bytes, whatever their memory layout was."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return save_safetensors(plain)


def tensors_from_bytes(data: bytes, where: str) -> dict[str, Tensor]:
    """Parse safetensors.

    Raises:
        FormatError: the header or the offsets are not what the format promises.
    """
    try:
        return load_safetensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise FormatError(f"{where}: not a safetensors file ({error}). Run `ltgs verify` on the scene.") from error


# -- numbers: JSON has neither NaN nor infinity (the PSNR of equal images), so they become null and text ---------------

_INFINITIES = {"inf": math.inf, "-inf": -math.inf}


def _number(value: float) -> float | str | None:
    value = float(value)
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return None if math.isnan(value) else value


def _numbers(array: Any) -> Any:
    """Nested lists of an array; an array that is NaN throughout becomes one null."""
    array = np.asarray(array, dtype=np.float64)
    if array.ndim == 0:
        return _number(array[()])
    return None if array.size and np.isnan(array).all() else [_numbers(a) for a in array]


def _rows(matrix: Any) -> list[Any]:
    """A matrix as a list of rows, never null as a whole."""
    return [_numbers(row) for row in np.asarray(matrix, dtype=np.float64)]


def _array(value: Any, shape: tuple[int, ...], where: str) -> Array:
    """Inverse of `_numbers`."""
    if value is None:
        return np.full(shape, np.nan)
    if not shape:
        if isinstance(value, str) and value in _INFINITIES:
            return np.float64(_INFINITIES[value])  # type: ignore[return-value]
        return np.float64(need_number({"value": value}, "value", where))  # type: ignore[return-value]
    if not isinstance(value, list) or len(value) != shape[0]:
        raise FormatError(f"{where}: must be a list of {shape[0]} entries.")
    return np.array([_array(v, shape[1:], where) for v in value], dtype=np.float64).reshape(shape)


def _plain(value: Any, where: str) -> Any:
    """Configuration values as plain JSON; tuples become lists, numpy numbers become numbers."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        if not math.isfinite(value):
            raise ValueError(f"{where} is not a finite number.")
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    raise ValueError(f"{where} has the type {type(value).__name__}, which JSON cannot hold.")


# -- scene to body ----------------------------------------------------------------------------------------------------

def encode_scene(scene: Scene, put: PutTensors) -> dict[str, Any]:
    """The part of the manifest that describes the scene; tensors go through `put`. Timings are not in it.

    Raises:
        ValueError: a value cannot be stored (infinite, or configuration that is not plain JSON).
    """
    chronology = scene.chronology
    return {
        "num_times": chronology.num_times,
        "metres_per_unit": None if chronology.metres_per_unit is None else float(chronology.metres_per_unit),
        "background": put(chronology.background.tensors()),
        "lifted": put({"lifted": chronology.lifted.to(torch.int64)}),
        "templates": [encode_template(t, put) for _, t in sorted(chronology.templates.items())],
        "retired_id": int(chronology.retired),
        "tracks": [_encode_track(t) for _, t in sorted(chronology.tracks.items())],
        "appearance": [
            {"colour": _rows(a.colour), "changed": bool(a.changed), "exposure_ev": _number(a.exposure_ev),
             "field": None if a.field is None else _encode_field(a.field, put)}
            for a in chronology.appearance
        ],
        "events": [
            {"time": int(e.time), "kind": e.kind, "object_id": int(e.object_id), "translation": _number(e.translation),
             "rotation_deg": _number(e.rotation_deg), "uncertain": bool(e.uncertain), "note": e.note}
            for e in chronology.events
        ],
        "visits": [_encode_visit(v) for v in scene.visits],
        "side_data": {str(name): put(group) for name, group in sorted(scene.side_data.items())},
        "config": _plain(scene.config, "config"),
        "edits": [encode_edit(e) for e in scene.edits],
    }


def _encode_field(light: LightField, put: PutTensors) -> dict[str, Any]:
    blob = put({"log_gain": light.log_gain.to(torch.float16)})
    record = {"origin": _numbers(light.origin), "cell": _number(light.cell), "viewpoint": _numbers(light.viewpoint), "log_gain": blob}
    return record if light.detail is None else record | {"detail": _encode_detail(light.detail, put)}


def _encode_detail(light: LightDetail, put: PutTensors) -> dict[str, Any]:
    blob = put({"index": light.index.to(torch.int32), "log_gain": light.log_gain.to(torch.float16)})
    return {"origin": _numbers(light.origin), "cell": _number(light.cell), "shape": [int(n) for n in light.shape], "points": blob}


def _encode_track(track: ObjectTrack) -> dict[str, Any]:
    record = {
        "object_id": int(track.object_id),
        "presence": [int(p) for p in track.presence],
        "world_from_object": _rows(track.world_from_object),
        "pose_covariance": _rows(track.pose_covariance),
        "registration_error": [_number(e) for e in track.registration_error],
    }
    return record | ({"pinned": sorted(track.pinned)} if track.pinned else {})


def _encode_visit(visit: VisitRecord) -> dict[str, Any]:
    return {
        "timestep": int(visit.timestep),
        "name": visit.name,
        "captured_at": None if visit.captured_at is None else visit.captured_at.isoformat(),
        "method": {str(k): str(v) for k, v in visit.method.items()},
        "quality": {str(k): _number(v) for k, v in visit.quality.items()},
        "undecided": list(visit.undecided),
        "photos": [_encode_photo(p) for p in visit.photos],
        **({} if visit.decisions is None else {"decisions": encode_decisions(visit.decisions)}),
    }


def _encode_photo(photo: PhotoRecord) -> dict[str, Any]:
    camera = photo.camera
    return {
        "name": photo.name, "timestep": int(photo.timestep), "file_sha256": photo.file_sha256,
        "localised": bool(photo.localised), "reason": photo.reason, "holdout": bool(photo.holdout),
        "camera": None if camera is None else encode_camera(camera),
        "image_blob": photo.image_blob,
        "num_inliers": int(photo.num_inliers), "inlier_ratio": _number(photo.inlier_ratio),
        "covariance": None if photo.covariance is None else _rows(photo.covariance),
        "exposure": _rows(photo.exposure),
    }


# -- body to scene ----------------------------------------------------------------------------------------------------

def decode_scene(body: Mapping[str, Any], get: GetTensors, timings: list[dict[str, float]], where: str) -> Scene:
    """Inverse of `encode_scene`; nothing in `body` is trusted.

    Raises:
        FormatError: any entry is missing, of the wrong type, or contradicts another.
    """
    try:
        return _decode_scene(body, get, timings, where)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, RuntimeError) as error:
        # The core types check themselves with ValueError; the rest can only come from a manifest made by hand.
        raise FormatError(f"{where}: contradicts itself ({error}). Run `ltgs verify` on the scene.") from error


def _decode_scene(body: Mapping[str, Any], get: GetTensors, timings: list[dict[str, float]], where: str) -> Scene:
    num_times = need_int(body, "num_times", where, 1, 1 << 20)
    background = decode_gaussians(body, "background", get, where, body)
    lifted = decode_indices(body, "lifted", len(background), get, where, body)
    templates: dict[int, Template] = {}
    for record in need(body, "templates", list, where):
        template = decode_template(record, len(background), get, where, body)
        if template.object_id in templates:
            raise FormatError(f"{where}: the id of template {template.object_id} is used twice.")
        templates[template.object_id] = template
    tracks = [_decode_track(r, num_times, where) for r in need(body, "tracks", list, where)]
    metres: Any = need(body, "metres_per_unit", (int, float, type(None)), where)
    chronology = Chronology(
        background=background, lifted=lifted, templates=templates, tracks={t.object_id: t for t in tracks},
        appearance=tuple(_decode_appearance(r, get, body, where) for r in _list(body, "appearance", num_times, where)),
        events=tuple(_decode_event(r, num_times, where) for r in need(body, "events", list, where)),
        metres_per_unit=None if metres is None else need_number(body, "metres_per_unit", where),
        retired=need_int(body, "retired_id", where, 0, _MAX_INDEX) if "retired_id" in body else 0,
    )
    visits = _list(body, "visits", num_times, where)
    return Scene(
        chronology=chronology,
        visits=tuple(
            _decode_visit(r, t, timings[t] if t < len(timings) else {}, body, where) for t, r in enumerate(visits)
        ),
        side_data={
            name: get(blob_name(body["side_data"], name, body, where)) for name in need(body, "side_data", dict, where)
        },
        config=need(body, "config", dict, where),
        edits=decode_edits(body, where),
    )


def _list(record: Any, key: str, length: int, where: str) -> list[Any]:
    entries = need(record, key, list, where)
    if len(entries) != length:
        raise FormatError(f"{where}: {key!r} has {len(entries)} entries, expected {length}.")
    return entries


def _decode_track(record: Any, num_times: int, where: str) -> ObjectTrack:
    object_id = need_int(record, "object_id", f"{where}, tracks", 1, _MAX_INDEX)
    place = f"{where}, track {object_id}"
    presence = _list(record, "presence", num_times, place)
    if any(type(p) is not int or not 0 <= p <= 2 for p in presence):
        raise FormatError(f"{place}: presence must be 0, 1 or 2.")
    return ObjectTrack(
        object_id,
        np.array(presence, dtype=np.uint8),
        _array(need(record, "world_from_object", list, place), (num_times, 4, 4), place),
        _array(need(record, "pose_covariance", list, place), (num_times, 6, 6), place),
        _array(need(record, "registration_error", list, place), (num_times,), place),
        decode_pinned(record, place),
    )


def _decode_appearance(record: Any, get: GetTensors, body: Mapping[str, Any], where: str) -> Appearance:
    place = f"{where}, appearance"
    # Scenes of earlier versions have no field.
    light = record.get("field")
    return Appearance(
        _array(need(record, "colour", list, place), (3, 4), place), need(record, "changed", bool, place),
        float(_array(record.get("exposure_ev"), (), place)), None if light is None else _decode_field(light, get, body, place),
    )


def _decode_field(record: Any, get: GetTensors, body: Mapping[str, Any], where: str) -> LightField:
    place = f"{where}, light field"
    log_gain = get(blob_name(record, "log_gain", body, place)).get("log_gain")
    if log_gain is None or log_gain.dtype != torch.float16:
        raise FormatError(f"{place}: must hold the float16 tensor log_gain.")
    origin, viewpoint = (
        torch.tensor(_array(need(record, key, list, place), (3,), place), dtype=torch.float32) for key in ("origin", "viewpoint")
    )
    detail = _decode_detail(record["detail"], get, body, place) if "detail" in record else None
    return LightField(origin, need_number(record, "cell", place), log_gain.to(torch.float32), viewpoint, detail)


def _decode_detail(record: Any, get: GetTensors, body: Mapping[str, Any], where: str) -> LightDetail:
    place = f"{where}, fine light"
    tensors = get(blob_name(record, "points", body, place))
    index, log_gain = tensors.get("index"), tensors.get("log_gain")
    if index is None or index.dtype != torch.int32 or log_gain is None or log_gain.dtype != torch.float16:
        raise FormatError(f"{place}: must hold the int32 tensor index and the float16 tensor log_gain.")
    shape = _list(record, "shape", 3, place)
    if any(type(n) is not int or not 2 <= n <= 1024 for n in shape):
        raise FormatError(f"{place}: 'shape' must be three whole numbers from 2 to 1024.")
    origin = torch.tensor(_array(need(record, "origin", list, place), (3,), place), dtype=torch.float32)
    return LightDetail(origin, need_number(record, "cell", place), tuple(shape), index.to(torch.int64), log_gain.to(torch.float32))


def _decode_event(record: Any, num_times: int, where: str) -> Event:
    place = f"{where}, events"
    kind = need(record, "kind", str, place)
    if kind not in _EVENT_KINDS:
        raise FormatError(f"{place}: unknown kind {kind[:40]!r}.")
    return Event(
        need_int(record, "time", place, 0, num_times - 1), kind, need_int(record, "object_id", place, 0, _MAX_INDEX),  # type: ignore[arg-type]
        float(_array(record.get("translation"), (), place)), float(_array(record.get("rotation_deg"), (), place)),
        need(record, "uncertain", bool, place), need(record, "note", str, place),
    )


def _decode_visit(record: Any, timestep: int, timing: dict[str, float], body: Mapping[str, Any], where: str) -> VisitRecord:
    place = f"{where}, visit {timestep}"
    if need_int(record, "timestep", place, 0, _MAX_INDEX) != timestep:
        raise FormatError(f"{place}: visits are not in order.")
    captured: Any = need(record, "captured_at", (str, type(None)), place)
    return VisitRecord(
        timestep=timestep,
        name=need(record, "name", str, place),
        captured_at=None if captured is None else datetime.fromisoformat(captured),
        photos=tuple(_decode_photo(p, body, place) for p in need(record, "photos", list, place)),
        method={k: need(record["method"], k, str, place) for k in need(record, "method", dict, place)},
        timing=timing,
        quality={k: float(_array(v, (), place)) for k, v in need(record, "quality", dict, place).items()},
        undecided=tuple(_strings(record, "undecided", place)),
        decisions=decode_decisions(record["decisions"], place) if "decisions" in record else None,
    )


def _strings(record: Any, key: str, where: str) -> list[str]:
    values = need(record, key, list, where)
    if not all(isinstance(v, str) for v in values):
        raise FormatError(f"{where}: {key!r} must hold texts only.")
    return values


def _decode_photo(record: Any, body: Mapping[str, Any], where: str) -> PhotoRecord:
    name = checked_photo_name(need(record, "name", str, where), where)
    place = f"{where}, photo {name}"
    blob = None if need(record, "image_blob", (str, type(None)), place) is None else blob_name(record, "image_blob", body, place)
    covariance: Any = need(record, "covariance", (list, type(None)), place)
    return PhotoRecord(
        name=name,
        timestep=need_int(record, "timestep", place, 0, _MAX_INDEX),
        file_sha256=need(record, "file_sha256", str, place),
        localised=need(record, "localised", bool, place),
        reason=need(record, "reason", str, place),
        holdout=need(record, "holdout", bool, place),
        camera=None if need(record, "camera", (dict, type(None)), place) is None else decode_camera(record["camera"], place),
        image_blob=blob,
        num_inliers=need_int(record, "num_inliers", place, 0, 1 << 40),
        inlier_ratio=float(_array(record.get("inlier_ratio"), (), place)),
        covariance=None if covariance is None else _array(covariance, (6, 6), place),
        exposure=_array(need(record, "exposure", list, place), (3, 4), place),
    )
