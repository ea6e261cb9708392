"""An update whose photo looks through haze of the first visit: what it decides, what it leaves of the past."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from solids import at, gaussians
from test_update import BOX, CONFIG, FIRST, FLOOR, SMALL, advance, camera, shots

from ltgs.core.cameras import stack_cameras
from ltgs.core.chronology import Chronology, Presence
from ltgs.core.gaussians import Gaussians
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.optim.initialize import TrainingPhoto
from ltgs.optim.residual import expected_residual
from ltgs.pipeline.update import compare_again, update_visit
from ltgs.pipeline.update_haze import before_visit, hazes
from ltgs.render import render

MOVED = Gaussians.concatenate([FLOOR, at(BOX, -0.05, 0.4, 40), at(SMALL, -0.3, -0.2)])


def haze_before(photo: TrainingPhoto) -> Gaussians:
    """Large faint Gaussians right before a photo's camera, outside of what the first visit's photos show."""
    rng = np.random.default_rng(4)
    ahead = photo.camera.center + 0.2 * photo.camera.cam_from_world[2, :3]
    return gaussians(ahead + rng.normal(0, 0.04, (14, 3)), np.full((14, 3), 0.7), 0.05, opacity_logit=-0.6)


@pytest.fixture(scope="module")
def low():
    """Photos of the visit, the first from low beside the floor."""
    photos = shots(MOVED, 1)
    cam = camera((1.5, 0.35, 0.5), photos[0].camera.name, 1)
    rgb = render(MOVED, stack_cameras([cam])).rgb[0].clamp(0, 1).numpy()
    return [replace(photos[0], camera=cam, rgb=(rgb * 255 + 0.5).astype(np.uint8)), *photos[1:]]


@pytest.fixture(scope="module")
def hazed(low) -> Scene:
    first = Gaussians.concatenate([FIRST, haze_before(low[0])])
    photos = shots(first, 0, 8)
    records = tuple(PhotoRecord(p.camera.name, 0, "", True, camera=p.camera) for p in photos)
    residual = expected_residual(first, photos, np.tile(np.eye(3, 4), (len(photos), 1, 1)))
    return Scene(Chronology.initial(first), (VisitRecord(0, "0", None, records),), side_data={"expected_residual": residual})


def test_an_update_looks_through_haze_and_leaves_the_past_as_it_was(hazed, low):
    scene, events = advance(hazed, low)
    chronology = scene.chronology
    assert [e.kind for e in events] == ["moved"]
    (k,) = hazes(chronology, 1)
    assert len(chronology.templates[k].gaussians) >= 10 and chronology.tracks[k].presence.tolist() == [Presence.PRESENT, Presence.ABSENT]
    past = chronology.state_at(0)
    assert torch.equal(past.gaussians.means[past.object_ids == k], hazed.chronology.background.means[chronology.members_of(k)])
    assert k not in chronology.state_at(1).object_ids.tolist()
    assert not before_visit(chronology, 1).tracks[k].presence.any()
    # The page that explains a visit compares as the update did.
    update = update_visit(hazed, low, [], config=CONFIG)
    for again, then in zip(compare_again(scene, 1, low, [], config=CONFIG)[1], update.views_after, strict=True):
        np.testing.assert_allclose(again.score, then.score, atol=2e-3)
    # A later visit has nothing in its way, and nothing to say of what was.
    later, events = advance(scene, [replace(p, camera=replace(p.camera, name=f"2{p.camera.name[1:]}", time=2)) for p in low])
    assert events == [] and hazes(later.chronology, 2) == [] and later.chronology.tracks[k].presence.tolist() == [1, 0, 0]


def test_without_knowing_what_the_first_visit_saw_nothing_is_haze(hazed, low):
    scene = replace(hazed, side_data={})
    update = update_visit(scene, low, [], config=CONFIG)
    assert hazes(update.chronology, 1) == []
