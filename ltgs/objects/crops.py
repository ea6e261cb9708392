"""Photos cut to the place in question, and the cost of an object drawn into them: what render-and-compare compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.views import ComparedView
from ltgs.objects.backing import Model
from ltgs.objects.hull import HullInstance, project
from ltgs.objects.sides import unseen
from ltgs.render import render

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CostConfig:
    """Cost of a drawn object."""

    robust: float = 0.15
    """Colour difference at which a pixel's cost levels off (Geman-McClure)."""
    unknown_cost: float = 0.1
    """Cost of a pixel about which nothing is known; between that of a fitting object (0.02) and of a wrong one (0.5)."""
    margin: float = 0.35
    """Crop border around the instance and the object relative to the object's size in the image."""
    guess_discount: float = 0.5
    """How much less of what a pixel costs above `fitting` counts where a side of the object is shown which is guessed, or which no photo
    has seen: its outline counts, its colours hardly."""
    fitting: float = 0.03
    """Cost of a pixel that fits."""
    outline: float = 0.3
    """Cost with nothing drawn from which a pixel may show such a side; where the known scene fits it does not."""
    shading_cells: int = 24
    """Cells per side of the crop, over which the brightness of an object may differ smoothly from its template's: a turned
    object takes its shading from the place, not from the template."""
    shading_limits: tuple[float, float] = (0.6, 1.6)
    """Bounds of that difference."""
    shading_prior: float = 0.003
    """Weight of no difference, squared colour units."""


@dataclass(frozen=True)
class Crop:
    """One view cut to the area in question, at reduced size."""

    K: Tensor
    cam_from_world: Tensor
    sampling: float
    """Pixels per pixel of the photos to which the scene was fitted."""
    photo: Tensor
    shown: Tensor
    light: Tensor
    """[3, 4] affine"""
    gain: Tensor
    """[h, w, 3]"""
    weight: Tensor
    """[h, w] 1 inside the photo, 0 in padding"""
    mask: Tensor
    """[h, w] share of the pixel that belongs to the instance"""
    depth: Tensor
    """[h, w] depth of the known scene, +inf where unknown"""
    alpha: Tensor
    """[h, w, 1] how much of the pixel the known scene covers"""

    def cameras(self, poses: Tensor) -> Cameras:
        """The crop's camera beside an object at poses [P, 4, 4], in the object's own frame."""
        size = self.photo.shape[0]
        return Cameras(self.K.expand(len(poses), 3, 3), self.cam_from_world @ poses, size, size, sampling=self.sampling)


def make_crops(
    views: Sequence[ComparedView], instance: HullInstance, radius: float, size_px: int, margin: float
) -> list[Crop]:
    """Cut every view that sees the instance to one square of `size_px` around it, large enough for the object.

    All crops share one size so that they render as one batch.
    """
    crops = []
    for view, mask in zip(views, instance.pixels, strict=True):
        uv, depth = project(view.camera, instance.centroid[None])
        if depth[0] <= 1e-6:
            continue
        reach = view.camera.K[0, 0] * radius / depth[0]
        low, high = uv[0] - reach * (1 + margin), uv[0] + reach * (1 + margin)
        if mask.any():
            rows, columns = np.nonzero(mask)
            low = np.minimum(low, [columns.min() - 2, rows.min() - 2])
            high = np.maximum(high, [columns.max() + 3, rows.max() + 3])
        # A crop mostly outside the photo carries no information.
        inside = np.clip(np.minimum(high, [view.camera.width, view.camera.height]) - np.maximum(low, 0), 0, None)
        side = float((high - low).max())
        if inside.prod() < 0.3 * (high - low).prod() or side > 2 * max(view.camera.width, view.camera.height):
            continue
        crops.append(_cut(view, mask, (low + high) / 2 - side / 2, side, size_px))
    return crops


