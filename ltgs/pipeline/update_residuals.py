"""What residual to expect of every Gaussian of a state, so that a change must exceed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.chronology import BACKGROUND_ID, Chronology
from ltgs.core.scene import Scene
from ltgs.core.views import ComparedView
from ltgs.imaging.cues import residual_cues
from ltgs.optim.residual import MIN_WEIGHT, moments
from ltgs.render.lift import lift_to_gaussians

UNSURE = torch.tensor([[0.04, 0.30, 0.04**2, 0.25**2]])
"""Mean and variance of the colour and structure residual expected of content that was built from few photos or moved."""
UNMEASURED = torch.tensor([[0.015, 0.10, 0.01**2, 0.08**2]])
"""The same for background of a scene that was stored without residual statistics; typical of rooms/desk."""


def expected_residuals(scene: Scene, chronology: Chronology, ids: Tensor, *, sure_views: float, template_doubt: float) -> Tensor:
    """[N, 4] means and variances of the residual cues for a state's Gaussians.

    What few photos saw is known less well than its own residual says.

    Args:
        ids: [N] object ids of the state's Gaussians. sure_views: what so many photos saw, or fewer, is hardly known.
        template_doubt: share of `UNSURE` that is added to the residual of a template that so few photos saw.
    """
    out = UNSURE.repeat(len(ids), 1)
    out[ids == BACKGROUND_ID] = UNMEASURED
    data = scene.side_data.get("expected_residual")
    if data is not None:
        share = _doubt(data["num_views"][:, None], sure_views)
        known = torch.cat([data["mean"], data["variance"]], 1)
        out[ids == BACKGROUND_ID] = (known + share * UNSURE)[chronology.static_mask]
    for k, template in chronology.templates.items():
        own = ids == k
        if template.residual is not None and own.any():
            share = template_doubt * _doubt(template.residual[:, 4:], sure_views)
            out[own] = template.residual[:, :4] + share * UNSURE
    return out


def _doubt(photos: Tensor, sure_views: float) -> Tensor:
    """[N, 1] how little is known of what so many photos saw, 1 down to 0."""
    return (sure_views / photos.clamp_min(1)).clamp(max=1.0).square()


def with_residuals(chronology: Chronology, views: Sequence[ComparedView], *, backend: str = "auto") -> Chronology:
    """The chronology with the residual of every template that the newest visit's photos show and whose residual is not known.

    Args:
        views: those photos compared with the chronology's last time, in its light.
    """
    time = chronology.num_times - 1
    asked = [k for k in chronology.present_ids(time) if chronology.templates[k].residual is None]
    if not asked:
        return chronology
    state = chronology.state_at(time)
    sums = lift_to_gaussians(state.gaussians, [v.camera for v in views], [_unchanged_cues(v) for v in views], backend=backend)
    mean, variance = moments(sums[..., :5].sum(0))
    photos = (sums[..., 4] > MIN_WEIGHT).sum(0)[:, None].float()
    # Rounded as it is stored, so that an update after loading is the same.
    residual = torch.cat([mean, variance, photos], 1).half().float()
    templates = dict(chronology.templates)
    for k in asked:
        own = state.object_ids == k
        if photos[own].any():
            templates[k] = replace(templates[k], residual=residual[own])
    return replace(chronology, templates=templates)


def _unchanged_cues(view: ComparedView) -> NDArray[np.float32]:
    """[H, W, 5] cues, their squares and 1, all 0 where the photo still contradicts the scene."""
    cues = residual_cues(torch.from_numpy(view.shown), torch.from_numpy(np.ascontiguousarray(view.photo))).numpy()
    return np.concatenate([cues, cues * cues, np.ones_like(cues[..., :1])], -1) * ~view.mask[..., None]
