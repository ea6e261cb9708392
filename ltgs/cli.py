"""The `ltgs` command: arguments and exit codes. `ltgs.pipeline` and `ltgs.eval` do the work; `cli_text` has the words."""

from __future__ import annotations

import functools
import logging
import operator
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg, subcommand

from ltgs import __version__, cli_text
from ltgs.errors import InputError, LtgsError, MissingDependency, UsageError

EXIT_INTERRUPTED = 130
NO_HELD_OUT = (
    "The scene has no held-out photos. Reconstruct with --holdout-every 8 to keep some, or pass --test DIR --test-cameras FILE."
)


@dataclass
class Command:
    """What all commands share."""

    debug: bool = field(default=False, kw_only=True)
    """Show a traceback for errors of any kind."""


@dataclass
class SceneCommand(Command):
    """What all commands that use a stored scene share."""

    scene: Annotated[Positional[Path], arg(metavar="SCENE")]
    """Scene folder."""


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
    """Add one visit to an existing scene; the past is not touched."""

    photos: Annotated[Positional[Path], arg(metavar="PHOTOS")]
    """Folder with the photos of the visit; its name becomes the visit's name."""
    time: Annotated[str | None, arg(metavar="TEXT")] = None
    """Date of the visit, e.g. 2024-03-01; default: from the folder's name or the photos' EXIF."""
    cameras: Annotated[Path | None, arg(metavar="PATH")] = None
    """Given cameras of the visit's photos."""
    backend: Annotated[str | None, arg(metavar="TEXT")] = None
    """Rasteriser: auto, cpu, reference or gsplat."""
    quiet: bool = False
    """Only warnings and the summary."""
    json: bool = False
    """Progress and summary as JSON lines on standard output."""

    def run(self) -> int:
        from ltgs.pipeline.run import add_visit

        when = None
        if self.time is not None:
            try:
                when = datetime.fromisoformat(self.time)
            except ValueError:
                raise UsageError(f"--time {self.time}: not a date. Write it as 2024-03-01 or 2024-03-01T14:30.") from None
        again = shlex.join(["ltgs", *sys.argv[1:]])
        return cli_text.run_and_report(
            self.scene,
            lambda sink: add_visit(
                self.scene, self.photos, captured_at=when, cameras=self.cameras, backend=self.backend, progress=sink
            ),
            quiet=self.quiet, as_json=self.json, again=again,
        )


@dataclass
class View(SceneCommand):
    """Show a scene with its timeline in the browser."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback lets others on the network see the scene."""
    port: int = 8080
    """Port to listen on."""
    no_open: bool = False
    """Do not open the browser."""

    def run(self) -> int:
        try:
            from viewer.app import view_scene
        except ModuleNotFoundError as error:
            if error.name != "viser":
                raise
            raise MissingDependency("The viewer needs viser. Run: pip install 'viser>=1.1.1,<1.2'") from error
        view_scene(self.scene, host=self.host, port=self.port, open_browser=not self.no_open, block=True)
        return 0


@dataclass
class Render(SceneCommand):
    """Render a scene at given cameras: one PNG per camera and kind."""

    cameras: Path
    """Cameras file, transforms.json or COLMAP folder, in the scene's frame of reference."""
    output: Annotated[Path, arg(aliases=["-o"])]
    """Folder for the pictures."""
    time: str = "0"
    """Index of the visit, its name, or a date."""
    what: str = "rgb"
    """Comma-separated: rgb, depth (16-bit), alpha, objects (object id per pixel)."""
    backend: str = "auto"
    """Rasteriser: auto, cpu, reference or gsplat."""
    quiet: bool = False
    """Only warnings."""

    def run(self) -> int:
        from ltgs.io.cameras_json import read_cameras
        from ltgs.io.scene_store import SceneStore
        from ltgs.pipeline.info import resolve_time, visit_title
        from ltgs.pipeline.outputs import parse_kinds, render_images
        from ltgs.pipeline.progress import progress_sink
        from ltgs.pipeline.run import pick_backend

        kinds = parse_kinds(self.what)
        backend, _ = pick_backend(self.backend)
        scene = SceneStore.open(self.scene).load()
        time = resolve_time(scene, self.time)
        cameras = [c.pinhole(time) for c in read_cameras(self.cameras)]
        with progress_sink(sys.stderr, quiet=self.quiet) as sink:
            written = render_images(scene.chronology, time, cameras, kinds, self.output, backend=backend, progress=sink)
        if not self.quiet:
            print(f"{len(written)} images of {visit_title(scene.visits[time])} in {self.output}")
        return 0


