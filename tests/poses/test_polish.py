"""The last adjustment: mismatched two-view points between two photos must not bend their poses."""

from __future__ import annotations

import numpy as np
import pycolmap
import pytest

from ltgs.poses.align import pose_errors
from ltgs.poses.database import rigid4
from ltgs.poses.polish import PolishConfig, measured_noise, polish

from .place import arc

NOISE = 0.3


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    return {f"{i}.png": pose for i, pose in enumerate(arc(8))}


def bent(truth: dict[str, np.ndarray], mismatches: int = 60) -> pycolmap.Reconstruction:
    """Points in general position with pixel noise, and two-view points of photos 0 and 1 that are 3 to 6 pixels off."""
    rng = np.random.default_rng(2)
    lens = pycolmap.Camera(model="SIMPLE_RADIAL", width=640, height=480, params=[500.0, 320, 240, 0.0], camera_id=1)
    xyz = np.concatenate([rng.uniform(0.2, 3, (300, 3)), rng.uniform(0.2, 3, (mismatches, 3))])
    out = pycolmap.Reconstruction()
    out.add_camera_with_trivial_rig(lens)
    seen: list[list[tuple[int, int]]] = [[] for _ in xyz]
    for i, (name, pose) in enumerate(truth.items()):
        chosen = np.r_[0:300, 300 : len(xyz)] if i < 2 else np.arange(300)
        xy = np.asarray(lens.img_from_cam(xyz[chosen] @ pose[:3, :3].T + pose[:3, 3]))
        xy += rng.normal(0, NOISE, xy.shape)
        # Off across the epipolar lines, to one side: what survives a threshold around a wrong pose.
        xy[300:, 1] += (1 if i else -1) * rng.uniform(1.5, 3, len(xy) - 300)
        image = pycolmap.Image(name=name, camera_id=1, image_id=i + 1)
        image.points2D = [pycolmap.Point2D(p) for p in xy]
        out.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose[:3]))
        for k, point in enumerate(chosen):
            seen[point].append((i + 1, k))
    for point, observations in zip(xyz, seen, strict=True):
        track = pycolmap.Track()
        for image_id, k in observations:
            track.add_element(image_id, k)
        out.add_point3D(point, track, np.zeros(3, np.uint8))
    return out


def errors_of(reconstruction: pycolmap.Reconstruction, truth: dict[str, np.ndarray]) -> np.ndarray:
    estimated = {reconstruction.image(i).name: rigid4(reconstruction.image(i).cam_from_world()) for i in reconstruction.reg_image_ids()}
    return pose_errors(estimated, truth).center


def test_mismatches_of_one_pair_do_not_bend_it(truth) -> None:
    quadratic, robust = bent(truth), bent(truth)
    # A loss so wide that it is the quadratic one of the mapper.
    polish(quadratic, PolishConfig(loss_scale=1e6, max_iterations=50), refine_distortion=True)
    polish(robust, PolishConfig(), refine_distortion=True)
    clean = bent(truth, mismatches=0)
    polish(clean, PolishConfig(loss_scale=1e6, max_iterations=50), refine_distortion=True)
    worst, ours, best = (errors_of(r, truth).max() for r in (quadratic, robust, clean))
    assert worst > 2.5 * best, "otherwise the case is no test"
    assert ours < 1.25 * best, (worst, ours, best)


def test_noise_is_measured_despite_mismatches(truth) -> None:
    reconstruction = bent(truth)
    polish(reconstruction, PolishConfig(), refine_distortion=False)
    # Sixteen numbers a point against three fitted ones lower the residual by a tenth.
    assert measured_noise(reconstruction) == pytest.approx(NOISE * 0.9, rel=0.1)
    assert measured_noise(pycolmap.Reconstruction()) == 0.0


def test_observations_beyond_the_threshold_are_dropped(truth) -> None:
    reconstruction = bent(truth)
    before = reconstruction.num_points3D()
    dropped = polish(reconstruction, PolishConfig(max_error_px=1.2), refine_distortion=True)
    assert dropped > 60 and before - reconstruction.num_points3D() > 40
    assert all(p.error < 1.2 and p.track.length() >= 2 for p in reconstruction.points3D.values())


def test_the_result_is_the_same_every_time(truth) -> None:
    first, second = bent(truth), bent(truth)
    for reconstruction in (first, second):
        polish(reconstruction, PolishConfig(), refine_distortion=True)
    assert np.array_equal(rigid4(first.image(1).cam_from_world()), rigid4(second.image(1).cam_from_world()))
