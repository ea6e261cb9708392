"""Completion of what the first visit hardly saw: which pixels are open, what is fitted again, and the surface that results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.chronology import BACKGROUND_ID, Chronology, ObjectTrack, Presence, Template
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import Progress, silent
from ltgs.core.views import ComparedView
from ltgs.objects.templates import BuildConfig, revealed_surface
from ltgs.optim.complete import CompleteConfig, complete_places
from ltgs.optim.patch import Target
from ltgs.render.lift import pixels_covered, splat_features

Array = NDArray[np.float64]


def complete_visit(
    chronology: Chronology,
    views: Sequence[ComparedView],
    first: Sequence[Target],
    num_views: Tensor | None,
    looked_through: Callable[[Array], NDArray[np.int64]],
    seen: Callable[[Array], NDArray[np.int64]],
    *,
    config: CompleteConfig,
    build: BuildConfig,
    backend: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
) -> Chronology:
    """Add a surface where the newest visit's photos show what no photo before showed well.

    Args:
        views: the visit's photos compared with the chronology's last time.
        first: the first visit's photos.
        num_views: [N] photos of the first visit that saw each background Gaussian; None = not recorded.
        looked_through: points [M, 3] to the number of first-visit photos that saw something behind them [M].
        seen: points [M, 3] to the number of first-visit photos that saw them or something behind them [M].

    Returns:
        the chronology with one surface more; at earlier times it is drawn and its presence is unknown.
    """
    time = chronology.num_times - 1
    state = chronology.state_at(time)
    poor = _hardly_seen(chronology, state.object_ids, num_views, config)
    masks, shares = [], []
    for view in views:
        share, alpha = splat_features(state.gaussians, poor.float()[:, None], view.camera, backend=backend)
        wrong = np.abs(view.shown - view.photo).mean(-1) > config.poor_error
        masks.append((alpha < config.open_alpha) | ((share[..., 0] > 0.5) & wrong))
        shares.append(float(masks[-1].mean()))
    if np.mean(shares) < config.min_share:
        return chronology
    seeds = revealed_surface(
        views, masks, sh_degree=0, config=replace(build, surface_step=config.seed_step),
        empty=lambda points: looked_through(points) >= config.empty_photos,
    )
    if seeds is None:
        return chronology
    # What more photos saw is known: a gap in front of it is no hardly seen place, and a patch there hazes all those views.
    seeds = seeds[torch.from_numpy(seen(seeds.means.double().numpy()) <= config.max_views)]
    if len(seeds) * config.seed_step**2 < config.min_share * sum(m.size for m in masks):
        return chronology
    lifted = _to_fit_again(state.gaussians, poor, views, config, backend)
    rows = lifted.nonzero()[:, 0]
    own = Gaussians.concatenate([state.gaussians[rows].with_sh_degree(0), seeds]).detach()
    start = chronology.state_at(0).gaussians.detach()
    stays = torch.ones(len(start), dtype=torch.bool)
    stays[rows] = False
    now = [Target.of_view(v) for v in views]
    fitted = complete_places(
        own, state.gaussians[~lifted].detach(), now, start[stays], first, num_known=len(rows), config=config, backend=backend,
        seed=seed, progress=progress,
    )
    # Only static background is fitted again, and that comes first in every state.
    return _with_surface(chronology, fitted, chronology.static_mask.nonzero()[:, 0][rows])


def _hardly_seen(chronology: Chronology, ids: Tensor, num_views: Tensor | None, config: CompleteConfig) -> Tensor:
    """[N] bool over a state's Gaussians: static background that few photos of the first visit saw."""
    poor = torch.zeros(len(ids), dtype=torch.bool)
    if num_views is not None:
        poor[ids == BACKGROUND_ID] = (num_views <= config.max_views)[chronology.static_mask]
    return poor


def _to_fit_again(
    gaussians: Gaussians, poor: Tensor, views: Sequence[ComparedView], config: CompleteConfig, backend: str
) -> Tensor:
    """[N] bool: hardly seen Gaussians that the new photos do see."""
    weight = pixels_covered(gaussians, [v.camera for v in views], backend=backend).sum(0)
    return poor & (weight > config.min_seen_px * views[0].mask.size / (640 * 480))


def _with_surface(chronology: Chronology, fitted: Gaussians, lifted: Tensor) -> Chronology:
    """The chronology with a surface that takes the place of some background Gaussians."""
    time = chronology.num_times - 1
    k = chronology.next_id
    template = Template(k, "surface", fitted, time, members=lifted)
    track = ObjectTrack.start(k, time, np.eye(4), before=Presence.UNKNOWN)
    return replace(
        chronology, lifted=torch.cat([chronology.lifted, lifted]).unique(),
        templates={**chronology.templates, k: template}, tracks={**chronology.tracks, k: track},
    )
