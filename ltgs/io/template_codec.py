"""Templates, sets of Gaussians and index lists as manifest entries that name their blobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ltgs.core.chronology import Template
from ltgs.core.gaussians import FIELDS, Gaussians
from ltgs.errors import FormatError
from ltgs.io.edit_codec import decode_name
from ltgs.io.json_files import need, need_int
from ltgs.io.manifest import BLOB_NAME

PutTensors = Callable[[Mapping[str, Tensor]], str]
"""Stores one group of tensors and returns its blob name."""
GetTensors = Callable[[str], dict[str, Tensor]]
"""Loads and proves one group of tensors by blob name."""
_MAX_INDEX = 1 << 31


def compact(gaussians: Gaussians) -> dict[str, Tensor]:
    """The tensors as they are stored: in float16 where that holds every value exactly."""
    return {k: v.half() if torch.equal(v.half().to(v.dtype), v) else v for k, v in gaussians.tensors().items()}


def encode_template(template: Template, put: PutTensors) -> dict[str, Any]:
    """The manifest entry of a template; what it does not have is left out."""
    record: dict[str, Any] = {
        "object_id": template.object_id, "kind": template.kind, "created_at": int(template.created_at),
        "gaussians": put(compact(template.gaussians)),
    }
    if template.name:
        record["name"] = template.name
    if template.members is not None:
        record["members"] = put({"members": template.members.to(torch.int64)})
    if template.surface_parts:
        record["surface_parts"] = [
            {"surface": int(k), "gaussians": put(compact(part))} for k, part in sorted(template.surface_parts.items())
        ]
    if template.footing_of:
        record["footing_of"] = int(template.footing_of)
    if template.haze:
        record["haze"] = True
    if template.replaces:
        record["replaces"] = int(template.replaces)
    if template.residual is not None:
        record["residual"] = put({"residual": template.residual.to(torch.float16)})
    return record


def decode_template(record: Any, count: int, get: GetTensors, where: str, body: Mapping[str, Any]) -> Template:
    """Inverse of `encode_template`.

    Args:
        count: number of background Gaussians.
        body: the manifest, whose table lists the blobs.

    Raises:
        FormatError: an entry is missing or of the wrong type.
    """
    object_id = need_int(record, "object_id", f"{where}, templates", 1, _MAX_INDEX)
    place = f"{where}, template {object_id}"
    kind = need(record, "kind", str, place)
    if kind not in ("object", "surface"):
        raise FormatError(f"{place}: unknown kind {kind[:40]!r}.")
    parts = need(record, "surface_parts", list, place) if "surface_parts" in record else []
    gaussians = decode_gaussians(record, "gaussians", get, place, body)
    return Template(
        object_id, kind, gaussians,  # type: ignore[arg-type]
        need_int(record, "created_at", place, 0, _MAX_INDEX), decode_name(record, place),
        decode_indices(record, "members", count, get, place, body) if "members" in record else None,
        {need_int(p, "surface", place, 1, _MAX_INDEX): decode_gaussians(p, "gaussians", get, place, body) for p in parts},
        need_int(record, "footing_of", place, 1, _MAX_INDEX) if "footing_of" in record else 0,
        need(record, "haze", bool, place) if "haze" in record else False,
        need_int(record, "replaces", place, 1, _MAX_INDEX) if "replaces" in record else 0,
        _decode_residual(record, len(gaussians), get, place, body) if "residual" in record else None,
    )


def _decode_residual(record: Any, count: int, get: GetTensors, where: str, body: Mapping[str, Any]) -> Tensor:
    residual = get(blob_name(record, "residual", body, where)).get("residual")
    if residual is None or residual.dtype != torch.float16 or tuple(residual.shape) != (count, 5):
        raise FormatError(f"{where}: the residual must hold five float16 values for each of its {count} Gaussians.")
    return residual.float()


def decode_gaussians(record: Any, key: str, get: GetTensors, where: str, body: Mapping[str, Any]) -> Gaussians:
    """A set of Gaussians.

    Raises:
        FormatError: the blob is not listed or holds other tensors.
    """
    tensors = get(blob_name(record, key, body, where))
    if set(tensors) != set(FIELDS) or any(t.dtype not in (torch.float32, torch.float16) for t in tensors.values()):
        raise FormatError(f"{where}: {key!r} must hold the float32 or float16 tensors {', '.join(FIELDS)}.")
    return Gaussians(**{k: t.float() for k, t in tensors.items()})


def decode_indices(record: Any, key: str, count: int, get: GetTensors, where: str, body: Mapping[str, Any]) -> Tensor:
    """[L] int64 indices into a background of `count` Gaussians.

    Raises:
        FormatError: the blob is not listed, or the indices are of another type or out of range.
    """
    indices = get(blob_name(record, key, body, where)).get(key)
    if indices is None or indices.dtype != torch.int64 or indices.ndim != 1:
        raise FormatError(f"{where}: the {key} indices are missing or of the wrong type.")
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= count):
        raise FormatError(f"{where}: {key} indices lie outside of the background.")
    return indices


def blob_name(record: Any, key: str, body: Mapping[str, Any], where: str) -> str:
    """A blob name that is well-formed and listed in the manifest's table.

    Raises:
        FormatError: it is not.
    """
    name = need(record, key, str, where)
    if not BLOB_NAME.fullmatch(name) or name not in body["blobs"]:
        raise FormatError(f"{where}: {key!r} names the blob {name[:100]!r}, which the scene does not list.")
    return name
