"""Which Gaussians have left: candidates by their evidence in every view, decided by what their removal explains."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.objects.hull import cluster_points
from ltgs.objects.templates import complete_members

log = logging.getLogger("ltgs.objects")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class CarveConfig:
    """Vacated sets of Gaussians."""

    mean_evidence: float = 0.55
    """Share of a Gaussian's pixels, over all views, that must have changed."""
    min_evidence: float = 0.25
    """The same in each single view that sees it."""
    seen_px: float = 0.2
    """Alpha-weighted pixels above which a view counts as seeing a Gaussian."""
    link_px: float = 5.0
    """Candidates closer than this many pixels' footprint belong together."""
    min_pixels: float = 1.5e-4
    """Smallest candidate set: pixels in its best view relative to the image area."""
    min_footprint: float = 8e-4
    """Smallest set that counts as an object: altered pixels of all views together relative to the image area."""
    explained: float = 0.22
    """Share of a set's pixels that must match the captures once it is gone."""
    max_holes: float = 0.8
    """A set whose removal leaves more than this share of its pixels empty proves nothing."""
    peels: int = 4
    """Layers taken off one set: each exposes Gaussians behind that contradict the captures too."""
    reach: float = 1.35
    """A peeled layer may lie outside the set's box by this factor."""
    rounds: int = 3
    """Passes over all sets; a set may become visible only when another is gone."""


@dataclass(frozen=True)
class VacatedSet:
    """Gaussians that were there at the time before and are not now."""

    members: Tensor
    """[M] sorted int64 indices into the state's Gaussians."""
    explained: float
    """Share of its pixels that match the captures without it."""
    footprint_px: int
    """Its pixels over all views."""


Lift = Callable[[Gaussians, Sequence[ComparedView], Sequence[NDArray[np.float32]]], Tensor]
Compare = Callable[[Gaussians, Tensor], list[ComparedView]]
"""Compare the captures with the state restricted to a kept-mask [N] of the Gaussians."""


def candidates(sums: Tensor, config: CarveConfig) -> Tensor:
    """[V, N, 2] (changed pixels, pixels) -> [N] bool: changed wherever it is seen."""
    changed, weight = sums[..., 0], sums[..., 1]
    seen = weight > config.seen_px
    ratio = torch.where(seen, changed / weight.clamp_min(1e-6), torch.ones_like(weight))
    mean = (changed * seen).sum(0) / (weight * seen).sum(0).clamp_min(1e-6)
    return (seen.sum(0) >= 1) & (mean >= config.mean_evidence) & (ratio.amin(0) >= config.min_evidence)


def find_vacated(
    gaussians: Gaussians,
    views: Sequence[ComparedView],
    *,
    lift: Lift,
    compare: Compare,
    config: CarveConfig | None = None,
    fixed: Tensor | None = None,
) -> tuple[list[VacatedSet], list[ComparedView]]:
    """Peel off the sets of Gaussians whose absence explains the captures.

    Args:
        fixed: [N] bool, Gaussians that must stay, for instance an object just placed.

    A patch that a new object merely hides is not taken: without it the captures fit no better.

    Returns:
        the sets, and the views compared with the state without them.
    """
    config = config or CarveConfig()
    kept = torch.ones(len(gaussians), dtype=torch.bool)
    free = ~fixed if fixed is not None else kept.clone()
    found: list[VacatedSet] = []
    views = list(views)
    tried: list[Array] = []
    for _ in range(config.rounds):
        progress = False
        for members in _candidate_sets(gaussians, kept, views, lift, config):
            members = members[kept[members] & free[members]]
            centre = gaussians.means[members].double().mean(0).numpy() if len(members) else np.zeros(3)
            if len(members) == 0 or any(np.array_equal(centre, t) for t in tried):
                continue
            tried.append(centre)
            trial, after = _peel(gaussians, kept, free, members, lift, compare, config)
            explained, footprint, holes = removal_benefit(views, after)
            log.debug("set of %d at %s: explained %.2f of %d px, holes %.2f", len(members), centre, explained, footprint, holes)
            too_small = footprint < config.min_footprint * views[0].mask.size
            if too_small or holes > config.max_holes or explained < config.explained:
                continue
            found.append(VacatedSet((kept & ~trial).nonzero()[:, 0], explained, footprint))
            kept, views, progress = trial, after, True
        if not progress:
            break
    return _merge_touching(gaussians, found, views, config), views


