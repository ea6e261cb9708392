"""Places that the first visit hardly saw, completed from a later visit's photos: seeds and blurred Gaussians fitted together.

Half of the steps look at first-visit photos, so that what they do show of these places stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.optim.growth import GaussianOptimizer
from ltgs.optim.patch import Patch, Target, cut_patch


@dataclass(frozen=True)
class CompleteConfig:
    """Completion of hardly seen places."""

    max_views: float = 2.0
    """Background seen by so many photos of the first visit or fewer is fitted again, and only where so few saw the place are there
    seeds."""
    min_seen_px: float = 4.0
    """Pixels of the new photos that a Gaussian must cover for that, at 640x480."""
    open_alpha: float = 0.75
    """Pixels covered less than this are open and get seeds."""
    poor_error: float = 0.06
    """Colour difference from which hardly known pixels get seeds as well."""
    min_share: float = 0.003
    """Least share of open pixels of the visit's photos; below, nothing is done."""
    seed_step: int = 3
    """Every n-th open pixel seeds a Gaussian, along both axes."""
    steps: int = 200
    """Optimisation steps."""
    replay_photos: int = 24
    """Most first-visit photos looked at, those first that show most of it."""
    empty_photos: float = 2.0
    """First-visit photos that must have looked through a seed's place to move it further back."""
    lr_means: float = 0.03
    """Rate of the means relative to the median size of the Gaussians."""
    lr_log_scales: float = 0.01
    """Rate of the log scales."""
    lr_opacity: float = 0.03
    """Rate of the opacity logits."""
    lr_colour: float = 0.01
    """Rate of the colours."""
    dead_opacity: float = 0.02
    """Seeds fainter than this at the end are dropped."""
    ssim_weight: float = 0.2
    """Weight of 1 - SSIM in the loss."""


def complete_places(
    own: Gaussians,
    frozen_now: Gaussians,
    now: Sequence[Target],
    frozen_first: Gaussians,
    first: Sequence[Target],
    *,
    num_known: int,
    config: CompleteConfig | None = None,
    backend: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
) -> Gaussians:
    """Fit some Gaussians to a visit's photos and to the first visit's.

    Args:
        own: what is fitted; the first `num_known` rows belong to the first visit and are never dropped.
        frozen_now, frozen_first: everything else that is drawn at this visit and at the first one.
    """
    config = config or CompleteConfig()
    generator = torch.Generator().manual_seed(seed)
    fresh = _patches(now, frozen_now, own, backend)
    old = _patches(first, frozen_first, own, backend)[: config.replay_photos]
    if not fresh:
        return own
    size = float(own.scales.median())
    optimizer = GaussianOptimizer(own, {
        "means": config.lr_means * size, "quats": 0.005, "log_scales": config.lr_log_scales,
        "opacity_logits": config.lr_opacity, "sh_dc": config.lr_colour, "sh_rest": config.lr_colour / 20,
    })
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer.adam, config.steps, eta_min=0.0)
    for step in range(config.steps):
        pool = old if old and step % 2 else fresh
        patch = pool[int(torch.randint(len(pool), (1,), generator=generator))]
        loss = patch.loss([optimizer.gaussians()], config.ssim_weight, backend)
        loss.backward()
        optimizer.adam.step()
        optimizer.adam.zero_grad(set_to_none=True)
        decay.step()
        if step % 40 == 0:
            progress(ProgressEvent("complete", step, config.steps, figures={"loss": float(loss.detach())}))
    fitted = optimizer.gaussians().detach()
    alive = fitted.opacities > config.dead_opacity
    alive[:num_known] = True
    return fitted[alive]


def _patches(targets: Sequence[Target], frozen: Gaussians, own: Gaussians, backend: str) -> list[Patch]:
    """The photos that show some Gaussians, those that show most of them first."""
    patches = [cut_patch(t, frozen, around=own, backend=backend) for t in targets]
    seen = [(int(p.region.sum()), p) for p in patches if p.region is not None]
    return [p for area, p in sorted(seen, key=lambda item: -item[0]) if area]
