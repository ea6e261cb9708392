"""Captures of a stereo rig: folders `left/` and `right/` and a calibration, to depth per pair and one fused cloud."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.data.photo_folder import natural_key
from ltgs.depth.agree import DepthView
from ltgs.depth.checks import MIN_MATCHES, measure_rectification
from ltgs.depth.fuse import match_stereo
from ltgs.depth.matches import find_matches
from ltgs.depth.outputs import write_stereo
from ltgs.depth.pictures import check_pair, grey8
from ltgs.depth.rig import Rectifier, fuse_rig, make_rectifier, metric_scale, rig_camera, rig_depth
from ltgs.depth.types import StereoResult
from ltgs.errors import FormatError, InputError
from ltgs.io.cameras_json import write_cameras_json
from ltgs.io.images import looks_like_photo, photo_sha256, read_photo, write_png
from ltgs.io.ply import write_points_ply
from ltgs.io.stereo_calibration import StereoCalibration, read_rig_calibration, read_stereo_calibration
from ltgs.pipeline.cameras import assign_cameras, check_some, given_cameras
from ltgs.poses.features import PhotoInput
from ltgs.poses.sfm import reconstruct_poses

Photo = NDArray[np.uint8]
SIDES = (("left", "right"), ("image_2", "image_3"), ("image_0", "image_1"), ("cam0", "cam1"))
"""Names of the two folders: ours, KITTI's colour and grey cameras, and numbered ones."""
MIN_POSED = 3
"""Fewest pairs whose poses structure from motion can find."""


@dataclass(frozen=True)
class RigJob:
    """What to do."""

    folder: Path
    """Holds the two folders of photos."""
    output: Path
    calibration: Path | None = None
    """File; default: what the folder holds."""
    cameras: Path | None = None
    """Poses of the left photos, metric; default: found by structure from motion."""


@dataclass(frozen=True)
class RigOutcome:
    """What came out."""

    pairs: tuple[str, ...]
    """Names of the measured pairs."""
    refused: Mapping[str, str]
    """Pairs that were left out of depth or of the cloud, with the reason."""
    num_points: int
    notes: tuple[str, ...]
    """Sentences for the user."""


@dataclass(frozen=True)
class _Rig:
    """A calibration, and the rectification where the photos need it."""

    calibration: StereoCalibration
    rectifier: Rectifier | None
    note: str


def run_rig(
    job: RigJob, *, matcher: Callable[[Photo, Photo], StereoResult] = match_stereo, progress: Progress = silent
) -> RigOutcome:
    """Measure every pair, then fuse those with a pose.

    Args:
        job: folders and files.
        matcher: rectified photos to disparity.
        progress: reports.

    Raises:
        InputError, FormatError: folders, calibration or cameras are unusable, or no pair could be measured.
    """
    pairs = find_rig_pairs(job.folder)
    rig = _rig(job, pairs)
    views: dict[str, DepthView] = {}
    photos: dict[str, Photo] = {}
    refused: dict[str, str] = {}
    for index, (name, left, right) in enumerate(pairs):
        try:
            photo, result, calibration = _measure(rig, left, right, matcher)
        except InputError as error:
            refused[name] = str(error)
            continue
        write_stereo(job.output / name, result, photo, calibration)
        camera = rig_camera(calibration, left.name, photo.shape[1], photo.shape[0])
        views[name], photos[name] = rig_depth(result, calibration, camera), photo
        progress(ProgressEvent("depth", index + 1, len(pairs), name))
    if not views:
        raise InputError(f"{job.folder}: no pair could be measured. The first one: {next(iter(refused.values()))}")
    posed, note, unposed = _pose(job, views, photos, rig, {n: left for n, left, _ in pairs}, progress)
    refused |= unposed
    xyz, rgb = fuse_rig(list(posed.values()), [photos[n] for n in posed])
    write_points_ply(job.output / "cloud.ply", xyz, rgb)
    write_cameras_json(job.output / "cameras.json", [v.camera for v in posed.values()])
    unit = "metres" if rig.calibration.unit == "m" else "the unit of the calibration board (the file does not name it)"
    notes = (rig.note, note, f"cloud.ply: {len(xyz)} points of {len(posed)} pairs, in {unit}")
    return RigOutcome(tuple(views), refused, len(xyz), notes)


def find_rig_pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    """Pairs of photos of equal name (but for the ending): name, left, right, in natural order.

    Raises:
        InputError: the two folders are missing, or no name is in both.
    """
    for sides in SIDES:
        places = [folder / side for side in sides]
        if all(p.is_dir() for p in places):
            found = [{p.stem: p for p in place.iterdir() if looks_like_photo(p)} for place in places]
            names = sorted(found[0].keys() & found[1].keys(), key=natural_key)
            if not names:
                raise InputError(
                    f"{folder}: no photo of {sides[0]}/ ({len(found[0])} photos) has one of the same name in {sides[1]}/ "
                    f"({len(found[1])}). Name the photos of a pair alike."
                )
            return [(n, found[0][n], found[1][n]) for n in names]
    raise InputError(f"{folder}: holds no two folders of photos. Accepted: {', '.join(' and '.join(s) for s in SIDES)}.")