def _peel(
    gaussians: Gaussians, kept: Tensor, free: Tensor, members: Tensor, lift: Lift, compare: Compare, config: CarveConfig
) -> tuple[Tensor, list[ComparedView]]:
    """Remove a set, then layer by layer what it hid and what the captures contradict as well, inside the set's own box."""
    trial = kept.clone()
    trial[members] = False
    points = gaussians.means[members].double()
    low, high = points.quantile(0.02, dim=0), points.quantile(0.98, dim=0)
    middle, half = (low + high) / 2, (high - low) / 2
    inside = ((gaussians.means.double() - middle).abs() <= half * config.reach + 0.1 * half.max()).all(1)
    after = compare(gaussians, trial)
    for _ in range(config.peels):
        alive = trial.nonzero()[:, 0]
        sums = lift(gaussians[alive], after, [v.mask[..., None].astype(np.float32) for v in after])
        layer = alive[candidates(sums, config)]
        layer = layer[inside[layer] & free[layer]]
        if len(layer) == 0:
            break
        trial[layer] = False
        after = compare(gaussians, trial)
    return trial, after


def removal_benefit(before: Sequence[ComparedView], after: Sequence[ComparedView]) -> tuple[float, int, float]:
    """What a removal explains.

    Returns:
        share of the altered pixels, holes left out, that now match their capture (pixels that matched before and no longer
        do count against it); the number of altered pixels; the share of them that became holes.
    """
    explained, total, holes = 0.0, 0, 0
    for b, a in zip(before, after, strict=True):
        altered = (np.abs(b.shown - a.shown).max(-1) > 0.03) | (np.abs(b.alpha - a.alpha) > 0.1)
        altered &= (b.alpha > 0.5) & ((b.score > 0.3) | (a.score > 0.3))
        hole = altered & (a.alpha < 0.6)
        gain = np.clip(b.score, 0, 1) - np.clip(a.score, 0, 1)
        explained += float(gain[altered & ~hole].sum())
        total += int(altered.sum())
        holes += int(hole.sum())
    return explained / max(total - holes, 1), total, holes / max(total, 1)


def _candidate_sets(
    gaussians: Gaussians, kept: Tensor, views: Sequence[ComparedView], lift: Lift, config: CarveConfig
) -> list[Tensor]:
    """Connected sets of candidates among the kept Gaussians, largest first."""
    alive = kept.nonzero()[:, 0]
    current = gaussians[alive]
    sums = lift(current, views, [v.mask[..., None].astype(np.float32) for v in views])
    chosen = candidates(sums, config).nonzero()[:, 0]
    if len(chosen) == 0:
        return []
    points = current.means[chosen].double().numpy()
    labels = cluster_points(points, config.link_px * _pixel_footprint(views))
    weight = sums[:, chosen, 1].amax(0)
    sets = []
    for label in np.unique(labels):
        own = torch.from_numpy(labels == label)
        if float(weight[own].sum()) < config.min_pixels * views[0].mask.size:
            continue
        members = alive[complete_members(current, chosen[own])]
        sets.append((float(weight[own].sum()), members))
    return [m for _, m in sorted(sets, key=lambda item: -item[0])]


def _pixel_footprint(views: Sequence[ComparedView]) -> float:
    """Size of a pixel at the median depth of what is known, scene units."""
    return float(np.median([np.median(v.depth[v.alpha > 0.5]) / v.camera.K[0, 0] for v in views if (v.alpha > 0.5).any()]))


def _merge_touching(
    gaussians: Gaussians, sets: list[VacatedSet], views: Sequence[ComparedView], config: CarveConfig
) -> list[VacatedSet]:
    """Sets of different rounds that touch are one object."""
    if len(sets) < 2:
        return sets
    members = torch.cat([s.members for s in sets])
    owner = np.concatenate([np.full(len(s.members), i) for i, s in enumerate(sets)])
    labels = cluster_points(gaussians.means[members].double().numpy(), config.link_px * _pixel_footprint(views))
    groups: dict[int, set[int]] = {}
    parent = list(range(len(sets)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for label in np.unique(labels):
        touching = np.unique(owner[labels == label])
        for other in touching[1:]:
            parent[root(int(other))] = root(int(touching[0]))
    for i in range(len(sets)):
        groups.setdefault(root(i), set()).add(i)
    merged = []
    for group in groups.values():
        own = [sets[i] for i in sorted(group)]
        pixels = sum(s.footprint_px for s in own)
        merged.append(VacatedSet(
            torch.cat([s.members for s in own]).sort().values,
            sum(s.explained * s.footprint_px for s in own) / max(pixels, 1), pixels,
        ))
    return merged


def hole_masks(before: Sequence[ComparedView], after: Sequence[ComparedView]) -> list[NDArray[np.bool_]]:
    """Per view the pixels that a removal opened: nothing known there any more, or something far behind shows through."""
    kernel = np.ones((3, 3), np.uint8)
    out = []
    for b, a in zip(before, after, strict=True):
        altered = (np.abs(b.alpha - a.alpha) > 0.1) | (np.abs(b.shown - a.shown).max(-1) > 0.05)
        opened = altered & ((a.alpha < 0.75) | a.mask)
        out.append(cv2.morphologyEx(opened.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0)
    return out
