"""Place later photos on the first visit: nearest base photos, 2-D to 3-D matches, PnP with covariance, gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pycolmap
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.captures import Localization
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.io.posed import PosedPhoto
from ltgs.poses.database import camera_key, from_pycolmap, guessed_camera, rigid4, to_pycolmap
from ltgs.poses.features import FeatureConfig, PhotoFeatures, PhotoInput, detection_scale, features_of_all
from ltgs.poses.gauge import camera_center
from ltgs.poses.map import LocalizationMap, MapPhoto
from ltgs.poses.mapping import wild_camera
from ltgs.poses.matching import match_descriptors, nearest_photos, preview_indices, preview_stack, unit_descriptors

Array = NDArray[np.float64]

@dataclass(frozen=True)
class LocalizeConfig:
    """How a photo is posed on the base, and when its pose is not believed."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    neighbours: int = 8
    """Most base photos that are matched, nearest by the quick comparison; the cost per photo does not grow with the base."""
    first_neighbours: int = 4
    """Base photos matched before the first look at the pose. Measured on rooms/desk and rooms/shelf: 8, 4 and 2 of them give the
    same errors within 20 % at .9, .45 and .26 CPU seconds a photo."""
    enough_inliers: int = 200
    """Inliers at which the other neighbours are not matched any more."""
    shortlist: int = 64
    """Base photos that the quick comparison looks at in full; of more, a coarser one chooses these."""
    preview_keypoints: int = 256
    """Largest keypoints of the quick comparison."""
    max_ratio: float = 0.85
    """Nearest over second-nearest descriptor distance; wrong pairs are left to RANSAC."""
    max_angle_rad: float = 0.8
    """Angle between matched descriptors, radians."""
    max_error_px: float = 6.0
    """RANSAC inlier threshold for a photo detected at 1600 px; scales with the detection size, plus one pixel."""
    resized: float = 0.95
    """Inliers with the lens of a base photo, brought to another size, relative to those with a fitted focal length: so many are enough
    for it to be the same lens."""
    min_inliers: int = 15
    """Fewest inliers of a believed pose (COLMAP uses 30 for a map of its own, 15 for single pairs)."""
    min_inlier_ratio: float = 0.06
    """Smallest share of inliers among the 2-D to 3-D pairs. Measured: 114 trials with photos of other places reach 4 to 10
    inliers and at most 0.03; photos of rooms/desk at least 691 inliers."""
    max_centre_sigma: float = 0.03
    """Largest standard deviation of the camera centre relative to the viewing distance."""
    max_rotation_sigma_deg: float = 1.0
    """Largest standard deviation of the orientation, degrees; a tenth of the image width for a normal lens is 5."""
    min_spread: float = 0.02
    """Smallest share of the image that the inliers' bounding ellipse covers; matches on one sticker do not fix a pose."""
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
class _Solution:
    """A pose before the gates."""

    pose: Array
    camera: pycolmap.Camera
    inliers: int
    ratio: float
    covariance: Array
    inlier_xy: Array
    known: bool
    """Intrinsics were taken as they are; otherwise the focal length was fitted."""


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
    pairs: dict[str, _Pairs] = {}
    solved: dict[str, _Solution | str] = {}
    for index, photo in enumerate(photos):
        if photo.name in features:
            pairs[photo.name], solved[photo.name] = _match_and_solve(base, photo, features[photo.name], stack, config)
        progress(ProgressEvent("localise", index + 1, len(photos), photo.name))
    _share_focal(base, [p for p in photos if p.name in features], pairs, solved, config)
    out = []
    for photo in photos:
        outcome: _Solution | str = solved.get(photo.name) or failures[photo.name]
        out.append(_judge(base, photo, outcome, config))
    return out


