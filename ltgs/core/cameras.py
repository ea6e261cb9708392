"""Pinhole cameras in OpenCV axes (+x right, +y down, +z forward); the centre of the first pixel is (0.5, 0.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.checks import check_rotation, check_shape

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cameras:
    """C undistorted pinhole cameras of one image size; `K` and `cam_from_world` may require gradients."""

    K: Tensor
    """[C, 3, 3] intrinsics, pixels."""
    cam_from_world: Tensor
    """[C, 4, 4] rigid world-to-camera transforms, scene units (= gsplat viewmats)."""
    width: int
    height: int
    names: tuple[str, ...] = ()
    """[C] photo names relative to the capture root, POSIX; empty names are filled with "camera_0000" and so on."""
    sampling: float = 1.0
    """Pixels per pixel of the photos that the Gaussians were fitted to, along one side; the renderer filters accordingly."""

    def __post_init__(self) -> None:
        check_shape("K", self.K, "C 3 3")
        c = self.K.shape[0]
        check_shape("cam_from_world", self.cam_from_world, f"{c} 4 4")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"image size must be positive, got {self.width}x{self.height}.")
        if not self.names:
            object.__setattr__(self, "names", tuple(f"camera_{i:04d}" for i in range(c)))
        if len(self.names) != c:
            raise ValueError(f"names must have {c} entries, got {len(self.names)}.")

    def __len__(self) -> int:
        return int(self.K.shape[0])

    def __getitem__(self, index: int | slice | Sequence[int]) -> Cameras:
        """Select cameras; an integer keeps the camera axis (C = 1)."""
        if isinstance(index, slice):
            picks = list(range(len(self)))[index]
        else:
            picks = [index] if isinstance(index, int) else list(index)
        names = tuple(self.names[i] for i in picks)
        return replace(self, K=self.K[picks], cam_from_world=self.cam_from_world[picks], names=names)

    @property
    def centers(self) -> Tensor:
        """[C, 3] camera centres in the world."""
        rotation, translation = self.cam_from_world[:, :3, :3], self.cam_from_world[:, :3, 3]
        return -(rotation.transpose(1, 2) @ translation[..., None])[..., 0]

    def resized(self, width: int, height: int) -> Cameras:
        """The same cameras for images resampled to width x height (pixel centres at +0.5, so K scales linearly)."""
        scale = self.K.new_tensor([width / self.width, height / self.height, 1.0])
        sampling = self.sampling * width / self.width
        return replace(self, K=self.K * scale[:, None], width=width, height=height, sampling=sampling)

    def to(self, device: torch.device | str) -> Cameras:
        return replace(self, K=self.K.to(device), cam_from_world=self.cam_from_world.to(device))


@dataclass(frozen=True)
class Camera:
    """One posed photo, stored form (float64, plain numbers): what cameras.json and the scene manifest hold."""

    name: str
    time: int
    width: int
    height: int
    K: Array
    """[3, 3] pixels."""
    cam_from_world: Array
    """[4, 4] rigid."""
    sampling: float = 1.0
    """Pixels per pixel of the photos that the scene was fitted to first, along one side; see `Cameras`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "K", np.asarray(self.K, dtype=np.float64))
        object.__setattr__(self, "cam_from_world", np.asarray(self.cam_from_world, dtype=np.float64))
        check_shape("K", self.K, "3 3")
        check_shape("cam_from_world", self.cam_from_world, "4 4")
        check_rotation("cam_from_world", self.cam_from_world)

    @property
    def center(self) -> Array:
        """[3] camera centre in the world."""
        return -self.cam_from_world[:3, :3].T @ self.cam_from_world[:3, 3]

    def sees(self, point: Array) -> bool:
        """Whether a point [3] of the world lies in front of the camera and inside the image; what may hide it is not asked."""
        local = self.cam_from_world[:3, :3] @ point + self.cam_from_world[:3, 3]
        if local[2] <= 0:
            return False
        u, v, _ = self.K @ local / local[2]
        return bool(0 <= u < self.width and 0 <= v < self.height)

    def rays(self, pixels: Array | None = None) -> Array:
        """[..., 3] rays with z = 1, in the camera's axes.

        Args:
            pixels: [..., 2] places in the image (u, v); default: the centres of all pixels, [H, W, 2].
        """
        if pixels is None:
            pixels = np.stack(np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5), -1)
        return np.concatenate([pixels, np.ones_like(pixels[..., :1])], -1) @ np.linalg.inv(self.K).T

    def in_world(self, points: Array) -> Array:
        """[..., 3] points given in the camera's axes, in the world."""
        return (points - self.cam_from_world[:3, 3]) @ self.cam_from_world[:3, :3]

    def surface(self, depth: NDArray[np.floating]) -> Array:
        """[H, W, 3] world points of a depth map [H, W] along z, scene units; NaN where the depth is."""
        return self.in_world(self.rays() * depth[..., None])

    def resized(self, width: int, height: int) -> Camera:
        """The same camera for an image resampled to width x height."""
        scale = np.array([width / self.width, height / self.height, 1.0])
        sampling = self.sampling * width / self.width
        return replace(self, width=width, height=height, K=self.K * scale[:, None], sampling=sampling)


def stack_cameras(cameras: Sequence[Camera], dtype: torch.dtype = torch.float32) -> Cameras:
    """Batch stored cameras of one image size for rendering.

    Raises:
        ValueError: the list is empty, or sizes or samplings differ.
    """
    if not cameras:
        raise ValueError("stack_cameras needs at least one camera.")
    sizes = {(c.width, c.height, c.sampling) for c in cameras}
    if len(sizes) > 1:
        raise ValueError(f"cameras of one batch must share one image size and sampling, got {sorted(sizes)}.")
    width, height, sampling = sizes.pop()
    return Cameras(
        torch.as_tensor(np.stack([c.K for c in cameras]), dtype=dtype),
        torch.as_tensor(np.stack([c.cam_from_world for c in cameras]), dtype=dtype),
        width, height, tuple(c.name for c in cameras), sampling,
    )
