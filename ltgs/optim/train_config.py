"""The settings of a training run and the learning rates that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ltgs.optim.growth import GrowthConfig
from ltgs.optim.haze import ClearConfig
from ltgs.optim.initialize import InitConfig

FULL_STEPS = 30_000
"""Steps that the learning rates of 3DGS were made for."""
MAX_BOOST = 6.0
"""Largest factor of the rates in shorter runs: that of 800 steps, the shortest run it was measured for."""


@dataclass(frozen=True)
class TrainConfig:
    """First-visit training. Learning rates are those of 3DGS for 30,000 steps where not said otherwise; see `rate_power`."""

    steps: int = 3000
    """Optimisation steps."""
    batch: int = 1
    """Photos of a step in each process; their losses are averaged."""
    device: str = "auto"
    """auto (CUDA where there is a device and gsplat, else cpu), cpu or cuda."""
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
    haze: ClearConfig = field(default_factory=ClearConfig)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1 photo, got {self.batch}.")


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
