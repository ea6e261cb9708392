"""Who is who, on a stage with known answers: swaps, strangers, two cuts of one thing, parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from helpers import threads
from solids import FACES, at, box, standing
from stage import CHEAP, UP, content, views

from ltgs.core.chronology import Chronology
from ltgs.core.decisions import DecisionRecorder, PairTest
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import rotation_angle_deg
from ltgs.core.views import ComparedView
from ltgs.objects import associate
from ltgs.objects.associate import AssociateConfig, Match, match_instances
from ltgs.objects.backing import Model
from ltgs.objects.hull import HullInstance
from ltgs.objects.register import PoseHypothesis, gain_around

HOME = {1: (0.3, 0.1), 2: (-0.3, -0.1)}
"""Where the objects stood before."""
NOW = {1: (*HOME[2], 50.0), 2: (*HOME[1], -40.0)}
"""Where they stand after they changed places: x, y, degrees."""
PRINTED = box(count=700)
MIRRORED = FACES[[1, 0, 2, 3, 4, 5]]
"""The same colours, but two opposite sides are exchanged: no turn makes it the other print."""
OTHER_HUES = FACES[:, [1, 2, 0]]
PATIENT = AssociateConfig(sweep_slack=9, sweep_floor=-9, scout_floor=-9, best_rise=9)
"""Registers every pair to the end, so that the assignment alone decides."""
GREYISH = 0.15 * FACES + 0.425


@dataclass(frozen=True)
class Known:
    """An object that left."""

    object_id: int
    model: Model
    last_pose: np.ndarray


def known(*templates: Gaussians) -> dict[int, Known]:
    """Objects 1, 2, ..., that stood at home, not turned."""
    return {k: Known(k, Model(t), standing(*HOME[k])) for k, t in enumerate(templates, 1)}


@dataclass(frozen=True)
class Outcome:
    """What became of the objects."""

    columns: dict[int, int]
    """Object id to the index of the instance that it was matched to."""
    unmatched: list[int]
    matches: list[Match]
    pairs: tuple[PairTest, ...]
    """What was tried, by object and instance."""


def matched(
    objects: dict[int, Known], instances: Sequence[HullInstance], shots: Sequence[ComparedView], config: AssociateConfig | None = None
) -> Outcome:
    config = config or AssociateConfig()
    recorder = DecisionRecorder([s.camera for s in shots])
    matches, unmatched = match_instances(
        objects, instances, shots, up=UP, config=config, register=CHEAP, rng=np.random.default_rng(0), record=recorder
    )
    columns = {m.object_id: next(i for i, c in enumerate(instances) if c is m.instance) for m in matches}
    return Outcome(columns, unmatched, matches, recorder.finish(Chronology.initial(Gaussians.empty(0)), 1).pairs)


@pytest.mark.parametrize(
    ("other", "config"),
    [
        (box(seed=4, faces=MIRRORED, count=700), AssociateConfig()), (box(seed=4, faces=MIRRORED, count=700), PATIENT),
        (box(faces=OTHER_HUES, count=700), AssociateConfig()),
    ],
    ids=["print", "print, all tried to the end", "colours"],
)
def test_similar_objects_that_changed_places_keep_their_identity(other: Gaussians, config: AssociateConfig) -> None:
    # In the order of places, so that leaving everybody where he was is wrong.
    things = [at(other, *NOW[2]), at(PRINTED, *NOW[1])]
    shots = views(*things)
    out = matched(known(PRINTED, other), [content(t, shots) for t in things], shots, config)
    assert out.columns == {1: 1, 2: 0} and out.unmatched == []
    assert all(p.sweep_gain is not None for p in out.pairs), "every object was tried at both places"
    for match in out.matches:
        pose, true = match.hypothesis.world_from_object, standing(*NOW[match.object_id])
        np.testing.assert_allclose(pose[:3, 3], true[:3, 3], atol=0.02)
        assert rotation_angle_deg(pose[:3, :3].T @ true[:3, :3]) < 8 and not match.turn_guessed


def test_any_number_of_threads_finds_the_same_poses() -> None:
    other = box(faces=OTHER_HUES, count=700)
    things = [at(other, *NOW[2]), at(PRINTED, *NOW[1])]
    shots = views(*things)
    content_of = [content(t, shots) for t in things]
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(matched(known(PRINTED, other), content_of, shots, PATIENT))
    assert found[0].pairs == found[1].pairs and len(found[0].matches) == 2
    for one, two in zip(found[0].matches, found[1].matches, strict=True):
        np.testing.assert_array_equal(one.hypothesis.world_from_object, two.hypothesis.world_from_object)
        np.testing.assert_array_equal(one.hypothesis.covariance, two.hypothesis.covariance)


def test_a_pair_of_unlike_colours_is_not_tried_and_the_stranger_is_left() -> None:
    things = [at(box(faces=GREYISH, count=700), *HOME[1]), at(PRINTED, *NOW[1])]
    shots = views(*things)
    out = matched(known(PRINTED), [content(t, shots) for t in things], shots)
    assert out.columns == {1: 1} and out.unmatched == [0]
    assert [p.sweep_gain is None for p in out.pairs] == [True, False]
    assert out.pairs[0].reason.startswith("not tried: its colours are others")


def test_what_an_object_explains_too_little_of_is_left() -> None:
    stranger = at(box(faces=OTHER_HUES, count=700), *HOME[1], 20)
    shots = views(stranger)
    out = matched(known(PRINTED), [content(stranger, shots)], shots)
    assert out.columns == {} and out.unmatched == [0]
    (pair,) = out.pairs
    assert pair.gain is not None and "are needed" in pair.reason, "of the same shape, it was tried to the end"


def upper(instance: HullInstance, cut_off: float) -> HullInstance:
    """A cut of new content: all but the lowest share of its height, in space and in the photos."""
    masks = []
    for mask in instance.pixels:
        rows = np.flatnonzero(mask.any(1))
        end = rows[0] + round((1 - cut_off) * len(rows))
        masks.append(mask & (np.arange(len(mask)) < end)[:, None])
    z = instance.points[:, 2]
    return replace(instance, points=instance.points[z >= z.min() + cut_off * np.ptp(z)], pixels=tuple(masks))


def test_two_cuts_of_one_thing_are_one_object() -> None:
    thing = at(PRINTED, *NOW[1])
    shots = views(thing)
    whole = content(thing, shots)
    out = matched(known(PRINTED, PRINTED), [whole, upper(whole, 0.15)], shots)
    assert all(p.gain is not None and p.gain > 0.7 for p in out.pairs), "each of two equal objects explains each cut"
    assert len(out.matches) == 1 and len(out.unmatched) == 1


def test_a_part_must_explain_more_than_the_whole() -> None:
    thing = at(PRINTED, *NOW[1])
    shots = views(thing)
    whole = content(thing, shots)
    out = matched(known(PRINTED), [replace(upper(whole, 0.15), is_part=True), whole], shots)
    assert out.pairs[0].gain > out.pairs[1].gain - 0.05  # type: ignore[operator]
    assert out.columns == {1: 1} and out.unmatched == [0]


@pytest.mark.parametrize(("shift", "turn", "column"), [(0.0, 0.0, 0), (0.0, 180.0, 1), (0.1, 0.0, 1)])
def test_a_part_whose_pose_shows_the_whole_worse_loses(
    shift: float, turn: float, column: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the part explains of its own few pixels."""
    x, y, yaw = NOW[1]
    thing = at(PRINTED, x, y, yaw)
    shots = views(thing)
    whole = content(thing, shots)
    part = replace(upper(whole, 0.15), is_part=True)
    nearly = standing(x + 0.02, y, yaw)
    poses = {id(part): standing(x + shift, y, yaw + turn), id(whole): nearly}
    gains = {id(part): 0.99, id(whole): gain_around(Model(PRINTED), nearly, shots, whole, config=CHEAP)}

    def registered(model: Model, views: object, instance: HullInstance, *_: object, **__: object) -> PoseHypothesis:
        return PoseHypothesis(poses[id(instance)], 1 - gains[id(instance)], 1.0, np.eye(6), False, ((poses[id(instance)], 0.0),))

    monkeypatch.setattr(associate, "register_template", registered)
    assert 0.5 < gains[id(whole)] < 0.9
    assert matched(known(PRINTED), [part, whole], shots).columns == {1: column}


@pytest.mark.parametrize(("share", "guessed"), [(0.5, False), (0.95, True)])
def test_a_turn_that_shows_what_nobody_had_seen_is_a_guess(share: float, guessed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    thing = at(PRINTED, *NOW[1])
    shots = views(thing)
    real = associate.compare_turns
    monkeypatch.setattr(associate, "compare_turns", lambda *a, **k: replace(real(*a, **k), unseen=share))
    (match,) = matched(known(PRINTED), [content(thing, shots)], shots).matches
    sd_deg = np.degrees(np.sqrt(np.trace(match.hypothesis.covariance[3:, 3:])))
    assert match.turn_guessed == guessed and (sd_deg > 90) == guessed
