"""Joint refinement of one visit: poses of moved objects, Gaussians of new ones and of revealed surfaces; all else is frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.core.se3 import se3_exp
from ltgs.core.views import ComparedView
from ltgs.imaging.losses import photometric_loss
from ltgs.optim.growth import GaussianOptimizer
from ltgs.optim.initialize import TrainingPhoto
from ltgs.optim.trainer import training_view
from ltgs.render import render

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RefineConfig:
    """Refinement after an update."""

    steps: int = 240
    """Optimisation steps; with replay every second one uses a photo of the first visit."""
    lr_means: float = 0.01
    """Rate of the means relative to the object's radius."""
    lr_log_scales: float = 0.02
    """Rate of the log scales."""
    lr_quats: float = 0.01
    """Rate of the rotations."""
    lr_opacity: float = 0.05
    """Rate of the opacity logits."""
    lr_colour: float = 0.01
    """Rate of the base colour."""
    known_factor: float = 0.1
    """Rates of templates that come from an earlier visit are this much smaller."""
    lr_pose: float = 0.003
    """Rate of pose residuals: radians, and translation relative to the object's radius."""
    opacity_pull: float = 0.002
    """Weight of the mean opacity of new Gaussians: what the photos do not ask for fades."""
    scale_pull: float = 0.02
    """Weight of the mean scale of new Gaussians relative to the object's radius."""
    dead_opacity: float = 0.02
    """New Gaussians fainter than this at the end are dropped."""
    ssim_weight: float = 0.2
    """Weight of 1 - SSIM in the loss."""


@dataclass(frozen=True)
class RefineItem:
    """One object or surface that this visit touches."""

    object_id: int
    gaussians: Gaussians
    """In the object's frame."""
    pose_now: Array
    """[4, 4] world_from_object at this visit."""
    pose_first: Array | None
    """[4, 4] at the first visit, None if it was not there: then the first visit's photos say nothing about it."""
    is_new: bool
    """Built from this visit's photos."""
    free_pose: bool
    """Refine the pose of this visit."""


class _Movable:
    """An item with its optimisers."""

    def __init__(self, item: RefineItem, config: RefineConfig) -> None:
        self.item = item
        self.radius = max(float(item.gaussians.means.norm(dim=1).quantile(0.98)), 1e-9) if len(item.gaussians) else 1e-9
        if not item.free_pose and len(item.gaussians):
            self.radius = max(float((item.gaussians.means - item.gaussians.means.mean(0)).norm(dim=1).quantile(0.9)), 1e-9)
        factor = 1.0 if item.is_new else config.known_factor
        self.optimizer = GaussianOptimizer(item.gaussians, {
            "means": config.lr_means * self.radius * factor, "quats": config.lr_quats * factor,
            "log_scales": config.lr_log_scales * factor, "opacity_logits": config.lr_opacity * factor,
            "sh_dc": config.lr_colour * factor, "sh_rest": config.lr_colour * factor / 20,
        })
        self.turn = torch.zeros(3, requires_grad=item.free_pose)
        self.shift = torch.zeros(3, requires_grad=item.free_pose)
        self.pose_adam = torch.optim.Adam([
            {"params": [self.shift], "lr": config.lr_pose * self.radius}, {"params": [self.turn], "lr": config.lr_pose},
        ]) if item.free_pose else None

    def pose(self) -> Tensor:
        start = torch.as_tensor(self.item.pose_now, dtype=torch.float32)
        delta = se3_exp(torch.cat([self.shift, self.turn]))
        top = torch.cat([delta[:3, :3] @ start[:3, :3], (start[:3, 3] + delta[:3, 3])[:, None]], 1)
        return torch.cat([top, torch.tensor([[0.0, 0, 0, 1]])])

    def step(self) -> None:
        self.optimizer.adam.step()
        self.optimizer.adam.zero_grad(set_to_none=True)
        if self.pose_adam is not None:
            self.pose_adam.step()
            self.pose_adam.zero_grad(set_to_none=True)

    def result(self, config: RefineConfig) -> RefineItem:
        gaussians = self.optimizer.gaussians().detach()
        if self.item.is_new:
            gaussians = gaussians[gaussians.opacities > config.dead_opacity]
        return replace(self.item, gaussians=gaussians, pose_now=self.pose().detach().double().numpy())


