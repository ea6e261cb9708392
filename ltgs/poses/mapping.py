"""One run of COLMAP's mapper or triangulator, and its result as plain arrays."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from ltgs.io.posed import PosedPhoto
from ltgs.poses.database import AttemptDatabase, from_pycolmap, rigid4, scaled_camera, to_pycolmap
from ltgs.poses.features import PhotoFeatures
from ltgs.poses.gauge import camera_center
from ltgs.poses.polish import PolishConfig, polish

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MapperConfig:
    """The few numbers of COLMAP's incremental mapper that this project sets itself."""

    init_min_inliers: int = 100
    """Matches of the first pair; COLMAP's default."""
    init_min_angle_deg: float = 16.0
    """Median triangulation angle of the first pair; COLMAP's default (it halves it by itself when nothing fits)."""
    init_max_forward: float = 0.95
    """Share of forward motion between the first pair above which it is not used; COLMAP's default, 1 allows all."""
    pose_min_inliers: int = 30
    """2D-3D inliers to add a photo; COLMAP's default."""
    refine_distortion: bool = True
    """Estimate one radial coefficient per camera."""
    polish: PolishConfig = field(default_factory=PolishConfig)
    """The last, robust adjustment."""
    seed: int = 0
    """Of every random choice."""
    num_threads: int = 1
    """One thread makes the result the same on every run; mapping is a small share of the time."""


@dataclass(frozen=True)
class SparsePoints:
    """Triangulated points."""

    xyz: Array
    """[P, 3] scene units."""
    rgb: NDArray[np.uint8]
    """[P, 3] mean colour over the observations."""
    error: Array
    """[P] mean reprojection error in detection pixels (photo reduced to the detection size)."""
    track_length: NDArray[np.int64]
    """[P] photos that see the point."""

    def __len__(self) -> int:
        return len(self.xyz)


@dataclass(frozen=True)
class Model:
    """A reconstruction in its own gauge, as arrays."""

    posed: dict[str, PosedPhoto]
    points: SparsePoints
    keypoint: dict[str, NDArray[np.int64]]
    """Photo name to indices of its keypoints that have a point ..."""
    point: dict[str, NDArray[np.int64]]
    """... and the indices of those points."""


def run_mapper(database: AttemptDatabase, folder: Path, config: MapperConfig) -> list[pycolmap.Reconstruction]:
    """All separate models COLMAP finds, largest first, which is polished; empty if no pair of photos could start one."""
    out = folder / "models"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    options = pycolmap.IncrementalPipelineOptions()
    options.extract_colors = False
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = config.seed
    options.num_threads = options.mapper.num_threads = config.num_threads
    options.min_model_size = 3
    options.max_num_models = 10
    options.ba_refine_extra_params = config.refine_distortion
    options.mapper.abs_pose_refine_extra_params = config.refine_distortion
    options.mapper.init_min_num_inliers = config.init_min_inliers
    options.mapper.init_min_tri_angle = config.init_min_angle_deg
    options.mapper.init_max_forward_motion = config.init_max_forward
    options.mapper.abs_pose_min_num_inliers = config.pose_min_inliers
    pycolmap.set_random_seed(config.seed)
    models = pycolmap.incremental_mapping(database.path, folder, out, options)
    found = sorted(models.values(), key=lambda m: (-m.num_reg_images(), -m.num_points3D()))
    if found and config.polish.enabled:
        polish(found[0], config.polish, refine_distortion=config.refine_distortion, num_threads=config.num_threads)
    return found


def run_triangulation(
    database: AttemptDatabase, folder: Path, given: Mapping[str, PosedPhoto], config: MapperConfig
) -> pycolmap.Reconstruction:
    """Points of photos whose poses and intrinsics are given and stay as they are."""
    start = pycolmap.Reconstruction()
    with pycolmap.Database.open(database.path) as stored:
        for camera in stored.read_all_cameras():
            start.add_camera_with_trivial_rig(camera)
        for image in stored.read_all_images():
            name = database.photos[image.image_id - 1].name
            pose = np.array(given[name].cam_from_world, dtype=np.float64)
            plain = pycolmap.Image(name=image.name, camera_id=image.camera_id, image_id=image.image_id)
            start.add_image_with_trivial_frame(plain, pycolmap.Rigid3d(pose[:3]))
    options = pycolmap.IncrementalPipelineOptions()
    options.extract_colors = False
    options.fix_existing_frames = True
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = config.seed
    options.num_threads = options.mapper.num_threads = config.num_threads
    out = folder / "triangulated"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return pycolmap.triangulate_points(start, database.path, folder, out, options=options)


