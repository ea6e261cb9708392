"""Joint refinement of one visit: poses of moved objects, Gaussians of new ones and of revealed surfaces; all else is frozen.

Every step renders one crop around one item, so that the cost follows the size of what changed, not of the scene.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Camera
from ltgs.core.gaussians import Gaussians
from ltgs.core.light_field import FACES, LightField, brightened, face_weights, facing
from ltgs.core.parallel import in_parallel
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.core.se3 import se3_exp
from ltgs.optim.growth import GaussianOptimizer
from ltgs.optim.patch import Box, Patch, Target, cut_patch, item_box

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RefineConfig:
    """Refinement after an update."""

    steps: int = 400
    """Optimisation steps per item that was known before; every second one uses a photo of an earlier visit, if it shows the item."""
    steps_new: int = 400
    """Optimisation steps per object that this visit's photos built: it starts from a coarse hull."""
    steps_surface: int = 160
    """Optimisation steps per revealed surface: it starts where it belongs, and what few photos show of it is soon fitted too well."""
    max_steps: int = 2400
    """Most steps of one visit."""
    margin: float = 0.6
    """Border of the picture crop around an item, relative to its radius in the image."""
    min_border_px: int = 16
    """Least border of that crop, pixels."""
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
    final_rate: float = 0.1
    """All rates fall along a half cosine to this share of themselves: what jitters at the end blurs."""
    known_factor: float = 0.3
    """Rates of templates that come from an earlier visit are this much smaller."""
    lr_light: float = 0.01
    """Rate of the logarithms of the light on an item at this visit."""
    light_pull: float = 0.02
    """Weight of their mean square."""
    lr_pose: float = 0.003
    """Rate of pose residuals: radians, and translation relative to the object's radius."""
    opacity_pull: float = 0.002
    """Weight of the mean opacity of new Gaussians: what the photos do not ask for fades."""
    scale_pull: float = 0.02
    """Weight of the mean scale of new Gaussians relative to the object's radius."""
    dead_opacity: float = 0.02
    """New Gaussians fainter than this at the end are dropped."""
    max_scale: float = 0.15
    """Largest scale of a new Gaussian relative to the object's radius: larger ones would paint shadows and light around it."""
    stray: float = 0.2
    """New Gaussians that went further than this out of the box of the seeds, relative to its longest side, are dropped."""
    ssim_weight: float = 0.2
    """Weight of 1 - SSIM in the loss."""


@dataclass(frozen=True)
class Past:
    """An earlier visit whose photos are fitted along, so that nothing that they showed is forgotten."""

    targets: Sequence[Target]
    frozen: Gaussians
    """Everything else that was drawn then, in that time's light."""
    light: LightField | None = None
    """That time's light."""


@dataclass(frozen=True)
class RefineItem:
    """One object or surface that this visit touches."""

    object_id: int
    gaussians: Gaussians
    """In the object's frame."""
    pose_now: Array
    """[4, 4] world_from_object at this visit."""
    past_poses: Mapping[int, Array]
    """Earlier time to [4, 4] at that time; where it was not there that visit's photos say nothing about it."""
    num_known: int
    """How many of the first Gaussians come from earlier visits; the others were seeded by this visit's photos."""
    free_pose: bool
    """Refine the pose of this visit."""
    surface: bool = False
    """A patch of the place rather than an object."""

    @property
    def is_new(self) -> bool:
        """Built from this visit's photos alone."""
        return self.num_known == 0


