"""Training: photos with poses and sparse points (or Gaussians to go on from) in, Gaussians with per-photo exposure out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.errors import ConvergenceError
from ltgs.imaging.losses import exposed_loss
from ltgs.optim.device import training_device, training_view
from ltgs.optim.distributed import ALONE, Group
from ltgs.optim.growth import GaussianOptimizer, add_position_noise, grow
from ltgs.optim.guide import GuideLoss
from ltgs.optim.initialize import TrainingPhoto, initial_gaussians
from ltgs.optim.order import morton_order
from ltgs.optim.train_config import MAX_BOOST, TrainConfig, rate_factors
from ltgs.render import render

__all__ = ["MAX_BOOST", "CheckpointSink", "TrainConfig", "TrainResult", "WarmStart", "rate_factors", "train"]

log = logging.getLogger("ltgs.optim")
Array = NDArray[np.float64]
READ_EVERY = 50
"""Steps on a CUDA device between two looks at the losses; each look waits for the device."""


@dataclass(frozen=True)
class TrainResult:
    """Trained Gaussians."""

    gaussians: Gaussians
    """Without the frozen ones."""
    exposures: Array
    """[P, 3, 4] colour affine per photo, render to photo; their mean is close to the identity unless a part was frozen."""
    figures: Mapping[str, float]


@dataclass(frozen=True)
class WarmStart:
    """Gaussians to go on from, instead of sparse points; all their bands are on from the first step."""

    gaussians: Gaussians
    """Trained further, and grown to the cap."""
    frozen: Gaussians | None = None
    """Drawn with them and never changed. Its colours are the reference, so a shift that all photos share is kept as exposure."""
    exposures: Array | None = None
    """[P, 3, 4] first guess of the photos' colour affines; None = identity."""


CheckpointSink = Callable[[int, dict[str, Tensor]], None]


def train(
    photos: Sequence[TrainingPhoto],
    points_xyz: Array,  # [M, 3] scene units
    points_rgb: Array,  # [M, 3] in [0, 1]
    *,
    extent: float,
    config: TrainConfig,
    seed: int = 0,
    backend: str = "auto",
    progress: Progress = silent,
    save_checkpoint: CheckpointSink | None = None,
    resume_from: Mapping[str, Tensor] | None = None,
    warm: WarmStart | None = None,
    group: Group = ALONE,
) -> TrainResult:
    """Fit Gaussians to photos. They live on `config.device` meanwhile; checkpoints and the result are on the CPU.

    Args:
        extent: radius of the cameras, scene units; the penalty on sizes is relative to it.
        save_checkpoint: called with the step and a flat dict of tensors that `resume_from` accepts for an exact resume.
        warm: Gaussians to go on from; the points are not used then, and a checkpoint needs the same `warm` again.
        group: processes that train together, all of them called with the same arguments; each returns the same result.

    Raises:
        ConvergenceError: the loss or a parameter became non-finite.
        UsageError: `config.device` is not usable here.
        ValueError: no photos, or nothing to go on from.
    """
    if not photos:
        raise ValueError("train needs at least one photo.")
    trainer = _Trainer(photos, extent, config, seed, backend, warm, group)
    if resume_from is not None:
        trainer.load(dict(resume_from))
    elif warm is not None:
        trainer.go_on(warm)
    else:
        trainer.start(points_xyz, points_rgb)
    while trainer.step < config.steps:
        trainer.one_step()
        if trainer.step % 50 == 0:
            figures = {"loss": trainer.recent_loss(50), "gaussians": float(len(trainer.optimizer))}
            progress(ProgressEvent("train", trainer.step, config.steps, figures=figures))
        if save_checkpoint and trainer.step % config.checkpoint_every == 0 and trainer.step < config.steps:
            save_checkpoint(trainer.step, trainer.state())
        if trainer.has_settled():
            break
    return trainer.result()


