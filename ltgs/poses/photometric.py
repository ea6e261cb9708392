"""Refine the pose of a weakly placed photo against the rendered scene, on pixels that look unchanged.

Newton steps: the gradient is the rasteriser's own pose gradient, the curvature comes from the render's image gradients and depth. The
matches' pose and covariance are the prior. How much the pixels may say is measured, not assumed: from the scatter of the gradient over
blocks of pixels, and never more than what renders proved to be good for.

Measured on rooms/desk and rooms/shelf with fewer keypoints, medians before and after: with about 40 inliers .085 to .025 degrees and
.13 to .09 % of the extent, with 15 inliers .060 to .041 degrees (largest .35 to .08) and .062 to .039 %, with 45 inliers .055 to .046
degrees and .076 to .041 % (in shelf .04 degrees are the reference's own error); with the usual 500 to 1,900 inliers .016 to .016
degrees, because the matches are then several times as exact as the render. So it runs only where the matches leave the pose uncertain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import so3_exp
from ltgs.render import render

Array = NDArray[np.float64]
Image = NDArray[np.float32]


@dataclass(frozen=True)
class PhotometricConfig:
    """When and how a pose is refined against the render."""

    enabled: bool = True
    """False keeps the pose of the matches."""
    min_uncertainty: float = 1e-4
    """Standard deviation of the pose in the image, relative to the long side, from which it is refined (.06 px of 640)."""
    model_error: float = 1.5e-4
    """The same of the most exact pose that a render is believed to give; the rooms' renders alone place a photo within about .06
    degrees, however many pixels agree."""
    scale: float = 0.5
    """Size of the render relative to the working photo; the full size gave the same poses at five times the cost."""
    evaluations: int = 6
    """Most renders."""
    detail: float = 0.03
    """Standard deviation of the low-pass that both pictures lose, relative to the long side: light changes slowly over a picture."""
    window: float = 0.03
    """Window in which a place is judged changed, relative to the long side."""
    changed: float = 3.0
    """Residual in that window, in units of its median, above which the place counts as changed."""
    block: float = 0.05
    """Side of the blocks that are alternately fitted and held out, relative to the long side."""
    min_alpha: float = 0.9
    """Least opacity of the render in a used pixel."""
    near: float = 0.25
    """Least depth of a used pixel, relative to the median; floaters in front of the camera have huge gradients."""
    min_share: float = 0.1
    """Least share of usable pixels."""
    sure: float = 2.0
    """The held-out gain must exceed so many of its standard errors over the blocks."""
    max_shift: float = 4.0
    """Largest believed correction per degree of freedom, in standard deviations of the matches' pose."""


@dataclass(frozen=True)
class RefinedPose:
    """Outcome of a refinement."""

    cam_from_world: Array
    """[4, 4]; the pose that was put in unless it was accepted."""
    covariance: Array
    """[6, 6] of (rotation vector in radians, translation in scene units), camera side."""
    accepted: bool
    reason: str
    """Why it was accepted or not."""
    held_out: tuple[float, float] = (0.0, 0.0)
    """Robust loss of the held-out pixels before and after, squared colour units."""


def image_uncertainty(camera: Camera, covariance: Array, distance: float) -> float:
    """How far a pose's uncertainty moves the picture: root mean square over a grid of points at `distance` (scene units) of the
    standard deviation per axis, relative to the long side of the photo. Infinite for an undetermined pose."""
    if not np.isfinite(covariance).all():
        return float("inf")
    u, v = np.meshgrid((np.arange(8) + 0.5) / 8 * camera.width, (np.arange(6) + 0.5) / 6 * camera.height)
    jacobian = _motion(camera.rays(np.stack([u.ravel(), v.ravel()], 1)) * distance, camera)
    variance = np.einsum("nik,kl,nil->n", jacobian, covariance, jacobian).mean() / 2
    return float(np.sqrt(max(variance, 0.0))) / max(camera.width, camera.height)


