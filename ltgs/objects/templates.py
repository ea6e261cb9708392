"""Templates: objects cut out of the known scene, built anew from a few photos, and patches of surface newly revealed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, Delaunay, cKDTree
from torch import Tensor

from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import make_rigid
from ltgs.core.sh import rgb_to_dc
from ltgs.core.views import ComparedView
from ltgs.objects.hull import HullInstance, in_image, project, unproject

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BuildConfig:
    """Seeds of new templates and surfaces."""

    max_seeds: int = 4000
    """At most this many Gaussians per new object before refinement."""
    voxels: int = 32
    """Cells along the diagonal of a new object's hull, one seed each."""
    grow_gap: float = 2.0
    """Cells away from a known template's Gaussians from which the hull shows a side of it that was not known."""
    grow_slack: float = 0.1
    """How far outside the object's box such a side may lie, relative to its longest side."""
    seed_opacity: float = 0.5
    """Starting opacity of a seed."""
    measured_opacity: float = 0.8
    """Starting opacity of a seed whose place was measured."""
    surface_step: int = 2
    """Every n-th pixel of a revealed patch seeds one Gaussian."""
    min_surface: float = 2e-5
    """Revealed patches smaller than this share of the image are ignored."""
    push: float = 1.15
    """Factor by which the depth of a patch grows while it lies where nothing is."""
    push_steps: int = 8
    """Most such steps; what is not through by then is left out."""


class MeasuredSurface(Protocol):
    """Points on a new object's surface that its photos measure."""

    @property
    def points(self) -> Array:
        """[M, 3] scene units."""
        ...

    @property
    def colours(self) -> Array:
        """[M, 3] in [0, 1], in the first visit's light."""
        ...

    @property
    def spacing(self) -> float:
        """Distance of neighbouring points, scene units."""
        ...

    @property
    def rest(self) -> NDArray[np.bool_]:
        """[H] samples of the hull that no point replaces and no photo looked through."""
        ...


Measure = Callable[[HullInstance, Array], MeasuredSurface | None]
"""A new object and samples [H, 3] of its visual hull to what the photos measure of it; None = nothing that can be trusted."""


def object_frame(points: Array) -> Array:
    """[4, 4] world_from_object of a new object: origin at the middle of its box, axes of the world."""
    low, high = np.quantile(points, 0.02, axis=0), np.quantile(points, 0.98, axis=0)
    return make_rigid(np.eye(3), (low + high) / 2)


def framed(own: Gaussians) -> tuple[Gaussians, Array]:
    """An object's Gaussians in the world brought to a new frame of its own, and world_from_object."""
    world_from_object = object_frame(own.means.double().numpy())
    return own.transformed(torch.as_tensor(np.linalg.inv(world_from_object), dtype=torch.float32)), world_from_object


def _seed_gaussians(points: Array, colours: Array, spacing: Array, opacity: float, sh_degree: int) -> Gaussians:
    n = len(points)
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    sh = torch.zeros(n, (sh_degree + 1) ** 2, 3)
    sh[:, 0] = rgb_to_dc(torch.as_tensor(colours, dtype=torch.float32))
    return Gaussians(
        torch.as_tensor(points, dtype=torch.float32), quats,
        torch.as_tensor(np.log(np.maximum(spacing, 1e-9)), dtype=torch.float32)[:, None].repeat(1, 3),
        torch.full((n,), float(np.log(opacity / (1 - opacity)))), sh,
    )


