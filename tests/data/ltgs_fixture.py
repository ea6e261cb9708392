"""Writes tiny scenes in exactly the layout of the LTGS release, with COLMAP models made by pycolmap."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image

LANDSCAPE, PORTRAIT = (48, 32), (32, 48)


@dataclass
class Shot:
    """One photo of the fixture."""

    name: str
    size: tuple[int, int] = LANDSCAPE
    registered: bool = True
    on_disk: str | None = None
    """Name of the file if it is not `name`; "" = no file."""


@dataclass
class FixtureScene:
    shots: list[Shot]
    changes: list[str]
    poses: dict[str, np.ndarray] = field(default_factory=dict)


def dense(folder: str, count: int, *, extension: str = "jpg", size: tuple[int, int] = LANDSCAPE) -> list[Shot]:
    return [Shot(f"{folder}/{folder}_{i}.{extension}", size) for i in range(count)]


def standard(num_updates: int = 2, *, dense_count: int = 17, tests_per_visit: int = 2) -> FixtureScene:
    """`IMG_0000` dense, then visits with 3 update and some test photos each, folders as in the release."""
    shots = dense("IMG_0000", dense_count)
    changes = []
    for k in range(1, num_updates + 1):
        folder = f"IMG_{k:04d}"
        visit = [Shot(f"{folder}/photo_{i}.jpg") for i in range(3 + tests_per_visit)]
        shots += visit
        changes += [s.name for s in visit[:3]]
    return FixtureScene(shots, changes)


def pose_of(index: int) -> pycolmap.Rigid3d:
    """A camera on a circle, turned by a different angle each."""
    angle = 0.3 * index
    quat_xyzw = np.array([0.1, np.sin(angle / 2), 0.0, np.cos(angle / 2)])
    return pycolmap.Rigid3d(
        pycolmap.Rotation3d(quat_xyzw / np.linalg.norm(quat_xyzw)), np.array([np.cos(angle), 0.1 * index % 1, np.sin(angle)])
    )


def write_model(folder: Path, shots: Sequence[Shot], poses: dict[str, np.ndarray], *, model: str = "PINHOLE") -> None:
    """`cameras.bin`, `images.bin`, `points3D.bin` with one camera per image size; fills `poses`."""
    folder.mkdir(parents=True, exist_ok=True)
    rec = pycolmap.Reconstruction()
    camera_of: dict[tuple[int, int], int] = {}
    for shot in shots:
        if shot.size not in camera_of:
            w, h = shot.size
            params = {"PINHOLE": [50.0, 51.0, w / 2, h / 2], "SIMPLE_RADIAL": [50.0, w / 2, h / 2, 0.05]}[model]
            camera_of[shot.size] = len(camera_of) + 1
            rec.add_camera_with_trivial_rig(
                pycolmap.Camera(camera_id=camera_of[shot.size], model=model, width=w, height=h, params=params)
            )
    for i, shot in enumerate(shots):
        image = pycolmap.Image(image_id=i + 1, name=shot.name, camera_id=camera_of[shot.size])
        rec.add_image_with_trivial_frame(image, pose_of(i))
        poses[shot.name] = np.vstack([pose_of(i).matrix(), [0, 0, 0, 1]])
    for xyz in np.random.default_rng(0).normal(size=(5, 3)):
        rec.add_point3D(xyz, pycolmap.Track(), np.array([200, 100, 50], np.uint8))
    rec.write(folder)


def write_release(
    root: Path, scene: FixtureScene, *, mode: str = "sfm_all", separator: str = "\n", model: str = "PINHOLE"
) -> Path:
    """Write the scene; in "hloc" mode the model holds the first folder only and lies in hloc/."""
    for i, shot in enumerate(scene.shots):
        file = shot.name if shot.on_disk is None else shot.on_disk
        if file:
            path = root / "images" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((shot.size[1], shot.size[0], 3), 7 * i % 255, np.uint8)
            Image.fromarray(pixels).save(path)
    (root / "images" / "changes.txt").write_text(separator.join(scene.changes) + "\n")
    first = scene.shots[0].name.split("/")[0]
    shots = [s for s in scene.shots if s.registered and (mode == "sfm_all" or s.name.split("/")[0] == first)]
    write_model(root / ("" if mode == "sfm_all" else "hloc") / "sparse" / "0", shots, scene.poses, model=model)
    return root


def write_hloc_results(path: Path, names: Sequence[str], *, far: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """`hloc_results.json` as the authors' localisation stage writes it; returns the true [3, 4] poses."""
    entries, poses = [], {}
    for i, name in enumerate(names):
        pose = pose_of(i)
        translation = pose.translation + (1e14 if name in far else 0.0)
        entries.append({
            "name": name, "model": "PINHOLE", "camera_id": 1, "width": 48, "height": 32,
            "rotation": pose.rotation.quat.tolist(), "translation": translation.tolist(), "params": [50.0, 51.0, 24.0, 16.0],
            "has_prior_focal_length": False, "num_inliers": 40 + i, "inliers": [True] * (40 + i) + [False] * 40,
            "points3D_ids": [], "xys": [],
        })
        poses[name] = pose.matrix()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))
    return poses
