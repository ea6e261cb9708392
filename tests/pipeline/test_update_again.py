"""Objects that stand still and look otherwise than their template are fitted again, in old photos and new ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from solids import at, box
from test_update import CONFIG, FIRST, shots

from ltgs.core.chronology import Appearance, Chronology, ObjectTrack, Presence, Template
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import silent
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.core.se3 import make_rigid
from ltgs.core.views import ComparedView
from ltgs.pipeline.update import update_visit
from ltgs.pipeline.update_again import AgainConfig, seen_again
from ltgs.pipeline.update_captures import VisitCaptures

THING = box((0.2, 0.2, 0.14), 11)
POSE = make_rigid(np.eye(3), np.array([0.05, -0.42, 0.0]))
TRUE = Gaussians.concatenate([FIRST, at(THING, 0.05, -0.42)])
WRONG = replace(THING, sh=torch.where(THING.means[:, :1, None] > 0, 0.1 * THING.sh, THING.sh))
"""As one visit's photos might have left it: they saw one side only."""


def scene(template: Gaussians, poses: tuple[np.ndarray, ...] = (POSE, POSE)) -> Scene:
    """A thing that appeared at the second of the visits and, at the last, stands at the last pose."""
    track = ObjectTrack.start(1, 1, poses[0])
    chronology = replace(
        Chronology.initial(FIRST), templates={1: Template(1, "object", template, 1)}, tracks={1: track},
        appearance=(Appearance(), Appearance()),
    )
    for pose in poses[1:]:
        chronology = replace(
            chronology, tracks={1: chronology.tracks[1].extended(Presence.PRESENT, pose)},
            appearance=(*chronology.appearance, Appearance()),
        )
    records = [
        tuple(PhotoRecord(p.camera.name, t, "", True, camera=p.camera) for p in shots(FIRST, t, 3 if t else 8))
        for t in range(chronology.num_times)
    ]
    return Scene(chronology, tuple(VisitRecord(t, str(t), None, r) for t, r in enumerate(records)))


def views_of(longer: Scene) -> list[ComparedView]:
    """Photos of the true place at the newest time against a scene."""
    past = replace(longer, chronology=longer.chronology.until(2), visits=longer.visits[:2])
    captures = VisitCaptures(past, shots(TRUE, 2), [], CONFIG, "auto", 0, silent)
    captures.before()
    return captures.compare_final(longer.chronology)


def test_a_thing_that_looks_otherwise_is_fitted_again_where_it_stood() -> None:
    longer = scene(WRONG)
    views = views_of(longer)
    (item,) = seen_again(longer.chronology, 2, views, set(), AgainConfig())
    assert item.object_id == 1 and item.num_known == len(WRONG) and not item.free_pose
    np.testing.assert_array_equal(item.pose_now, POSE)
    assert list(item.past_poses) == [1], "it was not there at the first visit"
    assert seen_again(longer.chronology, 2, views, {1}, AgainConfig()) == [], "fitted anyway"
    assert seen_again(longer.chronology, 2, views, set(), AgainConfig(shown=0.5)) == [], "hardly seen"
    assert seen_again(longer.chronology, 2, views, set(), AgainConfig(score=(0.0, 0.02))) == [], "so wrong that it may be gone"
    assert seen_again(longer.chronology, 2, views, set(), AgainConfig(agreed=0.9)) == [], "hardly anything agrees"
    assert seen_again(longer.chronology, 2, [], set(), AgainConfig()) == []


def test_what_looks_as_it_should_or_has_just_moved_is_left_alone() -> None:
    right = scene(THING)
    assert seen_again(right.chronology, 2, views_of(right), set(), AgainConfig()) == []
    elsewhere = make_rigid(np.eye(3), np.array([0.1, -0.42, 0.0]))
    moved = scene(WRONG, (elsewhere, POSE))
    assert seen_again(moved.chronology, 2, views_of(moved), set(), AgainConfig()) == []


@pytest.mark.parametrize("stored", [True, False])
def test_an_update_improves_it_without_an_event(stored: bool) -> None:
    before = scene(WRONG, (POSE,))
    photos = {t: shots(TRUE if t else FIRST, t) for t in range(3)}
    config = replace(CONFIG, refine=replace(CONFIG.refine, steps=100))
    update = update_visit(before, photos[2], [], stored=photos.__getitem__ if stored else None, config=config)
    after = update.chronology
    assert after.events == () and after.tracks[1].presence.tolist() == [Presence.ABSENT, Presence.PRESENT, Presence.PRESENT]
    np.testing.assert_array_equal(after.tracks[1].world_from_object[2], POSE)
    assert update.quality["psnr_after"] > update.quality["psnr_before"] + 1
