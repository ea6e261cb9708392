"""The light field of a visit: how much brighter or darker every part of the scene is than at the first visit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix, diags, identity
from scipy.sparse.linalg import cg
from torch import Tensor

from ltgs.change.lift import lift_to_gaussians
from ltgs.core.chronology import SceneState
from ltgs.core.light_field import FACES, LightField, stencil
from ltgs.core.views import ComparedView

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RelightConfig:
    """Fit of a light field."""

    cells: int = 24
    """Grid cells along the scene's longest side (2 % to 98 % of its Gaussians)."""
    smooth: float = 1.0
    """Pull of neighbouring grid points to each other, in units of well seen Gaussians."""
    direction: float = 0.5
    """Pull of the directions of one grid point to each other."""
    ridge: float = 0.02
    """Pull to no difference, where no photo looks."""
    full_weight_px: float = 50.0
    """Pixels at 640x480 from which a Gaussian counts as well seen."""
    min_alpha: float = 0.8
    """Pixels that the known scene covers less than this say nothing."""
    offset: float = 0.02
    """Added to both colours before their ratio is taken, so that noise in the dark does not become light."""
    limit: float = 1.5
    """Largest natural logarithm of a ratio."""
    rounds: int = 2
    """Robust re-weightings."""


def fit_light_field(
    state: SceneState,
    views: Sequence[ComparedView],
    viewpoint: Tensor,  # [3]
    *,
    config: RelightConfig | None = None,
    backend: str = "auto",
) -> LightField | None:
    """Fit the ratio of a visit's light to the first visit's, beyond what each photo's colour affine explains.

    Args:
        state: what is drawn at the visit, in the first visit's light.
        views: the visit's photos compared with that state; changed and saturated pixels say nothing.

    Returns:
        the field, or None if the photos see too little of the scene.
    """
    config = config or RelightConfig()
    seen, ratio, weight = _observed_ratios(state, views, config, backend)
    if int(seen.sum()) < 50:
        return None
    means = state.gaussians.means
    low, high = means.quantile(0.02, dim=0), means.quantile(0.98, dim=0)
    cell = float((high - low).max()) / (config.cells - 1)
    if not cell > 0:
        return None
    shape = tuple(int(n) + 2 for n in ((high - low) / cell).ceil())
    origin = low - 0.5 * cell
    index, share = stencil(origin, cell, shape, means[seen], state.normals(viewpoint)[seen])  # type: ignore[arg-type]
    rows = np.repeat(np.arange(len(ratio)), index.shape[1])
    design = coo_matrix((share.double().numpy().ravel(), (rows, index.numpy().ravel())), shape=(len(ratio), int(np.prod(shape)) * FACES))
    solution = _solve(design.tocsr(), ratio, weight, _pull(shape, config), config.rounds)
    # Half precision is what the scene stores; the field in memory is the stored one.
    log_gain = torch.from_numpy(solution).to(torch.float16).to(torch.float32).reshape(*shape, FACES, 3)
    return LightField(origin, cell, log_gain, viewpoint.to(torch.float32))


def _observed_ratios(
    state: SceneState, views: Sequence[ComparedView], config: RelightConfig, backend: str
) -> tuple[Tensor, Array, Array]:
    """Seen Gaussians [N] bool, the log ratio [M, 3] of what the photos show of them to what is drawn, and weights [M]."""
    images = []
    for view in views:
        inverse = np.linalg.pinv(view.colour_affine[:, :3]).T
        drawn = view.shown / np.maximum(view.gain, 0.1)
        use = (view.alpha > config.min_alpha) & ~view.mask & (view.photo.max(-1) < 0.98) & (view.shown.max(-1) < 0.999)
        both = [(image - view.colour_affine[:, 3]) @ inverse for image in (view.photo, drawn)]
        images.append(np.concatenate([*(b * use[..., None] for b in both), use[..., None]], -1).astype(np.float32))
    sums = lift_to_gaussians(state.gaussians, [v.camera for v in views], images, backend=backend).sum(0)
    weight = sums[:, 6]
    seen = weight > 0.5
    mean = sums[seen, :6].clamp_min(0) / weight[seen, None] + config.offset
    ratio = (mean[:, :3] / mean[:, 3:]).log().clamp(-config.limit, config.limit)
    full = config.full_weight_px * views[0].mask.size / (640 * 480)
    return seen, ratio.double().numpy(), (weight[seen] / full).clamp_max(1).double().numpy()


def _differences(first: NDArray[np.int64], second: NDArray[np.int64], count: int) -> csr_matrix:
    """Squared differences of unknowns as a normal matrix."""
    rows = np.arange(first.size)
    ones = np.ones(first.size)
    edges = coo_matrix(
        (np.r_[ones, -ones], (np.r_[rows, rows], np.r_[first.ravel(), second.ravel()])), shape=(first.size, count)
    ).tocsr()
    return (edges.T @ edges).tocsr()


def _pull(shape: tuple[int, ...], config: RelightConfig) -> csr_matrix:
    """Normal matrix of the smoothness and of the pulls."""
    count = int(np.prod(shape)) * FACES
    ids = np.arange(count).reshape(*shape, FACES)
    space = [_differences(ids[1:], ids[:-1], count), _differences(ids[:, 1:], ids[:, :-1], count),
             _differences(ids[:, :, 1:], ids[:, :, :-1], count)]
    turn = _differences(ids, np.roll(ids, 1, axis=-1), count)
    # The unit is a Gaussian of full weight, of which a photo shows tens per grid cell.
    unit = 1 / 50
    return (unit * (config.smooth * sum(space[1:], space[0]) + config.direction * turn + config.ridge * identity(count))).tocsr()


def _solve(design: csr_matrix, ratio: Array, weight: Array, pull: csr_matrix, rounds: int) -> Array:
    """[U, 3] robust regularised least squares by conjugate gradients."""
    solution = np.zeros((design.shape[1], 3))
    trust = np.ones(len(ratio))
    for _ in range(rounds):
        normal = (design.T @ diags(weight * trust) @ design + pull).tocsr()
        jacobi = diags(1 / normal.diagonal())
        for channel in range(3):
            right = design.T @ (weight * trust * ratio[:, channel])
            solution[:, channel], _ = cg(normal, right, x0=solution[:, channel], rtol=1e-3, M=jacobi, maxiter=300)
        residual = np.abs(design @ solution - ratio).mean(1)
        trust = 1 / (1 + (residual / (2.5 * np.median(residual) + 1e-3)) ** 2) ** 2
    return solution
