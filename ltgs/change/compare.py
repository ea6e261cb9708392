"""Put captures next to renders of a scene: light, cues, score and mask for every photo of a visit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.change.earlier import EarlierConfig, Witness, cap_cues
from ltgs.change.evidence import EvidenceConfig, agreement, change_mask, change_score
from ltgs.change.harmonise import ColourFit, HarmoniseConfig, fit_colour
from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.imaging.cues import residual_cues
from ltgs.render import render


@dataclass(frozen=True)
class CompareConfig:
    """Comparison of captures and renders."""

    harmonise: HarmoniseConfig = field(default_factory=HarmoniseConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    earlier: EarlierConfig = field(default_factory=EarlierConfig)
    light_rounds: int = 2
    """Fits of the light; from the second on, pixels found changed are left out."""


@dataclass(frozen=True)
class Shot:
    """One localised photo of the visit."""

    camera: Camera
    photo: NDArray[np.float32]
    """[H, W, 3] in [0, 1]"""


def render_state(
    gaussians: Gaussians, expected: Tensor, camera: Camera, *, backend: str = "auto"
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Render colour, alpha, depth and the expected residual statistics (`expected` [N, 4]: means, variances) at a camera."""
    with torch.no_grad():
        out = render(gaussians, stack_cameras([camera]), backend=backend, features=expected)  # type: ignore[arg-type]
    alpha = out.alpha[0]
    statistics = out.features[0] / alpha.clamp_min(1e-3)
    return out.rgb[0].numpy(), alpha[..., 0].numpy(), out.depth[0, ..., 0].numpy(), statistics.numpy()


def compare(
    gaussians: Gaussians,
    expected: Tensor,  # [N, 4] means and variances of the colour and structure cue
    shots: Sequence[Shot],
    *,
    fits: Sequence[ColourFit] | None = None,
    witnesses: Sequence[Witness] | None = None,
    rescore: Callable[[ComparedView], ComparedView] | None = None,
    config: CompareConfig | None = None,
    backend: str = "auto",
) -> tuple[list[ComparedView], list[ColourFit]]:
    """Compare every photo with the render of a scene state.

    Args:
        fits: colour fits of an earlier call for the same photos; given, the light is not fitted again, so that two scene
            hypotheses are judged under the same light.
        witnesses: what the first visit's photos say, one per photo; where they agree with a photo it shows no change.
        rescore: what else has a say in the finished views' scores and masks (see `change.learned`).
    """
    config = config or CompareConfig()
    views, used = [], []
    for index, shot in enumerate(shots):
        seen = witnesses[index] if witnesses is not None else None
        rgb, alpha, depth, statistics = render_state(gaussians, expected, shot.camera, backend=backend)
        if fits is not None:
            fit = fits[index]
            view = _compare_one(shot, rgb, alpha, depth, statistics, fit, config, seen)
        else:
            changed = np.zeros(alpha.shape, bool)
            for _ in range(max(1, config.light_rounds)):
                fit = fit_colour(rgb, shot.photo, (alpha > 0.9) & ~changed, config=config.harmonise)
                view = _compare_one(shot, rgb, alpha, depth, statistics, fit, config, seen)
                changed = view.mask
        views.append(rescore(view) if rescore else view)
        used.append(fit)
    return views, used


def _compare_one(
    shot: Shot, rgb: NDArray, alpha: NDArray, depth: NDArray, statistics: NDArray, fit: ColourFit, config: CompareConfig,
    seen: Witness | None,
) -> ComparedView:
    shown = fit.apply(np.clip(rgb, 0, 1).astype(np.float32))
    cues = residual_cues(torch.from_numpy(shown), torch.from_numpy(shot.photo)).numpy()
    if seen is not None:
        cues = cap_cues(cues, depth, seen, config.earlier)
    score = change_score(
        cues, statistics[..., :2], np.sqrt(np.maximum(statistics[..., 2:4], 0)), alpha, config=config.evidence
    )
    return ComparedView(
        shot.camera, shot.photo, shown, fit.affine, fit.gain, alpha, depth, score,
        change_mask(score, config=config.evidence), agreement(cues, alpha, config=config.evidence), fit.noise,
    )


def with_mask(view: ComparedView, mask: NDArray[np.bool_]) -> ComparedView:
    """The same view with another mask."""
    return replace(view, mask=mask)
