"""Training checkpoints: one safetensors file and a JSON note that names it, both written atomically."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ltgs.errors import LtgsError
from ltgs.io.atomic import explained, remove_file, sha256_bytes, write_file
from ltgs.io.json_files import need, read_json
from ltgs.io.scene_codec import tensors_from_bytes, tensors_to_bytes

log = logging.getLogger("ltgs.pipeline")
NOTE = "latest.json"


class CheckpointFolder:
    """The newest training state of a run; `key` says which run it belongs to."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the state of a step, then the note that makes it the newest, then drop the older file.

        Raises:
            InputError: the disk is full or not writable.
        """
        data = tensors_to_bytes(tensors)
        path = self.folder / f"step_{step:07d}.safetensors"
        note = {"file": path.name, "step": step, "sha256": sha256_bytes(data), "key": self.key}
        with explained("write", path, len(data)):
            write_file(path, data)
            write_file(self.folder / NOTE, json.dumps(note).encode())
            for old in self.folder.glob("step_*.safetensors"):
                if old.name != path.name:
                    remove_file(old)

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """The newest state of this run, or None if there is none, it is damaged, or it belongs to other inputs."""
        path = self.folder / NOTE
        if not path.is_file():
            return None
        try:
            note = read_json(path)
            if need(note, "key", str, str(path)) != self.key:
                log.warning("%s: the checkpoint belongs to other photos or settings; training starts anew.", self.folder)
                return None
            # The note's name is reduced to its last part, so that an edited note cannot lead out of the folder.
            file = self.folder / Path(need(note, "file", str, str(path))).name
            with explained("read", file):
                data = file.read_bytes()
            if sha256_bytes(data) != need(note, "sha256", str, str(path)):
                log.warning("%s: the checkpoint is damaged; training starts anew.", file)
                return None
            return int(need(note, "step", int, str(path))), tensors_from_bytes(data, str(file))
        except LtgsError as error:
            log.warning("The checkpoint cannot be used (%s); training starts anew.", error)
            return None

    def clear(self) -> None:
        """Remove all files; a leftover only wastes space, so failing is no error."""
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                remove_file(path)


def fingerprint(*parts: Any) -> str:
    """A short stable hash of plain JSON values."""
    text = json.dumps(parts, sort_keys=True, default=float)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
