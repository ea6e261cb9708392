"""Commands that measure and describe scenes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from ltgs import cli_text
from ltgs.commands.base import SceneCommand
from ltgs.errors import InputError, UsageError

if TYPE_CHECKING:
    from ltgs.core.progress import Progress
    from ltgs.io.scene_store import SceneStore

Report = tuple[str, dict[str, Any], list[dict[str, str]]]
"""Title, all figures as plain values, rows of the table."""
NO_HELD_OUT = (
    "The scene has no held-out photos. Reconstruct with --holdout-every 8 to keep some, or pass --test DIR --test-cameras FILE."
)


@dataclass
class Eval(SceneCommand):
    """Measure a scene on its held-out photos, on a folder of test photos with cameras, or against a room with full truth."""

    test: Annotated[Path | None, arg(metavar="PATH")] = None
    """Folder of test photos."""
    test_cameras: Annotated[Path | None, arg(metavar="PATH")] = None
    """Cameras of the test photos, in the scene's frame of reference."""
    room: Annotated[Path | None, arg(metavar="PATH")] = None
    """Room folder whose photos the scene was made of (datasets/rooms/card.md): events, identities, poses, masks, pictures."""
    max_size: Annotated[int | None, arg(metavar="N")] = None
    """Long side at which test photos are compared, pixels; default: the size in the cameras file."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write every figure to this file; - for standard output."""
    backend: str = "auto"
    """Rasteriser: auto, cpu, reference or gsplat."""

    def run(self) -> int:
        from ltgs.io.scene_store import SceneStore
        from ltgs.pipeline.progress import progress_sink
        from ltgs.pipeline.run import pick_backend

        if (self.test is None) != (self.test_cameras is None):
            raise UsageError("--test and --test-cameras belong together; give both or none.")
        if self.room is not None and self.test is not None:
            raise UsageError("--room brings its own test photos; leave out --test and --test-cameras.")
        store = SceneStore.open(self.scene)
        backend, _ = pick_backend(self.backend)
        with progress_sink(sys.stderr, quiet=not sys.stderr.isatty()) as sink:
            title, values, rows = self._room(store, backend, sink) if self.room else self._photos(store, backend, sink)
        if self.json is not None:
            cli_text.write_json(self.json, values)
        if str(self.json) != "-":
            if rows:
                cli_text.print_table(title, rows)
            else:
                print(NO_HELD_OUT)
        return 0

    def _room(self, store: SceneStore, backend: str, sink: Progress) -> Report:
        from ltgs.data.rooms import read_room
        from ltgs.eval.room import evaluate_room, room_json, room_rows

        assert self.room is not None
        result = evaluate_room(store.load(), read_room(self.room), store=store, backend=backend, progress=sink)
        return f"room {result.room.name} (rendered)", room_json(result), room_rows(result)

    def _photos(self, store: SceneStore, backend: str, sink: Progress) -> Report:
        from ltgs.eval.protocol import evaluate_folder, evaluate_heldout
        from ltgs.eval.report import evaluation_json, evaluation_rows
        from ltgs.io.cameras_json import read_cameras

        scene = store.load()
        if self.test is not None and self.test_cameras is not None:
            cameras = read_cameras(self.test_cameras)
            result = evaluate_folder(scene, self.test, cameras, max_size=self.max_size, backend=backend, progress=sink)
        else:
            result = evaluate_heldout(store, scene, backend=backend, progress=sink)
        for text in [*result.warnings, *(f"{n} was not scored: {r}" for n, r in result.skipped.items())]:
            print(f"warning: {text}", file=sys.stderr)
        rows = evaluation_rows(result, scene) if result.images else []
        return f"{len(result.images)} {result.kind}", evaluation_json(result, scene), rows


@dataclass
class Info(SceneCommand):
    """What is in a scene: visits, photos, objects, events, storage, timing."""

    json: bool = False
    """Everything as JSON on standard output."""

    def run(self) -> int:
        from ltgs.io.scene_store import SceneStore
        from ltgs.pipeline.info import scene_info

        store = SceneStore.open(self.scene)
        scene = store.load()
        if self.json:
            cli_text.write_json(Path("-"), scene_info(store, scene))
        else:
            cli_text.print_scene(scene, scene_info(store, scene))
        return 0


@dataclass
class Verify(SceneCommand):
    """Prove every byte of a scene folder."""

    restore_previous: bool = False
    """Make the generation before the current one current again."""

    def run(self) -> int:
        from ltgs.io.scene_store import SceneStore

        store = SceneStore.open(self.scene)
        if self.restore_previous:
            print(f"generation {store.restore_previous()} is current again")
        report = store.verify()
        for error in report.errors:
            print(f"damaged: {error}")
        for name in report.leftovers:
            print(f"leftover (harmless): {name}")
        verdict = "sound" if report.ok else f"{len(report.errors)} errors"
        proven = f"{report.num_blobs} files, {report.num_bytes / 2**20:.1f} MiB proven"
        print(f"{self.scene}: {verdict}; generation {report.generation}, {proven}")
        if not report.ok:
            print("Restore the files from a copy, or go back with `ltgs verify SCENE --restore-previous`.")
        return 0 if report.ok else InputError.exit_code
