"""Commands that show scenes and write them for other programs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from ltgs.commands.base import SceneCommand
from ltgs.errors import MissingDependency, UsageError


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
        cameras = [scene.sampled(c.pinhole(time)) for c in read_cameras(self.cameras)]
        with progress_sink(sys.stderr, quiet=self.quiet) as sink:
            written = render_images(scene.chronology, time, cameras, kinds, self.output, backend=backend, progress=sink)
        if not self.quiet:
            print(f"{len(written)} images of {visit_title(scene.visits[time])} in {self.output}")
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
