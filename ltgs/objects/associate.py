"""Who is who: assign objects that left or were absent to instances of new content by what they explain."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ltgs.core.decisions import DecisionRecorder
from ltgs.core.parallel import in_parallel
from ltgs.core.se3 import random_rotations
from ltgs.core.views import ComparedView
from ltgs.objects.backing import Model
from ltgs.objects.hull import HullInstance
from ltgs.objects.hypothesis import PoseHypothesis, UncertaintyConfig, with_guessed_rotation
from ltgs.objects.palette import content_palette, likeness, template_palette
from ltgs.objects.register import (
    RegisterConfig,
    Sweep,
    compare_turns,
    gain_around,
    register_template,
    scout_template,
    sweep_template,
)

log = logging.getLogger("ltgs.objects")
Array = NDArray[np.float64]
Pair = tuple[int, int]


class Candidate(Protocol):
    """What association needs to know of an object."""

    @property
    def object_id(self) -> int: ...

    @property
    def model(self) -> Model: ...

    @property
    def last_pose(self) -> Array: ...


@dataclass(frozen=True)
class AssociateConfig:
    """Assignment of objects to instances."""

    min_gain: float = 0.22
    """Share of the cost around an instance that drawing the object must explain."""
    min_gain_alike: float = 0.09
    """The same for a pair of like colours: it may show a side that nobody saw before."""
    alike: tuple[float, float] = (0.83, 0.9)
    """Likeness of the colours (see `objects.palette`) from which less must be explained, and from which that much less."""
    unlike: float = 0.74
    """A pair whose colours are less alike is not tried."""
    min_gain_single: float = 0.38
    """What a pair must explain at least if there is only one photo: right ones had .39 to .82, wrong ones up to .36."""
    min_gain_unlike: float = 0.75
    """What a pair of that likeness must explain; it falls to `min_gain` where they are alike. A bottle drawn half into the table
    explained 0.35 of a ball of likeness 0.77, another one 0.45 (0.79), a box 0.33 of another (0.81); the least alike of 110 right
    pairs had 0.81 and explained 0.44, and one of halved photos 0.26, which is lost."""
    likeness_weight: float = 0.5
    """A likeness of 0.1 more counts like so many tenths of the cost explained more."""
    sweep_slack: float = 0.12
    """A pair goes on if its sweep, and then its scouts, explain at most this much less than the best of its object or its
    instance."""
    sweep_floor: float = -0.08
    """A pair whose sweep explains less than this is not scouted."""
    scout_floor: float = 0.09
    """A pair whose scouts explain less than this is not refined: the last steps rarely add as much as is missing."""
    best_rise: float = 0.2
    """The last steps add no more than this to what the scouts explain: a pair that cannot come up to what its object explains
    elsewhere is not refined."""
    most_refined: int = 4
    """Pairs of one object that are refined, those with the best scouts: in eleven runs the best pair was among the first three, or all
    showed one place."""
    part_handicap: float = 0.05
    """So much more a part of an instance must explain of its smaller surroundings than the whole of its own."""
    same_pixels: float = 0.3
    """Instances that share more of the smaller one's pixels are two cuts of one thing: only one of them can be an object."""
    size_slack: float = 2.5
    """The hull of an instance may be this much smaller than the object (hidden parts); larger is always possible."""


@dataclass(frozen=True)
class Match:
    """An object found again."""

    object_id: int
    instance: HullInstance
    hypothesis: PoseHypothesis
    turn_guessed: bool = False
    """Its pose explains little, and its covariance holds any turn: it shows a side that nobody saw before."""
    explained: float | None = None
    """Mean drop of the change score where it was found, over the pixels that it alters there; None: not tried."""

    def with_guessed_turn(self, radius: float, *, config: UncertaintyConfig | None = None) -> Match:
        """The match with a covariance that holds any turn.

        Args:
            radius: the object's, scene units.
        """
        return replace(self, hypothesis=with_guessed_rotation(self.hypothesis, radius, config=config), turn_guessed=True)


