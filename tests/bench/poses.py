"""Pose figures on the development photo sets, as JSON lines. Opt-in: `python -m tests.bench.poses DATA [SET ...]`.

Per set: photos registered, points, errors, processor seconds, and the pose error where the set has a truth. For rooms the first
visit is reconstructed without poses and the later visits' photos are placed on it.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ltgs.errors import InputError
from ltgs.io.images import looks_like_photo, photo_sha256, read_photo
from ltgs.poses.align import align_cameras, pose_errors
from ltgs.poses.features import FeatureConfig, PhotoInput
from ltgs.poses.localize import localize_photos
from ltgs.poses.sfm import SfmConfig, SfmResult, reconstruct_poses
from tests.poses.place import epfl_truth

PHOTO_SETS = (
    "kermit", "ET", "epfl_fountain-P11", "epfl_Herz-Jesus-P8", "sceaux", "monstree", "fox", "opensfm_lund", "hilti_small",
)


def photo_inputs(folder: Path, root: Path) -> list[PhotoInput]:
    """All photos of a folder, named relative to `root`."""
    out = []
    for path in sorted(p for p in folder.iterdir() if looks_like_photo(p)):
        pixels = read_photo(path)
        height, width = pixels.rgb.shape[:2]
        name = path.relative_to(root).as_posix()
        out.append(PhotoInput(name, path, photo_sha256(path), width, height, pixels.exif.focal_px, pixels.exif.make_model))
    return out


def run_set(folder: Path, config: SfmConfig, work: Path) -> dict:
    """Figures of one photo set."""
    photos = photo_inputs(folder / "images", folder / "images")
    start = time.process_time()
    try:
        result = reconstruct_poses(photos, work, config=config)
    except InputError as error:
        return {"set": folder.name, "cpu_s": round(time.process_time() - start, 1), "refused": str(error)}
    out = {"set": folder.name, "cpu_s": round(time.process_time() - start, 1), **_rounded(result.figures)}
    out["camera"] = [round(v, 4) for v in next(iter(result.posed.values())).params]
    out["failures"] = result.failures
    if (folder / "gt_dense_cameras").is_dir():
        out |= _rounded(pose_errors(_poses(result), epfl_truth(folder / "gt_dense_cameras")).summary())
    return out


def run_room(folder: Path, config: SfmConfig, work: Path) -> dict:
    """Figures of a rendered room: first visit unposed, later visits localised; millimetres and degrees against the truth."""
    truth_file = json.loads((folder / "cameras.json").read_text())
    truth = {c["name"]: np.array(c["cam_from_world"]) for c in truth_file["cameras"]}
    visits = sorted(p for p in (folder / "photos").iterdir() if p.is_dir())
    start = time.process_time()
    result = reconstruct_poses(photo_inputs(visits[0], folder / "photos"), work, config=config)
    out = {"set": folder.name, "cpu_s": round(time.process_time() - start, 1), **_rounded(result.figures)}
    out |= _rounded(pose_errors(_poses(result), truth).summary())
    gauge = align_cameras(_poses(result), truth)
    start = time.process_time()
    later = [p for v in visits[1:] for p in photo_inputs(v, folder / "photos")]
    found = localize_photos(result.map, later)
    out["localise_cpu_s"] = round(time.process_time() - start, 1)
    poses = {f.localization.name: gauge.camera(f.posed.cam_from_world) for f in found if f.posed is not None}
    errors = pose_errors(poses, truth, align=False)
    out["localised"] = f"{len(poses)}/{len(later)}"
    out["later_mm"] = [round(1000 * float(v), 2) for v in errors.center]
    out["later_deg"] = [round(float(v), 3) for v in errors.rotation_deg]
    out["later_inliers"] = [f.localization.num_inliers for f in found]
    return out


def _poses(result: SfmResult) -> dict[str, np.ndarray]:
    return {name: p.cam_from_world for name, p in result.posed.items()}


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {k: round(v, 4) for k, v in figures.items()}


def main(arguments: list[str]) -> None:
    data = Path(arguments[0])
    keypoints = [int(a.removeprefix("--keypoints=")) for a in arguments if a.startswith("--keypoints=")]
    names = [a for a in arguments[1:] if not a.startswith("--")] or [*PHOTO_SETS, "desk"]
    config = SfmConfig(features=FeatureConfig(max_keypoints=keypoints[0])) if keypoints else SfmConfig()
    print(json.dumps({"machine": platform.processor() or platform.machine(), "python": platform.python_version(),
                      "max_keypoints": config.features.max_keypoints}), flush=True)
    for name in names:
        with tempfile.TemporaryDirectory() as work:
            room = data / "rooms" / name
            figures = run_room(room, config, Path(work)) if room.is_dir() else run_set(data / "photos" / name, config, Path(work))
        print(json.dumps(figures, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
