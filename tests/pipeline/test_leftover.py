"""What was left over of an object that is gone goes with it; what stands beside it stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solids import at
from test_update import BOX, CONFIG, FLOOR, SMALL, shots

from ltgs.core.chronology import Chronology
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import silent
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.core.se3 import make_rigid
from ltgs.objects.backing import Model
from ltgs.objects.hull import HullInstance
from ltgs.objects.templates import framed
from ltgs.pipeline.update_captures import VisitCaptures
from ltgs.pipeline.update_leftover import Leftovers
from ltgs.pipeline.update_parts import KnownObject

LIFT = torch.tensor(make_rigid(np.eye(3), np.array([0.0, 0.0, 0.04])), dtype=torch.float32)
THERE = at(BOX, 0.28, 0.12).transformed(LIFT)
"""Its bottom, which no photo would show, lies above the floor's Gaussians."""
FIRST = Gaussians.concatenate([FLOOR, THERE, at(SMALL, -0.3, -0.2)])
MEMBERS = torch.arange(len(FLOOR), len(FLOOR) + len(BOX))
WITHOUT = Gaussians.concatenate([FLOOR, at(SMALL, -0.3, -0.2)])


def captures(first: Gaussians, now: Gaussians) -> VisitCaptures:
    records = tuple(PhotoRecord(p.camera.name, 0, "", True, camera=p.camera) for p in shots(first, 0, 8))
    scene = Scene(Chronology.initial(first), (VisitRecord(0, "0", None, records),))
    return VisitCaptures(scene, shots(now, 1), [], CONFIG, "auto", 0, silent)


def cut(visit: VisitCaptures, members: torch.Tensor) -> tuple[KnownObject, torch.Tensor, list]:
    """The object that some Gaussians are, what is kept without it, and the views without it."""
    template, pose = framed(visit.gaussians[members])
    kept = torch.ones(len(visit.gaussians), dtype=torch.bool)
    before = visit.before()
    kept[members] = False
    return KnownObject(1, template, pose, True, Model(template)), kept, visit.compare_kept(before, visit.gaussians[members], kept, [])


@pytest.fixture
def half_cut() -> tuple[VisitCaptures, KnownObject, torch.Tensor, list]:
    """The box is gone, but a corner of it was not cut out."""
    visit = captures(FIRST, WITHOUT)
    aside = (FIRST.means[MEMBERS] - FIRST.means[MEMBERS].mean(0)) @ torch.tensor([1.0, 0.3, 0.6])
    return visit, *cut(visit, MEMBERS[aside < aside.quantile(0.95)])


def test_what_the_photos_contradict_beside_an_object_goes_with_it(half_cut) -> None:
    visit, obj, kept, views = half_cut
    gone, after = Leftovers(visit, kept, [], []).of(obj, views)
    left = MEMBERS[kept[MEMBERS]]
    assert torch.isin(gone, left).all() and len(gone) > 0.5 * len(left)
    assert sum(int(v.mask.sum()) for v in after) < 0.5 * sum(int(v.mask.sum()) for v in views)


def test_content_that_is_not_drawn_yet_says_nothing(half_cut) -> None:
    visit, obj, kept, views = half_cut
    everything = HullInstance(np.zeros((1, 3)), tuple(np.ones(v.mask.shape, bool) for v in views), 3)
    gone, after = Leftovers(visit, kept, [], [everything]).of(obj, views)
    assert len(gone) == 0 and all(a is v for a, v in zip(after, views, strict=True))


def test_what_stands_beside_it_stays() -> None:
    near = at(SMALL, 0.12, 0.12)
    visit = captures(Gaussians.concatenate([FIRST, near]), Gaussians.concatenate([WITHOUT, near]))
    obj, kept, views = cut(visit, MEMBERS)
    gone, _ = Leftovers(visit, kept, [], []).of(obj, views)
    assert len(gone) == 0
