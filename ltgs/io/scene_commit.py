"""Preparing a generation: checking the scene, writing its new blobs and composing the manifest that names them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ltgs.core.checks import check_finite
from ltgs.core.scene import Scene
from ltgs.errors import ConvergenceError, FormatError, InputError
from ltgs.io.blobs import BlobFolder
from ltgs.io.camera_codec import checked_photo_name
from ltgs.io.json_files import MAX_JSON_BYTES
from ltgs.io.manifest import FORMAT, FORMAT_VERSION, Manifest, seal
from ltgs.io.scene_codec import encode_scene, tensors_to_bytes


def manifest_head(generation: int, previous: str | None, message: str) -> dict[str, Any]:
    """The entries every manifest starts with; `previous` is the checksum of the generation before."""
    return {
        "format": FORMAT, "format_version": FORMAT_VERSION, "generation": generation, "previous": previous, "message": message,
    }


def check_gaussians(scene: Scene) -> None:
    """Refuse to store broken numbers, which every later stage would inherit.

    Raises:
        ConvergenceError: Gaussians hold NaN or infinity; the message names which.
    """
    parts = {"the background": scene.chronology.background}
    parts |= {f"object {k}": t.gaussians for k, t in scene.chronology.templates.items()}
    for name, gaussians in parts.items():
        try:
            for field, tensor in gaussians.tensors().items():
                check_finite(field, tensor)
        except ValueError as error:
            raise ConvergenceError(
                f"Nothing was stored, because the Gaussians of {name} are broken: {error} Run again from the last checkpoint."
            ) from error


def _arrival(scene: Scene, current: Manifest) -> tuple[int, int]:
    """The time of the visit that this commit brings (the last one if it brings none), and how far it moves the later ones."""
    known = {v.get("name") for v in current.body.get("visits", [])}
    new = [t for t, visit in enumerate(scene.visits) if visit.name not in known]
    last = len(scene.visits) - 1
    if len(new) != 1 or len(known) != last:
        return last, 0
    return new[0], 1


def prepare_generation(
    blobs: BlobFolder, scene: Scene, current: Manifest, message: str, fresh: set[str],
) -> tuple[bytes, int]:
    """Write all blobs that are new and compose the next manifest.

    Args:
        fresh: receives the name of every file written, at once, so that the caller can take them back after a failure.

    Returns:
        The sealed manifest and its number of blobs.

    Raises:
        InputError: the disk is full or not writable, or the manifest would be too large to be read again.
        FormatError: an image the scene refers to was never put, or was damaged since.
    """
    introduced: dict[str, int] = {}
    last = len(scene.visits) - 1
    arrived, shift = _arrival(scene, current)

    def put(tensors: Mapping[str, Tensor]) -> str:
        name, new = blobs.put(tensors_to_bytes(tensors), "safetensors")
        if new:
            fresh.add(name)
        introduced[name] = arrived
        return name

    body = encode_scene(scene, put)
    for photo in scene.photos(localised=False):
        checked_photo_name(photo.name, f"visit {photo.timestep}")
        if photo.image_blob is not None:
            introduced[photo.image_blob] = min(photo.timestep, introduced.get(photo.image_blob, last), last)
    table: dict[str, dict[str, int]] = {}
    for name, time in introduced.items():
        size, known = blobs.size(name), current.blobs.get(name)
        if size is None or (known is not None and known["bytes"] != size):
            raise FormatError(f"{blobs.folder / name}: is missing or damaged; put the image again before the commit.")
        if known is not None:
            before = known["introduced_at"]
            time = min(last, before + shift if before >= arrived else before)
        table[name] = {"bytes": size, "introduced_at": time}
    data = seal({**manifest_head(current.generation + 1, current.checksum, message), **body, "blobs": table})
    if len(data) > MAX_JSON_BYTES:
        raise InputError(f"{blobs.folder.parent}: the manifest would take {len(data)} bytes, the limit is {MAX_JSON_BYTES}.")
    return data, len(table)


def growth(new: Manifest, old: Manifest) -> dict[str, int]:
    """Times a new generation has and the bytes it added to the folder: new blobs and the growth of the manifest."""
    fresh = sum(entry["bytes"] for name, entry in new.blobs.items() if name not in old.blobs)
    return {"num_times": int(new.body["num_times"]), "bytes": fresh + len(new.data) - len(old.data)}