def _share_focal(
    base: LocalizationMap, photos: Sequence[PhotoInput], pairs: dict[str, _Pairs], solved: dict[str, _Solution | str],
    config: LocalizeConfig,
) -> None:
    """Photos of one unknown camera get one focal length, the inlier-weighted median, and are solved again with it."""
    groups: dict[object, list[PhotoInput]] = {}
    for photo in photos:
        groups.setdefault(camera_key(photo), []).append(photo)
    for members in groups.values():
        fitted = [s for p in members if isinstance(s := solved[p.name], _Solution) and not s.known]
        if len(members) < 2 or not fitted:
            continue
        fitted.sort(key=lambda s: s.camera.mean_focal_length())
        weights = np.cumsum([s.inliers for s in fitted])
        shared = fitted[int(np.searchsorted(weights, weights[-1] / 2))].camera
        for photo in members:
            again = _estimate(base, pairs[photo.name], shared, config, refine_focal=False)
            before = solved[photo.name]
            # A photo that disagrees with the shared lens (another zoom) keeps its own fit.
            if again is not None and (isinstance(before, str) or again.inliers >= 0.8 * before.inliers):
                solved[photo.name] = again


def _match_and_solve(
    base: LocalizationMap, photo: PhotoInput, features: PhotoFeatures, stack: Tensor, config: LocalizeConfig
) -> tuple[_Pairs, _Solution | str]:
    """Match the nearest base photos, and more of them only if the pose found so far rests on few inliers."""
    descriptors = unit_descriptors(features.descriptors)
    quick = descriptors[preview_indices(features.size, config.preview_keypoints).copy()]
    nearest = [int(k) for k in nearest_photos(quick, stack, config.neighbours, shortlist=config.shortlist)]
    first = min(config.first_neighbours, len(nearest))
    found = _matches(base, descriptors, nearest[:first], {}, config)
    pairs = _as_pairs(features, found, nearest)
    solution = _solve(base, photo, pairs, config)
    if first < len(nearest) and (isinstance(solution, str) or solution.inliers < config.enough_inliers):
        pairs = _as_pairs(features, _matches(base, descriptors, nearest[first:], found, config), nearest)
        solution = _solve(base, photo, pairs, config)
    return pairs, solution


def _matches(
    base: LocalizationMap, descriptors: Tensor, photos: Sequence[int], found: dict[tuple[int, int], None], config: LocalizeConfig
) -> dict[tuple[int, int], None]:
    """Pairs of keypoint and point from some base photos added to those found before; of equal pairs one is kept."""
    found = dict(found)
    for k in photos:
        rows = base.rows(k)
        known = unit_descriptors(base.descriptors[rows])
        matches = match_descriptors(descriptors, known, max_ratio=config.max_ratio, max_angle_rad=config.max_angle_rad)
        points = base.point[rows]
        found.update({(int(q), int(points[r])): None for q, r in matches})
    return found


def _as_pairs(features: PhotoFeatures, found: dict[tuple[int, int], None], nearest: list[int]) -> _Pairs:
    pairs = np.array(list(found), dtype=np.int64).reshape(-1, 2)
    return _Pairs(features.xy[pairs[:, 0]].astype(np.float64), pairs[:, 1], nearest)


def _solve(base: LocalizationMap, photo: PhotoInput, pairs: _Pairs, config: LocalizeConfig) -> _Solution | str:
    """The pose with most inliers over the cameras worth trying, or why there is none."""
    if len(pairs.xy) < config.min_inliers:
        return f"only {len(pairs.xy)} matches with the first visit, {config.min_inliers} are needed: another place?"
    tried = [_estimate(base, pairs, c, config, refine_focal=not trusted) for c, trusted in _cameras(base, photo, pairs.base)]
    found = [s for s in tried if s is not None]
    if not found:
        return f"no consistent pose from {len(pairs.xy)} matches with the first visit: another place?"
    best = max(found, key=lambda s: s.inliers)
    known = max((s for s in found if s.known), key=lambda s: s.inliers, default=None)
    # A fitted focal length explains a few more matches than the right one: it also explains their errors.
    return known if known is not None and known.inliers >= config.resized * best.inliers else best