def match_instances(
    known: Mapping[int, Candidate],
    instances: Sequence[HullInstance],
    views: Sequence[ComparedView],
    *,
    up: Array,  # [3]
    config: AssociateConfig,
    register: RegisterConfig,
    rng: np.random.Generator,
    backend: str = "auto",
    record: DecisionRecorder | None = None,
) -> tuple[list[Match], list[int]]:
    """Register every feasible pair and take the assignment that explains most.

    Returns:
        the matches, and the indices of instances that no known object explains.
    """
    ids = sorted(known)
    candidates = [known[k] for k in ids]
    alike = _likenesses(candidates, instances, views, up, backend)
    bonus = {pair: config.likeness_weight * (like - config.alike[0]) for pair, like in alike.items()}
    search = _Search(candidates, instances, views, up, config, register, backend)
    sweeps = search.sweep([
        (row, column) for row in range(len(ids)) for column in range(len(instances))
        if search.fits(row, column) and alike.get((row, column), 1.0) >= config.unlike
    ], rng)
    scouts = search.scout(_promising(
        {k: s.gain + bonus.get(k, 0.0) for k, s in sweeps.items()}, config.sweep_floor, config.sweep_slack,
    ), sweeps)
    worth = {k: s.gain + bonus.get(k, 0.0) for k, s in scouts.items()}
    promising = sorted(_promising(worth, config.scout_floor, config.sweep_slack), key=lambda pair: -worth[pair])
    needed = {pair: _needed(alike.get(pair), config, single=len(views) == 1) for pair in promising}
    found = search.refine(promising, scouts, worth, needed, bonus)
    hypotheses = {pair: hypothesis for pair, (hypothesis, _) in found.items()}
    values = np.zeros((len(ids), len(instances)))
    for (row, column), (hypothesis, value) in found.items():
        values[row, column] = value
        log.info(
            "object %d against instance %d: likeness %s, sweep %.3f, scouts %.3f, gain %.3f", ids[row], column,
            alike.get((row, column)), sweeps[row, column].gain, scouts[row, column].gain, hypothesis.gain,
        )
    for pair in sorted(hypotheses):
        if values[pair] > 0 and search.whole_is_better(pair, hypotheses):
            values[pair] = 0.0
    chosen = _assign(values, instances, config)
    hypotheses |= search.turn(chosen, hypotheses)
    matches = [search.match(ids[row], (row, column), hypotheses[row, column]) for row, column in chosen]
    if record is not None:
        record.pairs(ids, instances, {k: s.gain for k, s in sweeps.items()}, hypotheses, chosen, needed)
    taken = {column for _, column in chosen}
    return matches, [i for i in range(len(instances)) if i not in taken]


@dataclass(frozen=True)
class _Search:
    """Objects (rows) against instances (columns); pairs do not depend on each other."""

    candidates: Sequence[Candidate]
    instances: Sequence[HullInstance]
    views: Sequence[ComparedView]
    up: Array
    config: AssociateConfig
    register: RegisterConfig
    backend: str

    def fits(self, row: int, column: int) -> bool:
        """Whether an instance is large enough for an object."""
        instance = self.instances[column]
        reach = np.linalg.norm(instance.points - instance.centroid, axis=1).max(initial=0.0)
        return bool(reach * self.config.size_slack >= self.candidates[row].model.radius)

    def sweep(self, pairs: Sequence[Pair], rng: np.random.Generator) -> dict[Pair, Sweep]:
        """Many poses of every pair; a pair that no view shows well enough is left out."""
        spins = {pair: random_rotations(self.register.free_rotations, rng) for pair in pairs}

        def work(pair: Pair) -> Sweep | None:
            candidate = self.candidates[pair[0]]
            return sweep_template(
                candidate.model, self.views, self.instances[pair[1]], last_rotation=candidate.last_pose[:3, :3], up=self.up,
                free=spins[pair], config=self.register, backend=self.backend,
            )

        swept = zip(pairs, in_parallel(work, pairs), strict=True)
        return {pair: sweep for pair, sweep in swept if sweep is not None}

    def scout(self, pairs: Sequence[Pair], sweeps: Mapping[Pair, Sweep]) -> dict[Pair, Sweep]:
        """The best poses of their sweeps, refined a little."""
        found = in_parallel(lambda pair: scout_template(*self._at(pair), sweeps[pair], config=self.register, backend=self.backend), pairs)
        return dict(zip(pairs, found, strict=True))

    def refine(
        self, pairs: Sequence[Pair], scouts: Mapping[Pair, Sweep], worth: Mapping[Pair, float], needed: Mapping[Pair, float],
        bonus: Mapping[Pair, float],
    ) -> dict[Pair, tuple[PoseHypothesis, float]]:
        """Hypotheses and values of the pairs of each object, best scouts first, as long as they may still bring something."""

        def work(row: int) -> dict[Pair, tuple[PoseHypothesis, float]]:
            found: dict[Pair, tuple[PoseHypothesis, float]] = {}
            for pair in (p for p in pairs if p[0] == row):
                best = max((value for _, value in found.values()), default=0.0)
                if len(found) >= self.config.most_refined or worth[pair] + self.config.best_rise < best:
                    continue
                hypothesis = register_template(*self._at(pair), scouts[pair], config=self.register, backend=self.backend)
                handicap = self.config.part_handicap if self.instances[pair[1]].is_part else 0.0
                value = hypothesis.gain + bonus.get(pair, 0.0) - handicap if hypothesis.gain >= needed[pair] else 0.0
                found[pair] = hypothesis, value
            return found

        rows = list(dict.fromkeys(row for row, _ in pairs))
        return {pair: result for found in in_parallel(work, rows) for pair, result in found.items()}

    def turn(self, pairs: Sequence[Pair], hypotheses: Mapping[Pair, PoseHypothesis]) -> dict[Pair, PoseHypothesis]:
        """The better of each pose and its turns."""
        found = in_parallel(lambda pair: compare_turns(
            *self._at(pair), hypotheses[pair], up=self.up, config=self.register, backend=self.backend,
        ), pairs)
        return dict(zip(pairs, found, strict=True))

    def match(self, object_id: int, pair: Pair, hypothesis: PoseHypothesis) -> Match:
        """What was found; one that explains little, or shows what nobody had seen, may be turned in any way."""
        match = Match(object_id, self.instances[pair[1]], hypothesis)
        if hypothesis.gain < self.config.min_gain or hypothesis.unseen > self.register.most_unseen:
            return match.with_guessed_turn(self.candidates[pair[0]].model.radius, config=self.register.uncertainty)
        return match

    def whole_is_better(self, pair: Pair, hypotheses: Mapping[Pair, PoseHypothesis]) -> bool:
        """Whether a part of an instance shows an object worse than the whole does, where both are judged by the pixels of the whole.

        What a part explains of its own surroundings says nothing about the rest: a wrong pose may fit a few pixels well.
        """
        row, column = pair
        part = self.instances[column]
        if not part.is_part:
            return False
        for (other, whole), hypothesis in hypotheses.items():
            larger = self.instances[whole]
            if other != row or whole == column or larger.area_px <= part.area_px or _overlap(part, larger) <= self.config.same_pixels:
                continue
            pose, model = hypotheses[pair].world_from_object, self.candidates[row].model
            if gain_around(model, pose, self.views, larger, config=self.register, backend=self.backend) < hypothesis.gain:
                return True
        return False

    def _at(self, pair: Pair) -> tuple[Model, Sequence[ComparedView], HullInstance]:
        return self.candidates[pair[0]].model, self.views, self.instances[pair[1]]


