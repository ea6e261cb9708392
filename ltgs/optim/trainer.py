"""Training: photos with poses and sparse points (or Gaussians to go on from) in, Gaussians with per-photo exposure out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.cameras import Cameras, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.errors import ConvergenceError
from ltgs.imaging.losses import exposed_loss
from ltgs.optim.growth import GaussianOptimizer, GrowthConfig, add_position_noise, grow
from ltgs.optim.guide import GuideLoss
from ltgs.optim.initialize import InitConfig, TrainingPhoto, initial_gaussians
from ltgs.optim.order import morton_order
from ltgs.render import render

log = logging.getLogger("ltgs.optim")
Array = NDArray[np.float64]
FULL_STEPS = 30_000
"""Steps that the learning rates of 3DGS were made for."""
MAX_BOOST = 6.0
"""Largest factor of the rates in shorter runs: that of 800 steps, the shortest run it was measured for."""


@dataclass(frozen=True)
class TrainConfig:
    """First-visit training. Learning rates are those of 3DGS for 30,000 steps where not said otherwise; see `rate_power`."""

    steps: int = 3000
    """Optimisation steps, one photo each."""
    cap: int = 60_000
    """Hard limit on the number of Gaussians."""
    sh_degree: int = 2
    """Highest spherical-harmonic band."""
    sh_every: int = 500
    """Steps after which one more band is switched on."""
    half_resolution_share: float = 0.3
    """Share of the steps, from the start, at half the resolution."""
    lr_means: float = 0.0116
    """Times the median size (standard deviation) of the first Gaussians; decays exponentially."""
    lr_means_final: float = 0.1
    """Share of that rate left at the last step (3DGS has 0.01, which is too cold for few steps)."""
    lr_quats: float = 1e-3
    """Learning rate of the rotations."""
    lr_log_scales: float = 7e-3
    """Learning rate of the log scales."""
    lr_opacity: float = 5e-2
    """Learning rate of the opacity logits."""
    lr_sh_dc: float = 2.5e-3
    """Learning rate of the base colour."""
    lr_sh_rest: float = 1.25e-4
    """Learning rate of the view-dependent colour."""
    rate_power: float = 0.5
    """With fewer than 30,000 steps all rates above are multiplied by (30,000 / steps) to this power, at most six times."""
    lr_final: float = 0.1
    """Once growth has ended, the rates of everything but the means fall to this share (half a cosine)."""
    lr_exposure: float = 1e-3
    """Learning rate of the per-photo 3x4 colour affine."""
    exposure_pull: float = 0.05
    """Weight of the squared distance of a photo's colour affine from the identity."""
    ssim_weight: float = 0.2
    """Weight of 1 - SSIM in the loss, the rest is L1 (3DGS)."""
    opacity_pull: float = 0.001
    """Weight of the mean opacity (3DGS-MCMC has 0.01; a tenth gave +1.0 dB held-out on rooms/desk at 320x240)."""
    scale_pull: float = 0.001
    """Weight of the mean scale relative to the scene extent (3DGS-MCMC)."""
    depth_weight: float = 0.0
    """Weight of the difference to inverse depths that stereo between the photos measures, see `ltgs.optim.guide`; 0 = no stereo."""
    noise_strength: float = 0.0
    """Langevin noise on nearly transparent Gaussians (3DGS-MCMC has 5e5; in so few steps it cost 0.8 dB there)."""
    random_background: bool = False
    """A new background colour each step, so that nothing is explained by see-through holes (cost 2.2 dB held-out there)."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    stop_window: int = 500
    """Early stop: steps of the two windows whose mean losses are compared."""
    stop_gain: float = 0.002
    """Early stop: relative gain below which training ends, checked after growth has ended."""
    init: InitConfig = field(default_factory=InitConfig)
    growth: GrowthConfig = field(default_factory=GrowthConfig)


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
) -> TrainResult:
    """Fit Gaussians to photos.

    Args:
        extent: radius of the cameras, scene units; the penalty on sizes is relative to it.
        save_checkpoint: called with the step and a flat dict of tensors that `resume_from` accepts for an exact resume.
        warm: Gaussians to go on from; the points are not used then, and a checkpoint needs the same `warm` again.

    Raises:
        ConvergenceError: the loss or a parameter became non-finite.
        ValueError: no photos, or nothing to go on from.
    """
    if not photos:
        raise ValueError("train needs at least one photo.")
    trainer = _Trainer(photos, extent, config, seed, backend, warm)
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


def rate_factors(step: int, config: TrainConfig, *, is_warm: bool = False) -> tuple[float, float]:
    """Factors on the learning rate of the means and on all others at a step.

    Args:
        is_warm: Gaussians that are trained already have no way to make up for, and long steps would only shake them.
    """
    done, start = step / config.steps, config.growth.stop_share
    boost = 1.0 if is_warm else min(MAX_BOOST, max(1.0, FULL_STEPS / config.steps) ** config.rate_power)
    settled = max(0.0, done - start) / max(1 - start, 1e-9)
    others = config.lr_final + (1 - config.lr_final) * 0.5 * (1 + math.cos(math.pi * settled))
    return boost * config.lr_means_final**done, boost * others


class _Trainer:
    """State of one training run; everything random comes from one generator so that a run can be repeated or resumed."""

    def __init__(
        self, photos: Sequence[TrainingPhoto], extent: float, config: TrainConfig, seed: int, backend: str,
        warm: WarmStart | None = None,
    ) -> None:
        self.photos, self.extent, self.config, self.backend = photos, extent, config, backend
        self.is_warm = warm is not None
        self.frozen = warm.frozen.detach() if warm is not None and warm.frozen is not None else None
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.step = 0
        self.order: list[int] = []
        self.losses: list[float] = []
        self.exposures = torch.eye(3, 4).repeat(len(photos), 1, 1).requires_grad_(True)
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
        self.optimizer = GaussianOptimizer(gaussians, self.rates)
        self.start_count = len(gaussians)
        self.error = torch.zeros(len(gaussians))

    def view(self, index: int) -> tuple[Cameras, Tensor, Tensor | None]:
        """Camera, uint8 target and weight of a photo at the resolution of the present step."""
        c = self.config
        key = (index, 2 if self.step < c.half_resolution_share * c.steps else 1)
        if key not in self._cache:
            self._cache[key] = training_view(self.photos[index], key[1])
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
        c = self.config
        index = self.next_photo()
        camera, target8, weight = self.view(index)
        target = target8.float() / 255
        rate = self.set_rates()
        gaussians = self.optimizer.gaussians()
        drawn = gaussians if self.frozen is None else Gaussians.concatenate([gaussians, self.frozen])
        background = torch.rand(3, generator=self.generator) if c.random_background else None
        growing = self.step < c.growth.stop_share * c.steps
        probe = torch.zeros(len(drawn), 1, requires_grad=True) if growing and self.step % 2 == 0 else None
        degree = drawn.sh_degree if self.is_warm else min(c.sh_degree, self.step // c.sh_every)
        out = render(
            drawn, camera, backend=self.backend, background=background, features=probe,  # type: ignore[arg-type]
            sh_degree=degree, with_depth=self.guides.guides_photo(index),
        )
        exposure = self.exposures[index]
        loss, difference = exposed_loss(out.rgb[0], exposure, target, c.ssim_weight, weight)
        total = loss + c.opacity_pull * gaussians.opacities.mean() + c.scale_pull * gaussians.scales.mean() / self.extent
        total = total + c.exposure_pull * (exposure - torch.eye(3, 4)).square().sum()
        if self.guides.guides_photo(index):
            total = total + c.depth_weight * self.guides(index, out.depth[0, ..., 0], out.alpha[0, ..., 0])
        if probe is not None:
            # The gradient with respect to a zero feature is the Gaussian's share of the error image.
            total = total + (out.features[0] * difference.abs().mean(-1, keepdim=True)).sum()
        total.backward()
        value = float(loss.detach())
        if not math.isfinite(value) or out.num_dropped:
            raise ConvergenceError(
                f"Training broke at step {self.step} on {self.photos[index].camera.name}: loss {value}, {out.num_dropped} "
                "Gaussians not finite. Lower the learning rates or check the poses; the last checkpoint is intact."
            )
        self.losses.append(value)
        if probe is not None and probe.grad is not None:
            self.error += probe.grad[: len(gaussians), 0]
        self._apply(rate)

    def _apply(self, rate: float) -> None:
        c = self.config
        self.optimizer.adam.step()
        self.optimizer.adam.zero_grad(set_to_none=True)
        self.exposure_adam.step()
        self.exposure_adam.zero_grad(set_to_none=True)
        if self.frozen is None:
            with torch.no_grad():
                # Only differences between photos are exposure; a common shift belongs to the scene's colours.
                self.exposures -= self.exposures.mean(0) - torch.eye(3, 4)
        if c.noise_strength > 0:
            add_position_noise(self.optimizer.params, rate, strength=c.noise_strength, generator=self.generator)
        self.step += 1
        g = c.growth
        if g.start <= self.step < g.stop_share * c.steps and self.step % g.every == 0:
            progress = min(1.0, self.step / (0.85 * g.stop_share * c.steps))
            target = int(self.start_count + (c.cap - self.start_count) * progress)
            grow(self.optimizer, self.error, target_count=target, config=g, generator=self.generator)
            if not self.is_warm:  # whose rows the caller knows
                self.optimizer.reorder(morton_order(self.optimizer.params["means"]))
            self.error = torch.zeros(len(self.optimizer))

    def recent_loss(self, count: int) -> float:
        return float(np.mean(self.losses[-count:])) if self.losses else float("nan")

    def has_settled(self) -> bool:
        """Early stop: after growth, the mean loss of the last window is hardly below that of the window before."""
        c = self.config
        w = c.stop_window
        if self.step % 100 or self.step < c.growth.stop_share * c.steps + 2 * w or len(self.losses) < 2 * w:
            return False
        before, now = np.mean(self.losses[-2 * w:-w]), np.mean(self.losses[-w:])
        return bool(before - now < c.stop_gain * before)

    def state(self) -> dict[str, Tensor]:
        """Everything for an exact resume."""
        exposure_state = self.exposure_adam.state.get(self.exposures, {})
        return {
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
            self.exposure_adam.state[self.exposures] = moments
        self.error = state["error"].clone()
        self.step, self.start_count = int(state["step"]), int(state["start_count"])
        self.order, self.losses = state["order"].tolist(), state["losses"].tolist()
        self.generator.set_state(state["generator"])

    def result(self) -> TrainResult:
        gaussians = self.optimizer.gaussians().detach()
        for name, tensor in gaussians.tensors().items():
            if not bool(torch.isfinite(tensor).all()):
                raise ConvergenceError(f"Training ended with non-finite {name}; lower the learning rates or check the poses.")
        visible = gaussians.opacities > self.config.growth.dead_opacity
        return TrainResult(
            gaussians[visible], self.exposures.detach().double().numpy(),
            {"steps": float(self.step), "train_loss": self.recent_loss(100), "num_gaussians": float(visible.sum())},
        )


def training_view(photo: TrainingPhoto, divisor: int = 1) -> tuple[Cameras, Tensor, Tensor | None]:
    """Camera [1], uint8 target [H, W, 3] and optional weight [H, W] of a photo, reduced by an integer divisor."""
    rgb, weight, camera = photo.rgb, photo.weight, photo.camera
    if divisor > 1:
        import cv2

        size = (max(1, rgb.shape[1] // divisor), max(1, rgb.shape[0] // divisor))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        weight = None if weight is None else cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
        camera = camera.resized(*size)
    return stack_cameras([camera]), torch.from_numpy(rgb.copy()), None if weight is None else torch.from_numpy(weight.copy())
