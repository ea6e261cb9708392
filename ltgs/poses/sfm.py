"""Poses of the first visit: features, matches and incremental mapping, with reasons for every photo left out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pycolmap

from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.errors import InputError
from ltgs.io.posed import PosedPhoto
from ltgs.poses.database import AttemptDatabase
from ltgs.poses.features import (
    DESCRIPTOR_KIND,
    FeatureConfig,
    PhotoFeatures,
    PhotoInput,
    config_key,
    features_of_all,
)
from ltgs.poses.gauge import normalising_similarity
from ltgs.poses.map import LocalizationMap, MapPhoto
from ltgs.poses.mapping import (
    MapperConfig,
    Model,
    SparsePoints,
    median_depth,
    run_mapper,
    run_triangulation,
    to_model,
    triangulation_angles_deg,
    wild_camera,
)
from ltgs.poses.matching import MatchConfig, Matches, choose_pairs, match_pairs

log = logging.getLogger("ltgs.poses")


@dataclass(frozen=True)
class SfmConfig:
    """How the first visit is posed."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    matching: MatchConfig = field(default_factory=MatchConfig)
    mapper: MapperConfig = field(default_factory=MapperConfig)
    max_epipolar_error_px: float = 4.0
    """Of verified matches, in detection pixels; COLMAP's default."""
    min_pair_inliers: int = 15
    """Verified matches for two photos to count as connected; COLMAP's default."""
    retry_below: float = 0.8
    """Share of readable photos; fewer registered ones start a second attempt with relaxed settings."""
    min_registered: int = 3
    """Photos a scene needs; two views leave the geometry unchecked by any third."""
    min_angle_deg: float = 1.5
    """Median triangulation angle below which depth is noise."""


@dataclass(frozen=True)
class SfmResult:
    """Posed photos of the first visit."""

    posed: dict[str, PosedPhoto]
    """Registered photos by name, in the order of the input list."""
    points: SparsePoints
    failures: dict[str, str]
    """Photos that were left out, with the reason."""
    method: str
    """What was run, in words for reports."""
    map: LocalizationMap
    figures: dict[str, float]
    """num_photos, num_registered, num_points, mean_reprojection_error_px, median_track_length, median_angle_deg, attempts."""


@dataclass(frozen=True)
class _Attempt:
    model: Model | None
    database: AttemptDatabase
    features: dict[str, PhotoFeatures]
    others: list[list[str]]
    """Photo names of the smaller, separate models."""
    raw_matches: dict[str, int]
    """Most raw matches of each photo with any other one."""
    refused: str
    """Why the largest model was thrown away; empty if it was not."""
    label: str

    @property
    def registered(self) -> int:
        return len(self.model.posed) if self.model else 0


def reconstruct_poses(
    photos: Sequence[PhotoInput], workdir: Path, *, config: SfmConfig | None = None, progress: Progress = silent,
) -> SfmResult:
    """Pose the photos of the first visit and triangulate sparse points.

    Args:
        photos: with unique names; read once, in order.
        workdir: cache folder; an interrupted call continues from it, a repeated one gives the same result.

    Returns:
        Poses in a normalised world: z up (as well as the photos tell), origin in the middle of the points, and a median
        depth of `gauge.MEDIAN_DEPTH` units. The scale has no metric meaning.

    Raises:
        InputError: too few photos could be read or connected, or the result is not a consistent, three-dimensional place.
    """
    config = config or SfmConfig()
    _check_names(photos)
    features, failures = features_of_all(photos, workdir / "features", config.features, progress=progress)
    usable = [p for p in photos if p.name in features]
    _need(len(usable) >= config.min_registered, f"{len(usable)} of {len(photos)} photos can be read", failures, config)
    best, attempts = _best_attempt(usable, features, workdir, config, progress)
    failures |= _reasons(best, usable, config)
    _need(best.registered >= config.min_registered, _headline(best, usable), failures, config)
    assert best.model is not None
    _check_parallax(best.model, config)
    gauge = normalising_similarity(
        np.stack([p.cam_from_world for p in best.model.posed.values()]), best.model.points.xyz, median_depth(best.model)
    )
    model = replace(
        best.model, posed=gauge.posed(best.model.posed),
        points=replace(best.model.points, xyz=gauge.points(best.model.points.xyz)),
    )
    method = f"OpenCV SIFT ({config.features.max_keypoints} per photo), COLMAP {pycolmap.__version__} incremental mapping"
    return _result(model, photos, best, failures, f"{method}, {best.label}", config, attempts)


