"""What an unfinished run was started with, so that `--resume` continues the same run and nothing else."""

from __future__ import annotations

import json

from ltgs.errors import FormatError, UsageError
from ltgs.io.atomic import explained, write_file
from ltgs.io.json_files import need, read_json
from ltgs.io.scene_store import SceneStore
from ltgs.pipeline.config import RunConfig, differences, to_plain

_NOT_THE_RESULT = ("preset", "checkpoint_every")
"""Settings that do not decide the result and may differ between a run and its continuation."""


class RunState:
    """The note `stages/run/state.json` of a scene."""

    def __init__(self, store: SceneStore) -> None:
        self.store = store
        self.path = store.stage_dir("run") / "state.json"

    def check_or_write(self, config: RunConfig, cameras_key: str | None, *, resume: bool) -> None:
        """Write the note for a new run; compare it for a resumed one.

        Raises:
            UsageError: the resumed run has other settings or other given cameras; the message lists them.
        """
        now = {"config": to_plain(config), "cameras": cameras_key}
        before = self._read() if resume else None
        if before is None:
            with explained("write", self.path):
                write_file(self.path, json.dumps(now, sort_keys=True).encode())
            return
        changed = [d for d in differences(before["config"], now["config"]) if d.split(":")[0] not in _NOT_THE_RESULT]
        if before["cameras"] != cameras_key:
            changed.append("--cameras: the given cameras differ")
        if changed:
            listed = "\n".join(f"  {line}" for line in changed[:8])
            raise UsageError(
                f"{self.store.path}: the run to resume had other settings (or was started by another version of ltgs):\n{listed}\n"
                "Use the same settings, or --overwrite to start anew."
            )

    def _read(self) -> dict | None:
        """The note, or None if there is none; a torn one cannot exist, since it is written atomically."""
        if not self.path.is_file():
            return None
        body = read_json(self.path)
        where = str(self.path)
        need(body, "config", dict, where)
        if "cameras" not in body:
            raise FormatError(f"{where}: the entry 'cameras' is missing. Use --overwrite to start anew.")
        return body
