"""Commands that make and extend scenes."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from ltgs import cli_text
from ltgs.commands.base import Command, SceneCommand
from ltgs.errors import UsageError


@dataclass
class Reconstruct(Command):
    """Photos in, a scene with a timeline out: one folder per visit below PHOTOS, or the photos of a single visit."""

    photos: Annotated[Positional[Path], arg(metavar="PHOTOS")]
    """Folder with one folder of photos per visit, or with the photos of one visit."""
    output: Annotated[Path, arg(aliases=["-o"])]
    """Scene folder to make."""
    preset: str = "cpu_full"
    """cpu_small, cpu_full, gpu_full or paper."""
    cameras: Annotated[Path | None, arg(metavar="PATH")] = None
    """Given cameras: a cameras file, transforms.json or COLMAP folder. Photos it names are not posed again."""
    times: Annotated[Path | None, arg(metavar="PATH")] = None
    """YAML file with one line `folder: date` per visit."""
    holdout_every: Annotated[int | None, arg(metavar="N")] = None
    """Keep photo 0, N, 2N, ... of each visit with at least N photos for evaluation; 0 = none."""
    resume: bool = False
    """Continue where a former run stopped; starts anew if there is no scene yet."""
    overwrite: bool = False
    """Replace an existing scene."""
    config: Annotated[Path | None, arg(metavar="PATH")] = None
    """YAML file of settings, laid out like the presets."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """A single setting, e.g. train.steps=500; may be repeated."""
    seed: Annotated[int | None, arg(metavar="N")] = None
    """Start of the random number generators."""
    backend: Annotated[str | None, arg(metavar="TEXT")] = None
    """Rasteriser: auto, cpu, reference or gsplat."""
    max_size: Annotated[int | None, arg(metavar="N")] = None
    """Long side of the working photos, pixels."""
    quiet: bool = False
    """Only warnings and the summary."""
    json: bool = False
    """Progress and summary as JSON lines on standard output."""

    def run(self) -> int:
        from ltgs.optim.together import follow, training_group

        with training_group() as group:
            if group.rank == 0:
                return self._run()
            follow()
            return 0

    def _run(self) -> int:
        from ltgs.pipeline.config import load_config, parse_setting
        from ltgs.pipeline.run import Job, reconstruct

        overrides: dict[str, Any] = {
            k: v for k in ("holdout_every", "seed", "backend", "max_size") if (v := getattr(self, k)) is not None
        }
        overrides |= dict(parse_setting(text) for text in self.set)
        config = load_config(self.preset, overrides=overrides, file=self.config)
        job = Job(self.photos, self.output, config, self.cameras, self.times, self.resume, self.overwrite)
        words = [a for a in sys.argv[1:] if a not in ("--overwrite", "--resume")]
        again = shlex.join(["ltgs", *words, "--resume"])
        return cli_text.run_and_report(
            self.output, lambda sink: reconstruct(job, progress=sink), quiet=self.quiet, as_json=self.json, again=again
        )


@dataclass
class Update(SceneCommand):
    """Add one visit to an existing scene, at the end or, by its date, between older ones; what other visits saw stays."""

    photos: Annotated[Positional[Path], arg(metavar="PHOTOS")]
    """Folder with the photos of the visit; its name becomes the visit's name."""
    time: Annotated[str | None, arg(metavar="TEXT")] = None
    """Date of the visit, e.g. 2024-03-01; default: from the folder's name or the photos' EXIF."""
    cameras: Annotated[Path | None, arg(metavar="PATH")] = None
    """Given cameras of the visit's photos."""
    backend: Annotated[str | None, arg(metavar="TEXT")] = None
    """Rasteriser: auto, cpu, reference or gsplat."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """A single setting for this visit, e.g. update.learned.dino=FOLDER; may be repeated."""
    quiet: bool = False
    """Only warnings and the summary."""
    json: bool = False
    """Progress and summary as JSON lines on standard output."""

    def run(self) -> int:
        from ltgs.pipeline.config import parse_setting
        from ltgs.pipeline.run import add_visit

        when = None
        if self.time is not None:
            try:
                when = datetime.fromisoformat(self.time)
            except ValueError:
                raise UsageError(f"--time {self.time}: not a date. Write it as 2024-03-01 or 2024-03-01T14:30.") from None
        settings = dict(parse_setting(text) for text in self.set)
        again = shlex.join(["ltgs", *sys.argv[1:]])
        return cli_text.run_and_report(
            self.scene,
            lambda sink: add_visit(
                self.scene, self.photos, captured_at=when, cameras=self.cameras, backend=self.backend, settings=settings,
                progress=sink,
            ),
            quiet=self.quiet, as_json=self.json, again=again,
        )
