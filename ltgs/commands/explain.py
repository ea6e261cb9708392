"""The command that shows why a visit was judged as it was."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from ltgs.commands.base import SceneCommand


@dataclass
class Explain(SceneCommand):
    """Write a page that shows why the program decided what it decided about one visit: photos, changes, candidates, scores."""

    output: Annotated[Path, arg(aliases=["-o"])]
    """Folder for index.html and its pictures."""
    time: str = "-1"
    """Index of the visit, its name, or a date; default: the last one."""
    backend: str = "auto"
    """Rasteriser: auto, cpu, reference or gsplat."""
    quiet: bool = False
    """Only warnings."""

    def run(self) -> int:
        from ltgs.io.scene_store import SceneStore
        from ltgs.pipeline.explain.visit import explain_visit
        from ltgs.pipeline.info import resolve_time, visit_title
        from ltgs.pipeline.progress import progress_sink
        from ltgs.pipeline.run import pick_backend

        backend, _ = pick_backend(self.backend)
        store = SceneStore.open(self.scene)
        scene = store.load()
        time = resolve_time(scene, self.time)
        with progress_sink(sys.stderr, quiet=self.quiet) as sink:
            page = explain_visit(store, time, self.output, backend=backend, progress=sink)
        if not self.quiet:
            print(f"{visit_title(scene.visits[time])} explained in {page}")
        return 0
