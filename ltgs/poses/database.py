"""The COLMAP database of one reconstruction attempt: always built anew from cached features and matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from ltgs.io.posed import PosedPhoto
from ltgs.poses.features import PhotoFeatures, PhotoInput, detection_scale

DEFAULT_FOCAL_FACTOR = 1.2
"""Focal length over long side when nothing is known; COLMAP's default, a 43 mm lens on full frame."""


def camera_key(photo: PhotoInput) -> tuple[str, int, int, float | None]:
    """Photos with equal keys share intrinsics; focal lengths count as equal when three digits agree."""
    focal = None if photo.focal_px is None else float(f"{photo.focal_px:.3g}")
    return photo.camera_model, photo.width, photo.height, focal


def guessed_camera(width: int, height: int, focal_px: float | None, model: str = "SIMPLE_RADIAL") -> pycolmap.Camera:
    """A camera from a focal length in pixels (or the default guess), principal point in the middle, no distortion."""
    focal = focal_px if focal_px is not None else DEFAULT_FOCAL_FACTOR * max(width, height)
    params = [focal, width / 2, height / 2] + [0.0] * (model == "SIMPLE_RADIAL")
    camera = pycolmap.Camera(model=model, width=width, height=height, params=params)
    camera.has_prior_focal_length = focal_px is not None
    return camera


def scaled_camera(camera: pycolmap.Camera, factor: float) -> pycolmap.Camera:
    """The same camera for coordinates multiplied by `factor`; distortion is in normalised units and stays."""
    params = np.array(camera.params, dtype=np.float64)
    indices = list(camera.focal_length_idxs()) + list(camera.principal_point_idxs())
    params[indices] *= factor
    out = pycolmap.Camera(
        model=camera.model.name, width=max(1, round(camera.width * factor)), height=max(1, round(camera.height * factor)),
        params=params,
    )
    out.has_prior_focal_length = camera.has_prior_focal_length
    return out


def to_pycolmap(posed: PosedPhoto) -> pycolmap.Camera:
    """Intrinsics of a posed photo as a pycolmap camera in original pixels."""
    camera = pycolmap.Camera(
        model=posed.model, width=posed.width, height=posed.height, params=[float(v) for v in posed.params]
    )
    camera.has_prior_focal_length = True
    return camera


def from_pycolmap(name: str, camera: pycolmap.Camera, width: int, height: int, cam_from_world: NDArray) -> PosedPhoto:
    """A posed photo from a pycolmap camera that is already in original pixels."""
    return PosedPhoto(
        name=name, width=width, height=height, model=camera.model.name, params=tuple(float(v) for v in camera.params),
        cam_from_world=np.asarray(cam_from_world, dtype=np.float64),
    )


def rigid4(rigid: pycolmap.Rigid3d) -> NDArray[np.float64]:
    """[4, 4] matrix of a pycolmap transform."""
    out = np.eye(4)
    out[:3] = rigid.matrix()
    return out


class AttemptDatabase:
    """Files and identifiers of one attempt; image i of the list has COLMAP id i + 1.

    Keypoints are stored in pixels multiplied by `scale` of their photo, so that COLMAP's pixel thresholds mean the same
    for photos of any resolution.
    """

    def __init__(self, folder: Path, photos: Sequence[PhotoInput], max_long_side: int) -> None:
        self.path = folder / "database.db"
        self.pairs_path = folder / "pairs.txt"
        self.photos = list(photos)
        self.scales = {p.name: detection_scale(p.width, p.height, max_long_side) for p in photos}
        self.ids = {p.name: i + 1 for i, p in enumerate(photos)}

    def build(
        self, features: Mapping[str, PhotoFeatures], matches: Mapping[tuple[int, int], NDArray[np.uint32]],
        given: Mapping[str, PosedPhoto] | None = None,
    ) -> None:
        """Write cameras, images, keypoints and matches; an older file of the same name is replaced."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.parent.glob("database.db*"):
            leftover.unlink()
        listed = []
        with pycolmap.Database.open(self.path) as database:
            self._write_images(database, features, given)
            for (i, j), pairs in matches.items():
                if len(pairs):
                    database.write_matches(i + 1, j + 1, pairs)
                    listed.append(f"{_alias(i + 1)} {_alias(j + 1)}")
        self.pairs_path.write_text("\n".join(listed) + "\n", encoding="utf-8")

    def _write_images(
        self, database: pycolmap.Database, features: Mapping[str, PhotoFeatures],
        given: Mapping[str, PosedPhoto] | None,
    ) -> None:
        camera_ids: dict[object, int] = {}
        for photo in self.photos:
            scale = self.scales[photo.name]
            posed = given.get(photo.name) if given else None
            key: object = (posed.model, posed.params, posed.width, posed.height) if posed else camera_key(photo)
            if posed:
                key = (posed.model, tuple(float(v) for v in posed.params), posed.width, posed.height)
            if key not in camera_ids:
                original = to_pycolmap(posed) if posed else guessed_camera(photo.width, photo.height, photo.focal_px)
                camera_ids[key] = database.write_camera(scaled_camera(original, scale))
            image_id = self.ids[photo.name]
            # Aliases keep blanks and odd characters of user file names out of COLMAP's text files.
            image = pycolmap.Image(name=_alias(image_id), camera_id=camera_ids[key], image_id=image_id)
            database.write_image(image, use_image_id=True)
            database.write_keypoints(image_id, np.ascontiguousarray(features[photo.name].xy * np.float32(scale)))

    def verify(self, *, max_error_px: float, min_inliers: int, seed: int) -> None:
        """Estimate the two-view geometry of every matched pair."""
        options = pycolmap.TwoViewGeometryOptions()
        options.min_num_inliers = min_inliers
        options.ransac.max_error = max_error_px
        options.ransac.random_seed = seed
        # COLMAP's 10,000 trials are spent on pairs that show different things; 3,000 still find a quarter of inliers.
        options.ransac.max_num_trials = 3000
        pycolmap.verify_matches(self.path, self.pairs_path, options)

    def verified_pairs(self) -> dict[tuple[str, str], int]:
        """Inlier counts of the verified pairs by photo names."""
        names = {i: name for name, i in self.ids.items()}
        with pycolmap.Database.open(self.path) as database:
            pair_ids, counts = database.read_two_view_geometry_num_inliers()
        out = {}
        for pair_id, count in zip(pair_ids, counts, strict=True):
            first, second = pycolmap.pair_id_to_image_pair(pair_id)
            if count > 0:
                out[names[first], names[second]] = int(count)
        return out


def _alias(image_id: int) -> str:
    return f"{image_id:06d}.png"
