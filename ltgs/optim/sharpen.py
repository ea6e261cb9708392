"""An object cut out of the first scene is fitted once more to the first visit's photos of it, with more and finer Gaussians.

The first training spends its Gaussians where most pixels are; a small object gets few. Once it is known to be an object it is
seen again at other places, and its pose is found by how it looks, so that more of them pay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ltgs.core.gaussians import Gaussians, template_radius
from ltgs.core.se3 import quat_to_matrix
from ltgs.optim.growth import GaussianOptimizer
from ltgs.optim.patch import Patch, Target, cut_patch, item_box


@dataclass(frozen=True)
class SharpenConfig:
    """The second fit of an object that was cut out."""

    factor: float = 3.0
    """Gaussians afterwards, relative to before."""
    most: int = 6000
    """At most so many, unless there are more already."""
    steps: int = 400
    """Optimisation steps, one photo each; 0 leaves the object as it was cut out."""
    min_photos: int = 4
    """Fewer photos that show the object would be fitted rather than it."""
    lr_means: float = 0.008
    """First rate of the means relative to the object's radius."""
    lr_quats: float = 0.008
    """First rate of the rotations."""
    lr_log_scales: float = 0.02
    """First rate of the log scales."""
    lr_opacity: float = 0.06
    """First rate of the opacity logits."""
    lr_colour: float = 0.012
    """First rate of the base colour."""
    last_rate: float = 0.1
    """Rates of the last step relative to the first."""
    ssim_weight: float = 0.2
    """Weight of 1 - SSIM in the loss."""
    margin: float = 0.6
    """Border of the picture crop around the object, relative to its radius in the image."""
    min_border_px: int = 16
    """Least border of that crop, pixels."""


def sharpen(
    template: Gaussians,
    world_from_object: Tensor,  # [4, 4]
    frozen: Gaussians,
    photos: Sequence[Target],
    *,
    config: SharpenConfig | None = None,
    backend: str = "auto",
    seed: int = 0,
) -> Gaussians:
    """An object's Gaussians, in its own frame, fitted to photos that show it at one place.

    Args:
        frozen: everything else that these photos show, in the world.

    Returns:
        More Gaussians than before; the template itself where too few photos show it.
    """
    config = config or SharpenConfig()
    patches = _patches(template, world_from_object, frozen, photos, config, backend) if config.steps and len(template) else []
    if len(patches) < config.min_photos:
        return template
    own = split_largest(template, max(len(template), min(config.most, round(config.factor * len(template)))))
    radius = max(template_radius(template), 1e-9)
    rates = {
        "means": config.lr_means * radius, "quats": config.lr_quats, "log_scales": config.lr_log_scales,
        "opacity_logits": config.lr_opacity, "sh_dc": config.lr_colour, "sh_rest": config.lr_colour / 20,
    }
    optimizer = GaussianOptimizer(own, rates)
    generator = torch.Generator().manual_seed(seed)
    for step in range(config.steps):
        for name, rate in rates.items():
            optimizer.set_learning_rate(name, rate * config.last_rate ** (step / config.steps))
        patch = patches[int(torch.randint(len(patches), (1,), generator=generator))]
        patch.loss([optimizer.gaussians().transformed(world_from_object)], config.ssim_weight, backend).backward()
        optimizer.adam.step()
        optimizer.adam.zero_grad(set_to_none=True)
    return optimizer.gaussians().detach()


def _patches(
    template: Gaussians, pose: Tensor, frozen: Gaussians, photos: Sequence[Target], config: SharpenConfig, backend: str
) -> list[Patch]:
    means = template.transformed(pose).means.double().numpy()
    boxes = [(p, item_box(means, p.camera, margin=config.margin, min_border_px=config.min_border_px)) for p in photos]
    return [cut_patch(p, frozen, box=box, backend=backend) for p, box in boxes if box is not None]


def split_largest(gaussians: Gaussians, count: int) -> Gaussians:
    """At least `count` Gaussians: the largest are halved along their longest axis, again and again.

    A half is 1.6 times shorter along that axis than the whole and keeps its opacity, as splits of 3D Gaussian Splatting do.
    """
    while 0 < len(gaussians) < count:
        halved = min(len(gaussians), count - len(gaussians))
        order = torch.argsort(gaussians.scales.max(1).values * gaussians.opacities.sqrt(), descending=True, stable=True)
        parts, rows = gaussians[order[:halved]], torch.arange(halved)
        longest = parts.scales.argmax(1)
        axes = quat_to_matrix(torch.nn.functional.normalize(parts.quats, dim=1))[rows, :, longest]
        offset = 0.55 * axes * parts.scales[rows, longest][:, None]
        log_scales = parts.log_scales.clone()
        log_scales[rows, longest] -= math.log(1.6)
        sides = [Gaussians(parts.means + o, parts.quats, log_scales, parts.opacity_logits, parts.sh) for o in (offset, -offset)]
        gaussians = Gaussians.concatenate([gaussians[order[halved:]], *sides])
    return gaussians
