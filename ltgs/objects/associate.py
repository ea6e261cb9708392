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
from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.objects.hull import HullInstance
from ltgs.objects.register import PoseHypothesis, RegisterConfig, Sweep, register_template, sweep_template, template_radius

log = logging.getLogger("ltgs.objects")
Array = NDArray[np.float64]


class Candidate(Protocol):
    """What association needs to know of an object."""

    object_id: int
    template: Gaussians
    last_pose: Array


@dataclass(frozen=True)
class AssociateConfig:
    """Assignment of objects to instances."""

    min_gain: float = 0.18
    """Share of the cost around an instance that drawing the object must explain."""
    sweep_slack: float = 0.12
    """A pair is refined if its sweep explains at most this much less than the best sweep of its object or its instance."""
    sweep_floor: float = -0.08
    """A pair whose sweep explains less than this is not refined."""
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
        radius = template_radius(candidate.template)
        for column, instance in enumerate(instances):
            reach = np.linalg.norm(instance.points - instance.centroid, axis=1).max(initial=0.0)
            if reach * config.size_slack < radius:
                continue
            sweep = sweep_template(
                candidate.template, views, instance, last_rotation=candidate.last_pose[:3, :3], up=up,
                config=register, rng=rng, backend=backend,
            )
            if sweep is not None:
                sweeps[row, column] = sweep
    gains = np.zeros((len(ids), len(instances)))
    hypotheses: dict[tuple[int, int], PoseHypothesis] = {}
    for row, column in _promising({k: s.gain for k, s in sweeps.items()}, config):
        candidate = known[ids[row]]
        hypothesis = register_template(
            candidate.template, views, instances[column], sweeps[row, column], up=up, config=register, backend=backend
        )
        hypotheses[row, column] = hypothesis
        gains[row, column] = hypothesis.gain
        log.info("object %d against instance %d: sweep %.3f, gain %.3f", ids[row], column, sweeps[row, column].gain, hypothesis.gain)
    matches, taken, chosen = [], set(), []
    if gains.size:
        for row, column in zip(*linear_sum_assignment(-gains), strict=True):
            if gains[row, column] >= config.min_gain:
                matches.append(Match(ids[row], instances[column], hypotheses[row, column]))
                taken.add(int(column))
                chosen.append((int(row), int(column)))
    if record is not None:
        record.pairs(ids, instances, {k: s.gain for k, s in sweeps.items()}, hypotheses, chosen, config.min_gain)
    return matches, [i for i in range(len(instances)) if i not in taken]


def _promising(gains: Mapping[tuple[int, int], float], config: AssociateConfig) -> list[tuple[int, int]]:
    """Pairs (row, column) worth refining."""
    by_row: dict[int, float] = {}
    by_column: dict[int, float] = {}
    for (row, column), gain in gains.items():
        by_row[row] = max(by_row.get(row, gain), gain)
        by_column[column] = max(by_column.get(column, gain), gain)
    for pair, gain in gains.items():
        log.debug("pair %s: sweep %.3f", pair, gain)
    return [
        (row, column) for (row, column), gain in gains.items()
        if gain >= config.sweep_floor and gain >= min(by_row[row], by_column[column]) - config.sweep_slack
    ]
