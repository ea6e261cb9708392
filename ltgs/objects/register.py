"""6-DoF pose of a known object in new photos by render-and-compare: a coarse sweep, then gradient descent on the pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import make_rigid, rotation_angle_deg, se3_exp
from ltgs.core.views import ComparedView
from ltgs.objects.hull import HullInstance, project
from ltgs.render import render

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RegisterConfig:
    """Render-and-compare."""

    num_rotations: int = 320
    """Rotations of the coarse sweep: half spread over all of SO(3), half about the axes the object stood on."""
    num_positions: int = 4
    """Start positions inside the instance's hull."""
    coarse_px: int = 40
    """Longer side of the crops of the coarse sweep, pixels."""
    fine_px: int = 120
    """Longer side of the crops of the refinement, pixels."""
    num_refined: int = 6
    """Best coarse poses that are refined."""
    steps: int = 60
    """Adam steps per refinement."""
    rate_translation: float = 0.03
    """Adam rate of the translation relative to the object's radius."""
    rate_rotation: float = 0.04
    """Adam rate of the rotation, radians."""
    robust: float = 0.15
    """Colour difference at which a pixel's cost levels off (Geman-McClure)."""
    unknown_cost: float = 0.1
    """Cost of a pixel about which nothing is known; between that of a fitting object (0.02) and of a wrong one (0.5)."""
    margin: float = 0.35
    """Crop border around the instance and the object relative to the object's size in the image."""
    symmetry_tie: float = 1.10
    """A refined pose whose cost is within this factor of the best but turned by more than 20 degrees marks a symmetry."""


@dataclass(frozen=True)
class PoseHypothesis:
    """One registration of a template to an instance."""

    world_from_object: Array
    """[4, 4]"""
    cost: float
    """Mean robust cost per crop pixel with the object drawn; comparable with `cost_empty`."""
    cost_empty: float
    """The same crops with nothing drawn."""
    covariance: Array
    """[6, 6] of (translation, rotation vector), Gauss-Newton."""
    ambiguous: bool
    """True if a clearly different rotation explains the photos as well: a symmetric object or too few pixels."""

    @property
    def gain(self) -> float:
        """Share of the cost that drawing the object explains, <= 1."""
        return 1 - self.cost / max(self.cost_empty, 1e-12)


@dataclass(frozen=True)
class _Crop:
    """One view cut to the area in question, at reduced size."""

    K: Tensor
    cam_from_world: Tensor
    photo: Tensor
    shown: Tensor
    light: Tensor
    """[3, 4] affine"""
    gain: Tensor
    """[h, w, 3]"""
    weight: Tensor
    """[h, w] 1 inside the photo, 0 in padding"""
    depth: Tensor
    """[h, w] depth of the known scene, +inf where unknown"""
    alpha: Tensor
    """[h, w, 1] how much of the pixel the known scene covers"""


def random_rotations(count: int, rng: np.random.Generator) -> Array:
    """[count, 3, 3] uniform rotations."""
    q = rng.normal(size=(count, 4))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    w, x, y, z = q.T
    return np.stack([
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ], -1).reshape(count, 3, 3)


def axis_rotations(axis: Array, count: int) -> Array:
    """[count, 3, 3] rotations about a unit axis, evenly spaced."""
    angles = torch.arange(count, dtype=torch.float64) * (2 * np.pi / count)
    xi = torch.zeros(count, 6, dtype=torch.float64)
    xi[:, 3:] = angles[:, None] * torch.as_tensor(axis)
    return se3_exp(xi)[:, :3, :3].numpy()


def make_crops(
    views: Sequence[ComparedView], instance: HullInstance, radius: float, size_px: int, margin: float
) -> list[_Crop]:
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
        crops.append(_cut(view, (low + high) / 2 - side / 2, side, size_px))
    return crops


def _cut(view: ComparedView, corner: Array, side: float, size_px: int) -> _Crop:
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
    return _Crop(
        as_tensor(intrinsics), as_tensor(view.camera.cam_from_world), as_tensor(warp(view.photo)), as_tensor(warp(view.shown)),
        as_tensor(view.colour_affine), as_tensor(warp(view.gain, 1.0)),
        as_tensor((warp(ones, smooth=False) > 0.99).astype(np.float32)),
        as_tensor(cv2.warpAffine(depth, matrix, (size_px, size_px), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
                                 borderMode=cv2.BORDER_CONSTANT, borderValue=1e10)),
        as_tensor(warp(view.alpha)[..., None]),
    )


