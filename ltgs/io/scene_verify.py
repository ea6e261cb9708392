"""Proving every byte of a scene folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ltgs.errors import InputError
from ltgs.io.blobs import BlobFolder
from ltgs.io.images import decode_png
from ltgs.io.manifest import Manifest, read_manifest
from ltgs.io.scene_codec import decode_scene, tensors_from_bytes
from ltgs.io.scene_log import read_log, read_timings

_EXPECTED = {"manifest.json", "manifest.prev.json", "blobs", "stages", "log.jsonl", "timing.json", "lock"}


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found."""

    ok: bool
    """No errors; leftovers are harmless."""
    generation: int
    """Current generation, -1 if its manifest is unreadable."""
    num_blobs: int
    """Blobs proven, each once."""
    num_bytes: int
    """Bytes of these."""
    errors: tuple[str, ...] = ()
    """Damage, one sentence with the file each."""
    leftovers: tuple[str, ...] = ()
    """Files that nothing refers to, relative to the scene folder."""


def verify_scene(path: Path) -> VerifyReport:
    """Prove manifests, blobs, timings and log of the scene folder `path`; damage is listed, not raised."""
    errors: list[str] = []
    leftovers: list[str] = []
    blobs = BlobFolder(path)
    current = _manifest(path / "manifest.json", errors)
    previous = None
    # Generation 0 of a new scene has no predecessor; the first commit makes it one.
    if (path / "manifest.prev.json").exists() or (current is not None and current.generation > 0):
        previous = _manifest(path / "manifest.prev.json", errors)
    proven: dict[str, int] = {}
    for manifest in (current, previous):
        for name, entry in (manifest.blobs if manifest is not None else {}).items():
            if name not in proven:
                proven[name] = _prove_blob(blobs, name, entry["bytes"], errors)
    for manifest, file in ((current, "manifest.json"), (previous, "manifest.prev.json")):
        if manifest is not None and manifest.body["num_times"] and not errors:
            _decode(manifest, blobs, str(path / file), errors)
    _side_files(path, errors, leftovers)
    leftovers += _leftovers(path, set(proven))
    sound = {n: b for n, b in proven.items() if b >= 0}
    generation = -1 if current is None else current.generation
    return VerifyReport(not errors, generation, len(sound), sum(sound.values()), tuple(errors), tuple(leftovers))


def _manifest(path: Path, errors: list[str]) -> Manifest | None:
    try:
        return read_manifest(path)
    except InputError as error:
        errors.append(str(error))
        return None


def _prove_blob(blobs: BlobFolder, name: str, size: int, errors: list[str]) -> int:
    """Bytes of a sound blob, -1 for a damaged one."""
    try:
        data = blobs.read(name, size)
        if name.endswith(".png"):
            decode_png(data, str(blobs.folder / name))
        else:
            tensors_from_bytes(data, str(blobs.folder / name))
    except FileNotFoundError:
        errors.append(f"{blobs.folder / name}: is missing.")
        return -1
    except InputError as error:
        errors.append(str(error))
        return -1
    return len(data)


def _decode(manifest: Manifest, blobs: BlobFolder, where: str, errors: list[str]) -> None:
    """Every blob was proven; now prove that they make a scene together."""
    try:
        decode_scene(manifest.body, lambda name: tensors_from_bytes(blobs.read(name), name), [], where)
    except InputError as error:
        errors.append(str(error))
    except FileNotFoundError as error:
        errors.append(f"{error.filename}: vanished while it was being verified; is another process writing?")


def _side_files(path: Path, errors: list[str], leftovers: list[str]) -> None:
    try:
        read_timings(path / "timing.json")
    except (InputError, OSError) as error:
        errors.append(str(error))
    try:
        _, damaged, torn = read_log(path / "log.jsonl")
    except (InputError, OSError) as error:
        errors.append(str(error))
        return
    errors += [f"{path / 'log.jsonl'}: line {number} is damaged." for number in damaged]
    if torn:
        leftovers.append("log.jsonl: the last line was cut off by a kill; the next entry removes it")


def _leftovers(path: Path, known: set[str]) -> list[str]:
    found = [entry.name for entry in os.scandir(path) if entry.name not in _EXPECTED] if path.is_dir() else []
    if (path / "blobs").is_dir():
        found += [f"blobs/{entry.name}" for entry in os.scandir(path / "blobs") if entry.name not in known]
    return sorted(found)
