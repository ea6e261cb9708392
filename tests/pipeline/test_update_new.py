"""New content beside an object that stands: its own error where it is drawn, a thing of its own elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from solids import box
from test_update import CONFIG, FIRST, shots
from test_update_review import POSE, THING, TRUE, arrived

from ltgs.change.compare import footprint
from ltgs.core.chronology import Chronology
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import silent
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.objects.associate import Match
from ltgs.objects.backing import Model
from ltgs.objects.hull import HullInstance
from ltgs.objects.hypothesis import PoseHypothesis
from ltgs.pipeline.update_captures import VisitCaptures
from ltgs.pipeline.update_decide import _distinct
from ltgs.pipeline.update_new import NewContent
from ltgs.pipeline.update_parts import KnownObject, sinks


@pytest.fixture(scope="module")
def visit() -> VisitCaptures:
    """A third visit; at the second one the thing was found."""
    records = [tuple(PhotoRecord(p.camera.name, t, "", True, camera=p.camera) for p in shots(FIRST, t)) for t in (0, 1)]
    start = Scene(Chronology.initial(FIRST), (VisitRecord(0, "0", None, records[0]),))
    scene = Scene(arrived(start, "appeared", POSE), (*start.visits, VisitRecord(1, "1", None, records[1])))
    return VisitCaptures(scene, shots(TRUE, 2), [], CONFIG, "auto", 0, silent)


def content(visit: VisitCaptures, shift: int) -> HullInstance:
    """Content right at the thing, whose pixels lie so many columns beside those where it is drawn."""
    placed = THING.transformed(torch.as_tensor(POSE, dtype=torch.float32))
    pixels = tuple(np.roll(footprint(placed, s.camera, above=0.5), shift, axis=1) for s in visit.shots)
    near = np.random.default_rng(0).normal(0, 0.02, (200, 3)) + POSE[:3, 3] + [0, 0, 0.07]
    return HullInstance(near, pixels, 3)


def test_content_where_the_object_is_drawn_is_its_own_error(visit: VisitCaptures) -> None:
    assert NewContent(visit).apart_from([content(visit, 0)], {}, [], []) == []
    assert any("around object 1" in line for line in visit.undecided)


def test_content_beside_the_drawn_object_is_a_thing_of_its_own(visit: VisitCaptures) -> None:
    beside = content(visit, 60)
    assert NewContent(visit).apart_from([beside], {}, [], []) == [beside]


def beside_half(visit: VisitCaptures, template: Gaussians) -> list[HullInstance]:
    """What is left of the thing's upper half if an object was found where its lower half is."""
    low = THING.means[:, 2] < THING.means[:, 2].median()
    upper, lower = (part.transformed(torch.as_tensor(POSE, dtype=torch.float32)) for part in (THING[~low], THING[low]))
    pixels = tuple(
        footprint(upper, s.camera, above=0.5) & ~footprint(lower, s.camera, above=0.5) for s in visit.shots
    )
    far = np.full((200, 3), 9.0)  # only what is drawn tells that it is near
    found = Match(1, HullInstance(far, pixels, 3), PoseHypothesis(POSE, 0.05, 0.2, np.eye(6), ambiguous=False))
    known = KnownObject(1, template, POSE, True, Model(template))
    return NewContent(visit).apart_from([HullInstance(far, pixels, 3)], {1: known}, [found], visit.before())


def test_a_piece_that_the_template_lacks_is_no_thing_of_its_own(visit: VisitCaptures) -> None:
    low = THING.means[:, 2] < THING.means[:, 2].median()
    count = min(int(low.sum()), int((~low).sum()))
    alike = replace(THING[low][:count], sh=THING[~low].sh[:count])
    assert beside_half(visit, alike) == []


def test_a_thing_of_another_colour_right_beside_a_found_object_is_new(visit: VisitCaptures) -> None:
    low = THING.means[:, 2] < THING.means[:, 2].median()
    other = replace(THING[low], sh=-THING[low].sh)
    assert len(beside_half(visit, other)) == 1


@pytest.mark.parametrize(
    ("shift", "left", "sunk"),
    [((0, 0, -0.1), True, True), ((0, 0, -0.1), False, False), ((0.4, 0, -0.1), True, False), ((0.02, 0, 0), True, False)],
    ids=["below its place", "had not stood there", "elsewhere, lower", "in place"],
)
def test_no_object_is_found_in_the_ground_right_below_its_place(shift: tuple[float, ...], left: bool, sunk: bool) -> None:
    pose = POSE.copy()
    pose[:3, 3] += shift
    found = Match(1, HullInstance(np.zeros((1, 3)), (), 0), PoseHypothesis(pose, 0.05, 0.2, np.eye(6), ambiguous=False))
    assert sinks(KnownObject(1, THING, POSE, left, Model(THING)), found, np.array([0.0, 0.0, 1.0]), 0.5) == sunk


def test_an_object_that_tips_over_comes_down_but_does_not_sink() -> None:
    tall = box((0.1, 0.1, 0.4), 5)
    fallen = np.eye(4)
    fallen[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    fallen[2, 3] = 0.05
    found = Match(1, HullInstance(np.zeros((1, 3)), (), 0), PoseHypothesis(fallen, 0.05, 0.2, np.eye(6), ambiguous=False))
    assert not sinks(KnownObject(1, tall, np.eye(4), True, Model(tall)), found, np.array([0.0, 0.0, 1.0]), 0.5)


def test_content_found_twice_is_searched_once_but_what_came_first_stays() -> None:
    shape = (20, 20)

    def content(rows: slice, *, part: bool = False) -> HullInstance:
        mask = np.zeros(shape, bool)
        mask[rows, 5:15] = True
        return HullInstance(np.zeros((1, 3)), (mask,), 1, is_part=part)

    whole, again, half = content(slice(0, 10)), content(slice(0, 11)), content(slice(0, 5), part=True)
    assert _distinct([whole, again, half, again, half], 1, 0.8) == [whole, half]
    assert _distinct([whole, again, half], 2, 0.8) == [whole, again, half]


def test_one_photo_in_which_nothing_carries_new_content_does_not_place_it(visit: VisitCaptures) -> None:
    (shot, *_), pixels = visit.before(), content(visit, 60).pixels[:1]
    afloat = HullInstance(np.random.default_rng(0).normal(0, 0.02, (200, 3)) + [0.9, 0.9, 0.4], pixels, 1)
    assert NewContent(visit).for_sure([afloat], [shot]) == []
    assert any("does not show what it stands on" in line for line in visit.undecided)
    held = replace(afloat, ground=np.array([0.0, 0.0, 1.0, 0.0]))
    assert NewContent(visit).for_sure([held], [shot]) == [held]
