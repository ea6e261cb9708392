"""A stored scene in memory: the chronology with the photos, figures and side data it was built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Camera
from ltgs.core.chronology import Chronology
from ltgs.core.decisions import DecisionRecord

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PhotoRecord:
    """One photo of a visit and what became of it."""

    name: str
    """Path relative to the capture root, POSIX."""
    timestep: int
    file_sha256: str
    """Hash of the user's file; empty if it could not be read."""
    localised: bool
    reason: str = ""
    """Why it was not localised or skipped; empty when all is well."""
    holdout: bool = False
    """Registered but never trained on: kept for evaluation."""
    camera: Camera | None = None
    """Pinhole camera of the stored working image (undistorted, possibly reduced)."""
    image_blob: str | None = None
    """Name of the stored working image in the scene's blobs."""
    num_inliers: int = 0
    inlier_ratio: float = 0.0
    covariance: Array | None = None
    """[6, 6] pose covariance, see Localization."""
    exposure: Array = field(default_factory=lambda: np.eye(3, 4))
    """[3, 4] per-photo colour affine fitted while training (render to photo)."""


@dataclass(frozen=True)
class VisitRecord:
    """One visit: its photos, how it was processed and what it cost."""

    timestep: int
    name: str
    captured_at: datetime | None
    photos: tuple[PhotoRecord, ...]
    method: Mapping[str, str] = field(default_factory=dict)
    """Stage name to the method used, e.g. {"poses": "pycolmap SIFT", "change": "weight-free: ..."}."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """Stage name to wall-clock seconds."""
    quality: Mapping[str, float] = field(default_factory=dict)
    """Figures measured on this visit's photos, e.g. {"train_psnr": 31.2}."""
    undecided: tuple[str, ...] = ()
    """What could not be decided, in words."""
    decisions: DecisionRecord | None = None
    """What was considered; None at the first visit and in scenes of versions that did not record it."""

    @property
    def cameras(self) -> list[Camera]:
        """Cameras of the placed photos that are not held out, in the order of the photos."""
        return [p.camera for p in self.photos if p.camera is not None and not p.holdout]


@dataclass(frozen=True)
class Edit:
    """One correction of the chronology by the user, as a record; its effect is in the chronology."""

    operation: str
    """merge, split, delete, pin-pose, rename or undo."""
    arguments: Mapping[str, Any]
    """Plain JSON values as of the time of the edit; visits are named, since their indices may shift later."""
    made_at: datetime

    def words(self) -> str:
        """One line: "merge: object 3, other 7"; lists of numbers are left out."""
        said = sorted(self.arguments.items(), key=lambda item: (item[0] != "object", item[0]))
        return f"{self.operation}: " + ", ".join(f"{k} {v}" for k, v in said if not isinstance(v, list))


@dataclass(frozen=True)
class Scene:
    """All that a scene folder holds."""

    chronology: Chronology
    visits: tuple[VisitRecord, ...]
    side_data: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Named groups of tensors, e.g. "localization_map", "expected_residual"."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Resolved configuration, plain JSON values."""
    edits: tuple[Edit, ...] = ()
    """Corrections made by the user, oldest first."""

    def __post_init__(self) -> None:
        if len(self.visits) != self.chronology.num_times:
            raise ValueError(f"{len(self.visits)} visits but {self.chronology.num_times} times in the chronology.")

    def photos(self, *, localised: bool = True, time: int | None = None, holdout: bool | None = None) -> list[PhotoRecord]:
        """Photos filtered by localisation, timestep and held-out flag."""
        return [
            p for v in self.visits for p in v.photos
            if (not localised or p.localised)
            and (time is None or p.timestep == time)
            and (holdout is None or p.holdout == holdout)
        ]

    @property
    def fitted_focal(self) -> float | None:
        """Focal length of the first visit's photos, to which the scene was fitted, pixels (median); None without a placed one."""
        focals = [c.K[0, 0] for c in self.visits[0].cameras] if self.visits else []
        return float(np.median(focals)) if focals else None

    def sampled(self, camera: Camera) -> Camera:
        """The camera with its `sampling`: its focal length relative to `fitted_focal`."""
        focal = self.fitted_focal
        return replace(camera, sampling=float(camera.K[0, 0] / focal)) if focal else camera

    @property
    def extent(self) -> float:
        """Radius of the first visit's cameras around their centroid, scene units; thresholds are relative to it."""
        centers = np.array([p.camera.center for p in self.photos(time=0) if p.camera is not None])
        if len(centers) == 0:
            return 1.0
        return float(max(np.linalg.norm(centers - centers.mean(0), axis=1).max() * 1.1, 1e-6))
