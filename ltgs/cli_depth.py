"""What `ltgs depth match` and `ltgs depth eval` do: files in, files and words out. The command line parses and prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from ltgs.core.progress import Progress, silent
from ltgs.depth.evaluate import Evaluation, evaluate_folders
from ltgs.depth.fuse import match_stereo
from ltgs.depth.matches import find_matches
from ltgs.depth.network import StereoNetwork, load_network, match_network, mono_prior, weights_file
from ltgs.depth.outputs import write_stereo
from ltgs.depth.pictures import Photo, check_pair, grey8
from ltgs.depth.priors import DepthAnything, load_depth_anything
from ltgs.depth.sparse import sparse_prior
from ltgs.depth.training.config import load_train_config
from ltgs.depth.types import DisparityRange, Map, Source, StereoResult
from ltgs.errors import FormatError, InputError, UsageError
from ltgs.io.atomic import explained, read_capped
from ltgs.io.cameras_json import read_cameras
from ltgs.io.images import decode_png, read_photo
from ltgs.io.pfm import read_pfm
from ltgs.io.posed import PosedPhoto
from ltgs.io.stereo_calibration import StereoCalibration, read_stereo_calibration
from ltgs.pipeline.rig import RigJob, RigOutcome, run_rig

RENDER, POINTS = "render:", "points:"
_MAX_PRIOR_BYTES = 1 << 30


@dataclass(frozen=True)
class MatchOutcome:
    """A matched pair and what to say about it."""

    result: StereoResult
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    """Sentences for the user: method, range, units, sources, warnings."""


@dataclass(frozen=True)
class Method:
    """How pairs are matched."""

    name: Literal["auto", "sgm", "network"] = "auto"
    """auto is a network where weights are given, else semi-global matching."""
    weights: Path | None = None
    """safetensors file of a stereo network."""
    config: Path | None = None
    """Training settings that name the network, for weights that do not say."""
    mono: Path | None = None
    """Weights of Depth Anything V2, file or folder: a prior for semi-global matching, or the encoder that a network needs."""

    def ready(self) -> Matching:
        """Load what is needed.

        Raises:
            UsageError: options that do not go together; InputError, FormatError, MissingDependency: see `load_network`.
        """
        if self.name == "network" and self.weights is None:
            raise UsageError("--method network needs --weights FILE. No trained weights ship; `ltgs depth train` makes them.")
        if self.name == "sgm" and (self.weights or self.config):
            raise UsageError("--weights and --config are for --method network. Leave them out, or choose auto or network.")
        if self.weights is None:
            if self.config is not None:
                raise UsageError("--config names the network of --weights FILE, which is missing.")
            return Matching(None, None if self.mono is None else load_depth_anything(weights_file(self.mono)))
        settings = None if self.config is None else load_train_config(self.config)
        network = load_network(
            self.weights, preset=None if settings is None else settings.net,
            published_sign=settings is not None and settings.published_sign, mono=self.mono,
        )
        encoder = None if self.mono is None or network.needs_encoder else load_depth_anything(weights_file(self.mono))
        return Matching(network, encoder)


@dataclass(frozen=True)
class Matching:
    """A method with its weights."""

    network: StereoNetwork | None
    mono: DepthAnything | None
    """Makes a prior of the left photo where the user gives none."""

    def run(
        self, photos: tuple[Any, Any], prior: Map | None, remark: str, search: DisparityRange | None
    ) -> tuple[StereoResult, str]:
        """The result and what was used, in words.

        Raises:
            InputError, UsageError: see `match_stereo` and `match_network`.
        """
        if self.mono is not None:
            if prior is not None:
                raise UsageError("--prior and --mono both give a prior. Choose one.")
            prior, remark = mono_prior(self.mono, photos[0]), "prior from Depth Anything V2"
        if self.network is None:
            return match_stereo(*photos, prior=prior, disparity_range=search), f"method: semi-global matching, {remark}"
        if self.network.needs_encoder:
            remark = "prior from its Depth Anything V2"
        result = match_network(self.network, *photos, prior=prior, disparity_range=search)
        return result, f"method: {self.network.name}, {remark}"


def match(
    left: Path, right: Path, output: Path, *, calibration: Path | None = None, prior: str | None = None, cameras: Path | None = None,
    disparity_range: tuple[int, int] | None = None, method: Method | None = None,
) -> MatchOutcome:
    """Match a rectified pair and write the result.

    Args:
        left, right: photos.
        output: folder for the files of `write_stereo`.
        calibration: see `read_stereo_calibration`; without it units are pixels and no points are written.
        prior: a PFM or PNG of the left view's inverse depth (larger = nearer, any scale), `render:SCENE@TIME`, or `points:SCENE` for
            the sparse points of its first visit.
        cameras: cameras file with an entry of the left photo's name in the scene's frame, for `render:` and `points:`.
        disparity_range: disparities to search, pixels; default: estimated.
        method: semi-global matching or a network; default: semi-global matching.

    Raises:
        UsageError: a prior that cannot be understood, or options of the method that do not go together.
        InputError, FormatError: a file is unusable, or the photos are no rectified pair.
    """
    matching = (method or Method()).ready()
    photos = read_photo(left).rgb, read_photo(right).rgb
    with _named(left, right):
        check_pair(*photos)
    rig = None if calibration is None else read_stereo_calibration(calibration)
    height, width = photos[0].shape[:2]
    if rig is not None and rig.width is not None and (rig.width, rig.height) != (width, height):
        raise FormatError(
            f"{calibration}: is for photos of {rig.width}x{rig.height}, these have {width}x{height}. Pass the calibration of this size."
        )
    notes = [_checked(photos)]
    values, remark = (None, "no prior") if prior is None else read_prior(prior, left, (width, height), cameras)
    search = None if disparity_range is None else DisparityRange(*disparity_range)
    with _named(left, right):
        result, used = matching.run(photos, values, remark, search)
    files = write_stereo(output, result, photos[0], rig)
    notes += [used, *_words(result, rig)]
    return MatchOutcome(result, tuple(files), tuple(n for n in notes if n))


def rig(
    folder: Path, output: Path, *, calibration: Path | None = None, cameras: Path | None = None, method: Method | None = None,
    progress: Progress = silent,
) -> RigOutcome:
    """Measure a stereo rig's capture, see `ltgs.pipeline.rig`.

    Raises:
        UsageError: options of the method that do not go together; InputError, FormatError: see `run_rig`.
    """
    matching = (method or Method()).ready()
    used: dict[str, None] = {}

    def matcher(left: Photo, right: Photo) -> StereoResult:
        result, words = matching.run((left, right), None, "no prior", None)
        used[words] = None
        return result

    done = run_rig(RigJob(folder, output, calibration, cameras), matcher=matcher, progress=progress)
    return replace(done, notes=(*used, *done.notes))


@contextmanager
def _named(left: Path, right: Path) -> Iterator[None]:
    """Let what is wrong with a pair name its files."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{left} and {right}: {error}") from error


