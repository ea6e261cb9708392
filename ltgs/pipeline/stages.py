"""The stages of a run: each loads its inputs, calls the functions of the lower levels, and returns core types."""

from __future__ import annotations

import dataclasses
import logging
import os
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.captures import Capture, Frame, Localization
from ltgs.core.chronology import Appearance
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import Progress, ProgressEvent
from ltgs.core.scene import PhotoRecord
from ltgs.errors import InputError
from ltgs.imaging.undistort import undistort_photo, working_size
from ltgs.io.images import photo_sha256, read_photo
from ltgs.io.posed import PosedPhoto
from ltgs.io.scene_store import SceneStore
from ltgs.optim.device import training_device
from ltgs.optim.haze import clear_of_haze
from ltgs.optim.initialize import TrainingPhoto
from ltgs.optim.residual import expected_residual
from ltgs.optim.together import train_together
from ltgs.optim.trainer import TrainResult
from ltgs.pipeline.checkpoint import CheckpointFolder, fingerprint
from ltgs.pipeline.config import RunConfig, to_plain
from ltgs.pipeline.first_stereo import measure_first_visit
from ltgs.pipeline.interrupt import StopSignal
from ltgs.poses.features import PhotoInput
from ltgs.poses.localize import LocalizedPhoto, localize_photos
from ltgs.poses.map import LocalizationMap
from ltgs.poses.photometric import image_uncertainty, refine_pose
from ltgs.poses.sfm import SfmResult, reconstruct_poses, triangulate_given
from ltgs.render import render

log = logging.getLogger("ltgs.pipeline")
Array = NDArray[np.float64]
Sampled = Callable[[Camera], Camera]
"""Gives a camera its sampling, see `Scene.sampled`."""
MIN_POINTS = 30
"""Fewest triangulated points a first visit can start from; below, even a handful of photos overlap nowhere."""
INTERRUPT_CHECK_STEPS = 25
"""Training steps between two looks at the stop signal, so that a checkpoint follows Ctrl-C within seconds."""


class Stopwatch:
    """Seconds per stage of one visit."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = clock.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + clock.perf_counter() - start


@dataclass(frozen=True)
class VisitInput:
    """The readable photos of a visit, and why the others are not."""

    capture: Capture
    photos: tuple[PhotoInput, ...]
    """In natural order of their names."""
    refused: Mapping[str, str]
    """Photo name to reason."""
    hashes: Mapping[str, str]
    """Photo name to the file's SHA-256; empty text where the file could not be read."""


@dataclass(frozen=True)
class PosedVisit:
    """Localisation outcome of every readable photo of a visit."""

    posed: Mapping[str, PosedPhoto]
    localizations: Mapping[str, Localization]
    method: str


def scan_visit(capture: Capture, progress: Progress) -> VisitInput:
    """Read every photo of a visit once and strictly: sizes, focal lengths, hashes; bad files get a reason, not an exception."""

    def look(frame: Frame) -> tuple[PhotoInput | None, str, str]:
        digest = ""
        try:
            digest = photo_sha256(frame.path)
            pixels = read_photo(frame.path)
        except InputError as error:
            return None, digest, _reason_without_path(error, frame.path)
        height, width = pixels.rgb.shape[:2]
        exif = pixels.exif
        photo = PhotoInput(frame.name, frame.path, digest, width, height, exif.focal_px, exif.make_model or "")
        return photo, digest, ""

    photos: list[PhotoInput] = []
    refused: dict[str, str] = {}
    hashes: dict[str, str] = {}
    first_with: dict[str, str] = {}
    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        for index, (frame, found) in enumerate(zip(capture.frames, pool.map(look, capture.frames), strict=True)):
            photo, hashes[frame.name], reason = found
            if photo is None:
                refused[frame.name] = reason
            elif photo.sha256 in first_with:
                refused[frame.name] = f"the same file as {first_with[photo.sha256]}"
            else:
                first_with[photo.sha256] = photo.name
                photos.append(photo)
            progress(ProgressEvent("scan", index + 1, len(capture.frames)))
    for name, reason in refused.items():
        progress(ProgressEvent("scan", message=f"{name} is skipped: {reason}", level="warning"))
    return VisitInput(capture, tuple(photos), refused, hashes)