def _judge(base: LocalizationMap, photo: PhotoInput, solution: _Solution | str, config: LocalizeConfig) -> LocalizedPhoto:
    """Apply the gates."""
    if isinstance(solution, str):
        return LocalizedPhoto(Localization(photo.name, None, reason=solution), None)
    posed = from_pycolmap(photo.name, solution.camera, photo.width, photo.height, solution.pose)
    reason = _gate(base, photo, solution, config) or wild_camera(posed)
    if reason:
        return LocalizedPhoto(Localization(photo.name, None, solution.inliers, solution.ratio, reason=reason), None)
    note = "known camera" if solution.known else "focal length fitted"
    found = Localization(photo.name, solution.pose, solution.inliers, solution.ratio, solution.covariance, note)
    return LocalizedPhoto(found, posed)


def _cameras(base: LocalizationMap, photo: PhotoInput, nearest: Sequence[int]) -> list[tuple[pycolmap.Camera, bool]]:
    """Intrinsics to try: those of a base photo by the same camera, perhaps at another size, and a guess whose focal length is then
    fitted."""
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
        known = base.photos[index]
        if abs(known.posed.width / known.posed.height - photo.width / photo.height) < 0.01:
            resized = to_pycolmap(known.posed.resized(photo.width, photo.height))
            options.append((resized, False))
            if _same_lens(known, photo):
                options.append((resized, True))
    return options


def _same_lens(known: MapPhoto, photo: PhotoInput) -> bool:
    """Whether two photos name the same camera, and the same focal length relative to their size."""
    if known.camera_model != photo.camera_model or known.focal_prior_px is None or photo.focal_px is None:
        return False
    return abs(known.focal_prior_px / known.posed.width / (photo.focal_px / photo.width) - 1) < 0.01


def _estimate(
    base: LocalizationMap, pairs: _Pairs, camera: pycolmap.Camera, config: LocalizeConfig, *, refine_focal: bool
) -> _Solution | None:
    """RANSAC PnP and refinement; the solution holds the camera with its final focal length."""
    if len(pairs.xy) < 4:
        return None
    camera = pycolmap.Camera(model=camera.model.name, width=camera.width, height=camera.height, params=list(camera.params))
    scale = detection_scale(camera.width, camera.height, base.max_long_side)
    long_side = max(camera.width, camera.height) * scale
    estimation = pycolmap.AbsolutePoseEstimationOptions()
    estimation.ransac.max_error = (config.max_error_px * long_side / 1600 + 1.0) / scale
    estimation.ransac.random_seed = config.seed
    estimation.estimate_focal_length = refine_focal
    refinement = pycolmap.AbsolutePoseRefinementOptions()
    refinement.refine_focal_length = refine_focal
    # The default of 1 stops early in scenes of large units, whose gradients are small.
    refinement.gradient_tolerance = 1e-4
    points = base.xyz[pairs.point]
    result = pycolmap.estimate_and_refine_absolute_pose(
        pairs.xy, points, camera, estimation_options=estimation, refinement_options=refinement
    )
    if result is None:
        return None
    pose = rigid4(result["cam_from_world"])
    mask = np.asarray(result["inlier_mask"], dtype=bool)
    if not np.isfinite(pose).all() or mask.sum() < 4:
        return None
    covariance = pose_covariance(pairs.xy[mask], points[mask], camera, pose, fitted_focal=refine_focal)
    count = int(mask.sum())
    return _Solution(pose, camera, count, count / len(mask), covariance, pairs.xy[mask], not refine_focal)