def _checked(photos: tuple[Any, Any]) -> str:
    matches = find_matches(grey8(photos[0]), grey8(photos[1]))
    if len(matches) < 30:
        return f"warning: only {len(matches)} points match, so that rectification and order could not be checked"
    return f"rectification: {np.median(np.abs(matches.vertical)):.2f} pixels vertical difference (median of {len(matches)} points)"


def _words(result: StereoResult, rig: StereoCalibration | None) -> list[str]:
    share = {s.name.lower(): 100 * float((result.source == s).mean()) for s in Source}
    search = result.search
    lines = [
        "" if search is None else f"disparities searched: {search.low} to {search.high} pixels",
        f"pixels from the photos {share['stereo']:.0f} %, from the prior {share['prior']:.0f} %, interpolated {share['filled']:.0f} %",
        f"processor time {sum(result.timings.values()):.2f} s",
    ]
    if float(np.nanmax(result.disparity)) * 256 > 65535 or float(np.nanmin(result.disparity)) <= 0:
        lines.append("disparity.png holds 0 where the disparity is not positive or above 255.99 pixels; disparity.pfm holds all")
    if rig is None:
        lines.append("units are pixels: without a calibration file there is no depth and no cloud.ply")
    else:
        unit = "metres" if rig.unit == "m" else "the unit of the calibration board (the file does not name it)"
        lines.append(f"cloud.ply is in the left camera, in {unit}")
    return lines