def _reason_without_path(error: InputError, path: Path) -> str:
    """Reports name the photo already; the full path in the reason would tie the scene to this machine."""
    return str(error).removeprefix(f"{path}: ").replace(str(path), path.name)


def pose_first_visit(
    visit: VisitInput, given: Mapping[str, PosedPhoto] | None, workdir: Path, config: RunConfig, progress: Progress
) -> tuple[SfmResult, PosedVisit]:
    """Structure from motion, or triangulation with given cameras; photos that miss in the file are localised afterwards.

    Raises:
        InputError: no consistent scene came out; the message says why and what to do.
    """
    if given is None:
        result = reconstruct_poses(visit.photos, workdir, config=config.sfm, progress=progress)
    else:
        result = triangulate_given(visit.photos, given, workdir, config=config.sfm, progress=progress)
    if len(result.points) < MIN_POINTS:
        raise InputError(
            f"{visit.capture.name or 'The first visit'}: only {len(result.points)} points could be triangulated from "
            f"{len(result.posed)} photos, {MIN_POINTS} are needed. Add sharp photos that overlap by about two thirds."
        )
    posed = dict(result.posed)
    found = {n: Localization(n, p.cam_from_world, reason="") for n, p in posed.items()}
    found |= {n: Localization(n, None, reason=r) for n, r in result.failures.items()}
    missing = [p for p in visit.photos if p.name not in posed and given is not None and p.name not in given]
    for outcome in localize_photos(result.map, missing, config=config.localize, progress=progress) if missing else []:
        found[outcome.localization.name] = outcome.localization
        if outcome.posed is not None:
            posed[outcome.localization.name] = outcome.posed
    return result, PosedVisit(posed, found, result.method)


def pose_later_visit(
    visit: VisitInput, given: Mapping[str, PosedPhoto] | None, base: LocalizationMap, config: RunConfig, progress: Progress,
    shown: Gaussians | None = None, sampled: Sampled | None = None,
) -> PosedVisit:
    """Place a later visit's photos on the first one; poses from a cameras file are taken as they are.

    Args:
        shown: the scene as last seen; given, poses that the matches leave uncertain are refined against its renders.
        sampled: see `working_photo`.
    """
    posed, found = {}, {}
    for photo in visit.photos:
        pose = (given or {}).get(photo.name)
        if pose is not None:
            posed[photo.name] = pose
            found[photo.name] = Localization(photo.name, pose.cam_from_world)
    rest = [p for p in visit.photos if p.name not in posed]
    refined = 0
    outcomes = localize_photos(base, rest, config=config.localize, progress=progress) if rest else []
    for photo, outcome in zip(rest, outcomes, strict=True):
        if shown is not None and config.photometric.enabled:
            better = _refined(photo, outcome, base.viewing_distance, shown, config, visit.capture.timestep, sampled)
            refined += better is not outcome
            outcome = better
        found[outcome.localization.name] = outcome.localization
        if outcome.posed is not None:
            posed[outcome.localization.name] = outcome.posed
    words = ["given cameras"] * (len(rest) < len(visit.photos)) + ["SIFT + PnP on the first visit"] * bool(rest)
    words += [f"{refined} refined against the render"] * bool(refined)
    return PosedVisit(posed, found, ", ".join(words) or "no photos")


def _refined(
    photo: PhotoInput, outcome: LocalizedPhoto, distance: float, shown: Gaussians, config: RunConfig, timestep: int,
    sampled: Sampled | None = None,
) -> LocalizedPhoto:
    """A pose that its matches leave uncertain, refined against the render; the same object if it stays as it was."""
    found, posed = outcome.localization, outcome.posed
    if posed is None or found.covariance is None:
        return outcome
    whole = Camera(posed.name, timestep, posed.width, posed.height, posed.K, posed.cam_from_world)
    if image_uncertainty(whole, found.covariance, distance) < config.photometric.min_uncertainty:
        return outcome
    camera, image = working_photo(photo.path, posed, timestep, config.max_size, sampled)
    result = refine_pose(shown, camera, image, found.covariance, config=config.photometric, backend=config.backend)
    log.info("%s: %s", found.name, result.reason)
    if not result.accepted:
        return outcome
    return LocalizedPhoto(
        dataclasses.replace(
            found, cam_from_world=result.cam_from_world, covariance=result.covariance, reason=f"{found.reason}, {result.reason}"
        ),
        dataclasses.replace(posed, cam_from_world=result.cam_from_world),
    )


