"""Which Gaussians have left: candidates by their evidence in every view, decided by what their removal explains."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from ltgs.core.decisions import DecisionRecorder
from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.objects.hull import cluster_points
from ltgs.objects.templates import complete_members

log = logging.getLogger("ltgs.objects")
Array = NDArray[np.float64]
TOO_FEW = "too few pixels"


@dataclass(frozen=True)
class CarveConfig:
    """Vacated sets of Gaussians."""

    mean_evidence: float = 0.55
    """Share of a Gaussian's decided pixels, over all views, that must have changed."""
    min_evidence: float = 0.25
    """The same in each single view that decides anything about it."""
    seen_px: float = 0.2
    """Alpha-weighted decided pixels above which a view says something about a Gaussian."""
    link_px: float = 5.0
    """Candidates closer than this many pixels' footprint belong together."""
    max_sets: int = 24
    """Most candidate sets tried per pass, those with most changed pixels first."""
    min_footprint: float = 8e-4
    """Smallest set that counts as an object: altered pixels of all views together relative to the image area."""
    piece_factor: float = 0.3
    """A piece of an object that stood there may be this much smaller."""
    single_view_factor: float = 4.0
    """A set that only one photo shows must be this much larger."""
    explained: float = 0.22
    """Share of a set's pixels that must match the captures once it is gone, for that alone to prove that it left."""
    explained_outline: float = 0.08
    """The same for a set whose outline is that of the change: what it hid may never have been seen and match nothing."""
    outline: float = 0.75
    """Share of the touched change regions that the set covers, from which its outline is that of the change. A patch that a
    new object hides covers less: each view hides another part of it."""
    min_outline: float = 0.5
    """The least such share of a set that left; its regions may have merged with those of others."""
    explained_alone: float = 0.45
    """`explained` from which the outline does not matter."""
    contradicted: float = 0.5
    """Share of the pixels of a whole stored object that must speak of change, in every photo that shows it well, for it to have left
    although the captures fit no better without it: something else stands there now."""
    confirmed: float = 0.15
    """Share of its pixels, over all photos, that may agree: of what only stands behind something new a part is still seen."""
    silent: tuple[float, float] = (0.35, 0.05)
    """The same two shares where hardly a pixel agrees: what stands there now may hide as much and be as bright."""
    stands: tuple[float, float] = (0.2, 2.0)
    """A whole stored object stands still if at least this share of its pixels agrees, and so many times more than speak of change:
    then no part of it has left either, its template is only inaccurate."""
    max_holes_outline: float = 0.6
    """`max_holes` for a set that its outline proves; it must be seen in two photos as well."""
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
    contradicted: bool = False
    """Proven gone because the photos contradict all of it."""


Lift = Callable[[Gaussians, Sequence[ComparedView], Sequence[NDArray[np.float32]], Tensor | None], Tensor]
"""Sums of images per view and Gaussian; only the given rows [M], all if None, need to be right."""
Compare = Callable[[Sequence[ComparedView], Tensor, Tensor], list[ComparedView]]
"""Views of a state, the rows [M] of Gaussians that it loses and the mask [N] of those that remain -> the views without them."""


def candidates(sums: Tensor, config: CarveConfig) -> Tensor:
    """[V, N, 3] (changed pixels, agreeing pixels, pixels) -> [N] bool: changed wherever anything is decided."""
    changed, weight = sums[..., 0], sums[..., 0] + sums[..., 1]
    seen = weight > config.seen_px
    ratio = torch.where(seen, changed / weight.clamp_min(1e-6), torch.ones_like(weight))
    mean = (changed * seen).sum(0) / (weight * seen).sum(0).clamp_min(1e-6)
    return (seen.sum(0) >= 1) & (mean >= config.mean_evidence) & (ratio.amin(0) >= config.min_evidence)


