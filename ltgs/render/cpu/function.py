"""The autograd function around the native kernels, and its argument handling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.native import kernels
from ltgs.render.low_pass import LowPass
from ltgs.render.output import RenderOutput

_PARAMETERS = 5  # means, quats, log_scales, opacity_logits, sh
_RECYCLED_FROM = 1 << 18  # floats


@dataclass
class _Settings:
    """Everything of one call that is not a differentiable tensor; also carries diagnostics out of the function."""

    kernels: ModuleType
    intrinsics: Tensor
    width: int
    height: int
    sh_degree: int
    near: float
    far: float
    with_depth: bool
    blur: LowPass
    threads: int
    keep: bool
    region: Tensor | None = None
    stats: dict[str, int] = field(default_factory=dict)
    num_dropped: int = 0

    def session(self, c: int, tensors: list[Tensor], poses: Tensor, visible: Tensor, images: tuple[Tensor | None, ...]) -> Any:
        """Run the kernels' forward pass for camera c; `images` are features and rgb, alpha, depth and feature image to fill."""
        features, *outputs = images
        if features is not None and not features.shape[1]:
            features = None
        return self.kernels.forward(
            *tensors, self.intrinsics[c], poses[c], self.width, self.height, self.sh_degree, self.near, self.far,
            self.blur.total, self.blur.fitted, None if self.region is None else self.region[c], features,
            *(None if t is None or (k == 3 and features is None) else t[c] for k, t in enumerate(outputs)), visible[c], self.threads,
        )

    def empty(self, shape: Sequence[int]) -> Tensor:
        """Uninitialised memory; a large block is taken from a pool, because the page faults of fresh memory cost milliseconds."""
        return torch.empty(shape) if prod(shape) < _RECYCLED_FROM else self.kernels.recycled_tensor(list(shape))

    def note_times(self, session: Any) -> None:
        for key, value in session.stage_times().items():
            self.stats[key] = self.stats.get(key, 0) + value

    def note(self, session: Any) -> None:
        numbers = session.statistics()
        self.num_dropped = max(self.num_dropped, numbers.pop("num_dropped"))
        for key, value in numbers.items():
            self.stats[key] = self.stats.get(key, 0) + value


class _Rasterise(torch.autograd.Function):
    """All cameras of one call. Kernel sessions hold the sorted tile lists that the backward pass walks again."""

    @staticmethod
    def forward(ctx: Any, settings: _Settings, poses: Tensor, features: Tensor | None, *parameters: Tensor) -> Any:
        s, num_cameras, count = settings, poses.shape[0], parameters[0].shape[0]
        shape = (num_cameras, s.height, s.width)
        tensors = [_plain(p) for p in parameters]
        poses, extra = _plain(poses), None if features is None else _plain(features)
        rgb, alpha = s.empty((*shape, 3)), s.empty((*shape, 1))
        depth = s.empty((*shape, 1)) if s.with_depth else None
        image = None if extra is None else s.empty((*shape, extra.shape[1]))
        visible = torch.empty(num_cameras, count, dtype=torch.uint8)
        sessions = []
        for c in range(num_cameras):
            session = s.session(c, tensors, poses, visible, (extra, rgb, alpha, depth, image))
            s.note(session)
            if s.keep:
                sessions.append(session)
            else:
                s.note_times(session)
        ctx.settings, ctx.sessions = settings, sessions
        ctx.save_for_backward(poses, extra, rgb, image, *tensors)
        ctx.set_materialize_grads(False)
        visible = visible.view(torch.bool)
        ctx.mark_non_differentiable(visible)
        return rgb, alpha, depth, image, visible

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        g_rgb, g_alpha, g_depth, g_image = (None if g is None else _plain(g) for g in upstream[:4])
        poses, features, rgb, image, *parameters = ctx.saved_tensors
        _, pose_wanted, features_wanted, *wanted = ctx.needs_input_grad
        geometry = pose_wanted or any(wanted)
        s = ctx.settings
        if features is None or not features.shape[1]:
            features = g_image = None
        if not ctx.sessions or all(g is None for g in (g_rgb, g_alpha, g_depth, g_image)):
            return (None,) * (3 + _PARAMETERS)
        grads = [s.empty(p.shape) if w else None for p, w in zip(parameters, wanted, strict=True)]
        pose_grads = torch.zeros_like(poses) if pose_wanted else None
        feature_grads = torch.zeros_like(features) if features is not None and features_wanted else None
        for c, session in enumerate(ctx.sessions):
            up = [None if g is None else g[c] for g in (g_rgb, g_alpha, g_depth, g_image)]
            if geometry:
                s.kernels.backward(
                    session, *parameters, rgb[c], *up[:3], features, None if image is None else image[c], up[3],
                    *grads, None if pose_grads is None else pose_grads[c, :3], feature_grads, c > 0, s.threads,
                )
            elif up[3] is not None and feature_grads is not None:
                session.weight_sums(up[3], feature_grads, s.threads)
            s.note_times(session)
        return (None, pose_grads, feature_grads, *grads)


def _plain(tensor: Tensor) -> Tensor:
    """Contiguous and without autograd history, as the kernels need it; no copy in the usual case."""
    return tensor.detach().contiguous()


def _float32(name: str, tensor: Tensor) -> Tensor:
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} must be on the CPU for backend='cpu', got {tensor.device}.")
    if tensor.dtype != torch.float32:
        raise ValueError(f"{name} must be float32 for backend='cpu', got {tensor.dtype}; use backend='reference' for float64.")
    return tensor


def render_cpu(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    features: Tensor | None,
    sh_degree: int,
    near: float,
    far: float,
    with_depth: bool,
    blur: LowPass,
    region: Tensor | None = None,
    isa_kernels: ModuleType | None = None,
) -> RenderOutput:
    """Render without background; arguments are validated by `ltgs.render.render`.

    Raises:
        ValueError: a tensor is not float32 on the CPU, or the intrinsics require a gradient.
        KernelsUnavailable: the compiled kernels cannot be loaded.
    """
    tensors = [_float32(name, value) for name, value in gaussians.tensors().items()]
    poses = _float32("cam_from_world", cameras.cam_from_world)
    if features is not None:
        _float32("features", features)
    if cameras.K.requires_grad and torch.is_grad_enabled():
        raise ValueError("backend='cpu' has no gradient with respect to K; detach it or use backend='reference'.")
    differentiable = [*tensors, poses, *([] if features is None else [features])]
    settings = _Settings(
        isa_kernels or kernels(), _plain(_float32("K", cameras.K)), cameras.width, cameras.height, sh_degree, near, far,
        with_depth, blur, torch.get_num_threads(),
        keep=torch.is_grad_enabled() and any(t.requires_grad for t in differentiable),
        region=None if region is None else region.to(torch.uint8).contiguous(),
    )
    rgb, alpha, depth, image, visible = _Rasterise.apply(settings, poses, features, *tensors)
    if depth is None:
        depth = alpha.new_zeros(()).expand(alpha.shape)
    return RenderOutput(rgb, alpha, depth, image, "cpu", visible, settings.num_dropped, settings.stats)
