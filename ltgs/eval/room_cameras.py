"""Poses of a scene's later photos against the true cameras of a room."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ltgs.core.scene import Scene
from ltgs.core.se3 import so3_log
from ltgs.data.rooms import Room
from ltgs.eval.room_tracks import CHI2_95_6DOF
from ltgs.poses.align import pose_errors
from ltgs.poses.gauge import Similarity

Array = NDArray[np.float64]


def localisation_figures(scene: Scene, room: Room, room_from_scene: Similarity) -> dict[str, float]:
    """Photos of later visits, how many were placed, and their errors once the first visit's cameras are aligned.

    Returns:
        `photos`, `localised`; with placed photos also median, 90 % quantile and maximum of `rotation_deg` and
        `center_percent` (of the extent of the first visit's cameras), and `covered_share`: errors inside the 95 % region of the
        stored covariance, if any is stored. The covariance does not know the first visit's own errors.
    """
    later = [p for p in scene.photos(localised=False) if p.timestep > 0]
    placed = {p.name: p for p in later if p.localised and p.camera is not None}
    out = {"photos": float(len(later)), "localised": float(len(placed))}
    truth = {p.name: p.camera.cam_from_world for p in room.photos}
    ours = {n: room_from_scene.camera(p.camera.cam_from_world) for n, p in placed.items() if p.camera is not None}
    if not ours.keys() & truth.keys():
        return out
    errors = pose_errors(ours, truth, align=False)
    first = np.array([p.camera.center for p in room.photos if p.time == 0])
    extent = float(np.linalg.norm(first - first.mean(0), axis=1).max())
    for name, values in (("rotation_deg", errors.rotation_deg), ("center_percent", 100 * errors.center / extent)):
        out |= {
            f"{name}_median": float(np.median(values)), f"{name}_p90": float(np.quantile(values, 0.9)),
            f"{name}_max": float(values.max()),
        }
    scene_from_room = room_from_scene.inverse()
    chi2 = [
        _chi2(camera.cam_from_world, cov, scene_from_room.camera(truth[n])) for n in errors.names
        if (camera := placed[n].camera) is not None and (cov := placed[n].covariance) is not None and np.isfinite(cov).all()
    ]
    if chi2:
        out["covered_share"] = float(np.mean(np.array(chi2) <= CHI2_95_6DOF))
    return out


def _chi2(pose: Array, covariance: Array, true: Array) -> float:
    """Squared Mahalanobis distance of a camera's pose error in the scene's frame."""
    error = np.concatenate([so3_log(pose[:3, :3] @ true[:3, :3].T), pose[:3, 3] - true[:3, 3]])
    return float(error @ np.linalg.pinv(covariance) @ error)
