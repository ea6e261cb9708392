"""Place later photos on the first visit: nearest base photos, 2-D to 3-D matches, PnP with covariance, gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pycolmap

from ltgs.core.captures import Localization
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.io.posed import PosedPhoto
from ltgs.poses.database import camera_key, from_pycolmap, guessed_camera, rigid4, to_pycolmap
from ltgs.poses.features import FeatureConfig, PhotoFeatures, PhotoInput, features_of_all
from ltgs.poses.gauge import camera_center
from ltgs.poses.map import LocalizationMap
from ltgs.poses.matching import match_descriptors, preview_indices, preview_scores, preview_stack, unit_descriptors


@dataclass(frozen=True)
class LocalizeConfig:
    """How a photo is posed on the base, and when its pose is not believed."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    neighbours: int = 8
    """Base photos that are matched, nearest by the quick comparison; the cost per photo does not grow with the base."""
    preview_keypoints: int = 256
    """Largest keypoints of the quick comparison."""
    max_ratio: float = 0.85
    """Nearest over second-nearest descriptor distance; wrong pairs are left to RANSAC."""
    max_angle_rad: float = 0.8
    """Angle between matched descriptors, radians."""
    max_error_px: float = 6.0
    """RANSAC inlier threshold at 1600 px; scales with the photo."""
    min_inliers: int = 15
    """Fewest inliers of a believed pose (COLMAP uses 30 for a map of its own, 15 for single pairs)."""
    min_inlier_ratio: float = 0.12
    """Smallest share of inliers among the 2-D to 3-D pairs."""
    max_centre_sigma: float = 0.03
    """Largest standard deviation of the camera centre relative to the viewing distance."""
    max_distance: float = 5.0
    """Farthest believed camera from the base cameras' centroid, in units of their extent plus the viewing distance."""
    seed: int = 0
    """RANSAC seed."""


@dataclass(frozen=True)
class LocalizedPhoto:
    """Outcome for one photo."""

    localization: Localization
    posed: PosedPhoto | None


@dataclass(frozen=True)
class _Pairs:
    xy: np.ndarray
    """[M, 2] pixels."""
    point: np.ndarray
    """[M] indices into the map's points."""
    base: list[int]
    """Base photos they came from, most similar first."""


def localize_photos(
    base: LocalizationMap, photos: Sequence[PhotoInput], *, config: LocalizeConfig | None = None, progress: Progress = silent,
) -> list[LocalizedPhoto]:
    """Pose photos one by one against the first visit.

    Returns:
        one entry per photo in the same order; a photo that fails a gate has no pose and a reason.
    """
    config = config or LocalizeConfig()
    settings = replace(config.features, max_long_side=base.max_long_side)
    features, failures = features_of_all(photos, None, settings, stage="localise")
    stack = preview_stack(
        [(base.descriptors[base.rows(i)], base.size[base.rows(i)]) for i in range(len(base.photos))], config.preview_keypoints
    )
    out = []
    for index, photo in enumerate(photos):
        if photo.name in features:
            result = _localize_one(base, photo, features[photo.name], stack, config)
        else:
            result = LocalizedPhoto(Localization(photo.name, None, reason=failures[photo.name]), None)
        out.append(result)
        progress(ProgressEvent("localise", index + 1, len(photos), photo.name))
    return out


def _pairs(base: LocalizationMap, features: PhotoFeatures, stack, config: LocalizeConfig) -> _Pairs:  # type: ignore[no-untyped-def]
    """2-D to 3-D pairs from the nearest base photos; of several pairs of one keypoint and point one is kept."""
    descriptors = unit_descriptors(features.descriptors)
    quick = descriptors[preview_indices(features.size, config.preview_keypoints).copy()]
    nearest = np.argsort(-preview_scores(quick, stack), kind="stable")[: config.neighbours]
    found: dict[tuple[int, int], None] = {}
    for k in nearest:
        rows = base.rows(int(k))
        known = unit_descriptors(base.descriptors[rows])
        matches = match_descriptors(descriptors, known, max_ratio=config.max_ratio, max_angle_rad=config.max_angle_rad)
        points = base.point[rows]
        found.update({(int(q), int(points[r])): None for q, r in matches})
    pairs = np.array(list(found), dtype=np.int64).reshape(-1, 2)
    return _Pairs(features.xy[pairs[:, 0]].astype(np.float64), pairs[:, 1], [int(k) for k in nearest])


