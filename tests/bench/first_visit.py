"""A stored first visit as the start of benchmarks: later visits are added to copies of it, so that it is trained once."""

from __future__ import annotations

import shutil
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ltgs.core.chronology import Chronology
from ltgs.core.scene import PhotoRecord, Scene
from ltgs.data.rooms import Room
from ltgs.io.scene_store import SceneStore
from ltgs.pipeline.config import RunConfig, load_config, to_plain
from ltgs.pipeline.run import Job, add_visit, reconstruct


@dataclass(frozen=True)
class Spent:
    """Processor seconds of adding one visit, everything included."""

    visit: str
    cpu_seconds: float


def first_visit(scene: Scene, *, config: RunConfig | None = None) -> Scene:
    """The scene as it was after its first visit; later visits will use this version's settings, or `config`'s."""
    own = config or RunConfig()
    run = {**scene.config.get("run", {}), "update": to_plain(own.update), "localize": to_plain(own.localize)}
    return replace(
        scene, chronology=replace(Chronology.initial(scene.chronology.background), metres_per_unit=scene.chronology.metres_per_unit),
        visits=scene.visits[:1], config={**scene.config, "run": run},
    )


def copy_first_visit(source: Path, folder: Path, *, scale: float = 1.0) -> SceneStore:
    """A copy of a stored scene that holds its first visit only, in a world `scale` times as large."""
    shutil.copytree(source, folder)
    store = SceneStore.open(folder)
    scene = first_visit(store.load())
    store.commit(scene if scale == 1 else scaled(scene, scale), message=f"first visit, scaled by {scale:g}")
    return store


def reconstruct_first_visit(room: Room, folder: Path, work: Path, preset: str, cameras: Path | None) -> None:
    """Reconstruct the first visit of a room alone."""
    photos = work / "first-visit-photos"
    photos.mkdir(parents=True, exist_ok=True)
    link = photos / room.dates[0]
    if not link.exists():
        link.symlink_to((room.root / "photos" / room.dates[0]).resolve(), target_is_directory=True)
    reconstruct(Job(photos, folder, load_config(preset), cameras))


def add_visits(scene: Path, folders: Sequence[Path], *, cameras: Path | None = None) -> list[Spent]:
    """Add visits one after the other; those that are stored already cost next to nothing."""
    out = []
    for folder in folders:
        start = clock.process_time()
        add_visit(scene, folder, cameras=cameras)
        out.append(Spent(folder.name, clock.process_time() - start))
    return out


def scaled(scene: Scene, factor: float) -> Scene:
    """A first visit in a world `factor` times as large: Gaussians, cameras, covariances and the map for localisation.

    Raises:
        ValueError: the scene has later visits, or side data whose units are not known here.
    """
    if len(scene.visits) != 1 or scene.chronology.templates:
        raise ValueError("only a first visit can be scaled.")
    unknown = set(scene.side_data) - {"localization_map", "expected_residual"}
    if unknown:
        raise ValueError(f"units of the side data {sorted(unknown)} are not known; extend `scaled`.")
    old = scene.chronology.background
    background = replace(old, means=old.means * factor, log_scales=old.log_scales + float(np.log(factor)))
    base = dict(scene.side_data["localization_map"])
    base["xyz"] = base["xyz"] * factor
    poses = base["cam_from_world"].clone()
    poses[:, :3, 3] *= factor
    base["cam_from_world"] = poses
    metres = scene.chronology.metres_per_unit
    return replace(
        scene, chronology=replace(Chronology.initial(background), metres_per_unit=None if metres is None else metres / factor),
        visits=(replace(scene.visits[0], photos=tuple(_scaled_photo(p, factor) for p in scene.visits[0].photos)),),
        side_data={**scene.side_data, "localization_map": base},
    )


def _scaled_photo(photo: PhotoRecord, factor: float) -> PhotoRecord:
    if photo.camera is None:
        return photo
    pose = photo.camera.cam_from_world.copy()
    pose[:3, 3] *= factor
    units = np.diag([1.0, 1, 1, factor, factor, factor])
    covariance = None if photo.covariance is None else units @ photo.covariance @ units
    return replace(photo, camera=replace(photo.camera, cam_from_world=pose), covariance=covariance)
