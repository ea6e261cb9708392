"""Visits to a place and the photos taken there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """One photo file as found on disk."""

    name: str
    """Path relative to the capture root, POSIX separators; unique within a scene."""
    path: Path
    mask_path: Path | None = None


@dataclass(frozen=True)
class Capture:
    """All photos of one visit to the place."""

    timestep: int
    """Index of the visit, 0 = the first, dense one."""
    name: str
    """Folder name of the visit as the user wrote it."""
    frames: tuple[Frame, ...]
    captured_at: datetime | None = None


@dataclass(frozen=True)
class Localization:
    """Outcome of posing one photo against a scene."""

    name: str
    cam_from_world: Array | None
    """[4, 4] rigid; None = not localised."""
    num_inliers: int = 0
    inlier_ratio: float = 0.0
    covariance: Array | None = None
    """[6, 6] of (rotation vector in radians, translation in scene units), camera side."""
    reason: str = ""
    """Why it failed, or how it was posed."""
