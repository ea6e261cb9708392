"""Who is who: assign objects that left or were absent to instances of new content by what they explain."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ltgs.core.decisions import DecisionRecorder
from ltgs.core.views import ComparedView
from ltgs.objects.backing import Model
from ltgs.objects.hull import HullInstance
from ltgs.objects.register import (
    PoseHypothesis,
    RegisterConfig,
    Sweep,
    compare_turns,
    register_template,
    scout_template,
    sweep_template,
)

log = logging.getLogger("ltgs.objects")
Array = NDArray[np.float64]


class Candidate(Protocol):
    """What association needs to know of an object."""

    object_id: int
    model: Model
    last_pose: Array


@dataclass(frozen=True)
class AssociateConfig:
    """Assignment of objects to instances."""

    min_gain: float = 0.22
    """Share of the cost around an instance that drawing the object must explain."""
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
    sweeps: dict[tuple[int, int], Sweep] = {}
    for row, object_id in enumerate(ids):
        candidate = known[object_id]
        radius = candidate.model.radius
        for column, instance in enumerate(instances):
            reach = np.linalg.norm(instance.points - instance.centroid, axis=1).max(initial=0.0)
            if reach * config.size_slack < radius:
                continue
            sweep = sweep_template(
                candidate.model, views, instance, last_rotation=candidate.last_pose[:3, :3], up=up,
                config=register, rng=rng, backend=backend,
            )
            if sweep is not None:
                sweeps[row, column] = sweep
    scouts = {
        (row, column): scout_template(
            known[ids[row]].model, views, instances[column], sweeps[row, column], config=register, backend=backend
        )
        for row, column in _promising({k: s.gain for k, s in sweeps.items()}, config.sweep_floor, config.sweep_slack)
    }
    gains = np.zeros((len(ids), len(instances)))
    hypotheses: dict[tuple[int, int], PoseHypothesis] = {}
    promising = _promising({k: s.gain for k, s in scouts.items()}, config.scout_floor, config.sweep_slack)
    for row, column in sorted(promising, key=lambda pair: -scouts[pair].gain):
        if scouts[row, column].gain + config.best_rise < gains[row].max():
            continue
        hypothesis = register_template(
            known[ids[row]].model, views, instances[column], scouts[row, column], config=register, backend=backend
        )
        hypotheses[row, column] = hypothesis
        gains[row, column] = hypothesis.gain - (config.part_handicap if instances[column].is_part else 0.0)
        log.info(
            "object %d against instance %d: sweep %.3f, scouts %.3f, gain %.3f",
            ids[row], column, sweeps[row, column].gain, scouts[row, column].gain, hypothesis.gain,
        )
    matches, taken, chosen = [], set(), []
    for row, column in _assign(gains, instances, config):
        hypotheses[row, column] = compare_turns(
            known[ids[row]].model, views, instances[column], hypotheses[row, column], up=up, config=register, backend=backend
        )
        matches.append(Match(ids[row], instances[column], hypotheses[row, column]))
        taken.add(column)
        chosen.append((row, column))
    if record is not None:
        record.pairs(ids, instances, {k: s.gain for k, s in sweeps.items()}, hypotheses, chosen, config.min_gain)
    return matches, [i for i in range(len(instances)) if i not in taken]


def _assign(gains: Array, instances: Sequence[HullInstance], config: AssociateConfig) -> list[tuple[int, int]]:
    """Pairs (row, column) of the assignment of highest gain among instances that do not claim the same pixels."""
    gains = np.where(gains >= config.min_gain, gains, 0.0)
    while gains.size:
        rows, columns = linear_sum_assignment(-gains)
        pairs = sorted(((int(r), int(c)) for r, c in zip(rows, columns, strict=True) if gains[r, c] > 0), key=lambda p: -gains[p])
        clash = next((
            p for i, p in enumerate(pairs)
            if any(_overlap(instances[p[1]], instances[q[1]]) > config.same_pixels for q in pairs[:i])
        ), None)
        if clash is None:
            return pairs
        gains[clash] = 0.0
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