def triangulate_given(
    photos: Sequence[PhotoInput], posed: Mapping[str, PosedPhoto], workdir: Path, *, config: SfmConfig | None = None,
    progress: Progress = silent,
) -> SfmResult:
    """Keep given poses and intrinsics exactly and triangulate points for them.

    Args:
        posed: photo name to pose; photos without one end in `failures`. No normalisation is applied.

    Raises:
        InputError: no photo has a pose, or too few points agree with the poses (wrong poses, axes or photo names).
    """
    config = config or SfmConfig()
    _check_names(photos)
    given, failures = {}, {}
    for photo in photos:
        pose = posed.get(photo.name)
        if pose is None:
            failures[photo.name] = "the cameras file has no pose for this photo"
        elif (pose.width, pose.height) != (photo.width, photo.height):
            failures[photo.name] = (
                f"the cameras file says {pose.width}x{pose.height} pixels, the photo has {photo.width}x{photo.height}"
            )
        else:
            given[photo.name] = pose
    wanted = [p for p in photos if p.name in given]
    features, unreadable = features_of_all(wanted, workdir / "features", config.features, progress=progress)
    failures |= unreadable
    usable = [p for p in wanted if p.name in features]
    if not usable:
        raise InputError(_listing("No photo can be used with the given cameras", failures))
    database, _ = _matched(usable, features, workdir, config, progress, "given", given)
    progress(ProgressEvent("poses", message="triangulating points"))
    reconstruction = run_triangulation(database, database.path.parent, given, config.mapper)
    model = to_model(reconstruction, database, features, {p.name: given[p.name] for p in usable})
    _check_given(model, sum(database.verified_pairs().values()), progress)
    attempt = _Attempt(model, database, features, [], {}, "", "given cameras")
    method = f"given cameras, points from OpenCV SIFT and COLMAP {pycolmap.__version__} triangulation"
    return _result(model, photos, attempt, failures, method, config, 1)