def refine_visit(
    frozen: Gaussians,
    items: Sequence[RefineItem],
    views: Sequence[ComparedView],
    replay: Sequence[TrainingPhoto],
    frozen_first: Gaussians,
    *,
    config: RefineConfig | None = None,
    backend: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
    first_exposure: Callable[[int], Array] | None = None,
) -> list[RefineItem]:
    """Optimise the touched items against this visit's photos and, so that nothing is forgotten, the first visit's.

    Args:
        frozen: everything else that is drawn at this visit.
        frozen_first: everything else that is drawn at the first visit.
        replay: photos of the first visit.
        first_exposure: index of a replay photo -> its [3, 4] colour affine.
    """
    config = config or RefineConfig()
    if not items or not views:
        return list(items)
    movables = [_Movable(item, config) for item in items]
    generator = torch.Generator().manual_seed(seed)
    old_items = [m for m in movables if m.item.pose_first is not None]
    for step in range(config.steps):
        if old_items and replay and step % 2:
            pick = int(torch.randint(len(replay), (1,), generator=generator))
            loss = _replay_loss(frozen_first, old_items, replay[pick], first_exposure(pick) if first_exposure else None,
                                config, backend)
        else:
            pick = int(torch.randint(len(views), (1,), generator=generator))
            loss = _visit_loss(frozen, movables, views[pick], config, backend)
        if loss.requires_grad:
            loss.backward()
        for movable in movables:
            movable.step()
        if step % 40 == 0:
            progress(ProgressEvent("refine", step, config.steps, figures={"loss": float(loss.detach())}))
    return [m.result(config) for m in movables]


def _visit_loss(
    frozen: Gaussians, movables: Sequence[_Movable], view: ComparedView, config: RefineConfig, backend: str
) -> Tensor:
    parts = [m.optimizer.gaussians().transformed(m.pose()) for m in movables]
    out = render(Gaussians.concatenate([frozen, *parts]), stack_cameras([view.camera]), backend=backend, with_depth=False)  # type: ignore[arg-type]
    matrix = torch.as_tensor(view.colour_affine, dtype=torch.float32)
    shown = (out.rgb[0] @ matrix[:, :3].T + matrix[:, 3]) * torch.from_numpy(view.gain)
    loss = photometric_loss(shown, torch.from_numpy(view.photo), config.ssim_weight)
    for m in movables:
        if m.item.is_new:
            g = m.optimizer.gaussians()
            loss = loss + config.opacity_pull * g.opacities.mean() + config.scale_pull * (g.scales.mean() / m.radius) * 0.1
    return loss


def _replay_loss(
    frozen_first: Gaussians, movables: Sequence[_Movable], photo: TrainingPhoto, exposure: Array | None,
    config: RefineConfig, backend: str,
) -> Tensor:
    parts = [
        m.optimizer.gaussians().transformed(torch.as_tensor(m.item.pose_first, dtype=torch.float32)) for m in movables
    ]
    camera, target8, weight = training_view(photo)
    out = render(Gaussians.concatenate([frozen_first, *parts]), camera, backend=backend, with_depth=False)  # type: ignore[arg-type]
    shown = out.rgb[0]
    if exposure is not None:
        matrix = torch.as_tensor(exposure, dtype=torch.float32)
        shown = shown @ matrix[:, :3].T + matrix[:, 3]
    target = target8.float() / 255
    if weight is not None:
        target = torch.lerp(shown.detach(), target, weight[..., None])
    return photometric_loss(shown, target, config.ssim_weight)