def held_out(names: Sequence[str], every: int) -> set[str]:
    """Names kept for evaluation: positions 0, `every`, 2 `every`, ... of the list, if it has at least `every` entries."""
    return set(names[::every]) if every and len(names) >= every else set()


def make_records(
    store: SceneStore, timestep: int, visit: VisitInput, poses: PosedVisit, config: RunConfig, progress: Progress,
    sampled: Sampled | None = None,
) -> tuple[list[PhotoRecord], dict[str, NDArray[np.uint8]]]:
    """Undistort, reduce and store every localised photo.

    Args:
        sampled: see `working_photo`.

    Returns:
        one record per file of the visit, and the working images of the localised ones by name.
    """
    heldout = held_out([p.name for p in visit.photos], config.holdout_every)
    by_name = {p.name: p for p in visit.photos}
    records, images = [], {}
    for index, frame in enumerate(visit.capture.frames):
        name = frame.name
        where = poses.localizations.get(name)
        reason = visit.refused.get(name) or (where.reason if where else "not posed")
        record = PhotoRecord(name, timestep, visit.hashes.get(name, ""), False, reason)
        if name in poses.posed and where is not None:
            camera, images[name] = working_photo(by_name[name].path, poses.posed[name], timestep, config.max_size, sampled)
            record = dataclasses.replace(
                record, localised=True, reason="", holdout=name in heldout, camera=camera,
                image_blob=store.put_image(images[name]), num_inliers=where.num_inliers,
                inlier_ratio=where.inlier_ratio, covariance=where.covariance,
            )
        elif where is not None:
            record = dataclasses.replace(record, num_inliers=where.num_inliers, inlier_ratio=where.inlier_ratio)
        records.append(record)
        progress(ProgressEvent("photos", index + 1, len(visit.capture.frames)))
    return records, images


def working_photo(
    path: Path, posed: PosedPhoto, timestep: int, max_size: int, sampled: Sampled | None = None
) -> tuple[Camera, NDArray[np.uint8]]:
    """The undistorted photo, its long side at most `max_size` pixels, with the pinhole camera that belongs to it.

    Args:
        sampled: gives a later photo's camera its sampling (`Scene.sampled`).
    """
    rgb = read_photo(path).rgb
    size = working_size(posed.width, posed.height, max_size)
    image, K = undistort_photo(rgb, posed.K, posed.distortion, size=size)
    camera = Camera(posed.name, timestep, image.shape[1], image.shape[0], K, posed.cam_from_world)
    return (sampled(camera) if sampled else camera), image


def training_photos(
    records: Sequence[PhotoRecord], images: Mapping[str, NDArray[np.uint8]], *, holdout: bool = False
) -> list[TrainingPhoto]:
    """Localised photos that are (not) held out, in the order of the records."""
    return [
        TrainingPhoto(r.camera, images[r.name])
        for r in records if r.localised and r.camera is not None and r.holdout is holdout
    ]


def stored_photos(store: SceneStore, records: Sequence[PhotoRecord], *, holdout: bool = False) -> list[TrainingPhoto]:
    """The same from a stored scene."""
    images = {
        r.name: store.read_image(r.image_blob)
        for r in records if r.image_blob is not None and r.holdout is holdout and r.localised
    }
    return training_photos([r for r in records if r.name in images], images, holdout=holdout)


def camera_extent(photos: Sequence[TrainingPhoto]) -> float:
    """Radius of the cameras around their centroid, a tenth larger (3DGS); scene units."""
    centers = np.array([p.camera.center for p in photos])
    return float(max(np.linalg.norm(centers - centers.mean(0), axis=1).max() * 1.1, 1e-6))