def _costs(template: Gaussians, poses: Tensor, crops: Sequence[_Crop], config: RegisterConfig, backend: str) -> Tensor:
    """[P, 4, 4] poses -> [P] mean robust cost; differentiable in the poses. The object stays, the cameras move."""
    size = crops[0].photo.shape[0]
    num = len(poses)
    total, weight = poses.new_zeros(num), 0.0
    for crop in crops:
        cameras = Cameras(crop.K.expand(num, 3, 3), crop.cam_from_world @ poses, size, size)
        out = render(template, cameras, backend=backend)  # type: ignore[arg-type]
        lit = (out.rgb @ crop.light[:, :3].T + out.alpha * crop.light[:, 3]) * crop.gain
        visible = (out.depth[..., 0] < crop.depth * 1.03).to(lit.dtype).detach()[..., None]
        cost = _pixel_cost(lit * visible, out.alpha * visible, crop, config)
        total = total + (cost * crop.weight).sum((1, 2))
        weight += float(crop.weight.sum())
    return total / max(weight, 1.0)


def _pixel_cost(lit: Tensor, alpha: Tensor, crop: _Crop, config: RegisterConfig) -> Tensor:
    """[..., h, w] robust cost of an object's light over the known scene.

    Where neither the object nor the known scene covers a pixel nothing is claimed about it; that costs a fixed amount, so
    that a hole is filled only by an object that fits.
    """
    unknown = (1 - alpha) * (1 - crop.alpha)
    shown = lit + (1 - alpha) * crop.alpha * crop.shown + unknown * crop.photo
    square = (shown - crop.photo).square().mean(-1)
    return square / (square + config.robust**2) + config.unknown_cost * unknown[..., 0]


def empty_cost(crops: Sequence[_Crop], config: RegisterConfig) -> float:
    """Cost of the crops with nothing drawn."""
    total, weight = 0.0, 0.0
    for crop in crops:
        cost = _pixel_cost(torch.zeros_like(crop.shown), torch.zeros_like(crop.alpha), crop, config)
        total += float((cost * crop.weight).sum())
        weight += float(crop.weight.sum())
    return total / max(weight, 1.0)


def template_radius(template: Gaussians) -> float:
    """Radius of the sphere around the template's origin that holds 98 % of its centres, scene units."""
    return float(torch.quantile(template.means.norm(dim=1), 0.98)) if len(template) else 0.0


