"""What is believed of an object's pose: the best one, how well it explains the photos, and how far it may be off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.se3 import se3_exp, so3_log
from ltgs.objects.backing import Model
from ltgs.objects.crops import CostConfig, Crop
from ltgs.render import render

Array = NDArray[np.float64]


@dataclass(frozen=True)
class UncertaintyConfig:
    """Covariances of poses."""

    systematic: tuple[float, float] = (0.02, 0.03)
    """Standard deviations of what the residuals cannot show, because the template itself is a little wrong: translation
    relative to the object's radius, and rotation in radians."""
    guessed: float = 0.15
    """Standard deviation of the translation, relative to the object's radius, of an object that may be turned the wrong way round: one
    seen from one side has its middle elsewhere. Such objects were off by .02 to .35."""
    tie_scale: float = 0.06
    """Relative difference of costs over which the chance of a refined pose falls by e: templates err by about so much."""


@dataclass(frozen=True)
class PoseHypothesis:
    """One registration of a template to an instance."""

    world_from_object: Array
    """[4, 4]"""
    cost: float
    """Mean robust cost per crop pixel with the object drawn; comparable with `cost_empty`."""
    cost_empty: float
    """The same crops with nothing drawn."""
    covariance: Array
    """[6, 6] of (translation, rotation vector), Gauss-Newton."""
    ambiguous: bool
    """True if a clearly different rotation explains the photos as well: a symmetric object or too few pixels."""
    ranked: tuple[tuple[Array, float], ...] = ()
    """The refined poses [4, 4], this one first, and the costs by which they were ranked: guessed sides count less there."""
    unseen: float = 0.0
    """Share of its picture that shows sides of the object which no photo had seen before; 0 before turns were compared."""

    @property
    def gain(self) -> float:
        """Share of the cost that drawing the object explains, <= 1."""
        return 1 - self.cost / max(self.cost_empty, 1e-12)


def moved_by(poses: Tensor, xi: Tensor) -> Tensor:
    """[P, 4, 4] poses turned about the object's own centre and shifted in the world by [P, 6]: the two stay decoupled."""
    delta = se3_exp(xi)
    moved = torch.cat([delta[:, :3, :3] @ poses[:, :3, :3], (poses[:, :3, 3] + delta[:, :3, 3])[..., None]], 2)
    return torch.cat([moved, poses[:, 3:]], 1)


def covariance_at(
    model: Model, pose: Array, crops: Sequence[Crop], cost: CostConfig, config: UncertaintyConfig, backend: str
) -> Array:
    """[6, 6] inverse Gauss-Newton Hessian from numeric differences of the composed images, scaled by the residual variance.

    The template's own error is added.
    """
    radius = max(model.radius, 1e-9)
    steps = np.array([0.01 * radius] * 3 + [0.01] * 3)
    xi = torch.cat([torch.zeros(1, 6), torch.diag(torch.as_tensor(steps, dtype=torch.float32))])
    variants = moved_by(torch.as_tensor(pose, dtype=torch.float32).expand(7, 4, 4), xi)
    with torch.no_grad():
        rows = []
        for crop in crops:
            out = render(model.gaussians, crop.cameras(variants), backend=backend)  # type: ignore[arg-type]
            lit = (out.rgb @ crop.light[:, :3].T + out.alpha * crop.light[:, 3]) * crop.gain
            shown = (lit + (1 - out.alpha) * crop.shown) * crop.weight[..., None]
            photo = (crop.photo * crop.weight[..., None]).reshape(-1)
            rows.append((shown.reshape(7, -1), photo, out.alpha[0].expand(-1, -1, 3)))
    jacobian = np.concatenate([((r[0][1:] - r[0][:1]).numpy() / steps[:, None]) for r in rows], 1)
    residual = np.concatenate([(r[0][0] - r[1]).numpy() for r in rows])
    covered = np.concatenate([(r[2].reshape(-1) > 0.5).numpy() for r in rows])
    variance = float(np.median(residual[covered] ** 2)) / 0.455 if covered.any() else cost.robust**2
    hessian = jacobian @ jacobian.T
    # Neighbouring pixels err together; nine pixels are counted as one independent measurement.
    scale = np.diag(1 / np.sqrt(np.maximum(np.diag(hessian), 1e-12)))
    inverse = scale @ np.linalg.pinv(scale @ hessian @ scale, rcond=1e-6) @ scale
    own = np.diag([config.systematic[0] * radius] * 3 + [config.systematic[1]] * 3) ** 2
    return 9 * variance * inverse + own


def spread_of_ties(ranked: Sequence[tuple[Array, float]], radius: float, config: UncertaintyConfig) -> Array:
    """[6, 6] what other poses add to the covariance of the best: the chance of each falls off with its cost.

    Args:
        radius: the object's, scene units, if it may have its middle elsewhere because only one side of it is known; else 0.
    """
    pose, cost = ranked[0]
    weights = [float(np.exp(-(c / max(cost, 1e-12) - 1) / config.tie_scale)) for _, c in ranked[1:]]
    spread = np.zeros((6, 6))
    for (other, _), weight in zip(ranked[1:], weights, strict=True):
        off = np.concatenate([other[:3, 3] - pose[:3, 3], so3_log(other[:3, :3] @ pose[:3, :3].T)])
        spread += weight / (1 + sum(weights)) * np.outer(off, off)
    spread[:3, :3] += min(1.0, float(np.trace(spread[3:, 3:]))) * (config.guessed * radius) ** 2 * np.eye(3)
    return spread


def with_guessed_rotation(found: PoseHypothesis, radius: float, *, config: UncertaintyConfig | None = None) -> PoseHypothesis:
    """A registration that says nothing about the rotation: its covariance holds any turn."""
    config = config or UncertaintyConfig()
    wide = np.diag([(config.guessed * radius) ** 2] * 3 + [np.pi**2 / 3] * 3)
    return replace(found, covariance=found.covariance + wide)