def _rig(job: RigJob, pairs: Sequence[tuple[str, Path, Path]]) -> _Rig:
    """The calibration, and whether photos have to be rectified with it: judged by the first pair."""
    files = [job.calibration] if job.calibration else sorted(
        p for p in job.folder.iterdir() if p.is_file() and p.suffix.lower() in (".txt", ".yml", ".yaml")
    )
    lenses = read_rig_calibration(files)
    rectified, reasons = None, []
    for path in files:
        try:
            rectified = rectified or read_stereo_calibration(path)
        except FormatError as error:
            reasons.append(str(error))
    if rectified is None and lenses is None:
        if not files:
            raise InputError(f"{job.folder}: holds no calibration (.txt, .yml or .yaml). Put it there, or pass it with --calib.")
        raise FormatError(" ".join(reasons))
    left, right = (read_photo(p).rgb for p in pairs[0][1:])
    check_pair(left, right)
    if lenses is None or (rectified is not None and _already_rectified(left, right)):
        assert rectified is not None
        return _Rig(rectified, None, "the photos are taken as rectified")
    rectifier = make_rectifier(lenses, left.shape[1], left.shape[0])
    return _Rig(rectifier.calibration, rectifier, "the photos were rectified with the rig's lenses and motion")


def _already_rectified(left: Photo, right: Photo) -> bool:
    found = measure_rectification(find_matches(grey8(left), grey8(right)), left.shape[1])
    return found.num_matches >= MIN_MATCHES and found.vertical is not None and found.vertical <= found.limit(left.shape[1])


def _measure(
    rig: _Rig, left: Path, right: Path, matcher: Callable[[Photo, Photo], StereoResult]
) -> tuple[Photo, StereoResult, StereoCalibration]:
    photos = read_photo(left).rgb, read_photo(right).rgb
    check_pair(*photos)
    height, width = photos[0].shape[:2]
    calibration = rig.calibration
    if calibration.width is not None and (calibration.width, calibration.height) != (width, height):
        raise InputError(f"{left}: has {width}x{height} pixels, the calibration is for {calibration.width}x{calibration.height}.")
    if rig.rectifier is not None:
        photos = rig.rectifier(*photos)
    return photos[0], matcher(*photos), calibration


def _pose(
    job: RigJob, views: Mapping[str, DepthView], photos: Mapping[str, Photo], rig: _Rig, files: Mapping[str, Path], progress: Progress
) -> tuple[dict[str, DepthView], str, dict[str, str]]:
    """Views with poses in the rig's unit, how they were found, and which have none."""
    if job.cameras is None and len(views) == 1:
        return dict(views), "one pair: the cloud is in its left camera", {}
    inputs = {n: _input(job, n, photos[n], rig, files[n]) for n in views}
    if job.cameras is not None:
        given = given_cameras(job.cameras, progress)
        found = assign_cameras(given, list(inputs.values()), progress)
        check_some(found, given, list(inputs.values()), job.cameras)
        poses = {n: found[i.name].cam_from_world for n, i in inputs.items() if i.name in found}
        missing = {n: f"no camera in {job.cameras.name}" for n in views if n not in poses}
        return {n: _placed(views[n], poses[n]) for n in poses}, f"poses from {job.cameras.name}, taken as metric", missing
    if len(views) < MIN_POSED:
        raise InputError(
            f"{job.folder}: {len(views)} pairs are too few to find their poses (at least {MIN_POSED}); depth per pair is written. "
            "Pass --cameras FILE with the poses of the left photos to get one cloud."
        )
    result = reconstruct_poses(list(inputs.values()), job.output / "poses", progress=progress)
    name_of = {i.name: n for n, i in inputs.items()}
    loose = {name_of[n]: _placed(views[name_of[n]], p.cam_from_world) for n, p in result.posed.items()}
    scale, spread = metric_scale(list(loose.values()), result.points.xyz)
    posed = {n: _scaled(v, scale) for n, v in loose.items()}
    note = f"poses by structure from motion, scaled by the measured depth (spread {100 * spread:.1f} %)"
    return posed, note, {name_of[n]: f"not placed: {r}" for n, r in result.failures.items()}


def _input(job: RigJob, name: str, photo: Photo, rig: _Rig, file: Path) -> PhotoInput:
    """The left photo as the poses see it: rectified photos are written first."""
    path = file
    if rig.rectifier is not None:
        path = job.output / name / "left.png"
        write_png(path, photo)
    return PhotoInput(file.name, path, photo_sha256(path), photo.shape[1], photo.shape[0], rig.calibration.focal, "rig")


def _placed(view: DepthView, cam_from_world: NDArray[Any]) -> DepthView:
    return replace(view, camera=replace(view.camera, cam_from_world=cam_from_world))


def _scaled(view: DepthView, scale: float) -> DepthView:
    """The view in a world whose unit is that of the rig."""
    camera: Camera = view.camera
    pose = camera.cam_from_world.copy()
    pose[:3, 3] *= scale
    return replace(view, camera=replace(camera, cam_from_world=pose))
