"""A known object that was drawn where it is not must not hide what another one explains there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solids import at, box
from test_update import BOX, CONFIG, FIRST, shots

from ltgs.core.chronology import Chronology
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import silent
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.core.se3 import make_rigid
from ltgs.core.views import ComparedView
from ltgs.objects.associate import Match
from ltgs.objects.backing import Model
from ltgs.objects.hull import HullInstance
from ltgs.objects.hypothesis import PoseHypothesis
from ltgs.pipeline.update_captures import VisitCaptures
from ltgs.pipeline.update_decide import Decider
from ltgs.pipeline.update_parts import KnownObject, place

THING = box((0.2, 0.2, 0.14), 11)
POSE = make_rigid(np.eye(3), np.array([0.05, -0.42, 0.0]))
KNOWN = {k: KnownObject(k, t, np.eye(4), False, Model(t)) for k, t in ((1, THING), (2, BOX))}
NOWHERE = HullInstance(np.zeros((1, 3)), (), 3)


def match(object_id: int) -> Match:
    return Match(object_id, NOWHERE, PoseHypothesis(POSE, 0.1, 1.0, np.eye(6), ambiguous=False))


@pytest.fixture(scope="module")
def decider() -> Decider:
    """Photos of a place to which the thing, object 1, has come."""
    records = tuple(PhotoRecord(p.camera.name, 0, "", True, camera=p.camera) for p in shots(FIRST, 0, 8))
    scene = Scene(Chronology.initial(FIRST), (VisitRecord(0, "0", None, records),))
    true = Gaussians.concatenate([FIRST, at(THING, 0.05, -0.42)])
    return Decider(VisitCaptures(scene, shots(true, 1), [], CONFIG, "auto", 0, silent))


def views_with(decider: Decider, *matches: Match) -> tuple[list[ComparedView], list[ComparedView], torch.Tensor]:
    """The captures before, with objects drawn as they were matched, and what is kept: everything."""
    visit = decider.visit
    before, kept = visit.before(), torch.ones(len(FIRST), dtype=torch.bool)
    placed = [place(KNOWN[m.object_id], m) for m in matches]
    return before, visit.compare_kept(before, Gaussians.concatenate(placed), kept, placed), kept


def test_the_worst_find_is_withdrawn_first_and_the_others_are_asked_again(decider: Decider) -> None:
    right, wrong = match(1), match(2)
    _, views, kept = views_with(decider, right, wrong)
    placed = [place(KNOWN[m.object_id], m) for m in (right, wrong)]
    gains = decider._gains(KNOWN, [right, wrong], [], views, kept, placed)
    (left,) = decider._needed(KNOWN, [right, wrong], [], views, kept, 0.3)
    assert left.object_id == 1 and left.explained is not None and left.explained > 0.6
    assert gains[0] is not None and gains[0][0] < left.explained, "the larger one had hidden it"
    assert decider._needed(KNOWN, [wrong], [], views, kept, 0.5) == []


def test_what_it_had_hidden_is_new_content_again(decider: Decider) -> None:
    wrong = match(2)
    before, views, kept = views_with(decider, wrong)
    holes = [np.zeros(v.mask.shape, bool) for v in views]
    decider._uncover([], before, holes)
    found, after = decider._what_is_left(KNOWN, [], views, kept, holes, [place(KNOWN[2], wrong)])
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one.shown, other.shown, atol=1e-5)
        np.testing.assert_array_equal(one.mask, other.mask)
    assert found and np.linalg.norm(found[0].centroid[:2] - POSE[:2, 3]) < 0.05