def _likenesses(
    candidates: Sequence[Candidate], instances: Sequence[HullInstance], views: Sequence[ComparedView], up: Array, backend: str
) -> dict[tuple[int, int], float]:
    """Likeness of the colours of (candidate, instance), where both are known."""
    own = [template_palette(c.model.seen, c.last_pose[:3, :3].T @ up, backend=backend) for c in candidates]
    found = [content_palette(i, views) for i in instances]
    pairs = {(r, c): likeness(a, b) for r, a in enumerate(own) for c, b in enumerate(found)}
    return {pair: like for pair, like in pairs.items() if like is not None}


def _needed(alike: float | None, config: AssociateConfig, *, single: bool = False) -> float:
    """The gain that a pair must reach.

    Args:
        single: there is only one photo.
    """
    least = config.min_gain_single if single else 0.0
    if alike is None:
        return max(config.min_gain, least)
    steps = (config.unlike, *config.alike)
    return max(float(np.interp(alike, steps, (config.min_gain_unlike, config.min_gain, config.min_gain_alike))), least)


def _assign(values: Array, instances: Sequence[HullInstance], config: AssociateConfig) -> list[tuple[int, int]]:
    """Pairs (row, column) of the assignment of highest value among instances that do not claim the same pixels.

    Args:
        values: [objects, instances], 0 or less where a pair may not be.
    """
    values = np.maximum(values, 0.0)
    while values.size:
        rows, columns = linear_sum_assignment(-values)
        pairs = sorted(((int(r), int(c)) for r, c in zip(rows, columns, strict=True) if values[r, c] > 0), key=lambda p: -values[p])
        clash = next((
            p for i, p in enumerate(pairs)
            if any(_overlap(instances[p[1]], instances[q[1]]) > config.same_pixels for q in pairs[:i])
        ), None)
        if clash is None:
            return pairs
        values[clash] = 0.0
    return []


def _overlap(one: HullInstance, other: HullInstance) -> float:
    """Pixels that two instances share, relative to the smaller one's."""
    shared = sum(int((a & b).sum()) for a, b in zip(one.pixels, other.pixels, strict=True))
    return shared / max(min(one.area_px, other.area_px), 1)


def _promising(gains: Mapping[tuple[int, int], float], floor: float, slack: float) -> list[tuple[int, int]]:
    """Pairs (row, column) worth going on with."""
    by_row: dict[int, float] = {}
    by_column: dict[int, float] = {}
    for (row, column), gain in gains.items():
        by_row[row] = max(by_row.get(row, gain), gain)
        by_column[column] = max(by_column.get(column, gain), gain)
    for pair, gain in gains.items():
        log.debug("pair %s: %.3f", pair, gain)
    return [
        (row, column) for (row, column), gain in gains.items()
        if gain >= floor and gain >= min(by_row[row], by_column[column]) - slack
    ]
