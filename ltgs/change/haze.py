"""Haze before the photos of a later visit: what stands in their way and hides what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ltgs.change.compare import Shot
from ltgs.change.harmonise import HarmoniseConfig, fit_colour
from ltgs.core.gaussians import Gaussians
from ltgs.render.haze import NearConfig, Unveiled, unveil


@dataclass(frozen=True)
class HazeConfig(NearConfig):
    """When something before a photo is haze."""

    improved: float = 0.8
    """The median error of the pixels that it alters falls to this share or less without it: what was known behind it is what the photo
    shows. In 168 later photos of fourteen first visits four had 0.36 to 0.67, and no other one had anything in its way."""


def find_haze(
    gaussians: Gaussians,
    weight: Tensor,  # [N] pixels that each Gaussian covers in all photos of the first visit; inf where it is no haze for sure
    shots: Sequence[Shot],
    *,
    harmonise: HarmoniseConfig | None = None,
    config: HazeConfig | None = None,
    backend: str = "auto",
) -> Tensor:
    """[N] bool: the Gaussians that are haze before one of the photos.

    They cover much of a photo although the first visit's photos hardly saw them, and without them the scene explains the photo
    better. Content that is seen from near for the first time leaves a hole, or a worse picture, and is none.
    """
    config = config or HazeConfig()
    haze = torch.zeros(len(gaussians), dtype=torch.bool)
    for shot in shots:
        found = unveil(gaussians, weight, shot.camera, gone=haze, config=config, backend=backend)
        if found is not None and _is_better(found, shot, harmonise, config):
            haze |= found.near
    return haze


def _is_better(found: Unveiled, shot: Shot, harmonise: HarmoniseConfig | None, config: HazeConfig) -> bool:
    """Whether the picture without what is in the way explains a photo better, each under the light that suits it best."""
    errors = []
    for rgb, alpha in (found.veiled, found.clear):
        fit = fit_colour(rgb, shot.photo, alpha > config.solid_alpha, config=harmonise)
        errors.append(float(np.median(np.abs(fit.apply(rgb) - shot.photo).mean(-1)[found.known])))
    return errors[1] <= config.improved * errors[0]