class _Movable:
    """An item with its optimisers."""

    def __init__(self, item: RefineItem, past: Mapping[int, Past], config: RefineConfig) -> None:
        told = bool(item.num_known) and any(past[t].targets for t in item.past_poses if t in past)
        self.item = item
        self.radius = max(float(item.gaussians.means.norm(dim=1).quantile(0.98)), 1e-9) if len(item.gaussians) else 1e-9
        if not item.free_pose and len(item.gaussians):
            self.radius = max(float((item.gaussians.means - item.gaussians.means.mean(0)).norm(dim=1).quantile(0.9)), 1e-9)
        self.known_factor = config.known_factor
        self.max_log_scale = float(np.log(config.max_scale * self.radius))
        self.optimizer = GaussianOptimizer(item.gaussians, {
            "means": config.lr_means * self.radius, "quats": config.lr_quats, "log_scales": config.lr_log_scales,
            "opacity_logits": config.lr_opacity, "sh_dc": config.lr_colour, "sh_rest": config.lr_colour / 20,
        })
        self.turn = torch.zeros(3, requires_grad=item.free_pose)
        self.shift = torch.zeros(3, requires_grad=item.free_pose)
        self.pose_adam = torch.optim.Adam([
            {"params": [self.shift], "lr": config.lr_pose * self.radius}, {"params": [self.turn], "lr": config.lr_pose},
        ]) if item.free_pose else None
        self.light = torch.zeros(FACES, 3, requires_grad=told)
        """[6, 3] logarithm of the light on it at this visit, per direction, where other visits tell its own colours."""
        self.light_adam = torch.optim.Adam([self.light], lr=config.lr_light) if self.light.requires_grad else None
        with torch.no_grad():
            self.normals = facing(item.gaussians, item.gaussians.means - item.gaussians.means.mean(0))
            self.past_gains = self._gains(past)
        adams = [a for a in (self.optimizer.adam, self.pose_adam, self.light_adam) if a is not None]
        self.rates = [(group, group["lr"]) for adam in adams for group in adam.param_groups]
        self.final_rate = config.final_rate
        self._still: dict[int | None, Gaussians] = {}

    def pose(self) -> Tensor:
        start = torch.as_tensor(self.item.pose_now, dtype=torch.float32)
        delta = se3_exp(torch.cat([self.shift, self.turn]))
        top = torch.cat([delta[:3, :3] @ start[:3, :3], (start[:3, 3] + delta[:3, 3])[:, None]], 1)
        return torch.cat([top, torch.tensor([[0.0, 0, 0, 1]])])

    def placed(self, time: int | None = None) -> Gaussians:
        """The item's Gaussians in the world at this visit, or at an earlier time."""
        pose = self.pose() if time is None else torch.as_tensor(self.item.past_poses[time], dtype=torch.float32)
        placed = self.optimizer.gaussians().transformed(pose)
        if time is not None:
            return brightened(placed, self.past_gains[time]) if time in self.past_gains else placed
        if self.light_adam is None:
            return placed
        return brightened(placed, (face_weights(self.normals @ pose[:3, :3].detach().T) @ self.light).exp())

    def still(self, time: int | None) -> Gaussians:
        """The same without gradients, the same tensors until the next step."""
        if time not in self._still:
            with torch.no_grad():
                self._still[time] = self.placed(time)
        return self._still[time]

    def _gains(self, past: Mapping[int, Past]) -> dict[int, Tensor]:
        """The light [N, 3] of earlier visits on its Gaussians where they stood then."""
        out = {}
        for time, pose in self.item.past_poses.items():
            light = past[time].light if time in past else None
            if light is not None and len(self.item.gaussians):
                at = torch.as_tensor(pose, dtype=torch.float32)
                out[time] = light.gains(self.item.gaussians.transformed(at).means, self.normals @ at[:3, :3].T)
        return out

    def pull(self, config: RefineConfig) -> Tensor:
        """Cost of being opaque and large, so that what the photos do not ask for fades, and of being lit otherwise than the rest."""
        g, lit = self.optimizer.gaussians()[self.item.num_known :], config.light_pull * self.light.square().mean()
        if len(g) == 0:
            return lit
        return lit + config.opacity_pull * g.opacities.mean() + 0.1 * config.scale_pull * g.scales.mean() / self.radius

    def step(self, progress: float) -> None:
        """One step of the optimisers; progress in [0, 1] is the share of the item's steps that is done."""
        self._still.clear()
        factor = self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))
        for group, rate in self.rates:
            group["lr"] = rate * factor
        known = slice(0, self.item.num_known)
        before = {k: p.detach()[known].clone() for k, p in self.optimizer.params.items()} if self.item.num_known else {}
        self.optimizer.adam.step()
        for name, rows in before.items():
            # Adam ignores the scale of gradients, so that a smaller rate for some rows is a shorter step.
            self.optimizer.params[name].data[known].lerp_(rows, 1 - self.known_factor)
        self.optimizer.params["log_scales"].data[self.item.num_known :].clamp_(max=self.max_log_scale)
        self.optimizer.adam.zero_grad(set_to_none=True)
        for adam in (self.pose_adam, self.light_adam):
            if adam is not None:
                adam.step()
                adam.zero_grad(set_to_none=True)

    def result(self, config: RefineConfig) -> RefineItem:
        gaussians = self.optimizer.gaussians().detach()
        alive = (gaussians.opacities > config.dead_opacity) & self._in_box(gaussians.means, config)
        alive[: self.item.num_known] = True
        gaussians = gaussians[alive]
        pose = self.pose().detach().double().numpy() if self.item.free_pose else self.item.pose_now
        return replace(self.item, gaussians=gaussians, pose_now=pose)

    def _in_box(self, means: Tensor, config: RefineConfig) -> Tensor:
        """[N] bool: whether means [N, 3] lie in the box of the item's first Gaussians, or a little outside."""
        low, high = self.item.gaussians.means.amin(0), self.item.gaussians.means.amax(0)
        slack = config.stray * (high - low).max()
        return ((means >= low - slack) & (means <= high + slack)).all(1)