def refine_pose(
    gaussians: Gaussians, camera: Camera, photo: NDArray[np.uint8], covariance: Array, *,
    config: PhotometricConfig | None = None, backend: str = "auto",
) -> RefinedPose:
    """Refine one pose; the pose that was put in comes back where that does not clearly help.

    Args:
        gaussians: the scene as it was when last seen.
        camera, photo: the undistorted photo, [H, W, 3] uint8, with the pose of its matches.
        covariance: [6, 6] of that pose, of (w, v) with R' = exp(w) R and t' = t + v.
    """
    config = config or PhotometricConfig()
    start = RefinedPose(camera.cam_from_world, covariance, False, "")
    if not np.isfinite(covariance).all() or np.linalg.matrix_rank(covariance, hermitian=True) < 6:
        return replace(start, reason="the matches leave the pose undetermined")
    fit = _Fit(gaussians, camera, photo, config, backend)
    if fit.share < config.min_share:
        return replace(start, reason=f"only {fit.share:.0%} of the pixels show the known scene unchanged")
    prior: Array = np.asarray(np.linalg.inv(covariance), np.float64)
    best, posterior = _descend(fit, prior, config)
    shift = float(np.sqrt(best.at @ prior @ best.at / 6))
    before, after = fit.first.held_out, best.held_out
    gain = before - after
    error = float(gain.std()) / max(len(gain), 1) ** 0.5
    losses = (float(before.mean()), float(after.mean()))
    if shift > config.max_shift:
        return replace(start, reason=f"the render contradicts the matches by {shift:.1f} standard deviations", held_out=losses)
    if not gain.mean() > config.sure * error:
        return replace(start, reason="the held-out pixels do not agree better", held_out=losses)
    pose = _moved(camera.cam_from_world, torch.as_tensor(best.at)).numpy()
    return RefinedPose(pose, posterior, True, "refined against the render", losses)


@dataclass(frozen=True)
class _Look:
    """The render at one pose against the photo."""

    at: Array
    """[6] pose change (w, v)."""
    loss: float
    """Sum of the robust loss over the fitted pixels."""
    held_out: Array
    """[B] mean robust loss per held-out block."""
    gradient: Array
    """[6] of the loss, from the rasteriser."""
    curvature: Array
    """[6, 6] Gauss-Newton matrix of the loss."""
    scatter: Array
    """[6, 6] sum over blocks of the outer products of their gradients: the gradient's covariance if blocks are independent."""