def to_model(
    reconstruction: pycolmap.Reconstruction, database: AttemptDatabase, features: Mapping[str, PhotoFeatures],
    given: Mapping[str, PosedPhoto] | None = None,
) -> Model:
    """Read everything needed out of COLMAP's objects; given poses are passed through bit for bit."""
    ids = np.array(sorted(reconstruction.point3D_ids()), dtype=np.int64)
    xyz = np.array([reconstruction.point3D(int(i)).xyz for i in ids]).reshape(-1, 3)
    error = np.array([reconstruction.point3D(int(i)).error for i in ids], dtype=np.float64)
    colour_sum, count = np.zeros((len(ids), 3)), np.zeros(len(ids), dtype=np.int64)
    posed, keypoint, point = {}, {}, {}
    for image_id in sorted(reconstruction.reg_image_ids()):
        image = reconstruction.image(image_id)
        photo = database.photos[image_id - 1]
        observed = np.array(image.get_observation_point2D_idxs(), dtype=np.int64)
        seen = np.array([image.points2D[int(k)].point3D_id for k in observed], dtype=np.int64)
        rows = np.searchsorted(ids, seen)
        np.add.at(colour_sum, rows, features[photo.name].rgb[observed])
        np.add.at(count, rows, 1)
        keypoint[photo.name], point[photo.name] = observed, rows
        if given is not None:
            posed[photo.name] = given[photo.name]
        else:
            camera = scaled_camera(reconstruction.camera(image.camera_id), 1 / database.scales[photo.name])
            posed[photo.name] = from_pycolmap(photo.name, camera, photo.width, photo.height, rigid4(image.cam_from_world()))
    rgb = np.rint(colour_sum / np.maximum(count, 1)[:, None]).astype(np.uint8)
    return Model(posed, SparsePoints(xyz, rgb, error, count), keypoint, point)


def triangulation_angles_deg(model: Model) -> Array:
    """[P] largest angle between any two rays to each point, degrees."""
    rays: list[list[Array]] = [[] for _ in range(len(model.points))]
    for name, rows in model.point.items():
        directions = camera_center(model.posed[name].cam_from_world) - model.points.xyz[rows]
        directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-300)
        for row, direction in zip(rows, directions, strict=True):
            rays[row].append(direction)
    out = np.zeros(len(rays))
    for i, bundle in enumerate(rays):
        if len(bundle) > 1:
            stacked = np.array(bundle)
            out[i] = np.degrees(np.arccos(np.clip((stacked @ stacked.T).min(), -1, 1)))
    return out


def median_depth(model: Model) -> float:
    """Median z of all observations, model units; 1 if there are none."""
    depths = []
    for name, rows in model.point.items():
        pose = model.posed[name].cam_from_world
        depths.append(model.points.xyz[rows] @ pose[2, :3] + pose[2, 3])
    joined = np.concatenate(depths) if depths else np.zeros(0)
    return float(np.median(joined)) if len(joined) else 1.0


def wild_camera(posed: PosedPhoto) -> str:
    """Why fitted intrinsics cannot be real, or an empty string.

    Limits: a lens of 0.3 times the long side sees 120 degrees, one of 5 times sees 11 degrees; a first radial coefficient
    beyond 1 bends the image border by its whole radius.
    """
    camera = to_pycolmap(posed)
    ratio = camera.mean_focal_length() / max(posed.width, posed.height)
    if not 0.3 <= ratio <= 5.0:
        return f"focal length {ratio:.2f} times the long side"
    if len(camera.extra_params_idxs()):
        first = float(np.array(camera.params)[camera.extra_params_idxs()[0]])
        if not abs(first) <= 1.0:
            return f"radial distortion {first:.2f}"
    return ""
