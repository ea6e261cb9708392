"""Comparison of two sets of poses of the same photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ltgs.core.se3 import rotation_angle_deg, umeyama
from ltgs.errors import InputError
from ltgs.poses.gauge import Similarity, camera_center

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PoseErrors:
    """Errors per photo after alignment."""

    names: tuple[str, ...]
    rotation_deg: Array
    """[C] angle between estimated and reference orientation; the alignment comes from the centres alone."""
    relative_rotation_deg: Array
    """[C] the same after removing the mean rotation offset, so that a constant tilt of the alignment does not count."""
    center: Array
    """[C] distance between centres, reference units."""
    extent: float
    """Largest distance of a reference centre from the centroid, reference units."""

    def summary(self) -> dict[str, float]:
        """Mean and maximum figures; centre errors in percent of extent."""
        percent = 100 * self.center / self.extent
        return {
            "photos": float(len(self.names)),
            "rotation_deg_mean": float(self.rotation_deg.mean()), "rotation_deg_max": float(self.rotation_deg.max()),
            "relative_rotation_deg_mean": float(self.relative_rotation_deg.mean()),
            "relative_rotation_deg_max": float(self.relative_rotation_deg.max()),
            "center_percent_mean": float(percent.mean()), "center_percent_max": float(percent.max()),
        }


def align_cameras(estimated: Mapping[str, Array], reference: Mapping[str, Array]) -> Similarity:
    """Similarity that maps the estimated world onto the reference world by common camera centres.

    Args:
        estimated, reference: photo name to [4, 4] cam_from_world.

    Raises:
        InputError: fewer than three common photos, or centres on one line.
    """
    common = sorted(set(estimated) & set(reference))
    if len(common) < 3:
        raise InputError(f"Alignment needs at least 3 photos with both poses, got {len(common)}. Check that names agree.")
    source = np.array([camera_center(np.asarray(estimated[n], float)) for n in common])
    target = np.array([camera_center(np.asarray(reference[n], float)) for n in common])
    spread = np.linalg.svd(source - source.mean(0), compute_uv=False)
    if spread[1] < 1e-6 * max(spread[0], 1e-300):
        raise InputError("Alignment by camera centres is undetermined: all cameras lie on one line.")
    return Similarity(*umeyama(source, target))


def pose_errors(estimated: Mapping[str, Array], reference: Mapping[str, Array], *, align: bool = True) -> PoseErrors:
    """Pose errors of the common photos, after Sim(3) alignment unless both share one world already."""
    common = tuple(sorted(set(estimated) & set(reference)))
    if not common:
        raise InputError("No photo has both an estimated and a reference pose. Check that names agree.")
    similarity = align_cameras(estimated, reference) if align else Similarity(1.0, np.eye(3), np.zeros(3))
    moved = {n: similarity.camera(np.asarray(estimated[n], float)) for n in common}
    truth = {n: np.asarray(reference[n], float) for n in common}
    offsets = np.array([truth[n][:3, :3].T @ moved[n][:3, :3] for n in common])
    u, _, vt = np.linalg.svd(offsets.sum(0))
    mean_offset = (u * np.array([1.0, 1.0, np.linalg.det(u @ vt)])) @ vt
    centers = np.array([camera_center(truth[n]) for n in common])
    error = np.array([camera_center(moved[n]) for n in common]) - centers
    return PoseErrors(
        names=common,
        rotation_deg=np.array([rotation_angle_deg(o) for o in offsets]),
        relative_rotation_deg=np.array([rotation_angle_deg(mean_offset.T @ o) for o in offsets]),
        center=np.linalg.norm(error, axis=1),
        extent=float(max(np.linalg.norm(centers - centers.mean(0), axis=1).max(), 1e-12)),
    )
