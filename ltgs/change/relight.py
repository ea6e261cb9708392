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

from ltgs.core.chronology import SceneState
from ltgs.core.light_detail import LightDetail, corners
from ltgs.core.light_field import FACES, LightField, stencil
from ltgs.core.views import ComparedView
from ltgs.render.lift import lift_to_gaussians

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
    fine: int = 8
    """Cells of the fine light along one cell of the field; 0 = no fine light."""
    fine_smooth: float = 0.005
    """Pull of neighbouring points of the fine light to each other, in units of well seen Gaussians."""
    fine_ridge: float = 0.005
    """Pull of the fine light to no difference, in the same unit."""
    fine_least: float = 0.02
    """Fine light weaker than this natural logarithm is not stored."""


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
    detail = None
    if config.fine:
        left = (ratio - design @ solution).mean(1, keepdims=True)
        detail = _fit_detail(means[seen], left, weight, origin, cell, shape, config)  # type: ignore[arg-type]
    return LightField(origin, cell, _as_stored(solution).reshape(*shape, FACES, 3), viewpoint.to(torch.float32), detail)


def _as_stored(values: Array) -> Tensor:
    """Half precision is what the scene stores; the field in memory is the stored one."""
    return torch.from_numpy(values).to(torch.float16).to(torch.float32)


def _fit_detail(
    means: Tensor, ratio: Array, weight: Array, origin: Tensor, cell: float, shape: tuple[int, int, int], config: RelightConfig
) -> LightDetail:
    """Fine light from what the coarse field leaves of the log brightness ratios [M, 1] of Gaussians at means [M, 3]."""
    fine = cell / config.fine
    size = tuple((n - 1) * config.fine + 1 for n in shape)
    flat, share = corners(origin, fine, size, means)  # type: ignore[arg-type]
    points, column = np.unique(flat.numpy(), return_inverse=True)
    rows = np.repeat(np.arange(len(ratio)), 8)
    design = coo_matrix((share.double().numpy().ravel(), (rows, column.ravel())), shape=(len(ratio), len(points))).tocsr()
    solution = _solve(design, ratio, weight, _fine_pull(points, size, config), 1)[:, 0]  # type: ignore[arg-type]
    strong = np.abs(solution) > config.fine_least
    index, log_gain = torch.from_numpy(points[strong]), _as_stored(solution[strong])
    return LightDetail(origin, fine, size, index, log_gain)  # type: ignore[arg-type]


def _fine_pull(points: NDArray[np.int64], size: tuple[int, int, int], config: RelightConfig) -> csr_matrix:
    """Normal matrix of the pulls of fine grid points (flat positions, ascending) to their neighbours and to 0."""
    first, second = [], []
    for axis, stride in enumerate((size[1] * size[2], size[2], 1)):
        at = np.minimum(np.searchsorted(points, points + stride), len(points) - 1)
        last = points // stride % size[axis] == size[axis] - 1
        here = np.flatnonzero((points[at] == points + stride) & ~last)
        first.append(at[here])
        second.append(here)
    edges = _differences(np.concatenate(first), np.concatenate(second), len(points))
    return (config.fine_smooth * edges + config.fine_ridge * identity(len(points))).tocsr()


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
    """[U, C] robust regularised least squares for ratios [M, C] by conjugate gradients."""
    solution = np.zeros((design.shape[1], ratio.shape[1]))
    trust = np.ones(len(ratio))
    for _ in range(rounds):
        normal = (design.T @ diags(weight * trust) @ design + pull).tocsr()
        jacobi = diags(1 / normal.diagonal())
        for channel in range(ratio.shape[1]):
            right = design.T @ (weight * trust * ratio[:, channel])
            solution[:, channel], _ = cg(normal, right, x0=solution[:, channel], rtol=1e-3, M=jacobi, maxiter=300)
        residual = np.abs(design @ solution - ratio).mean(1)
        trust = 1 / (1 + (residual / (2.5 * np.median(residual) + 1e-3)) ** 2) ** 2
    return solution