@dataclass
class Eval(SceneCommand):
    """Measure a scene on its held-out photos, or on a folder of test photos with cameras."""

    test: Annotated[Path | None, arg(metavar="PATH")] = None
    """Folder of test photos."""
    test_cameras: Annotated[Path | None, arg(metavar="PATH")] = None
    """Cameras of the test photos, in the scene's frame of reference."""
    max_size: Annotated[int | None, arg(metavar="N")] = None
    """Long side at which test photos are compared, pixels; default: the size in the cameras file."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write every figure to this file; - for standard output."""
    backend: str = "auto"
    """Rasteriser: auto, cpu, reference or gsplat."""

    def run(self) -> int:
        from ltgs.eval.protocol import evaluate_folder, evaluate_heldout
        from ltgs.eval.report import evaluation_json, evaluation_rows
        from ltgs.io.cameras_json import read_cameras
        from ltgs.io.scene_store import SceneStore
        from ltgs.pipeline.progress import progress_sink
        from ltgs.pipeline.run import pick_backend

        if (self.test is None) != (self.test_cameras is None):
            raise UsageError("--test and --test-cameras belong together; give both or none.")
        store = SceneStore.open(self.scene)
        scene = store.load()
        backend, _ = pick_backend(self.backend)
        with progress_sink(sys.stderr, quiet=not sys.stderr.isatty()) as sink:
            if self.test is not None and self.test_cameras is not None:
                cameras = read_cameras(self.test_cameras)
                result = evaluate_folder(scene, self.test, cameras, max_size=self.max_size, backend=backend, progress=sink)
            else:
                result = evaluate_heldout(store, scene, backend=backend, progress=sink)
        for text in [*result.warnings, *(f"{n} was not scored: {r}" for n, r in result.skipped.items())]:
            print(f"warning: {text}", file=sys.stderr)
        if self.json is not None:
            cli_text.write_json(self.json, evaluation_json(result, scene))
        if str(self.json) != "-":
            if result.images:
                cli_text.print_table(f"{len(result.images)} {result.kind}", evaluation_rows(result, scene))
            else:
                print(NO_HELD_OUT)
        return 0


@dataclass
class Export(SceneCommand):
    """Write a scene for other programs: Gaussians of one time, or the cameras of all photos."""

    time: str = "0"
    """Index of the visit, its name, a date, or `all` for one file per visit."""
    format: Literal["ply", "splat"] = "ply"
    """File format of the Gaussians."""
    output: Annotated[Path | None, arg(aliases=["-o"])] = None
    """File to write; with --time all a folder."""
    cameras: Annotated[Path | None, arg(metavar="PATH")] = None
    """Write the cameras of all placed photos to this JSON file."""

    def run(self) -> int:
        from ltgs.io.cameras_json import write_cameras_json
        from ltgs.io.scene_store import SceneStore
        from ltgs.pipeline.info import resolve_time
        from ltgs.pipeline.outputs import export_gaussians, export_sequence

        if self.output is None and self.cameras is None:
            raise UsageError("Nothing to export: pass -o FILE for Gaussians, --cameras FILE for cameras, or both.")
        scene = SceneStore.open(self.scene).load()
        if self.cameras is not None:
            write_cameras_json(self.cameras, cameras := [p.camera for p in scene.photos() if p.camera is not None])
            print(f"{len(cameras)} cameras in {self.cameras}")
        if self.output is not None and self.time == "all":
            for path in export_sequence(scene.chronology, self.format, self.output):
                print(path)
        elif self.output is not None:
            count = export_gaussians(scene.chronology, resolve_time(scene, self.time), self.format, self.output)
            print(f"{count} Gaussians in {self.output}")
        return 0


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


@dataclass
class Doctor(Command):
    """Check whether this machine is fit, and say which rasteriser is used and why."""

    def run(self) -> int:
        from ltgs.pipeline.doctor import examine

        print(f"ltgs {__version__}")
        checks = examine(Path.cwd())
        for check in checks:
            print(f"[{check.verdict:^7}] {check.name}: {check.text}")
        problems = sum(c.verdict == "problem" for c in checks)
        print(f"{problems} found that must be solved." if problems else "All is well.")
        return int(problems > 0)


@dataclass
class Data(Command):
    """The catalogue of captures this program knows how to read."""

    action: Positional[Literal["list", "show"]] = "list"
    """list all entries, or show one."""
    name: Positional[str] = ""
    """Entry to show."""

    def run(self) -> int:
        from ltgs.data.recipes import load_catalogue

        catalogue = load_catalogue()
        if self.action == "list":
            for name, recipe in sorted(catalogue.items()):
                print(f"{name}: {recipe.title}")
        elif self.name not in catalogue:
            raise UsageError(f"There is no entry {self.name!r}. Choose one of {', '.join(sorted(catalogue))}.")
        else:
            print(cli_text.read_text(catalogue[self.name].card))
        return 0


COMMANDS = {
    "reconstruct": Reconstruct, "update": Update, "view": View, "render": Render, "eval": Eval, "export": Export,
    "info": Info, "verify": Verify, "doctor": Doctor, "data": Data,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 ok, 1 internal error, 2 usage, 3 input unusable, 130 interrupted."""
    # Waiting threads sleep: beside another process, spinning made a run two to four times longer. Read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if arguments[:1] == ["--version"]:
        print(f"ltgs {__version__}")
        return 0
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return int(_parse(arguments).run())
    except SystemExit as error:
        # tyro has printed the help or what was wrong with the arguments.
        return int(error.code) if isinstance(error.code, int) else UsageError.exit_code if error.code else 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        cli_text.sanitise_stream_errors()
        return 0
    except LtgsError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        return cli_text.internal_error(error, debug=debug)


def _parse(arguments: list[str]) -> Any:
    kinds = [Annotated[kind, subcommand(name, prefix_name=False)] for name, kind in COMMANDS.items()]
    union = functools.reduce(operator.or_, kinds)
    return tyro.cli(  # type: ignore[call-overload]
        union,
        prog="ltgs", args=arguments or ["--help"], config=(FlagCreatePairsOff,),
        description="Living 3-D Gaussian scenes with a timeline, from folders of photos.",
    )
