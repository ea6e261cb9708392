"""A part of a photo to which some Gaussians are fitted while everything else that is seen there stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Camera, Cameras, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.imaging.losses import photometric_loss
from ltgs.optim.initialize import TrainingPhoto
from ltgs.render import render

Array = NDArray[np.float64]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom, pixels."""


@dataclass(frozen=True)
class Target:
    """One photo to fit."""

    camera: Camera
    photo: NDArray[np.float32]
    """[H, W, 3] in [0, 1]"""
    matrix: Array
    """[3, 4] affine from rendered colours."""
    gain: NDArray[np.float32] | None = None
    """[H, W, 3] after the affine."""
    weight: NDArray[np.float32] | None = None
    """[H, W] 0 = says nothing."""

    @staticmethod
    def of_view(view: ComparedView) -> Target:
        """A photo of the new visit in its own light."""
        return Target(view.camera, view.photo, view.colour_affine, view.gain)

    @staticmethod
    def of_photo(photo: TrainingPhoto, exposure: Array | None) -> Target:
        """A stored photo with its [3, 4] colour affine."""
        matrix = np.eye(3, 4) if exposure is None else exposure
        return Target(photo.camera, photo.rgb.astype(np.float32) / np.float32(255), matrix, None, photo.weight)


@dataclass(frozen=True)
class Patch:
    """What `loss` needs of one photo."""

    camera: Cameras
    photo: Tensor
    """[h, w, 3]"""
    matrix: Tensor
    """[3, 4]"""
    gain: Tensor | None
    """[h, w, 3]"""
    weight: Tensor | None
    """[h, w]"""
    region: Tensor | None
    """[h, w] bool, the pixels that count; None = all."""
    frozen: Gaussians
    """What else is seen there."""

    def loss(self, parts: Sequence[Gaussians], ssim_weight: float, backend: str) -> Tensor:
        """Photometric loss with the parts drawn among what is frozen."""
        drawn = Gaussians.concatenate([self.frozen, *parts])
        out = render(drawn, self.camera, backend=backend, with_depth=False, region=self.region)  # type: ignore[arg-type]
        shown = out.rgb[0] @ self.matrix[:, :3].T + self.matrix[:, 3]
        if self.gain is not None:
            shown = shown * self.gain
        photo = self.photo
        if self.weight is not None:
            photo = torch.lerp(shown.detach(), photo, self.weight[..., None])
        if self.region is not None:
            # Elsewhere both are the photo, so that only the region speaks.
            shown = torch.where(self.region[..., None], shown, photo)
        return photometric_loss(shown, photo, ssim_weight)


def cut_patch(
    target: Target, frozen: Gaussians, *, box: Box | None = None, around: Gaussians | None = None, border_px: int = 4,
    backend: str = "auto",
) -> Patch:
    """The patch of a photo inside a box.

    Args:
        frozen: everything but what is fitted, in the world.
        box: the whole photo if None.
        around: only pixels that these Gaussians take part in count, with a border.
    """
    left, top, right, bottom = box or (0, 0, target.camera.width, target.camera.height)
    K = target.camera.K.copy()
    K[:2, 2] -= [left, top]
    camera = stack_cameras([replace(target.camera, K=K, width=right - left, height=bottom - top)])
    region = None if around is None else _region(frozen, around, camera, border_px, backend)
    with torch.no_grad():
        out = render(frozen, camera, backend=backend, with_depth=False, region=region)  # type: ignore[arg-type]

    def cut(image: NDArray[np.float32] | None) -> Tensor | None:
        return None if image is None else torch.from_numpy(np.array(image[top:bottom, left:right], dtype=np.float32, order="C"))

    photo = cut(target.photo)
    assert photo is not None
    matrix = torch.as_tensor(target.matrix, dtype=torch.float32)
    return Patch(camera, photo, matrix, cut(target.gain), cut(target.weight), region, frozen[out.visible[0]])


def _region(frozen: Gaussians, around: Gaussians, camera: Cameras, border_px: int, backend: str) -> Tensor:
    """[h, w] bool: pixels to which some Gaussians contribute among the frozen ones, and their surroundings."""
    both = Gaussians.concatenate([frozen, around])
    flag = torch.zeros(len(both), 1)
    flag[len(frozen) :] = 1
    with torch.no_grad():
        out = render(both, camera, backend=backend, features=flag, with_depth=False)  # type: ignore[arg-type]
    share = (out.feature_image()[0, ..., 0] > 0.05).numpy().astype(np.uint8)
    return torch.from_numpy(cv2.dilate(share, np.ones((2 * border_px + 1,) * 2, np.uint8)) > 0)


def item_box(means: Array, camera: Camera, *, margin: float, min_border_px: int) -> Box | None:
    """The box around Gaussians with centres [N, 3] in the world; None if less than a few pixels of it are in the photo.

    Args:
        margin: border relative to half the size of the centres' picture.
    """
    if len(means) == 0:
        return None
    local = means @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    local = local[local[:, 2] > 1e-3]
    if len(local) < 0.5 * len(means):
        return None
    uv = (local @ camera.K.T)[:, :2] / local[:, 2:]
    low, high = np.quantile(uv, 0.02, axis=0), np.quantile(uv, 0.98, axis=0)
    border = np.maximum(margin * (high - low) / 2, min_border_px)
    left, top = np.maximum(np.floor(low - border), 0).astype(int)
    right, bottom = np.minimum(np.ceil(high + border), [camera.width, camera.height]).astype(int)
    inside = np.minimum(high, [camera.width, camera.height]) - np.maximum(low, 0)
    if (inside < 4).any() or right - left < 16 or bottom - top < 16:
        return None
    return int(left), int(top), int(right), int(bottom)