def _localize_one(
    base: LocalizationMap, photo: PhotoInput, features: PhotoFeatures, stack, config: LocalizeConfig,  # type: ignore[no-untyped-def]
) -> LocalizedPhoto:
    def failed(reason: str, inliers: int = 0, ratio: float = 0.0) -> LocalizedPhoto:
        return LocalizedPhoto(Localization(photo.name, None, inliers, ratio, reason=reason), None)

    pairs = _pairs(base, features, stack, config)
    if len(pairs.xy) < config.min_inliers:
        return failed(f"only {len(pairs.xy)} matches with the first visit, {config.min_inliers} are needed: another place?")
    best, known = None, False
    for camera, trusted in _cameras(base, photo, pairs.base):
        estimate = _estimate(base, pairs, camera, config, refine_focal=not trusted)
        if estimate is not None and (best is None or estimate["num_inliers"] > best["num_inliers"]):
            best, known = estimate, trusted
    if best is None:
        return failed(f"no consistent pose from {len(pairs.xy)} matches with the first visit: another place?")
    inliers, ratio = int(best["num_inliers"]), float(best["num_inliers"]) / len(pairs.xy)
    pose = rigid4(best["cam_from_world"])
    covariance = np.asarray(best["covariance"]) if best.get("covariance") is not None else None
    reason = _gate(base, pose, covariance, inliers, ratio, config)
    if reason:
        return failed(reason, inliers, ratio)
    posed = from_pycolmap(photo.name, best["camera"], photo.width, photo.height, pose)
    note = "known camera" if known else "focal length fitted"
    return LocalizedPhoto(Localization(photo.name, pose, inliers, ratio, covariance, note), posed)


def _cameras(base: LocalizationMap, photo: PhotoInput, nearest: Sequence[int]) -> list[tuple[pycolmap.Camera, bool]]:
    """Intrinsics to try: those of a base photo by the same camera, and a guess whose focal length is then fitted."""
    key = camera_key(photo)
    for index in [*nearest, *range(len(base.photos))]:
        known = base.photos[index]
        same = PhotoInput(
            photo.name, photo.path, "", known.posed.width, known.posed.height, known.focal_prior_px, known.camera_model
        )
        if camera_key(same) == key:
            return [(to_pycolmap(known.posed), True)]
    options = [(guessed_camera(photo.width, photo.height, photo.focal_px), False)]
    for index in nearest[:1]:
        known_posed = base.photos[index].posed
        if abs(known_posed.width / known_posed.height - photo.width / photo.height) < 0.01:
            options.append((to_pycolmap(known_posed.resized(photo.width, photo.height)), False))
    return options


def _estimate(
    base: LocalizationMap, pairs: _Pairs, camera: pycolmap.Camera, config: LocalizeConfig, *, refine_focal: bool
) -> dict | None:
    """RANSAC PnP and refinement; the returned dictionary also holds the camera with its final focal length."""
    camera = pycolmap.Camera(model=camera.model.name, width=camera.width, height=camera.height, params=list(camera.params))
    estimation = pycolmap.AbsolutePoseEstimationOptions()
    estimation.ransac.max_error = config.max_error_px * min(1.0, max(camera.width, camera.height) / 1600) + 1.0
    estimation.ransac.random_seed = config.seed
    estimation.estimate_focal_length = refine_focal
    refinement = pycolmap.AbsolutePoseRefinementOptions()
    refinement.refine_focal_length = refine_focal
    result = pycolmap.estimate_and_refine_absolute_pose(
        pairs.xy, base.xyz[pairs.point], camera, estimation_options=estimation, refinement_options=refinement,
        return_covariance=True,
    )
    return None if result is None else {**result, "camera": camera}


def _gate(
    base: LocalizationMap, pose: np.ndarray, covariance: np.ndarray | None, inliers: int, ratio: float, config: LocalizeConfig
) -> str:
    """Why a pose is not believed; empty if it is."""
    if not np.isfinite(pose).all():
        return "the pose is not finite"
    if inliers < config.min_inliers:
        return f"{inliers} inliers, {config.min_inliers} are needed: another place, or too little overlap?"
    if ratio < config.min_inlier_ratio:
        return f"only {ratio:.0%} of the matches agree ({inliers} inliers), {config.min_inlier_ratio:.0%} needed: another place?"
    distance = base.viewing_distance
    if covariance is not None and np.isfinite(covariance).all():
        sigma = float(np.sqrt(max(np.trace(covariance[3:, 3:]), 0.0)))
        if sigma > config.max_centre_sigma * distance:
            allowed = config.max_centre_sigma
            return f"the pose is uncertain: {sigma / distance:.1%} of the viewing distance, {allowed:.0%} allowed"
    away = float(np.linalg.norm(camera_center(pose) - base.centers.mean(0)))
    if away > config.max_distance * (base.extent + distance):
        return "the pose lies far away from the first visit's cameras"
    return ""
