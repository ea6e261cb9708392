"""Plain torch renderer: the specification of `ltgs.render`, any float type, any device, differentiable by autograd.

It evaluates every Gaussian at every pixel, a strip of pixels at a time, so it is far too slow for training; the tests
compare the other backends with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import quat_to_matrix
from ltgs.core.sh import eval_sh
from ltgs.render.low_pass import LowPass
from ltgs.render.output import RenderOutput

"""px^2 added to the projected covariance: no splat is thinner than about half a pixel."""
MIN_ALPHA = 1 / 255
MAX_ALPHA = 0.999
MIN_TRANSMITTANCE = 1e-4
"""A pixel stops before the Gaussian that would bring its transmittance to this value or below."""
_STRIP_PAIRS = 4_000_000  # Gaussian-pixel pairs evaluated at once; bounds memory


def project(
    gaussians: Gaussians, K: Tensor, cam_from_world: Tensor, width: int, height: int, *, sh_degree: int, blur: LowPass
) -> dict[str, Tensor]:
    """Project all Gaussians with one camera: xy [N, 2], conic [N, 3], z, opacity [N], rgb [N, 3]."""
    rotation, translation = cam_from_world[:3, :3], cam_from_world[:3, 3]
    x, y, z = (gaussians.means @ rotation.T + translation).unbind(-1)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    u, v = x / z, y / z
    # The Jacobian stops following the centre 30 % of half the field of view outside the image, where it degenerates.
    u_lim = torch.clamp(u, (-cx / fx - 0.15 * width / fx).item(), ((width - cx) / fx + 0.15 * width / fx).item())
    v_lim = torch.clamp(v, (-cy / fy - 0.15 * height / fy).item(), ((height - cy) / fy + 0.15 * height / fy).item())
    spread = rotation @ (quat_to_matrix(gaussians.quats) * gaussians.scales[:, None, :])
    r0 = (fx / z)[:, None] * (spread[:, 0] - u_lim[:, None] * spread[:, 2])
    r1 = (fy / z)[:, None] * (spread[:, 1] - v_lim[:, None] * spread[:, 2])
    c11, c22, c12 = (r0 * r0).sum(-1), (r1 * r1).sum(-1), (r0 * r1).sum(-1)
    det0 = torch.linalg.cross(r0, r1).square().sum(-1)
    det_fitted, det = (det0 + b * (c11 + c22) + b**2 for b in (blur.fitted, blur.total))
    opacity = gaussians.opacities
    if blur.fitted < blur.total:
        opacity = opacity * torch.sqrt(torch.clamp(det_fitted / det, min=1e-12))
    center = -rotation.T @ translation
    directions = torch.nn.functional.normalize(gaussians.means - center, dim=-1)
    return {
        "xy": torch.stack([fx * u + cx, fy * v + cy], -1),
        "conic": torch.stack([(c22 + blur.total) / det, -c12 / det, (c11 + blur.total) / det], -1),
        "z": z,
        "opacity": opacity,
        "rgb": torch.clamp_min(eval_sh(gaussians.sh, directions, sh_degree) + 0.5, 0.0),
    }


def _weights(splats: dict[str, Tensor], pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights T alpha of depth-sorted splats at pixel centres [P, 2]: weights [P, N], final transmittance [P], hit [N]."""
    dx, dy = (pixels[:, None] - splats["xy"][None]).unbind(-1)
    a, b, c = splats["conic"].unbind(-1)
    alpha = torch.clamp(splats["opacity"] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy), max=MAX_ALPHA)
    alpha = torch.where(alpha >= MIN_ALPHA, alpha, torch.zeros_like(alpha))
    hit = (alpha > 0).any(0)  # before occlusion, as the native backend's tile lists
    after = torch.cumprod(1 - alpha, dim=1)
    # Transmittance only falls, so "stopped" is every Gaussian from the first one that would cross the limit.
    alpha = torch.where((after.detach() > MIN_TRANSMITTANCE), alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1 - alpha, dim=1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
    return before * alpha, after[:, -1], hit


@dataclass(frozen=True)
class View:
    """The Gaussians that one camera can see, nearest first."""

    splats: dict[str, Tensor]
    """As returned by `project`, M of them."""
    index: Tensor
    """[M] their numbers."""
    pixels: Tensor
    """[H * W, 2] pixel centres, row by row."""
    dropped: int
    """Gaussians left out because a parameter is not finite."""

    def weights(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Strip by strip of pixels: weights [P, M], final transmittance [P], hit [M]. M must not be 0."""
        for pixels in self.pixels.split(max(1, _STRIP_PAIRS // len(self.index))):
            yield _weights(self.splats, pixels)


def view_of(
    gaussians: Gaussians, cameras: Cameras, index: int, *, sh_degree: int, near: float, far: float, blur: LowPass
) -> View:
    """Project with camera `index`, leave out what cannot be seen, sort by depth."""
    width, height, dtype = cameras.width, cameras.height, gaussians.means.dtype
    finite = torch.cat([t.detach().unsqueeze(-1).flatten(1) for t in gaussians.tensors().values()], 1).isfinite().all(1)
    finite &= gaussians.quats.detach().norm(dim=-1) > 0
    chosen = finite.nonzero()[:, 0]
    splats: dict[str, Tensor] = {}
    for _ in range(2):  # the second round differentiates only what is seen: 0 * inf of a culled Gaussian would be NaN
        kept = Gaussians(**{k: t[chosen] for k, t in gaussians.tensors().items()})
        splats = project(
            kept, cameras.K[index], cameras.cam_from_world[index], width, height, sh_degree=sh_degree, blur=blur
        )
        z = splats["z"].detach()
        seen = (z >= near) & (z <= far) & (splats["opacity"].detach() >= MIN_ALPHA) & splats["conic"].detach().isfinite().all(-1)
        chosen = chosen[seen]
    order = torch.argsort(splats["z"].detach(), stable=True)
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = (torch.stack([xs, ys], -1).reshape(-1, 2).to(dtype) + 0.5).to(gaussians.device)
    return View({k: t[order] for k, t in splats.items()}, chosen[order], pixels, len(gaussians) - int(finite.sum()))


def _render_one(
    gaussians: Gaussians, cameras: Cameras, index: int, features: Tensor | None, sh_degree: int, near: float, far: float,
    blur: LowPass,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor, int]:
    """One camera: rgb [H, W, 3], alpha, depth [H, W, 1], features, visible [N], dropped."""
    view = view_of(gaussians, cameras, index, sh_degree=sh_degree, near=near, far=far, blur=blur)
    extra_channels = [] if features is None else [features[view.index]]
    channels = torch.cat([view.splats["rgb"], view.splats["z"][:, None], *extra_channels], 1)
    visible = torch.zeros(len(gaussians), dtype=torch.bool, device=gaussians.device)
    if len(view.index) == 0:
        image = channels.new_zeros(len(view.pixels), channels.shape[1]) + channels.sum() * 0
        final = view.pixels.new_ones(len(view.pixels))
    else:
        parts = [(w @ channels, final, hit) for w, final, hit in view.weights()]
        image, final = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        visible[view.index] = torch.stack([p[2] for p in parts]).any(0)
    alpha = (1 - final)[:, None]
    positive = alpha > 0
    depth = torch.where(positive, image[:, 3:4] / torch.where(positive, alpha, torch.ones_like(alpha)), torch.zeros_like(alpha))
    shaped = [t.reshape(cameras.height, cameras.width, -1) for t in (image[:, :3], alpha, depth)]
    extra = None if features is None else image[:, 4:].reshape(cameras.height, cameras.width, features.shape[1])
    return shaped[0], shaped[1], shaped[2], extra, visible, view.dropped


def render_reference(
    gaussians: Gaussians, cameras: Cameras, *, features: Tensor | None, sh_degree: int, near: float, far: float,
    with_depth: bool, blur: LowPass,
) -> RenderOutput:
    """Render without background; same contract as the native backend, in the float type of the Gaussians."""
    views = [
        _render_one(gaussians, cameras, c, features, sh_degree, near, far, blur) for c in range(len(cameras))
    ]
    if not views:
        shape = (0, cameras.height, cameras.width)
        new = gaussians.means.new_zeros
        image = None if features is None else new(*shape, features.shape[1])
        none_seen = torch.zeros(0, len(gaussians), dtype=torch.bool)
        return RenderOutput(new(*shape, 3), new(*shape, 1), new(*shape, 1), image, "reference", none_seen)
    colours, alphas, depths, extras, seen, dropped = zip(*views, strict=True)
    rgb, alpha, depth, visible = (torch.stack(v) for v in (colours, alphas, depths, seen))
    image = None if features is None else torch.stack(extras)
    return RenderOutput(
        rgb, alpha, depth if with_depth else torch.zeros_like(depth), image, "reference", visible, max(dropped),
        {"num_visible": int(visible.sum())},
    )