def _cut(view: ComparedView, mask: NDArray[np.bool_], corner: Array, side: float, size_px: int) -> Crop:
    scale = size_px / side
    # The affine map from crop pixels to photo pixels; pixel centres are at +0.5 in both.
    matrix = np.array([[1 / scale, 0, corner[0] + 0.5 / scale - 0.5], [0, 1 / scale, corner[1] + 0.5 / scale - 0.5]])
    blur = max(0.0, 0.5 * (1 / scale - 1))

    def warp(image: NDArray, border: float = 0.0, smooth: bool = True) -> NDArray:
        source = cv2.GaussianBlur(image, (0, 0), blur) if smooth and blur > 0.3 else image
        return cv2.warpAffine(
            source, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT, borderValue=(border,) * 4,
        )

    depth = np.where(view.alpha > 0.5, view.depth, np.float32(1e10)).astype(np.float32)
    intrinsics = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale], [0, 0, 1]]) @ view.camera.K
    ones = np.ones(view.photo.shape[:2], np.float32)
    as_tensor = lambda a: torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32))  # noqa: E731
    return Crop(
        as_tensor(intrinsics), as_tensor(view.camera.cam_from_world), view.camera.sampling * scale,
        as_tensor(warp(view.photo)), as_tensor(warp(view.shown)),
        as_tensor(view.colour_affine), as_tensor(warp(view.gain, 1.0)),
        as_tensor((warp(ones, smooth=False) > 0.99).astype(np.float32)), as_tensor(warp(mask.astype(np.float32))),
        as_tensor(cv2.warpAffine(depth, matrix, (size_px, size_px), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
                                 borderMode=cv2.BORDER_CONSTANT, borderValue=1e10)),
        as_tensor(warp(view.alpha)[..., None]),
    )


def pose_costs(model: Model, poses: Tensor, crops: Sequence[Crop], config: CostConfig, backend: str) -> Tensor:
    """[P, 4, 4] poses -> [P] mean robust cost; differentiable in the poses. The object stays, the cameras move."""
    total, weight = poses.new_zeros(len(poses)), 0.0
    for crop in crops:
        cost, _ = _drawn_cost(model, poses, crop, config, backend)
        total = total + (cost * crop.weight).sum((1, 2))
        weight += float(crop.weight.sum())
    return total / max(weight, 1.0)


def _drawn_cost(model: Model, poses: Tensor, crop: Crop, config: CostConfig, backend: str) -> tuple[Tensor, Tensor]:
    """[P, h, w] robust cost per pixel with the object drawn, and [P, h, w, 1] how much of the pixel it covers."""
    cameras, sides = crop.cameras(poses), model.known_sides if config.guess_discount else None
    out = render(model.gaussians, cameras, backend=backend, features=sides)  # type: ignore[arg-type]
    lit = (out.rgb @ crop.light[:, :3].T + out.alpha * crop.light[:, 3]) * crop.gain
    visible = (out.depth[..., 0] < crop.depth * 1.03).to(lit.dtype).detach()[..., None]
    covered = out.alpha * visible
    cost = _pixel_cost(shaded(lit * visible, covered, crop.photo, config), covered, crop, config)
    if out.features is not None:
        unknown = unseen(out.features, out.alpha, _towards(cameras.cam_from_world)) * visible[..., 0]
        cost = cost - config.guess_discount * unknown * _foreign(crop, config) * (cost - config.fitting).clamp_min(0)
    return cost, covered


def unseen_share(model: Model, pose: Array, crops: Sequence[Crop], backend: str) -> float:
    """Share of an object's picture at a pose [4, 4] that shows sides which no photo has seen, guessed ones included."""
    sides, covered, unknown = model.known_sides, 0.0, 0.0
    if sides is None:
        return 0.0
    for crop in crops:
        cameras = crop.cameras(torch.as_tensor(pose, dtype=torch.float32)[None])
        with torch.no_grad():
            out = render(model.gaussians, cameras, backend=backend, features=sides)  # type: ignore[arg-type]
            visible = (out.depth[..., 0] < crop.depth * 1.03) * crop.weight
            unknown += float((unseen(out.feature_image(), out.alpha, _towards(cameras.cam_from_world)) * visible).sum())
            covered += float((out.alpha[..., 0] * visible).sum())
    return unknown / max(covered, 1e-9)


def _towards(cam_from_object: Tensor) -> Tensor:
    """[P, 3] unit directions from an object's origin to cameras [P, 4, 4], in its own frame."""
    centre = -(cam_from_object[:, :3, :3].transpose(1, 2) @ cam_from_object[:, :3, 3:])[..., 0]
    return torch.nn.functional.normalize(centre, dim=1)


def _foreign(crop: Crop, config: CostConfig) -> Tensor:
    """[h, w] how little the known scene fits the photo, up to 1; 1 where it covers nothing."""
    return torch.maximum((_misfit(crop.shown, crop.photo, config) / config.outline).clamp_max(1), 1 - crop.alpha[..., 0])


@lru_cache(maxsize=16)
def _coarse_grid(size: int, cells: int) -> tuple[Tensor, Tensor]:
    """Matrices to a coarse grid [cells, size] (means, blurred once) and back [size, cells] (linear)."""
    place = (torch.arange(size) + 0.5) * cells / size
    mean = torch.zeros(cells, size)
    mean[place.long(), torch.arange(size)] = 1
    mean = mean / mean.sum(1, keepdim=True).clamp_min(1)
    near = (torch.arange(cells)[:, None] - torch.arange(cells)[None]).abs()
    blur = torch.where(near == 0, 0.5, torch.where(near == 1, 0.25, 0.0))
    back = (1 - (place[:, None] - 0.5 - torch.arange(cells)[None]).abs()).clamp_min(0)
    return (blur / blur.sum(1, keepdim=True)) @ mean, back / back.sum(1, keepdim=True)