def register_template(
    template: Gaussians,  # in the object's own frame, origin near its centre
    views: Sequence[ComparedView],
    instance: HullInstance,
    *,
    last_rotation: Array,  # [3, 3] orientation at the last known time
    up: Array,  # [3] unit, world direction in which objects stand
    config: RegisterConfig | None = None,
    rng: np.random.Generator,
    backend: str = "auto",
) -> PoseHypothesis | None:
    """Find the pose of an object that best explains an instance of new content.

    Returns:
        the best hypothesis, or None if no view shows the instance well enough to compare.
    """
    config = config or RegisterConfig()
    radius = template_radius(template)
    coarse = make_crops(views, instance, radius, config.coarse_px, config.margin)
    if not coarse or len(template) < 4:
        return None
    starts = _start_poses(instance, last_rotation, up, config, rng)
    with torch.no_grad():
        costs = torch.cat([
            _costs(template, torch.as_tensor(chunk, dtype=torch.float32), coarse, config, backend)
            for chunk in np.array_split(starts, max(1, len(starts) // 64))
        ])
    fine = make_crops(views, instance, radius, config.fine_px, config.margin)
    refined = [
        _refine(template, starts[i], fine, radius, config, backend)
        for i in _spread_best(starts, costs.numpy(), config.num_refined)
    ]
    refined.sort(key=lambda item: item[1])
    pose, cost = refined[0]
    ambiguous = any(
        c < cost * config.symmetry_tie and rotation_angle_deg(p[:3, :3].T @ pose[:3, :3]) > 20 for p, c in refined[1:]
    )
    return PoseHypothesis(
        pose, cost, empty_cost(fine, config), _covariance(template, pose, fine, config, backend), ambiguous
    )


def _start_poses(
    instance: HullInstance, last_rotation: Array, up: Array, config: RegisterConfig, rng: np.random.Generator
) -> Array:
    """[P, 4, 4]: turned about the vertical from the last orientation, plus orientations from all of SO(3)."""
    half = config.num_rotations // 2
    rotations = np.concatenate([
        axis_rotations(up, half) @ last_rotation if half else np.zeros((0, 3, 3)),
        random_rotations(config.num_rotations - half, rng),
    ])
    spread = [instance.centroid]
    picks = instance.points[rng.permutation(len(instance.points))[:512]]
    while len(spread) < config.num_positions:
        distance = np.min([np.linalg.norm(picks - s, axis=1) for s in spread], axis=0)
        # Positions half-way to the outermost samples: the hull is longer than the object that made it.
        spread.append(0.5 * (picks[distance.argmax()] + instance.centroid))
    return np.array([make_rigid(r, p) for p in spread for r in rotations])


def _spread_best(poses: Array, costs: Array, count: int) -> list[int]:
    """Indices of the best poses that differ by more than 25 degrees from better ones."""
    kept: list[int] = []
    for i in np.argsort(costs):
        if all(rotation_angle_deg(poses[i, :3, :3].T @ poses[k, :3, :3]) > 25 for k in kept):
            kept.append(int(i))
        if len(kept) == count:
            break
    return kept


def _apply_residual(pose: Tensor, xi: Tensor) -> Tensor:
    """Turn about the object's own centre and shift in the world: translation and rotation stay decoupled."""
    delta = se3_exp(xi)
    rotation = delta[:3, :3] @ pose[:3, :3]
    top = torch.cat([rotation, (pose[:3, 3] + delta[:3, 3])[:, None]], 1)
    return torch.cat([top, pose.new_tensor([[0.0, 0, 0, 1]])])


def _refine(
    template: Gaussians, start: Array, crops: Sequence[_Crop], radius: float, config: RegisterConfig, backend: str
) -> tuple[Array, float]:
    pose = torch.as_tensor(start, dtype=torch.float32)
    shift = torch.zeros(3, requires_grad=True)
    turn = torch.zeros(3, requires_grad=True)
    adam = torch.optim.Adam([
        {"params": [shift], "lr": config.rate_translation * radius}, {"params": [turn], "lr": config.rate_rotation},
    ])
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, config.steps, eta_min=0.0)
    best, best_cost = pose, float("inf")
    for _ in range(config.steps):
        moved = _apply_residual(pose, torch.cat([shift, turn]))
        cost = _costs(template, moved[None], crops, config, backend)[0]
        value = float(cost.detach())
        if value < best_cost:
            best, best_cost = moved.detach(), value
        if not cost.requires_grad:
            break
        adam.zero_grad()
        cost.backward()
        adam.step()
        decay.step()
    return best.double().numpy(), best_cost


def _covariance(
    template: Gaussians, pose: Array, crops: Sequence[_Crop], config: RegisterConfig, backend: str
) -> Array:
    """[6, 6] inverse Gauss-Newton Hessian from numeric differences of the composed images, scaled by the residual variance."""
    radius = max(template_radius(template), 1e-9)
    steps = np.array([0.01 * radius] * 3 + [0.01] * 3)
    base = torch.as_tensor(pose, dtype=torch.float32)
    variants = [base]
    for k in range(6):
        xi = torch.zeros(6)
        xi[k] = float(steps[k])
        variants.append(_apply_residual(base, xi))
    with torch.no_grad():
        rows = []
        for crop in crops:
            size = crop.photo.shape[0]
            cameras = Cameras(crop.K.expand(7, 3, 3), crop.cam_from_world @ torch.stack(variants), size, size)
            out = render(template, cameras, backend=backend)  # type: ignore[arg-type]
            lit = (out.rgb @ crop.light[:, :3].T + out.alpha * crop.light[:, 3]) * crop.gain
            shown = (lit + (1 - out.alpha) * crop.shown) * crop.weight[..., None]
            photo = (crop.photo * crop.weight[..., None]).reshape(-1)
            rows.append((shown.reshape(7, -1), photo, out.alpha[0].expand(-1, -1, 3)))
    jacobian = np.concatenate([((r[0][1:] - r[0][:1]).numpy() / steps[:, None]) for r in rows], 1)
    residual = np.concatenate([(r[0][0] - r[1]).numpy() for r in rows])
    covered = np.concatenate([(r[2].reshape(-1) > 0.5).numpy() for r in rows])
    variance = float(np.median(residual[covered] ** 2)) / 0.455 if covered.any() else config.robust**2
    hessian = jacobian @ jacobian.T
    # Neighbouring pixels err together; nine pixels are counted as one independent measurement.
    scale = np.diag(1 / np.sqrt(np.maximum(np.diag(hessian), 1e-12)))
    inverse = scale @ np.linalg.pinv(scale @ hessian @ scale, rcond=1e-6) @ scale
    return 9 * variance * inverse
