"""A photo with a known pose and lens, as read from a camera file; the lens may distort."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltgs.core.cameras import Camera
from ltgs.core.checks import check_rotation, check_shape

Array = NDArray[np.float64]
MODEL_PARAMS = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8}
"""Supported COLMAP camera models and their numbers of parameters."""
_SINGLE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")


@dataclass(frozen=True)
class PosedPhoto:
    """COLMAP's camera models and conventions: OpenCV axes, the centre of the first pixel is (0.5, 0.5)."""

    name: str
    """Path relative to the photo folder, POSIX separators."""
    width: int
    height: int
    model: str
    """One of MODEL_PARAMS."""
    params: tuple[float, ...]
    """COLMAP's order: f (or fx, fy), cx, cy, then k1, k2, p1, p2 as far as the model has them; pixels."""
    cam_from_world: Array
    """[4, 4] rigid, scene units."""
    time: int | None = None
    """Timestep if the file says it."""

    def __post_init__(self) -> None:
        if self.model not in MODEL_PARAMS:
            raise ValueError(f"{self.name}: the camera model {self.model} is not one of {', '.join(MODEL_PARAMS)}.")
        count = MODEL_PARAMS[self.model]
        if len(self.params) != count or not np.isfinite(self.params).all() or min(self.K[0, 0], self.K[1, 1]) <= 0:
            raise ValueError(f"{self.name}: {self.model} needs {count} finite numbers with a positive focal length.")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"{self.name}: the image size must be positive, got {self.width}x{self.height}.")
        object.__setattr__(self, "cam_from_world", np.asarray(self.cam_from_world, dtype=np.float64))
        check_shape("cam_from_world", self.cam_from_world, "4 4")
        check_rotation(f"cam_from_world of {self.name}", self.cam_from_world)

    @property
    def K(self) -> Array:
        """[3, 3] intrinsics, pixels."""
        fx, fy, cx, cy = (self.params[0], *self.params[:3]) if self.model in _SINGLE_FOCAL else self.params[:4]
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])

    @property
    def distortion(self) -> Array:
        """[4] k1, k2, p1, p2 in OpenCV's meaning; zero for a pinhole."""
        extra = self.params[3:] if self.model in _SINGLE_FOCAL else self.params[4:]
        return np.array([*extra, 0.0, 0.0, 0.0, 0.0][:4])

    def resized(self, width: int, height: int) -> PosedPhoto:
        """The same camera for the photo resampled to width x height; distortion has no unit and stays."""
        sx, sy = width / self.width, height / self.height
        k = self.K
        fx, fy, cx, cy = k[0, 0] * sx, k[1, 1] * sy, k[0, 2] * sx, k[1, 2] * sy
        fields: dict[str, Any] = {"width": width, "height": height}
        if self.model not in _SINGLE_FOCAL:
            params = (fx, fy, cx, cy, *self.params[4:])
        elif abs(sx / sy - 1) < 1e-9:
            params = (fx, cx, cy, *self.params[3:])
        else:
            # Unequal factors (a size rounded to whole pixels) need two focal lengths.
            fields["model"], params = "OPENCV", (fx, fy, cx, cy, *self.distortion)
        return replace(self, **fields, params=tuple(float(p) for p in params))

    def pinhole(self, time: int | None = None) -> Camera:
        """The camera of the undistorted photo with unchanged K; `time` defaults to the file's, then 0."""
        chosen = time if time is not None else self.time or 0
        return Camera(self.name, chosen, self.width, self.height, self.K, self.cam_from_world)