def shaded(lit: Tensor, alpha: Tensor, photo: Tensor, config: CostConfig) -> Tensor:
    """[P, h, w, 3] an object's light with its smooth brightness differences to the photo [h, w, 3] taken out.

    Only brightness, never colour, and only what is smooth over a good part of the object: labels, edges and outlines decide.
    """
    size = photo.shape[0]
    down, up = _coarse_grid(size, config.shading_cells)
    with torch.no_grad():
        bright = lit.mean(-1)
        target = alpha[..., 0] * photo.mean(-1)
        top, low, share = (down @ image @ down.T for image in (bright * target, bright * bright, alpha[..., 0]))
        prior = config.shading_prior * share + 1e-6
        gain = up @ ((top + prior) / (low + prior)).clamp(*config.shading_limits) @ up.T
    return lit * gain[..., None]


def centred_on_masks(
    model: Model, poses: Tensor, crops: Sequence[Crop], *, middle: Tensor, backend: str = "auto", rounds: int = 2
) -> Tensor:
    """Shift [P, 4, 4] poses until the object's outline is centred on the instance's mask in all crops.

    Args:
        middle: [3] middle of the object in its own frame.

    Linearised pinhole projection of the middle, least squares over the crops; a slight pull keeps what they leave open.
    """
    size = crops[0].photo.shape[0]
    v, u = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    for _ in range(rounds):
        left = torch.zeros(len(poses), 3, 3)
        right = torch.zeros(len(poses), 3, 1)
        for crop in crops:
            if float((crop.mask * crop.weight).sum()) < 4:
                continue
            cam = crop.cam_from_world @ poses
            out = render(model.gaussians, crop.cameras(poses), backend=backend, with_depth=False)  # type: ignore[arg-type]
            drawn = out.alpha[..., 0] * crop.weight
            total = drawn.sum((1, 2))
            own = torch.stack([(drawn * u).sum((1, 2)), (drawn * v).sum((1, 2))], -1) / total.clamp_min(1e-3)[:, None]
            mask = crop.mask * crop.weight
            goal = torch.stack([(mask * u).sum(), (mask * v).sum()]) / mask.sum()
            x, y, z = (cam[:, :3, :3] @ middle + cam[:, :3, 3]).unbind(-1)
            z = z.clamp_min(1e-6)
            r = crop.cam_from_world[:3, :3]
            rows = torch.stack([crop.K[0, 0] * (r[0] - (x / z)[:, None] * r[2]), crop.K[1, 1] * (r[1] - (y / z)[:, None] * r[2])], 1)
            rows = rows / z[:, None, None] / size
            error = ((goal - own) / size)[..., None] * (total > 4)[:, None, None]
            left = left + rows.transpose(1, 2) @ rows
            right = right + rows.transpose(1, 2) @ error
        # The pull is relative to the strength of the equations, so that the scene's units cancel.
        scale = left.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None].clamp_min(1e-12)
        shift = torch.linalg.solve(left + 0.02 * scale * torch.eye(3), right)[..., 0]
        poses = poses.clone()
        poses[:, :3, 3] += shift
    return poses


def _misfit(shown: Tensor, photo: Tensor, config: CostConfig) -> Tensor:
    """[..., h, w] robust difference of two pictures, 0 to 1."""
    square = (shown - photo).square().mean(-1)
    return square / (square + config.robust**2)


def _pixel_cost(lit: Tensor, alpha: Tensor, crop: Crop, config: CostConfig) -> Tensor:
    """[..., h, w] robust cost of an object's light over the known scene.

    Where neither the object nor the known scene covers a pixel nothing is claimed about it; that costs a fixed amount, so
    that a hole is filled only by an object that fits.
    """
    unknown = (1 - alpha) * (1 - crop.alpha)
    shown = lit + (1 - alpha) * crop.alpha * crop.shown + unknown * crop.photo
    return _misfit(shown, crop.photo, config) + config.unknown_cost * unknown[..., 0]


def empty_cost(crops: Sequence[Crop], config: CostConfig) -> float:
    """Cost of the crops with nothing drawn."""
    total, weight = 0.0, 0.0
    for crop in crops:
        cost = _pixel_cost(torch.zeros_like(crop.shown), torch.zeros_like(crop.alpha), crop, config)
        total += float((cost * crop.weight).sum())
        weight += float(crop.weight.sum())
    return total / max(weight, 1.0)
