"""Given cameras for a user's photos: which entry of a cameras file belongs to which photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ltgs.core.progress import Progress, ProgressEvent
from ltgs.errors import InputError
from ltgs.io.cameras_json import read_cameras
from ltgs.io.posed import PosedPhoto
from ltgs.poses.features import PhotoInput

MAX_ASPECT_ERROR = 0.01
"""Relative difference of the aspect ratios up to which a camera is resampled to the photo's size (sizes are rounded)."""


def given_cameras(path: Path, progress: Progress) -> list[PosedPhoto]:
    """All posed photos of a cameras file or COLMAP folder.

    Raises:
        InputError: the file cannot be read, or holds no camera.
    """
    cameras = read_cameras(path)
    if not cameras:
        raise InputError(f"{path}: holds no posed photo. Check that this is the right file.")
    progress(ProgressEvent("cameras", message=f"{len(cameras)} given cameras from {path.name}"))
    return cameras


def assign_cameras(
    cameras: Sequence[PosedPhoto], photos: Sequence[PhotoInput], progress: Progress
) -> dict[str, PosedPhoto]:
    """Photo name to its given camera, resampled to the photo's size.

    A photo takes the camera of exactly its name, or else the only camera whose name is a tail of the photo's name or the
    other way round ("images/IMG_1.jpg" and "2024-01-05/IMG_1.jpg" both end in "IMG_1.jpg"; if two cameras fit, none is taken).
    """
    by_name = {c.name: c for c in cameras}
    by_tail: dict[str, list[PosedPhoto]] = {}
    for camera in cameras:
        by_tail.setdefault(Path(camera.name).name, []).append(camera)
    tails: dict[str, int] = {}
    for photo in photos:
        tails[Path(photo.name).name] = tails.get(Path(photo.name).name, 0) + 1
    out = {}
    for photo in photos:
        tail = Path(photo.name).name
        chosen = by_name.get(photo.name)
        alike = by_tail.get(tail, [])
        if chosen is None and len(alike) == 1 and tails[tail] == 1 and _compatible(alike[0].name, photo.name):
            chosen = alike[0]
        if chosen is None:
            continue
        camera = chosen
        aspect = (photo.width * camera.height) / (photo.height * camera.width)
        if abs(aspect - 1) > MAX_ASPECT_ERROR:
            sizes = f"the given camera is {camera.width}x{camera.height}, the photo {photo.width}x{photo.height}"
            message = f"{photo.name}: {sizes}; the camera is ignored and the photo is localised instead."
            progress(ProgressEvent("cameras", level="warning", message=message))
            continue
        if (camera.width, camera.height) != (photo.width, photo.height):
            camera = camera.resized(photo.width, photo.height)
        out[photo.name] = replace(camera, name=photo.name)
    return out


def check_some(
    given: Mapping[str, PosedPhoto], cameras: Sequence[PosedPhoto], photos: Sequence[PhotoInput], path: Path
) -> None:
    """Refuse a cameras file that names none of the photos.

    Raises:
        InputError: with an example of either name.
    """
    if photos and not given:
        raise InputError(
            f"{path}: names none of the photos (it has {cameras[0].name!r}, the photos are called {photos[0].name!r}). "
            "Use names relative to the photo folder."
        )


def _compatible(camera_name: str, photo_name: str) -> bool:
    """Whether a camera of another name may stand for the photo: visit folders must not contradict each other.

    Only a bare name, or a folder that holds images by convention, says nothing about the visit.
    """
    camera_folder, photo_folder = str(Path(camera_name).parent), str(Path(photo_name).parent)
    neutral = {".", "images", "photos", "rgb", "input"}
    if camera_folder in neutral or photo_folder in neutral:
        return True
    return camera_name.endswith(f"/{photo_name}") or photo_name.endswith(f"/{camera_name}")