def build_template(
    instance: HullInstance,
    views: Sequence[ComparedView],
    *,
    sh_degree: int,
    config: BuildConfig | None = None,
    rng: np.random.Generator,
    measure: Measure | None = None,
) -> tuple[Gaussians, Array]:
    """Seed a new object from its visual hull: samples thinned to a voxel grid, coloured by the views that see them in front.

    Args:
        measure: asked for points on the object's surface, which take the place of the hull where there are any.

    Returns:
        Gaussians in the object's frame (colours in the first visit's light), and world_from_object.
    """
    config = config or BuildConfig()
    # The whole hull, not its shell: seen from few sides it is long, and its front lies before the object.
    points, colours, voxel = _hull_samples(instance, views, config, rng, surface_only=False)
    found = measure(instance, points) if measure is not None else None
    rest = np.ones(len(points), bool) if found is None else found.rest
    seeds = _seed_gaussians(points[rest], colours[rest], np.full(int(rest.sum()), 0.6 * voxel), config.seed_opacity, sh_degree)
    world_from_object = object_frame(instance.points)
    if found is not None:
        spacing = np.full(len(found.points), 0.7 * found.spacing)
        surface = _seed_gaussians(found.points, found.colours, spacing, config.measured_opacity, sh_degree)
        seeds = Gaussians.concatenate([surface, seeds])
        world_from_object = object_frame(seeds.means.double().numpy())
    return seeds.transformed(torch.as_tensor(np.linalg.inv(world_from_object), dtype=torch.float32)), world_from_object


def grow_template(
    template: Gaussians,
    world_from_object: Array,  # [4, 4]
    instance: HullInstance,
    views: Sequence[ComparedView],
    *,
    extent: Gaussians,
    config: BuildConfig | None = None,
    rng: np.random.Generator,
) -> Gaussians:
    """A template with seeds where this visit's photos show sides of it that no earlier photo saw.

    Args:
        extent: the object as far as it may reach, in its own frame, for instance with its guessed back.

    Returns:
        the template, the seeds appended, in the object's frame.
    """
    config = config or BuildConfig()
    points, colours, voxel = _hull_samples(instance, views, config, rng, surface_only=True)
    solid = template.means[template.opacities > 0.1].double().numpy()
    local = (points - world_from_object[:3, 3]) @ world_from_object[:3, :3]
    if len(solid) == 0 or len(local) == 0:
        return template
    fresh = cKDTree(solid).query(local)[0] > config.grow_gap * voxel
    # What lies outside of the object's box is the hull's excess rather than a new side.
    whole = extent.means.double().numpy()
    low, high = np.quantile(whole, 0.01, axis=0), np.quantile(whole, 0.99, axis=0)
    slack = config.grow_slack * (high - low).max()
    fresh &= ((local > low - slack) & (local < high + slack)).all(1)
    if not fresh.any():
        return template
    seeds = _seed_gaussians(
        local[fresh], colours[fresh], np.full(int(fresh.sum()), 0.6 * voxel), config.seed_opacity, template.sh_degree
    )
    return Gaussians.concatenate([template, seeds])


def _hull_samples(
    instance: HullInstance, views: Sequence[ComparedView], config: BuildConfig, rng: np.random.Generator, *, surface_only: bool
) -> tuple[Array, Array, float]:
    """The hull, or its surface as the photos see it: points [M, 3], colours in the first visit's light [M, 3], spacing."""
    points = instance.points
    size = np.linalg.norm(np.quantile(points, 0.98, axis=0) - np.quantile(points, 0.02, axis=0))
    voxel = max(float(size) / config.voxels, 1e-9)
    _, first = np.unique(np.floor(points / voxel).astype(np.int64), axis=0, return_index=True)
    points = points[np.sort(first)]
    colour_sum, weight_sum, front_in = np.zeros((len(points), 3)), np.zeros(len(points)), np.zeros(len(points), bool)
    for view, mask in zip(views, instance.pixels, strict=True):
        uv, depth = project(view.camera, points)
        shown = in_image(view.camera, uv, depth)
        if not shown.any():
            continue
        columns, rows, depth = uv[shown, 0].astype(int), uv[shown, 1].astype(int), depth[shown]
        front = np.full(mask.shape, np.inf)
        np.minimum.at(front, (rows, columns), depth)
        # The samples are sparse; the nearest one around a pixel hides what is behind it.
        spacing_px = voxel * view.camera.K[0, 0] / float(np.median(depth))
        reach = 2 * int(np.clip(0.5 * spacing_px, 1, 0.02 * max(mask.shape))) + 1
        near = depth <= cv2.erode(front, np.ones((reach, reach))).astype(float)[rows, columns] + 1.5 * voxel
        inside = mask[rows, columns]
        front_in[shown] |= near & inside
        weight = np.where(near, 1.0, 0.05) * np.where(inside, 1.0, 0.02)
        colour_sum[shown] += weight[:, None] * view.in_first_light(rows, columns)
        weight_sum[shown] += weight
    colours = colour_sum / np.maximum(weight_sum, 1e-9)[:, None]
    index = np.flatnonzero(front_in) if surface_only and front_in.sum() >= 8 else np.flatnonzero(weight_sum > 0)
    if len(index) > config.max_seeds:
        index = np.sort(rng.choice(index, config.max_seeds, replace=False))
    return points[index], colours[index], voxel