class _Fit:
    """One photo prepared for repeated looks: light, usable pixels, blocks."""

    def __init__(
        self, gaussians: Gaussians, camera: Camera, photo: NDArray[np.uint8], config: PhotometricConfig, backend: str
    ) -> None:
        width, height = (max(1, round(n * config.scale)) for n in (camera.width, camera.height))
        self.gaussians, self.camera, self.backend = gaussians, camera.resized(width, height), backend
        long_side = max(width, height)
        self.sigma = config.detail * long_side
        small = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA) if (width, height) != photo.shape[1::-1] else photo
        colours = small.astype(np.float32) / np.float32(255)
        self.detail = self._detail(colours)
        rows, columns = np.mgrid[0:height, 0:width] // max(2, round(config.block * long_side))
        held_out = (rows + columns) % 2 == 1
        self.block = rows * (columns.max() + 1) + columns
        rgb, alpha, depth = self._render(torch.zeros(6, dtype=torch.float64))
        solid = alpha > config.min_alpha
        self.distance = float(np.median(depth[solid])) if solid.any() else 1.0
        usable = solid & (depth > config.near * self.distance) & (colours.max(-1) < 0.985) & (colours.max(-1) > 0.01)
        self.share = float(usable.mean())
        if self.share < config.min_share:
            return
        shown = rgb.detach().numpy()
        self.affine = _colour_affine(shown[usable], colours[usable])
        size = np.sqrt(((self._detail(self._lit(shown)) - self.detail) ** 2).mean(-1))
        usable &= _unchanged(size, usable, round(config.window * long_side), config.changed)
        self.share = float(usable.mean())
        self.turn = max(2 * 1.4826 * float(np.median(size[usable])), 1e-4) if usable.any() else 1e-4
        self.fitted, self.held_out = usable & ~held_out, usable & held_out
        self.rays = self.camera.rays().reshape(-1, 3)
        self.first = self.look(np.zeros(6))

    def _detail(self, image: Image) -> Image:
        return image - cv2.GaussianBlur(image, (0, 0), self.sigma)

    def _lit(self, rgb: Image) -> Image:
        return rgb @ self.affine[:, :3].T + self.affine[:, 3]

    def _render(self, change: Tensor) -> tuple[Tensor, Image, Image]:
        cameras = stack_cameras([self.camera])
        pose = _moved(self.camera.cam_from_world, change).float()
        with torch.set_grad_enabled(change.requires_grad):
            out = render(self.gaussians, replace(cameras, cam_from_world=pose[None]), backend=self.backend)  # type: ignore[arg-type]
        assert out.depth is not None
        return out.rgb[0], out.alpha[0, ..., 0].detach().numpy(), out.depth[0, ..., 0].detach().numpy()

    def look(self, at: Array) -> _Look:
        """Loss (Geman and McClure's, which lets go of what does not fit) and its derivatives at a pose change."""
        change = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        rgb, _, depth = self._render(change)
        shown = rgb.detach().numpy()
        residual: Image = self._detail(self._lit(shown)) - self.detail
        square = (residual**2).mean(-1) / self.turn**2
        loss = self.turn**2 * square / (1 + square)
        weight = np.where(self.fitted, 1 / (1 + square) ** 2, 0).astype(np.float32)[..., None] * (2 / 3)
        pull: Image = (weight * residual).astype(np.float32)
        # The blur is its own transpose up to the border, which is where the frame's pixels are not used twice.
        towards = self._detail(pull) @ self.affine[:, :3]
        rgb.backward(torch.from_numpy(np.ascontiguousarray(towards)))
        assert change.grad is not None
        slopes = self._slopes(shown, depth, _moved(self.camera.cam_from_world, change.detach()).numpy())
        curvature = np.einsum("hwci,hwcj->ij", weight[..., None] * slopes, slopes).astype(np.float64)
        each = np.einsum("hwci,hwc->hwi", slopes, pull)[self.fitted].astype(np.float64)
        sums, _ = _by_block(self.block[self.fitted], each)
        sums -= sums.mean(0)
        lost, counts = _by_block(self.block[self.held_out], loss[self.held_out, None].astype(np.float64))
        return _Look(
            at, float(loss[self.fitted].sum()), lost[:, 0] / counts, change.grad.numpy().copy(), curvature, sums.T @ sums
        )

    def _slopes(self, rgb: Image, depth: Image, pose: Array) -> Image:
        """[H, W, 3, 6] change of the lit render's detail per pose change, from image gradients and depth."""
        height, width = depth.shape
        across, down = (cv2.Scharr(rgb, cv2.CV_32F, *d) / 32 for d in ((1, 0), (0, 1)))
        points = self.rays * np.maximum(depth, self.distance * 1e-3).reshape(-1, 1)
        motion = _motion(points, replace(self.camera, cam_from_world=pose)).astype(np.float32).reshape(height, width, 2, 6)
        # What moves to the right shows what was on its left.
        slopes = -(across[..., None] * motion[:, :, None, 0] + down[..., None] * motion[:, :, None, 1])
        lit = np.einsum("dc,hwci->hwdi", self.affine[:, :3], slopes)
        return np.stack([self._detail(np.ascontiguousarray(lit[..., i])) for i in range(6)], -1)


def _descend(fit: _Fit, prior: Array, config: PhotometricConfig) -> tuple[_Look, Array]:
    """The best look found by damped Newton steps on loss plus prior, and the covariance there."""
    best = fit.first
    noise = _noise(fit, best, config)

    def objective(look: _Look) -> float:
        return look.loss / noise + 0.5 * float(look.at @ prior @ look.at)

    step = np.linalg.solve(best.curvature / noise + prior, -best.gradient / noise)
    for _ in range(config.evaluations - 1):
        look = fit.look(best.at + step)
        if objective(look) >= objective(best):
            step = step / 2
            continue
        settled = objective(best) - objective(look) < 1e-3
        best = look
        if settled:
            break
        step = np.linalg.solve(best.curvature / noise + prior, -best.gradient / noise - prior @ best.at)
    return best, np.asarray(np.linalg.inv(best.curvature / noise + prior), np.float64)