def read_prior(text: str, left: Path, size: tuple[int, int], cameras: Path | None) -> tuple[Map, str]:
    """A prior for the left photo, [H, W] with NaN where unknown, and a remark.

    Args:
        text: a file, `render:SCENE@TIME`, or `points:SCENE`.
        left: the left photo; its name finds the camera for a render.
        size: width and height of the photo.
        cameras: see `match`.

    Raises:
        UsageError: `render:` without a time, or `render:` or `points:` without cameras.
        InputError, FormatError: the file or the scene is unusable, or no camera has the photo's name.
    """
    if text.startswith(RENDER):
        return _rendered(text[len(RENDER) :], left, size, cameras)
    if text.startswith(POINTS):
        return _from_points(Path(text[len(POINTS) :]), left, size, cameras)
    path = Path(text)
    if path.suffix.lower() == ".pfm":
        values = read_pfm(path)
    else:
        with explained("read", path):
            data = read_capped(path, _MAX_PRIOR_BYTES)
        values = decode_png(data, str(path)).astype(np.float32)
    if values.ndim != 2:
        raise FormatError(f"{path}: a prior has one channel, this has {values.shape[2]}. Convert it to grey.")
    values = np.where(np.isfinite(values), values, np.float32(np.nan))
    if values.shape[::-1] == size:
        return values, f"prior {path.name}"
    if abs(values.shape[1] / values.shape[0] / (size[0] / size[1]) - 1) > 0.02:
        raise InputError(f"{path}: {values.shape[1]}x{values.shape[0]} has another shape than the photo ({size[0]}x{size[1]}).")
    resized = np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_LINEAR), np.float32)
    return resized, f"prior {path.name}, resampled from {values.shape[1]}x{values.shape[0]}"


def _rendered(text: str, left: Path, size: tuple[int, int], cameras: Path | None) -> tuple[Map, str]:
    import torch

    from ltgs.core.cameras import stack_cameras
    from ltgs.io.scene_store import SceneStore
    from ltgs.pipeline.info import resolve_time, visit_title
    from ltgs.render import render

    folder, at, when = text.rpartition("@")
    if not at or not folder or not when:
        raise UsageError(f"--prior {RENDER}{text}: write it as render:SCENE@TIME, e.g. render:my_scene@2024-03-01.")
    posed = _left_camera(cameras, left, RENDER)
    scene = SceneStore.open(Path(folder)).load()
    time = resolve_time(scene, when)
    state = scene.chronology.state_at(time)
    camera = posed.pinhole(time).resized(*size)
    with torch.no_grad():
        shown = render(state.gaussians, stack_cameras([camera]), backend="auto")
    depth, alpha = shown.depth[0, ..., 0].numpy(), shown.alpha[0, ..., 0].numpy()
    solid = (alpha > 0.5) & (depth > 0)
    values = np.where(solid, 1 / np.where(solid, depth, 1), np.float32(np.nan)).astype(np.float32)
    return values, f"prior rendered from {folder} at {visit_title(scene.visits[time])}"


def _left_camera(cameras: Path | None, left: Path, kind: str) -> PosedPhoto:
    """The left photo's camera from a cameras file."""
    if cameras is None:
        raise UsageError(f"--prior {kind} needs --cameras FILE with the left photo's camera in the scene's frame of reference.")
    known = read_cameras(cameras)
    # The longest name that the path ends with; else the file's name alone.
    whole = left.resolve().as_posix()
    found = [c for c in known if whole.endswith("/" + c.name)] or [c for c in known if Path(c.name).name == left.name]
    if len(found) != 1:
        raise InputError(f"{cameras}: {len(found)} cameras are named {left.name}; exactly one is needed for a prior.")
    return found[0]


def _from_points(scene: Path, left: Path, size: tuple[int, int], cameras: Path | None) -> tuple[Map, str]:
    from ltgs.io.scene_store import SceneStore
    from ltgs.poses.map import LocalizationMap

    camera = _left_camera(cameras, left, POINTS).pinhole(0).resized(*size)
    stored = SceneStore.open(scene).load().side_data.get("localization_map")
    if stored is None:
        raise InputError(f"{scene}: holds no points of structure from motion. Use --prior render:{scene}@TIME.")
    values, known = sparse_prior(LocalizationMap.from_tensors(stored).xyz, camera)
    remark = f"prior from sparse points of {scene} ({100 * known.mean():.0f} % of the pixels)"
    return np.where(known, values, np.float32(np.nan)), remark


def evaluate(
    pairs: Path, *, names: Sequence[str] = (), progress: Progress = silent
) -> tuple[Evaluation, list[dict[str, str]], dict[str, Any]]:
    """Measure on pairs with true disparity.

    Args:
        pairs: folder with one folder per pair, see `ltgs.io.stereo_pairs`.
        names: only these pairs.
        progress: reports.

    Returns:
        The evaluation, its table as rows of equal keys, and plain numbers for JSON.

    Raises:
        InputError, FormatError: see `evaluate_folders`; or no pair has one of the names.
    """
    done = evaluate_folders(pairs, names=names, progress=progress)
    header, *rows = done.rows()
    return done, [dict(zip(header, row, strict=True)) for row in rows], done.to_json()