class _Trainer:
    """State of one training run; everything random comes from one generator so that a run can be repeated or resumed."""

    def __init__(
        self, photos: Sequence[TrainingPhoto], extent: float, config: TrainConfig, seed: int, backend: str,
        warm: WarmStart | None = None, group: Group = ALONE,
    ) -> None:
        self.photos, self.extent, self.config, self.backend, self.group = photos, extent, config, backend, group
        self.device, reason = training_device(config.device, backend)
        log.info("training on %s: %s", self.device, reason)
        self.is_warm = warm is not None
        self.frozen = warm.frozen.detach().to(self.device) if warm is not None and warm.frozen is not None else None
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.step = 0
        self.order: list[int] = []
        self.losses: list[float] = []
        self.unread: list[tuple[Tensor, list[int]]] = []
        self.no_exposure = torch.eye(3, 4, device=self.device)
        self.exposures = self.no_exposure.repeat(len(photos), 1, 1).requires_grad_(True)
        self.exposure_adam = torch.optim.Adam([self.exposures], lr=config.lr_exposure)
        self.guides = GuideLoss([p.guide if config.depth_weight > 0 else None for p in photos])
        self._cache: dict[tuple[int, int], tuple[Cameras, Tensor, Tensor | None]] = {}

    def start(self, points_xyz: Array, points_rgb: Array) -> None:
        c = self.config
        first = initial_gaussians(
            self.photos, points_xyz, points_rgb, cap=c.cap, sh_degree=c.sh_degree, config=c.init, rng=self.rng
        )
        self._adopt(first[morton_order(first.means)])

    def go_on(self, warm: WarmStart) -> None:
        """Start from Gaussians instead of points."""
        if len(warm.gaussians) == 0:
            raise ValueError("train needs at least one Gaussian to go on from.")
        self._adopt(warm.gaussians.detach())
        if warm.exposures is not None:
            with torch.no_grad():
                self.exposures.copy_(torch.as_tensor(warm.exposures, dtype=torch.float32))

    def _adopt(self, gaussians: Gaussians, size: float | None = None) -> None:
        c = self.config
        self.size = float(gaussians.scales.median()) if size is None else size
        self.rates = {
            "means": c.lr_means * self.size, "quats": c.lr_quats, "log_scales": c.lr_log_scales,
            "opacity_logits": c.lr_opacity, "sh_dc": c.lr_sh_dc, "sh_rest": c.lr_sh_rest,
        }
        self.optimizer = GaussianOptimizer(gaussians.to(self.device), self.rates)
        self.start_count = len(gaussians)
        self.error = torch.zeros(len(gaussians), device=self.device)

    def view(self, index: int) -> tuple[Cameras, Tensor, Tensor | None]:
        """Camera, uint8 target and weight of a photo at the resolution of the present step."""
        c = self.config
        key = (index, 2 if self.step < c.half_resolution_share * c.steps else 1)
        if key not in self._cache:
            self._cache[key] = training_view(self.photos[index], key[1], self.device)
        return self._cache[key]

    def set_rates(self) -> float:
        """Set the learning rates of the present step; returns that of the means."""
        means, others = rate_factors(self.step, self.config, is_warm=self.is_warm)
        for name, rate in self.rates.items():
            self.optimizer.set_learning_rate(name, rate * (means if name == "means" else others))
        return self.rates["means"] * means

    def next_photo(self) -> int:
        if not self.order:
            self.order = torch.randperm(len(self.photos), generator=self.generator).tolist()
        return self.order.pop()

    def one_step(self) -> None:
        """One optimisation step. Nothing in it waits for a CUDA device, except a growth round and the look at the losses."""
        c = self.config
        picked = [self.next_photo() for _ in range(c.batch * self.group.size)]
        rate = self.set_rates()
        backgrounds = torch.rand(len(picked), 3, generator=self.generator) if c.random_background else None
        growing = self.step < c.growth.stop_share * c.steps
        error = torch.zeros_like(self.error) if growing and self.step % 2 == 0 else None
        outcome = torch.zeros(2, device=self.device)
        for place in self.group.share(range(len(picked))):
            background = None if backgrounds is None else backgrounds[place].to(self.device, non_blocking=True)
            outcome += self._backward(picked[place], 1 / len(picked), background, error)
        gradients = [p.grad for p in (*self.optimizer.params.values(), self.exposures) if p.grad is not None]
        self.group.add_up([*gradients, outcome, *([] if error is None else [error])])
        self.unread.append((outcome, picked))
        if self.device.type != "cuda" or len(self.unread) >= READ_EVERY:
            self.read_losses()
        if error is not None:
            self.error += error
        self._apply(rate)

    def _backward(self, index: int, share: float, background: Tensor | None, error: Tensor | None) -> Tensor:
        """Add the gradients of `share` times the loss of a photo, and to `error` [N] what each Gaussian has of the error image.

        Returns:
            [2] `share` times the photometric loss, and the number of Gaussians that were not finite.
        """
        c = self.config
        camera, target8, weight = self.view(index)
        gaussians = self.optimizer.gaussians()
        drawn = gaussians if self.frozen is None else Gaussians.concatenate([gaussians, self.frozen])
        probe = None if error is None else torch.zeros(len(drawn), 1, device=self.device, requires_grad=True)
        degree = drawn.sh_degree if self.is_warm else min(c.sh_degree, self.step // c.sh_every)
        out = render(
            drawn, camera, backend=self.backend, background=background, features=probe,  # type: ignore[arg-type]
            sh_degree=degree, with_depth=self.guides.guides_photo(index),
        )
        exposure = self.exposures[index]
        loss, difference = exposed_loss(out.rgb[0], exposure, target8.float() / 255, c.ssim_weight, weight)
        total = loss + c.opacity_pull * gaussians.opacities.mean() + c.scale_pull * gaussians.scales.mean() / self.extent
        total = total + c.exposure_pull * (exposure - self.no_exposure).square().sum()
        if self.guides.guides_photo(index):
            total = total + c.depth_weight * self.guides(index, out.depth[0, ..., 0], out.alpha[0, ..., 0])
        if probe is not None:
            # The gradient with respect to a zero feature is the Gaussian's share of the error image.
            total = total + (out.feature_image()[0] * difference.abs().mean(-1, keepdim=True)).sum()
        (total if share == 1 else share * total).backward()
        if error is not None and probe is not None and probe.grad is not None:
            error += probe.grad[: len(gaussians), 0]
        value = loss.detach()
        return torch.stack([share * value, torch.as_tensor(out.num_dropped, dtype=value.dtype, device=self.device)])

    def read_losses(self) -> None:
        """Bring the losses of the last steps to the host, which waits for the device.

        Raises:
            ConvergenceError: one of them is not finite, or a Gaussian was not.
        """
        unread, self.unread = self.unread, []
        outcomes = torch.stack([outcome for outcome, _ in unread]).tolist() if unread else []
        for (loss, dropped), (_, picked) in zip(outcomes, unread, strict=True):
            if not math.isfinite(loss) or dropped:
                names = ", ".join(self.photos[i].camera.name for i in picked)
                raise ConvergenceError(
                    f"Training broke at step {len(self.losses)} on {names}: loss {loss}, {dropped:.0f} Gaussians not finite. "
                    "Lower the learning rates or check the poses; the last checkpoint is intact."
                )
            self.losses.append(loss)

    def _apply(self, rate: float) -> None:
        c = self.config
        self.optimizer.adam.step()
        self.optimizer.adam.zero_grad(set_to_none=True)
        self.exposure_adam.step()
        self.exposure_adam.zero_grad(set_to_none=True)
        if self.frozen is None:
            with torch.no_grad():
                # Only differences between photos are exposure; a common shift belongs to the scene's colours.
                self.exposures -= self.exposures.mean(0) - self.no_exposure
        if c.noise_strength > 0:
            add_position_noise(self.optimizer.params, rate, strength=c.noise_strength, generator=self.generator)
        self.step += 1
        g = c.growth
        if g.start <= self.step < g.stop_share * c.steps and self.step % g.every == 0:
            progress = min(1.0, self.step / (0.85 * g.stop_share * c.steps))
            target = int(self.start_count + (c.cap - self.start_count) * progress)
            self.read_losses()
            grow(self.optimizer, self.error, target_count=target, config=g, generator=self.generator)
            if not self.is_warm:  # whose rows the caller knows
                self.optimizer.reorder(morton_order(self.optimizer.params["means"]))
            self.error = torch.zeros(len(self.optimizer), device=self.device)

    def recent_loss(self, count: int) -> float:
        self.read_losses()
        return float(np.mean(self.losses[-count:])) if self.losses else float("nan")

    def has_settled(self) -> bool:
        """Early stop: after growth, the mean loss of the last window is hardly below that of the window before."""
        c = self.config
        w = c.stop_window
        if self.step % 100 or self.step < c.growth.stop_share * c.steps + 2 * w:
            return False
        self.read_losses()
        if len(self.losses) < 2 * w:
            return False
        before, now = np.mean(self.losses[-2 * w:-w]), np.mean(self.losses[-w:])
        return bool(before - now < c.stop_gain * before)

    def state(self) -> dict[str, Tensor]:
        """Everything for an exact resume."""
        self.read_losses()
        exposure_state = self.exposure_adam.state.get(self.exposures, {})
        tensors = {
            **self.optimizer.state_tensors(),
            **{f"exposure_adam.{k}": torch.as_tensor(v) for k, v in exposure_state.items()},
            "exposures": self.exposures.detach(),
            "error": self.error,
            "step": torch.tensor(self.step),
            "start_count": torch.tensor(self.start_count),
            "size": torch.tensor(self.size, dtype=torch.float64),
            "order": torch.tensor(self.order, dtype=torch.int64),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "generator": self.generator.get_state(),
        }
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`."""
        names = ("means", "quats", "log_scales", "opacity_logits")
        self._adopt(Gaussians(
            **{k: state[f"param.{k}"] for k in names},
            sh=torch.cat([state["param.sh_dc"], state["param.sh_rest"]], 1),
        ), float(state["size"]))
        self.optimizer.load_state_tensors(state)
        with torch.no_grad():
            self.exposures.copy_(state["exposures"])
        moments = {k.removeprefix("exposure_adam."): v.clone() for k, v in state.items() if k.startswith("exposure_adam.")}
        if moments:
            moved = {k: v if k == "step" else v.to(self.device) for k, v in moments.items()}
            self.exposure_adam.state[self.exposures] = moved
        self.error = state["error"].to(self.device, copy=True)
        self.step, self.start_count = int(state["step"]), int(state["start_count"])
        self.order, self.losses = state["order"].tolist(), state["losses"].tolist()
        self.generator.set_state(state["generator"])

    def result(self) -> TrainResult:
        self.read_losses()
        gaussians = self.optimizer.gaussians().detach().to("cpu")
        for name, tensor in gaussians.tensors().items():
            if not bool(torch.isfinite(tensor).all()):
                raise ConvergenceError(f"Training ended with non-finite {name}; lower the learning rates or check the poses.")
        visible = gaussians.opacities > self.config.growth.dead_opacity
        return TrainResult(
            gaussians[visible], self.exposures.detach().cpu().double().numpy(),
            {"steps": float(self.step), "train_loss": self.recent_loss(100), "num_gaussians": float(visible.sum())},
        )