def revealed_surface(
    views: Sequence[ComparedView],
    holes: Sequence[NDArray[np.bool_]],  # per view [H, W] pixels whose old content is gone and whose new content is unknown
    *,
    sh_degree: int,
    config: BuildConfig | None = None,
    empty: Callable[[Array], NDArray[np.bool_]] | None = None,
) -> Gaussians | None:
    """Gaussians for patches that were hidden until something left: the depth of the surroundings, the colour of the capture.

    Pixels already covered by an earlier view's patch are not seeded twice.

    Args:
        empty: whether places [M, 3] are known to be empty; then the patch must lie further behind.

    Returns:
        Gaussians in world coordinates, or None if nothing was revealed.
    """
    config = config or BuildConfig()
    parts: list[Gaussians] = []
    for view, hole in zip(views, holes, strict=True):
        hole = hole.copy()
        if parts:
            known = Gaussians.concatenate(parts).means.double().numpy()
            uv, depth = project(view.camera, known)
            ok = in_image(view.camera, uv, depth)
            covered = np.zeros(hole.shape, np.uint8)
            covered[uv[ok, 1].astype(int), uv[ok, 0].astype(int)] = 1
            hole &= cv2.dilate(covered, np.ones((5, 5), np.uint8)) == 0
        if hole.sum() < config.min_surface * hole.size:
            continue
        depth = _fill_inverse_depth(view, hole)
        rows, columns = np.nonzero(hole)
        pick = (rows % config.surface_step == 0) & (columns % config.surface_step == 0)
        rows, columns = rows[pick], columns[pick]
        z, world = _behind_empty(view, rows, columns, depth[rows, columns], empty, config)
        placed = np.isfinite(z)
        rows, columns, z, world = rows[placed], columns[placed], z[placed], world[placed]
        if len(rows) == 0:
            continue
        spacing = z / view.camera.K[0, 0] * config.surface_step * 0.7
        colours = view.in_first_light(rows, columns)
        parts.append(_seed_gaussians(world, colours, spacing, 0.9, sh_degree))
    return Gaussians.concatenate(parts) if parts else None


def _behind_empty(
    view: ComparedView, rows: NDArray, columns: NDArray, depth: Array, empty: Callable[[Array], NDArray[np.bool_]] | None,
    config: BuildConfig,
) -> tuple[Array, Array]:
    """Depths [M] of pixels and their world points [M, 3], pushed back behind what is known to be empty; NaN if all of it is."""
    depth, blocked = depth.copy(), np.arange(len(rows))
    if empty is not None:
        for _ in range(config.push_steps):
            blocked = blocked[empty(unproject(view.camera, rows[blocked], columns[blocked], depth[blocked]))]
            depth[blocked] *= config.push
        depth[blocked] = np.nan
    return depth, unproject(view.camera, rows, columns, depth)