def train_first_visit(
    photos: Sequence[TrainingPhoto], result: SfmResult, folder: Path, config: RunConfig, backend: str,
    progress: Progress, stop: StopSignal,
) -> TrainResult:
    """Train with checkpoints; continues exactly from the newest one of the same photos and settings.

    Where `config.first_stereo` or `train.depth_weight` asks for it the photos are matched with each other first.

    Args:
        backend: rasteriser on the processor; where training runs on a CUDA device the one of the configuration is used.

    Raises:
        KeyboardInterrupt: a stop was asked for; the checkpoint has been written.
    """
    device, reason = training_device(config.train.device, config.backend)
    if device.type == "cuda":
        backend = config.backend
        progress(ProgressEvent("train", message=f"training on CUDA: {reason}"))
    key = fingerprint(
        [[p.camera.name, p.camera.K.tolist(), p.camera.cam_from_world.tolist(), p.rgb.shape] for p in photos],
        to_plain(config.train), to_plain(config.first_stereo), config.seed, backend, len(result.points),
    )
    checkpoints = CheckpointFolder(folder, key)
    found = checkpoints.load()
    if found is not None:
        progress(ProgressEvent("train", message=f"continuing at step {found[0]} of {config.train.steps}"))
    photos, xyz, rgb = _with_stereo(photos, result, config, progress)
    every = INTERRUPT_CHECK_STEPS

    def save(step: int, tensors: dict[str, torch.Tensor]) -> None:
        if stop.requested or step % (max(1, config.checkpoint_every // every) * every) == 0:
            checkpoints.save(step, tensors)
            stop.raise_if_requested()

    with stop.deferred():
        out = train_together(
            photos, xyz, rgb, extent=camera_extent(photos),
            config=dataclasses.replace(config.train, checkpoint_every=every), seed=config.seed, backend=backend,
            progress=progress, save_checkpoint=save, resume_from=None if found is None else found[1],
        )
    # A signal during the last steps: the run ends here as asked; the result is a few steps from the last checkpoint.
    stop.raise_if_requested()
    return out


def clear_residual(
    trained: TrainResult, photos: Sequence[TrainingPhoto], config: RunConfig, backend: str
) -> tuple[Gaussians, dict[str, torch.Tensor]]:
    """The trained Gaussians without haze, and how well each explains the photos (see `optim.residual`)."""
    residual = expected_residual(trained.gaussians, photos, trained.exposures, backend=backend)
    cameras = [p.camera for p in photos]
    clear = clear_of_haze(
        trained.gaussians, residual["weight"], residual["num_views"], cameras, config=config.train.haze, backend=backend
    )
    return trained.gaussians[clear], {k: v[clear] for k, v in residual.items()}


def _with_stereo(
    photos: Sequence[TrainingPhoto], result: SfmResult, config: RunConfig, progress: Progress
) -> tuple[Sequence[TrainingPhoto], Array, Array]:
    """Photos and starting points, with what stereo between the photos adds to them if it is asked for."""
    xyz, rgb = result.points.xyz, result.points.rgb / 255.0
    settings, guide = config.first_stereo, config.train.depth_weight > 0
    if not settings.points and not guide:
        return photos, xyz, rgb
    found = measure_first_visit(photos, xyz, settings, progress=progress)
    if settings.points:
        # As many as pixels with interpolated depth would be, whose place they take.
        missing = int(config.train.cap * config.train.init.pixel_share) - len(xyz)
        more, colours = found.points(photos, settings.stride, missing, np.random.default_rng(config.seed))
        xyz, rgb = np.concatenate([xyz, more]), np.concatenate([rgb, colours])
    return found.guided(photos) if guide else photos, xyz, rgb


def mean_psnr(
    gaussians: Gaussians, photos: Sequence[TrainingPhoto], *, backend: str,
    exposures: Sequence[Array] | None = None, appearance: Appearance | None = None,
) -> float:
    """Mean PSNR in dB of renders against photos, after the photos' colour affines or the visit's light; NaN without photos."""
    values = []
    with torch.no_grad():
        for index, photo in enumerate(photos):
            rgb = render(gaussians, stack_cameras([photo.camera]), backend=backend, with_depth=False).rgb[0]  # type: ignore[arg-type]
            if appearance is not None:
                rgb = appearance.apply(rgb)
            if exposures is not None:
                matrix = torch.as_tensor(exposures[index], dtype=rgb.dtype)
                rgb = rgb @ matrix[:, :3].T + matrix[:, 3]
            target = torch.from_numpy(photo.rgb.copy()).float() / 255
            error = float((rgb.clamp(0, 1) - target).square().mean())
            values.append(-10 * np.log10(max(error, 1e-10)))
    return float(np.mean(values)) if values else float("nan")
