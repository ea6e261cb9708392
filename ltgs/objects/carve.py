"""Which Gaussians have left: candidates by their evidence in every view, decided by what their removal explains."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.decisions import DecisionRecorder
from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.objects.hull import cluster_points
from ltgs.objects.removal import TOO_FEW, CarveConfig, RemovalBenefit, removal_benefit
from ltgs.objects.split import linked
from ltgs.objects.templates import complete_members

log = logging.getLogger("ltgs.objects")
Array = NDArray[np.float64]


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
    in_company: bool = False
    """One of several things that stood side by side: it may touch another one."""
    num_views: int = 2
    """Photos that show it well."""


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


@dataclass(frozen=True)
class Judges:
    """What else has a say in whether a set has left, given its members [M]."""

    veto: Callable[[Tensor], str] = lambda _: ""
    """Why a set that the captures prove gone stays nevertheless, or an empty text."""
    displaced: Callable[[Tensor], bool] = lambda _: False
    """Whether something else stands now where they were; then the captures, which show that other thing, need not fit better
    without them."""
    whole: Callable[[Tensor], bool] = lambda _: False
    """Whether they hold all of a stored object. What the captures contradict all over has left."""
    piece: Callable[[Tensor], bool] = lambda _: False
    """Whether they can only be a piece of an object that stood there; it may be small."""
    foreign: Callable[[Tensor], Tensor] = lambda members: members[:0]
    """Members [K] of the stored objects that hold none of them: these are judged for themselves."""
    unowned: Callable[[Tensor], bool] = lambda _: False
    """Whether most of them belong to no stored object."""
    alone: Callable[[Tensor, Tensor, Sequence[ComparedView]], bool] = lambda *_: False
    """Whether they, rather than these others [K], which are still there, make up a whole thing; a patch that a new object hides
    goes on beside it."""
    upper: Callable[[Tensor, Sequence[ComparedView]], Tensor] = lambda members, _: members
    """Those of them that do not belong to what they stand on: two things on one table touch there."""
    parts: Callable[[Tensor, Sequence[ComparedView]], list[Tensor]] = lambda members, _: [members]
    """The things that stand side by side among them (see `objects.split`), asked of a set that the captures suggest."""


def find_vacated(
    gaussians: Gaussians,
    views: Sequence[ComparedView],
    *,
    lift: Lift,
    compare: Compare,
    config: CarveConfig | None = None,
    fixed: Tensor | None = None,
    also: Sequence[Tensor] = (),
    judges: Judges | None = None,
    refused: list[Tensor] | None = None,
    record: DecisionRecorder | None = None,
) -> tuple[list[VacatedSet], list[ComparedView]]:
    """Peel off the sets of Gaussians whose absence explains the captures.

    Args:
        fixed: [N] bool, Gaussians that must stay, for instance an object just placed.
        also: sets [M] each to try besides those that the captures suggest.
        refused: gets the members of sets that could not be proven.
        record: is told of every set that was tried.

    A patch that a new object merely hides is not taken: without it the captures fit no better. Things that stand side by side
    are judged one by one, and together only if none of them can be proven gone.

    Returns:
        the sets, and the views compared with the state without them.
    """
    carver = _Carver(gaussians, lift, compare, config or CarveConfig(), judges or Judges(), fixed, list(views), record)
    for _ in range(carver.config.rounds):
        taken = [carver.take(members) for members in also]
        for members in _candidate_sets(gaussians, carver.kept, carver.views, lift, carver.config):
            members = members[carver.free[members]]
            if len(views) == 1 and len(members):
                # What lies behind a thing, on what it stands on, shines through it: no other photo sees it beside the thing.
                members = carver.judges.upper(members, carver.views)
            if len(members) == 0:
                continue
            parts = carver.judges.parts(members, carver.views)
            one_by_one = [carver.take(part, company=[p for p in parts if p is not part]) for part in parts]
            taken += one_by_one if any(one_by_one) or len(parts) == 1 else [carver.take(members, mixed=True)]
        if not any(taken):
            break
    if refused is not None:
        refused += carver.refused
    return _merge_touching(carver), carver.views


class _Carver:
    """Takes sets of Gaussians away, one after the other, where the captures prove them gone."""

    def __init__(
        self, gaussians: Gaussians, lift: Lift, compare: Compare, config: CarveConfig, judges: Judges, fixed: Tensor | None,
        views: list[ComparedView], record: DecisionRecorder | None,
    ) -> None:
        self.gaussians, self.lift, self.compare, self.config, self.judges = gaussians, lift, compare, config, judges
        self.views, self.record = views, record
        """Views of what is kept."""
        self.kept = torch.ones(len(gaussians), dtype=torch.bool)
        self.free = ~fixed if fixed is not None else self.kept.clone()
        self.found: list[VacatedSet] = []
        self.refused: list[Tensor] = []
        self._tried: list[Array] = []
        self._replaced = False
        """Something was taken only because something else is seen in its place."""
        self._standing = torch.zeros(len(gaussians), dtype=torch.bool)

    def take(self, members: Tensor, *, company: Sequence[Tensor] = (), mixed: bool = False) -> bool:
        """Take away a set and what it hid, if they have left.

        Args:
            company: the other things that it was told apart from, [M] each.
            mixed: it holds several things.
        """
        members = members[self.kept[members] & self.free[members]]
        centre = self.gaussians.means[members].double().mean(0).numpy() if len(members) else np.zeros(3)
        if len(members) == 0 or any(np.array_equal(centre, t) for t in self._tried):
            return False
        self._tried.append(centre)
        trial = self.kept.clone()
        trial[members] = False
        after = self.compare(self.views, members, trial)
        smallest = 0.25 * self.config.min_footprint * self.views[0].mask.size
        if removal_benefit(self.views, after).altered_px < smallest and not self.judges.displaced(members):
            return False
        free = self.free.clone()
        for other in (*company, self.judges.foreign(members)):
            free[other] = False
        trial, after = _peel(self.gaussians, trial, free, members, after, self.lift, self.compare, self.config)
        benefit = removal_benefit(self.views, after)
        log.debug("set of %d at %s: %s", len(members), centre, benefit)
        gone = (self.kept & ~trial).nonzero()[:, 0]
        refusal, note, contradicted = self._verdict(gone, benefit, None if mixed else company)
        if self.record is not None:
            self.record.removal(self.gaussians.means[gone], asdict(benefit), reason=refusal, note=note)
        if refusal:
            self.refused.append(gone)
            return False
        self.found.append(VacatedSet(gone, benefit.explained, benefit.altered_px, contradicted, bool(company), benefit.num_views))
        self.kept, self.views = trial, after
        return True

    def _verdict(self, gone: Tensor, benefit: RemovalBenefit, company: Sequence[Tensor] | None) -> tuple[str, str, bool]:
        """Why a set stays (empty if it has left), what proved that it left, and whether the captures contradict all of it."""
        image_px, alone = self.views[0].mask.size, cache(lambda: self.alone(gone, company or ()))
        refusal, note, contradicted = benefit.refusal(self.config, image_px), "", False
        hidden = benefit.altered_px < self.config.min_footprint * image_px
        if refusal and (benefit.explained >= 0 or hidden) and self.judges.displaced(gone):
            refusal, note = "", "something else stands there now"
        if refusal and self.judges.whole(gone):
            if benefit.contradicts(self.config, image_px):
                refusal, note, contradicted = "", "the photos contradict all of it", True
            elif benefit.stands(self.config):
                self._standing[gone] = True
        lone = not company and not self._replaced
        replaced = company is not None and len(gone) >= self.config.replaced_least
        if refusal and replaced and benefit.replaced(self.config, image_px, lone=lone) and alone():
            refusal, note, self._replaced = "", "something else is seen all over its place", True
        if not refusal and float(self._standing[gone].float().mean()) > 0.5:
            refusal = "part of an object that the photos still show"
        if refusal == TOO_FEW and self.judges.piece(gone):
            refusal = benefit.refusal(replace(self.config, min_footprint=self.config.piece_factor * self.config.min_footprint), image_px)
        if not refusal and benefit.num_views == 1 and len(gone) < self.config.single_view_least:
            refusal = "a few Gaussians in a single photo prove nothing"
        clear = benefit.explained >= self.config.explained_alone and len(gone) >= self.config.replaced_least
        doubtful = not refusal and not note and not clear and len(gone) >= self.config.least
        if doubtful and self.judges.unowned(gone) and not alone() and not self.judges.displaced(gone):
            refusal = "it is small or the photos fit little better without it, and it goes on beside: something new hides a patch of it"
        if not refusal and len(self.views) == 1 and not self.judges.whole(gone) and not alone():
            refusal = "there is only one photo, and it is no whole thing: something new may hide it"
        return refusal or self.judges.veto(gone), note, contradicted

    def alone(self, gone: Tensor, company: Sequence[Tensor]) -> bool:
        """Whether a set is a whole thing beside the other ones that it was told apart from."""
        others = self.kept & self.free
        for members in (gone, *company):
            others[members] = False
        return self.judges.alone(gone, others.nonzero()[:, 0], self.views)


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
    labels = linked(current[chosen], config.link_px * pixel_footprint(views))
    weight = sums[:, chosen, 0].sum(0)
    sets = []
    for label in np.unique(labels):
        own = torch.from_numpy(labels == label)
        if float(weight[own].sum()) < 0.25 * config.min_footprint * views[0].mask.size:
            continue
        members = alive[complete_members(current, chosen[own])]
        sets.append((float(weight[own].sum()), members))
    return [m for _, m in sorted(sets, key=lambda item: -item[0])][: config.max_sets]


def pixel_footprint(views: Sequence[ComparedView]) -> float:
    """Size of a pixel of the photos that the scene was fitted to, at the median depth of what is known, scene units."""
    sizes = [np.median(v.depth[v.alpha > 0.5]) * v.camera.sampling / v.camera.K[0, 0] for v in views if (v.alpha > 0.5).any()]
    return float(np.median(sizes))


def _merge_touching(carver: _Carver) -> list[VacatedSet]:
    """Sets of different rounds that touch are one object, but for things that were told apart, or that a stored object touches."""
    sets = carver.found
    if len(sets) < 2:
        return sets
    stored = [carver.judges.whole(s.members) for s in sets]
    apart = [s.in_company or w or (any(stored) and carver.alone(s.members, ())) for s, w in zip(sets, stored, strict=True)]
    uppers = [carver.judges.upper(s.members, carver.views) for s in sets]
    owner = np.concatenate([np.full(len(u), i) for i, u in enumerate(uppers)])
    points = carver.gaussians.means[torch.cat(uppers)].double().numpy()
    labels = cluster_points(points, carver.config.link_px * pixel_footprint(carver.views))
    group = np.arange(len(sets))
    for label in np.unique(labels):
        first, *others = np.unique(owner[labels == label])
        for other in others:
            one, two = group == group[first], group == group[other]
            if not (any(apart[i] for i in np.flatnonzero(one)) and any(apart[i] for i in np.flatnonzero(two))):
                group[two] = group[first]
    merged = []
    for number in np.unique(group):
        own = [sets[i] for i in np.flatnonzero(group == number)]
        pixels = sum(s.footprint_px for s in own)
        merged.append(VacatedSet(
            torch.cat([s.members for s in own]).sort().values,
            sum(s.explained * s.footprint_px for s in own) / max(pixels, 1), pixels, in_company=any(s.in_company for s in own),
            num_views=max(s.num_views for s in own),
        ))
    return merged