def refine_visit(
    frozen: Gaussians,
    items: Sequence[RefineItem],
    now: Sequence[Target],
    past: Mapping[int, Past],
    *,
    config: RefineConfig | None = None,
    backend: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
) -> list[RefineItem]:
    """Optimise the touched items against this visit's photos and, so that nothing is forgotten, those of earlier visits.

    Every second step of an item uses an earlier photo.

    Args:
        frozen: everything else that is drawn at this visit.
        now: the photos of this visit.
        past: earlier visits by their time.
    """
    config = config or RefineConfig()
    if not items or not now:
        return list(items)
    movables = [_Movable(item, past, config) for item in items]
    fresh = [_patches(m, m.item.pose_now, now, frozen, config, backend) for m in movables]
    replay = [_replay(m, past, config, backend) for m in movables]
    seen = [i for i, own in enumerate(fresh) if own]
    generator = torch.Generator().manual_seed(seed)
    rounds = [[seen[k] for k in turn] for turn in _schedule([movables[i].item for i in seen], config)]
    done, shares = [0] * len(movables), Counter(i for turn in rounds for i in turn)

    def others(i: int, time: int | None) -> list[_Movable]:
        return [m for k, m in enumerate(movables) if k != i and (time is None or time in m.item.past_poses)]

    def descend(chosen: tuple[int, int | None, Patch]) -> float:
        i, time, patch = chosen
        parts = [m.still(time) for m in others(i, time)]
        loss = patch.loss([*parts, movables[i].placed(time)], config.ssim_weight, backend)
        if time is None:
            loss = loss + movables[i].pull(config)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    for number, turn in enumerate(rounds):
        chosen = []
        for i in turn:
            back = bool(replay[i]) and done[i] % 2 == 1
            choice = replay[i][done[i] // 2 % len(replay[i])] if back else [(None, patch) for patch in fresh[i]]
            chosen.append((i, *choice[int(torch.randint(len(choice), (1,), generator=generator))]))
        # All of a round see the others as they stood before it, so that they may go at once.
        drawn = list(dict.fromkeys((m, time) for i, time, _ in chosen for m in others(i, time)))
        in_parallel(lambda one: one[0].still(one[1]), drawn)
        losses = in_parallel(descend, chosen)
        for i in turn:
            done[i] += 1
            movables[i].step(done[i] / shares[i])
        if number % 10 == 0:
            progress(ProgressEvent("refine", number, len(rounds), figures={"loss": sum(losses) / len(losses)}))
    return [m.result(config) for m in movables]


def _schedule(items: Sequence[RefineItem], config: RefineConfig) -> list[list[int]]:
    """Rounds of steps, each of all items that have not had their share yet."""
    wanted = [config.steps_surface if i.surface else config.steps_new if i.is_new else config.steps for i in items]
    factor = min(1.0, config.max_steps / max(sum(wanted), 1))
    shares = [max(1, round(w * factor)) for w in wanted]
    return [[i for i, share in enumerate(shares) if share > number] for number in range(max(shares, default=0))]


def _replay(movable: _Movable, past: Mapping[int, Past], config: RefineConfig, backend: str) -> list[list[tuple[int, Patch]]]:
    """What earlier photos show of an item, with their times, in groups to be taken in turn.

    The first visit, which knows most of what it saw, has two turns beside one of all later ones.
    """
    shown = [
        (time, patch) for time, pose in movable.item.past_poses.items() if time in past
        for patch in _patches(movable, pose, past[time].targets, past[time].frozen, config, backend)
    ]
    first, later = [s for s in shown if s[0] == 0], [s for s in shown if s[0] > 0]
    return [group for group in (first, later, first) if group]


def _patches(
    movable: _Movable, pose: Array, targets: Sequence[Target], frozen: Gaussians, config: RefineConfig, backend: str
) -> list[Patch]:
    """What the photos show of an item that stands at a pose."""
    # A surface may lie scattered over the whole photo, of which most says nothing about it.
    around = None if movable.item.free_pose or movable.item.past_poses else movable.placed().detach()
    boxes = [(target, _crop_box(movable, pose, target.camera, config)) for target in targets]
    return [cut_patch(t, frozen, box=b, around=around, border_px=config.min_border_px, backend=backend) for t, b in boxes if b is not None]


def _crop_box(movable: _Movable, pose: Array, camera: Camera, config: RefineConfig) -> Box | None:
    """The crop around an item's Gaussians; None if less than a few pixels of it are in the photo."""
    means = movable.item.gaussians.means.double().numpy() @ pose[:3, :3].T + pose[:3, 3]
    return item_box(means, camera, margin=config.margin, min_border_px=config.min_border_px)