def _check_given(model: Model, verified: int, progress: Progress) -> None:
    """Compare the pairs of observations that share a point with the matches that some pose would explain.

    Measured on a synthetic room: true poses 1.0, poses off by .6 degrees .7, by 1.7 degrees .1; names shuffled .07, inverted
    matrices .03, OpenGL axes 0.
    """
    tracks = model.points.track_length
    agreeing = int((tracks * (tracks - 1) // 2).sum()) / max(verified, 1)
    if verified < 100 or agreeing >= 0.5:
        return
    text = f"The given cameras do not fit the photos: only {agreeing:.0%} of {verified} matches agree with the poses. "
    advice = (
        "Check the photo names, the axes (OpenCV: x right, y down, z forward), cam_from_world versus world_from_cam and K."
    )
    if agreeing < 0.1:
        raise InputError(text + advice)
    progress(ProgressEvent("poses", message=text + advice, level="warning"))


def _check_names(photos: Sequence[PhotoInput]) -> None:
    names = [p.name for p in photos]
    if len(set(names)) != len(names):
        raise ValueError(f"photo names must be unique, got {sorted({n for n in names if names.count(n) > 1})}.")


def _matched(
    photos: Sequence[PhotoInput], features: dict[str, PhotoFeatures], workdir: Path, config: SfmConfig,
    progress: Progress, label: str, given: Mapping[str, PosedPhoto] | None = None,
) -> tuple[AttemptDatabase, dict[tuple[int, int], Matches]]:
    """A database with verified matches; features and matches come from the cache where a former run left them."""
    # Failures are reported with reasons by this module; the library's own lines would break the progress display.
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    names = [p.name for p in photos]
    key = config_key(
        [(p.name, p.sha256) for p in photos], config.features, config.matching, DESCRIPTOR_KIND
    )
    folder = workdir / f"{label.split()[0]}_{key}"
    pairs = choose_pairs(names, features, config.matching)
    matches = match_pairs(names, features, pairs, folder / "matches", config.matching, progress=progress)
    database = AttemptDatabase(folder, photos, config.features.max_long_side)
    database.build(features, {k: m for k, m in matches.items() if len(m) >= config.min_pair_inliers}, given)
    progress(ProgressEvent("poses", message=f"verifying {len(pairs)} pairs"))
    database.verify(
        max_error_px=config.max_epipolar_error_px, min_inliers=config.min_pair_inliers, seed=config.mapper.seed
    )
    return database, matches


def _best_attempt(
    usable: Sequence[PhotoInput], features: dict[str, PhotoFeatures], workdir: Path, config: SfmConfig, progress: Progress
) -> tuple[_Attempt, int]:
    """The attempt that registers most photos, and how many were made.

    The second one maps the same verified matches with smaller demands, which is cheap; only if most photos are still
    missing, the third one looks for more keypoints and compares more pairs.
    """
    database, matches = _matched(usable, features, workdir, config, progress, "default")
    best = _mapped(database, matches, features, config.mapper, progress, "default settings")
    connected = {name for pair in database.verified_pairs() for name in pair}
    attempts = 1
    if best.registered < len(connected):
        attempts += 1
        message = f"{best.registered} of {len(usable)} photos registered; mapping again with smaller demands"
        progress(ProgressEvent("poses", message=message, level="warning"))
        mapper = _lenient(config.mapper, refused=bool(best.refused))
        best = max(best, _mapped(database, matches, features, mapper, progress, "lenient mapping"), key=_rank)
    if best.registered < config.retry_below * len(usable):
        attempts += 1
        message = f"{best.registered} of {len(usable)} photos registered; trying again with more keypoints"
        progress(ProgressEvent("poses", message=message, level="warning"))
        second = _denser(config)
        more, _ = features_of_all(usable, workdir / "features", second.features, progress=progress)
        readable = [p for p in usable if p.name in more]
        database, matches = _matched(readable, more, workdir, second, progress, "dense")
        mapper = _lenient(config.mapper, refused=bool(best.refused))
        best = max(best, _mapped(database, matches, more, mapper, progress, "more keypoints, lenient mapping"), key=_rank)
    return best, attempts


def _rank(attempt: _Attempt) -> int:
    return attempt.registered


def _mapped(
    database: AttemptDatabase, matches: Mapping[tuple[int, int], Matches], features: dict[str, PhotoFeatures],
    mapper: MapperConfig, progress: Progress, label: str,
) -> _Attempt:
    photos = database.photos
    raw = {p.name: 0 for p in photos}
    for pair, found in matches.items():
        for k in pair:
            raw[photos[k].name] = max(raw[photos[k].name], len(found))
    progress(ProgressEvent("poses", message=f"mapping {len(photos)} photos"))
    models = run_mapper(database, database.path.parent, mapper)
    named = [[photos[i - 1].name for i in sorted(m.reg_image_ids())] for m in models]
    if not models:
        return _Attempt(None, database, features, [], raw, "", label)
    model = to_model(models[0], database, features)
    wild = {reason for p in model.posed.values() if (reason := wild_camera(p))}
    if wild or not np.isfinite(model.points.xyz).all() or not len(model.points):
        refused = ", ".join(sorted(wild)) or "no finite points"
        return _Attempt(None, database, features, named, raw, refused, label)
    return _Attempt(model, database, features, named[1:], raw, "", label)


def _lenient(mapper: MapperConfig, *, refused: bool) -> MapperConfig:
    """Smaller demands on the first pair and on added photos; no distortion if it ran wild before."""
    return replace(
        mapper, init_min_inliers=50, init_min_angle_deg=6.0, init_max_forward=1.0, pose_min_inliers=20,
        refine_distortion=mapper.refine_distortion and not refused,
    )


def _denser(config: SfmConfig) -> SfmConfig:
    """Twice the keypoints and neighbours."""
    count, contrast = min(2 * config.features.max_keypoints, 8192), config.features.contrast_threshold / 2
    return replace(
        config,
        features=replace(config.features, max_keypoints=count, contrast_threshold=contrast),
        matching=replace(config.matching, neighbours=2 * config.matching.neighbours),
    )


def _reasons(attempt: _Attempt, photos: Sequence[PhotoInput], config: SfmConfig) -> dict[str, str]:
    """Why each photo without a pose has none."""
    registered = set(attempt.model.posed) if attempt.model else set()
    connected: dict[str, list[tuple[int, str]]] = {}
    for (a, b), count in attempt.database.verified_pairs().items():
        connected.setdefault(a, []).append((count, b))
        connected.setdefault(b, []).append((count, a))
    group = {name: len(names) for names in reversed(attempt.others) for name in names}
    reasons = {}
    for name in (p.name for p in photos if p.name not in registered):
        keypoints, need = len(attempt.features[name]), config.min_pair_inliers
        if keypoints < need:
            reasons[name] = f"only {keypoints} keypoints: blurred, dark or without texture"
        elif name not in connected:
            reasons[name] = f"no overlap found with any other photo (best {attempt.raw_matches.get(name, 0)} unverified matches)"
        elif attempt.refused and name in group:
            reasons[name] = f"its group of {group[name]} photos gave no consistent reconstruction ({attempt.refused})"
        elif name in group:
            reasons[name] = f"registered in a separate group of {group[name]} photos that does not connect to the main one"
        else:
            count, best = max(connected[name])
            why = "but too few of their 3-D points" if registered else "but no two photos show enough parallax to start from"
            reasons[name] = f"matches {len(connected[name])} photos (best {best}: {count} matches) {why}"
    return reasons


def _headline(attempt: _Attempt, photos: Sequence[PhotoInput]) -> str:
    if attempt.refused:
        return f"the photos gave no consistent reconstruction ({attempt.refused})"
    return f"{attempt.registered} of {len(photos)} photos could be registered together"


def _listing(headline: str, failures: Mapping[str, str], limit: int = 8) -> str:
    lines = [f"  {name}: {reason}" for name, reason in list(failures.items())[:limit]]
    if len(failures) > limit:
        lines.append(f"  ... and {len(failures) - limit} more")
    return "\n".join([headline + (":" if lines else "."), *lines])


def _need(condition: bool, headline: str, failures: Mapping[str, str], config: SfmConfig) -> None:
    if not condition:
        advice = (
            f"\nA scene needs at least {config.min_registered} sharp photos that overlap by about two thirds, taken from different "
            "places (move sideways, do not turn on the spot)."
        )
        raise InputError(_listing(headline[:1].upper() + headline[1:], failures) + advice)


def _check_parallax(model: Model, config: SfmConfig) -> None:
    """Refuse captures in which the cameras hardly moved."""
    angle = float(np.median(triangulation_angles_deg(model))) if len(model.points) else 0.0
    if angle < config.min_angle_deg:
        raise InputError(
            f"The cameras hardly moved: points are seen under a median angle of {angle:.2f} degrees, {config.min_angle_deg} are "
            "needed. Take photos from different places (move sideways, do not only turn on the spot)."
        )


def _result(
    model: Model, photos: Sequence[PhotoInput], attempt: _Attempt, failures: Mapping[str, str], method: str,
    config: SfmConfig, attempts: int,
) -> SfmResult:
    order = [p for p in photos if p.name in model.posed]
    points = model.points
    angles = triangulation_angles_deg(model)
    first = np.cumsum([0] + [len(model.keypoint[p.name]) for p in order]).astype(np.int64)

    def gather(name: str) -> np.ndarray:
        parts = [getattr(attempt.features[p.name], name)[model.keypoint[p.name]] for p in order]
        return np.concatenate(parts)

    base = LocalizationMap(
        photos=tuple(MapPhoto(model.posed[p.name], p.camera_model, p.focal_px) for p in order),
        xyz=points.xyz, first=first, xy=gather("xy"), size=gather("size"),
        point=np.concatenate([model.point[p.name] for p in order]).astype(np.int64), descriptors=gather("descriptors"),
        max_long_side=config.features.max_long_side,
    )
    figures = {
        "num_photos": float(len(photos)), "num_registered": float(len(order)), "num_points": float(len(points)),
        "mean_reprojection_error_px": float(points.error.mean()) if len(points) else 0.0,
        "median_track_length": float(np.median(points.track_length)) if len(points) else 0.0,
        "median_angle_deg": float(np.median(angles)) if len(points) else 0.0,
        "attempts": float(attempts),
    }
    ordered = {p.name: model.posed[p.name] for p in order}
    kept = {p.name: failures[p.name] for p in photos if p.name in failures}
    return SfmResult(ordered, points, kept, method, base, figures)