def _noise(fit: _Fit, look: _Look, config: PhotometricConfig) -> float:
    """Loss per unit of information: what brings the curvature to the inverse covariance of the pixels' own answer."""
    ridge = 1e-9 * np.trace(look.curvature) / 6 * np.eye(6)
    inverse = np.linalg.inv(look.curvature + ridge)
    noise = max(float(np.trace(inverse @ look.scatter)) / 6, 1e-12)
    stated = image_uncertainty(fit.camera, noise * inverse, fit.distance)
    return noise * max(1.0, config.model_error / max(stated, 1e-12)) ** 2


def _by_block(block: NDArray[np.int64], values: Array) -> tuple[Array, Array]:
    """Sums [B, D] of pixels' values [M, D] over the blocks that have any, and the number of pixels [B] in each."""
    _, index, counts = np.unique(block, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, index, values)
    return sums, counts.astype(np.float64)


def _moved(pose: Array, change: Tensor) -> Tensor:
    """[4, 4] exp(w) R, t + v; differentiable in the change [6] (w, v)."""
    base = torch.as_tensor(np.asarray(pose), dtype=change.dtype)
    top = torch.cat([so3_exp(change[:3]) @ base[:3, :3], (base[:3, 3] + change[3:])[:, None]], 1)
    return torch.cat([top, base[3:]], 0)


def _motion(points: Array, camera: Camera) -> Array:
    """[N, 2, 6] movement in the image, pixels, of camera-frame points [N, 3] per pose change (w, v)."""
    x, y, z = points.T
    to_pixels = np.zeros((len(points), 2, 3))
    to_pixels[:, 0, 0], to_pixels[:, 0, 2] = camera.K[0, 0] / z, -camera.K[0, 0] * x / z**2
    to_pixels[:, 1, 1], to_pixels[:, 1, 2] = camera.K[1, 1] / z, -camera.K[1, 1] * y / z**2
    # d(exp(w) R X + t) / dw = -[R X]x, and R X = point - t.
    a, b, c = (points - camera.cam_from_world[:3, 3]).T
    turned = np.zeros((len(points), 3, 3))
    turned[:, 0, 1], turned[:, 0, 2], turned[:, 1, 2] = c, -b, a
    turned -= turned.transpose(0, 2, 1)
    return np.concatenate([to_pixels @ turned, to_pixels], axis=2)


def _colour_affine(shown: Image, target: Image) -> Image:
    """[3, 4] robust affine from rendered to photographed colours; [M, 3] each. Pulled to the identity where colours hardly vary."""
    design = np.concatenate([shown, np.ones((len(shown), 1))], 1).astype(np.float64)
    wanted = target.astype(np.float64)
    affine: Array = np.eye(3, 4)
    weight: Array = np.ones(len(design))
    pull = 1e-4 * len(design) * np.eye(4)
    for _ in range(8):
        weighted = design * weight[:, None]
        solved = np.linalg.solve(weighted.T @ design + pull, weighted.T @ wanted + pull @ np.eye(3, 4).T)
        affine = np.asarray(solved.T, np.float64)
        residual = np.sqrt(((wanted - design @ affine.T) ** 2).mean(1))
        weight = 1 / (1 + (residual / max(2 * 1.4826 * float(np.median(residual)), 1e-4)) ** 2) ** 2
    return affine.astype(np.float32)


def _unchanged(size: Image, usable: NDArray[np.bool_], window: int, factor: float) -> NDArray[np.bool_]:
    """[H, W] pixels around which the residual is not far above what is usual in this photo."""
    box = (window | 1, window | 1)
    inside = usable.astype(np.float32)
    around = cv2.blur(size * inside, box) / np.maximum(cv2.blur(inside, box), 1e-3)
    return around < factor * np.median(around[usable])