def pose_covariance(xy: Array, xyz: Array, camera: pycolmap.Camera, pose: Array, *, fitted_focal: bool) -> Array:
    """[6, 6] covariance of (w, v) with R' = exp(w) R and t' = t + v: rotation vector in radians, translation in scene units.

    Args:
        xy: [M, 2] inlier pixels. xyz: [M, 3] their points. camera: its distortion is taken as exact.
        pose: [4, 4] cam_from_world at the optimum.
        fitted_focal: the focal length was estimated too, and its uncertainty widens the pose's.

    The pixel noise is measured from the residuals themselves (median of squared errors, at least a quarter pixel), so
    that a bad model shows as a wide covariance. Infinite where the geometry leaves a direction free.
    """
    rotated = xyz @ pose[:3, :3].T
    local = rotated + pose[:3, 3]
    focal = np.array([camera.focal_length_x, camera.focal_length_y])
    residual = np.asarray(camera.img_from_cam(local)) - xy
    # The median of a squared 2-D Gaussian error is 1.386 variances per axis.
    variance = max(float(np.median((residual**2).sum(1))) / 1.386, 0.0625)
    x, y, z = local.T
    to_pixels = np.zeros((len(xy), 2, 3))
    to_pixels[:, 0, 0], to_pixels[:, 0, 2] = focal[0] / z, -focal[0] * x / z**2
    to_pixels[:, 1, 1], to_pixels[:, 1, 2] = focal[1] / z, -focal[1] * y / z**2
    turned = np.zeros((len(xy), 3, 3))
    # d(exp(w) R X + t) / dw = -[R X]x.
    turned[:, 0, 1], turned[:, 0, 2], turned[:, 1, 2] = rotated[:, 2], -rotated[:, 1], rotated[:, 0]
    turned -= turned.transpose(0, 2, 1)
    jacobian = np.concatenate([to_pixels @ turned, to_pixels], axis=2)
    if fitted_focal:
        jacobian = np.concatenate([jacobian, np.stack([x / z, y / z], 1)[:, :, None]], axis=2)
    flat = jacobian.reshape(-1, jacobian.shape[2])
    scale = np.linalg.norm(flat, axis=0)
    normalised = flat / np.where(scale > 0, scale, 1.0)
    sigma = np.linalg.svd(normalised, compute_uv=False)
    if (scale == 0).any() or sigma[-1] < 1e-9 * sigma[0]:
        return np.full((6, 6), np.inf)
    full = variance * np.linalg.inv(normalised.T @ normalised) / np.outer(scale, scale)
    return full[:6, :6]


def center_covariance(pose: Array, covariance: Array) -> Array:
    """[3, 3] covariance of the camera centre in the world from a pose and its [6, 6] covariance.

    With R' = exp(w) R and t' = t + v the centre -R^T t moves by -R^T (v + t x w).
    """
    t = pose[:3, 3]
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    jacobian = -pose[:3, :3].T @ np.concatenate([cross, np.eye(3)], axis=1)
    return jacobian @ covariance @ jacobian.T


def _gate(base: LocalizationMap, photo: PhotoInput, solution: _Solution, config: LocalizeConfig) -> str:
    """Why a pose is not believed; empty if it is."""
    inliers, ratio = solution.inliers, solution.ratio
    if inliers < config.min_inliers:
        return f"{inliers} inliers, {config.min_inliers} are needed: another place, or too little overlap?"
    if ratio < config.min_inlier_ratio:
        return f"only {ratio:.0%} of the matches agree ({inliers} inliers), {config.min_inlier_ratio:.0%} needed: another place?"
    spread = 4 * np.pi * np.sqrt(max(np.linalg.det(np.cov(solution.inlier_xy.T)), 0.0)) / (photo.width * photo.height)
    if spread < config.min_spread:
        return f"the {inliers} inliers cover only {spread:.1%} of the photo, {config.min_spread:.0%} are needed"
    distance = base.viewing_distance
    if not np.isfinite(solution.covariance).all():
        return "the matches leave the pose undetermined"
    center = float(np.sqrt(np.trace(center_covariance(solution.pose, solution.covariance))))
    turn = float(np.degrees(np.sqrt(np.trace(solution.covariance[:3, :3]))))
    if center > config.max_centre_sigma * distance or turn > config.max_rotation_sigma_deg:
        return (
            f"the pose is uncertain: {center / distance:.1%} of the viewing distance and {turn:.2f} degrees, "
            f"{config.max_centre_sigma:.0%} and {config.max_rotation_sigma_deg} are allowed"
        )
    away = float(np.linalg.norm(camera_center(solution.pose) - base.centers.mean(0)))
    if away > config.max_distance * (base.extent + distance):
        return "the pose lies far away from the first visit's cameras"
    return ""