def _verdicts(views: Sequence[ComparedView]) -> list[NDArray[np.float32]]:
    """Per view [H, W, 2]: changed, agreed; undecided pixels are neither."""
    return [np.stack([v.mask, v.agreed & ~v.mask], -1).astype(np.float32) for v in views]


def find_vacated(
    gaussians: Gaussians,
    views: Sequence[ComparedView],
    *,
    lift: Lift,
    compare: Compare,
    config: CarveConfig | None = None,
    fixed: Tensor | None = None,
    also: Sequence[Tensor] = (),
    veto: Callable[[Tensor], str] | None = None,
    displaced: Callable[[Tensor], bool] | None = None,
    whole: Callable[[Tensor], bool] | None = None,
    piece: Callable[[Tensor], bool] | None = None,
    refused: list[Tensor] | None = None,
    record: DecisionRecorder | None = None,
) -> tuple[list[VacatedSet], list[ComparedView]]:
    """Peel off the sets of Gaussians whose absence explains the captures.

    Args:
        fixed: [N] bool, Gaussians that must stay, for instance an object just placed.
        also: sets [M] each to try besides those that the captures suggest.
        veto: [M] members of a set that the captures prove gone to a reason why it stays nevertheless, or an empty text.
        displaced: whether something else stands now where these members [M] were; then the captures, which show that other
            thing, need not fit better without them.
        piece: whether these members [M] can only be a piece of an object that stood there; it may be small.
        whole: whether these members [M] hold all of a stored object. What the captures contradict all over has left.
        refused: gets the members of sets that could not be proven.
        record: is told of every set that was tried.

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
    standing = torch.zeros(len(gaussians), dtype=torch.bool)
    for _ in range(config.rounds):
        progress = False
        for members in [*also, *_candidate_sets(gaussians, kept, views, lift, config)]:
            members = members[kept[members] & free[members]]
            centre = gaussians.means[members].double().mean(0).numpy() if len(members) else np.zeros(3)
            if len(members) == 0 or any(np.array_equal(centre, t) for t in tried):
                continue
            tried.append(centre)
            trial = kept.clone()
            trial[members] = False
            after = compare(views, members, trial)
            if removal_benefit(views, after).altered_px < 0.25 * config.min_footprint * views[0].mask.size:
                continue
            trial, after = _peel(gaussians, trial, free, members, after, lift, compare, config)
            benefit = removal_benefit(views, after)
            log.debug("set of %d at %s: %s", len(members), centre, benefit)
            gone = (kept & ~trial).nonzero()[:, 0]
            refusal, note, contradicted = benefit.refusal(config, views[0].mask.size), "", False
            if refusal and displaced is not None and benefit.explained >= 0 and displaced(gone):
                refusal, note = "", "something else stands there now"
            if refusal and whole is not None and whole(gone):
                if benefit.contradicts(config, views[0].mask.size):
                    refusal, note, contradicted = "", "the photos contradict all of it", True
                elif benefit.stands(config):
                    standing[gone] = True
            if not refusal and float(standing[gone].float().mean()) > 0.5:
                refusal = "part of an object that the photos still show"
            if refusal == TOO_FEW and piece is not None and piece(gone):
                refusal = benefit.refusal(replace(config, min_footprint=config.piece_factor * config.min_footprint), views[0].mask.size)
            if not refusal and veto is not None:
                refusal = veto(gone)
            if record is not None:
                record.removal(gaussians.means[gone], asdict(benefit), reason=refusal, note=note)
            if refusal:
                if refused is not None:
                    refused.append(gone)
                continue
            found.append(VacatedSet(gone, benefit.explained, benefit.altered_px, contradicted))
            kept, views, progress = trial, after, True
        if not progress:
            break
    return _merge_touching(gaussians, found, views, config), views


def _peel(
    gaussians: Gaussians, trial: Tensor, free: Tensor, members: Tensor, after: list[ComparedView], lift: Lift,
    compare: Compare, config: CarveConfig,
) -> tuple[Tensor, list[ComparedView]]:
    """Remove, layer by layer, what a removed set hid and the captures contradict as well, inside the set's own box.

    Args:
        trial: [N] bool, the state without the set. after: the views compared with it.
    """
    trial = trial.clone()
    points = gaussians.means[members].double()
    low, high = points.quantile(0.02, dim=0), points.quantile(0.98, dim=0)
    middle, half = (low + high) / 2, (high - low) / 2
    inside = ((gaussians.means.double() - middle).abs() <= half * config.reach + 0.1 * half.max()).all(1)
    for _ in range(config.peels):
        alive = trial.nonzero()[:, 0]
        asked = (inside & free)[alive].nonzero()[:, 0]
        sums = lift(gaussians[alive], after, _verdicts(after), asked)
        layer = alive[asked][candidates(sums[:, asked], config)]
        if len(layer) == 0:
            break
        trial[layer] = False
        after = compare(after, layer, trial)
    return trial, after


@dataclass(frozen=True)
class RemovalBenefit:
    """What the captures say about a removal."""

    explained: float
    """Share of the altered pixels, holes left out, that now match their capture; pixels that matched before and no longer do
    count against it."""
    altered_px: int
    """Pixels of all views that the removal alters and that speak of change before or after."""
    holes: float
    """Share of them with nothing known behind."""
    outline: float
    """Share of the touched change regions that the removal alters."""
    num_views: int
    """Photos that take part, with at least a tenth of the pixels of the one with most."""
    contradicted: float = 0.0
    """Share of all pixels the set shows in that speak of change, least of the photos that take part."""
    confirmed: float = 0.0
    """Share of them, over all photos, that agree."""

    def contradicts(self, config: CarveConfig, image_px: int) -> bool:
        """Whether nothing of the set is where it was, whatever is there now."""
        enough = self.num_views > 1 and self.altered_px >= config.min_footprint * image_px
        limits = (config.contradicted, config.confirmed), config.silent
        return enough and any(self.contradicted >= least and self.confirmed <= most for least, most in limits)

    def stands(self, config: CarveConfig) -> bool:
        """Whether the set is still seen where it was."""
        share, factor = config.stands
        return self.confirmed >= max(share, factor * self.contradicted)

    def refusal(self, config: CarveConfig, image_px: int) -> str:
        """Why the captures do not prove that the set has left; empty if they do."""
        smallest = config.min_footprint * (1.0 if self.num_views > 1 else config.single_view_factor)
        if self.altered_px < smallest * image_px:
            return TOO_FEW
        if self.holes > (config.max_holes if self.num_views > 1 else config.max_holes_outline):
            return "leaves mostly holes, which prove nothing"
        if self.outline >= config.outline and self.num_views > 1 and self.holes <= config.max_holes_outline:
            return "" if self.explained >= config.explained_outline else "the photos fit no better without it"
        if self.explained < config.explained:
            return "the photos fit hardly better without it"
        proven = self.outline >= config.min_outline or (self.explained >= config.explained_alone and self.num_views > 1)
        return "" if proven else "its outline is not that of the change"


def altered_pixels(one: ComparedView, other: ComparedView) -> NDArray[np.bool_]:
    """[H, W] where two states of the scene, seen by the same photo, look different."""
    return (np.abs(one.shown - other.shown).max(-1) > 0.03) | (np.abs(one.alpha - other.alpha) > 0.1)


def removal_benefit(before: Sequence[ComparedView], after: Sequence[ComparedView]) -> RemovalBenefit:
    """Compare the captures with the state with and without a set."""
    explained, holes, covered, regions = 0.0, 0, 0, 0
    pixels: list[int] = []
    shows, wrong, right = [], [], 0
    for b, a in zip(before, after, strict=True):
        altered = altered_pixels(b, a)
        shown = altered & (b.alpha > 0.5)
        shows.append(int(shown.sum()))
        wrong.append(int((shown & (b.score > 0.6)).sum()))
        right += int((shown & b.agreed & (b.score <= 0.6)).sum())
        count, labels = cv2.connectedComponents(b.mask.astype(np.uint8), connectivity=8)
        overlap = np.bincount(labels[altered & b.mask], minlength=count)
        touched = overlap >= max(1.0, 0.2 * overlap.sum())
        covered += int(overlap[touched].sum())
        regions += int(np.bincount(labels.ravel(), minlength=count)[touched].sum())
        altered &= (b.alpha > 0.5) & ((b.score > 0.3) | (a.score > 0.3))
        hole = altered & (a.alpha < 0.6)
        gain = np.clip(b.score, 0, 1) - np.clip(a.score, 0, 1)
        explained += float(gain[altered & ~hole].sum())
        pixels.append(int(altered.sum()))
        holes += int(hole.sum())
    total, most = sum(pixels), max(pixels, default=0)
    return RemovalBenefit(
        explained / max(total - holes, 1), total, holes / max(total, 1), covered / max(regions, 1),
        sum(p >= max(1.0, 0.1 * most) for p in pixels),
        min((w / s for w, s in zip(wrong, shows, strict=True) if s >= max(1.0, 0.1 * max(shows))), default=0.0),
        right / max(sum(shows), 1),
    )


def _candidate_sets(
    gaussians: Gaussians, kept: Tensor, views: Sequence[ComparedView], lift: Lift, config: CarveConfig
) -> list[Tensor]:
    """Connected sets of candidates among the kept Gaussians, largest first."""
    alive = kept.nonzero()[:, 0]
    current = gaussians[alive]
    sums = lift(current, views, _verdicts(views), None)
    chosen = candidates(sums, config).nonzero()[:, 0]
    if len(chosen) == 0:
        return []
    labels = _cluster(current[chosen], config.link_px * _pixel_footprint(views))
    weight = sums[:, chosen, 0].sum(0)
    sets = []
    for label in np.unique(labels):
        own = torch.from_numpy(labels == label)
        if float(weight[own].sum()) < 0.25 * config.min_footprint * views[0].mask.size:
            continue
        members = alive[complete_members(current, chosen[own])]
        sets.append((float(weight[own].sum()), members))
    return [m for _, m in sorted(sets, key=lambda item: -item[0])][: config.max_sets]


def _cluster(gaussians: Gaussians, radius: float) -> NDArray[np.int64]:
    """[M] labels of Gaussians whose ellipsoids (one standard deviation, middle axis) come closer than `radius`.

    A plain surface is made of few large Gaussians, whose centres are far apart.
    """
    points = gaussians.means.double().numpy()
    reach = gaussians.scales.double().sort(dim=1).values[:, 1].numpy()
    reach = np.minimum(reach, np.quantile(reach, 0.95))
    pairs = cKDTree(points).query_pairs(radius + 2 * float(reach.max()), output_type="ndarray").reshape(-1, 2)
    gap = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1) - reach[pairs].sum(1)
    near = pairs[gap < radius]
    graph = coo_matrix((np.ones(len(near)), (near[:, 0], near[:, 1])), shape=(len(points), len(points)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


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
    """Per view the pixels that a removal opened: nothing known there any more, or something far behind shows through.

    With a rim of 0.6 % of the image: the outline of what left is never exact.
    """
    kernel = np.ones((3, 3), np.uint8)
    out = []
    for b, a in zip(before, after, strict=True):
        altered = (np.abs(b.alpha - a.alpha) > 0.1) | (np.abs(b.shown - a.shown).max(-1) > 0.05)
        opened = altered & ((a.alpha < 0.75) | a.mask)
        closed = cv2.morphologyEx(opened.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
        rim = max(1, round(0.006 * max(b.mask.shape)))
        out.append(cv2.dilate(closed, np.ones((2 * rim + 1,) * 2, np.uint8)) > 0)
    return out