def _fill_inverse_depth(view: ComparedView, hole: NDArray[np.bool_]) -> Array:
    """Depth [H, W] with holes replaced by a plane in inverse depth fitted to each hole's rim (planes stay planes there)."""
    depth = view.depth.astype(np.float64).copy()
    usable = (view.alpha > 0.8) & ~hole & (depth > 0)
    count, labels = cv2.connectedComponents(hole.astype(np.uint8), connectivity=8)
    kernel = np.ones((9, 9), np.uint8)
    for label in range(1, count):
        own = labels == label
        rim = (cv2.dilate(own.astype(np.uint8), kernel) > 0) & usable
        rows, columns = np.nonzero(own)
        if rim.sum() < 12:
            known = depth[usable]
            depth[own] = np.median(known) if known.size else 1.0
            continue
        rr, rc = np.nonzero(rim)
        inverse = 1 / depth[rr, rc]
        design = np.stack([rc, rr, np.ones(len(rr))], 1)
        weight = np.ones(len(rr))
        for _ in range(10):
            solution = np.linalg.lstsq(design * weight[:, None], inverse * weight, rcond=None)[0]
            residual = np.abs(design @ solution - inverse)
            weight = 1 / (1 + (residual / (1.5 * np.median(residual) + 1e-9)) ** 2)
        fitted = np.stack([columns, rows, np.ones(len(rows))], 1) @ solution
        depth[own] = 1 / np.clip(fitted, np.quantile(inverse, 0.02) * 0.8, np.quantile(inverse, 0.98) * 1.25)
    return depth


def complete_members(
    gaussians: Gaussians, members: Tensor, *, slack: float = 1.1, touching: float = 2.0
) -> Tensor:
    """Add Gaussians that lie inside the shape spanned by the members: their hidden back and inner parts.

    A Gaussian joins if it lies within `slack` of the members' principal box and its nearest member is closer than
    `touching` times the members' own median spacing.

    Returns:
        [M'] sorted indices.
    """
    means = gaussians.means.double().numpy()
    own = means[members.numpy()]
    if len(own) < 8:
        return members
    centre = own.mean(0)
    axes = np.linalg.svd(own - centre, full_matrices=False)[2]
    local = (own - centre) @ axes.T
    low, high = np.quantile(local, 0.02, axis=0), np.quantile(local, 0.98, axis=0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-9)
    inside = np.all(np.abs((means - centre) @ axes.T - middle) <= half * slack, axis=1)
    tree = cKDTree(own)
    spacing = np.median(tree.query(own, k=2)[0][:, 1])
    candidates = np.flatnonzero(inside)
    near = tree.query(means[candidates])[0] <= touching * spacing
    joined = np.union1d(members.numpy(), candidates[near])
    return torch.from_numpy(joined)


def enclosed(means: Array, members: Array, *, most: float = 0.5) -> NDArray[np.bool_]:
    """Which points lie inside what an object's points span: its inner parts, which no photo decides.

    Args:
        means: [N, 3] the points asked about. members: [M, 3] the object's.
        most: more of them, relative to the object's own, belong to something else that it spans.

    Returns:
        [N] bool
    """
    nothing = np.zeros(len(means), bool)
    centre = np.median(members, axis=0) if len(members) else np.zeros(3)
    reach = np.linalg.norm(members - centre, axis=1)
    shell = members[reach <= np.quantile(reach, 0.98)] if len(members) >= 20 else members[:0]
    near = np.flatnonzero(np.linalg.norm(means - centre, axis=1) <= reach.max(initial=0.0))
    if len(shell) == 0 or len(near) == 0 or np.linalg.matrix_rank(shell - centre, tol=1e-3 * reach.max()) < 3:
        return nothing
    hull = shell[ConvexHull(shell).vertices]
    inside = nothing.copy()
    # A little smaller than the hull: what touches it from outside is not inside.
    inside[near] = Delaunay(centre + 0.95 * (hull - centre)).find_simplex(means[near]) >= 0
    return inside if inside.sum() <= most * len(members) else nothing
