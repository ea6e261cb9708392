"""After the fit: phantoms are no objects, what templates explain is remembered, and a contradicted object has left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from solids import at, box
from test_update import CONFIG, FIRST, FLOOR, advance, shots

from ltgs.core.chronology import Appearance, Chronology, Event, ObjectTrack, Presence, Template
from ltgs.core.decisions import DecisionRecorder
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import silent
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.core.se3 import make_rigid
from ltgs.objects.associate import Match
from ltgs.objects.backing import Model
from ltgs.objects.hull import HullInstance
from ltgs.objects.hypothesis import PoseHypothesis, UncertaintyConfig
from ltgs.pipeline.update_captures import VisitCaptures
from ltgs.pipeline.update_parts import KnownObject, motion_event, with_doubt
from ltgs.pipeline.update_proofs import ReviewConfig, explains_change, needed
from ltgs.pipeline.update_residuals import UNSURE, expected_residuals, with_residuals
from ltgs.pipeline.update_review import review

THING = box((0.2, 0.2, 0.14), 11)
POSE = make_rigid(np.eye(3), np.array([0.05, -0.42, 0.0]))
TRUE = Gaussians.concatenate([FIRST, at(THING, 0.05, -0.42)])


@pytest.fixture(scope="module")
def start() -> Scene:
    photos = shots(FIRST, 0, 8)
    records = tuple(PhotoRecord(p.camera.name, 0, "", True, camera=p.camera) for p in photos)
    return Scene(Chronology.initial(FIRST), (VisitRecord(0, "0", None, records),))


@pytest.fixture(scope="module")
def visit(start: Scene) -> VisitCaptures:
    """Three photos with the new thing, compared with the place before."""
    captures = VisitCaptures(start, shots(TRUE, 1), [], CONFIG, "auto", 0, silent)
    captures.before()
    return captures


def arrived(start: Scene, kind: str, pose: np.ndarray) -> Chronology:
    """The place one visit later with the thing at a pose."""
    track = ObjectTrack.start(1, 1, pose)
    if kind != "appeared":
        track = ObjectTrack.start(1, 0, make_rigid(np.eye(3), np.array([0.9, 0.9, 0.0]))).extended(Presence.PRESENT, pose)
    return replace(
        start.chronology, templates={1: Template(1, "object", THING, 1)}, tracks={1: track},
        appearance=(Appearance(), Appearance()), events=(Event(1, kind, 1, 0.5, 20.0, uncertain=True, note="so"),),  # type: ignore[arg-type]
    )


def test_what_the_photos_show_is_needed(start: Scene, visit: VisitCaptures) -> None:
    chronology = arrived(start, "appeared", POSE)
    assert review(chronology, visit) is chronology


def test_a_new_object_with_the_colours_of_its_surroundings_must_explain_more(
    start: Scene, visit: VisitCaptures, monkeypatch: pytest.MonkeyPatch
) -> None:
    chronology = arrived(start, "appeared", POSE)
    assert review(chronology, visit, {1}) is chronology, "it explains nearly everything"
    monkeypatch.setattr(visit, "config", replace(visit.config, review=ReviewConfig(new_mean_camouflaged=1.0)))
    assert review(chronology, visit, {2}) is chronology and review(chronology, visit, {1}).events == ()


@pytest.mark.parametrize("patch", [False, True])
def test_a_phantom_is_dropped_or_becomes_a_surface(
    start: Scene, visit: VisitCaptures, patch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if patch:
        monkeypatch.setattr(visit, "config", replace(visit.config, review=ReviewConfig(patch_mean=-1, patch_least=-1)))
    visit.record = DecisionRecorder([s.camera for s in visit.shots])
    content = HullInstance(THING.means.double().numpy(), tuple(np.ones(s.photo.shape[:2], bool) for s in visit.shots), 3)
    visit.record.verdict(content, "new", 1)
    out = review(arrived(start, "appeared", make_rigid(np.eye(3), np.array([-0.5, 0.4, 0.0]))), visit)
    assert out.events == ()
    (verdict,) = visit.record.finish(out, 1).instances
    assert verdict.verdict == "dropped" and "explains too little" in verdict.reason
    assert any("object 1" in line for line in visit.undecided)
    if not patch:
        assert not out.templates and not out.tracks and out.next_id == 2, "its id is not given again"
        return
    assert out.templates[1].kind == "surface"
    assert out.tracks[1].presence.tolist() == [Presence.ABSENT, Presence.PRESENT]
    np.testing.assert_array_equal(out.tracks[1].world_from_object[1], np.eye(4))
    np.testing.assert_allclose(out.templates[1].gaussians.means, at(THING, -0.5, 0.4).means, atol=1e-6)


def test_the_next_form_of_an_object_that_explains_nothing_leaves_this_one_removed(start: Scene, visit: VisitCaptures) -> None:
    former = ObjectTrack.start(2, 0, POSE).extended(Presence.ABSENT)
    new = arrived(start, "appeared", make_rigid(np.eye(3), np.array([-0.5, 0.4, 0.0])))
    chronology = replace(
        new, templates={1: replace(new.templates[1], replaces=2), 2: Template(2, "object", THING, 0)},
        tracks={**new.tracks, 2: former}, events=(Event(1, "replaced", 1, 0.7, uncertain=True),),
    )
    out = review(chronology, visit)
    assert [(e.kind, e.object_id) for e in out.events] == [("removed", 2)] and list(out.templates) == [2]


@pytest.mark.parametrize(("kind", "events"), [("moved", ["removed"]), ("returned", [])])
def test_a_known_object_that_explains_nothing_there_was_not_found(
    start: Scene, visit: VisitCaptures, kind: str, events: list[str]
) -> None:
    out = review(arrived(start, kind, make_rigid(np.eye(3), np.array([-0.5, 0.4, 0.0]))), visit)
    assert [e.kind for e in out.events] == events and all((e.translation, e.rotation_deg, e.note) == (0, 0, "") for e in out.events)
    assert out.tracks[1].presence[1] == Presence.ABSENT and np.isnan(out.tracks[1].world_from_object[1]).all()


@pytest.mark.parametrize(("explained", "guessed"), [(0.4, True), (0.8, False), (None, False)])
def test_a_pose_that_explains_little_may_be_turned_in_any_way(explained: float | None, guessed: bool) -> None:
    nowhere = HullInstance(np.zeros((1, 3)), (), 3)
    found = PoseHypothesis(POSE, 0.1, 1.0, 1e-4 * np.eye(6), ambiguous=False)
    known = KnownObject(1, THING, np.eye(4), True, Model(THING))
    match = with_doubt(known, Match(1, nowhere, found, explained=explained), 0.5, UncertaintyConfig())
    about = np.sqrt(np.diag(match.hypothesis.covariance))[3:]
    assert ((about > 1.5) == guessed).all()
    event = motion_event(1, 1, known, match)
    assert (event.uncertain, "rotation is a guess" in event.note) == (guessed, guessed)


def test_only_photos_that_show_an_object_well_can_speak_against_it(start: Scene, visit: VisitCaptures) -> None:
    chronology = arrived(start, "appeared", POSE)
    state = chronology.state_at(1)
    views = visit.compare(state.gaussians, visit.expected_of(chronology, state.object_ids))
    bare = visit.compare(FIRST, visit.expected)
    everything = needed(bare, views, ReviewConfig())
    assert everything is not None and everything[1] > 0.4
    # One photo in which it makes things worse, in all its pixels or in a few.
    worse = replace(bare[0], score=np.zeros_like(bare[0].score)), replace(views[0], score=np.ones_like(views[0].score))
    assert needed([worse[0], *bare[1:]], [worse[1], *views[1:]], ReviewConfig())[1] == pytest.approx(-1)  # type: ignore[index]
    few = bare[0].shown.copy()
    few[:2, :2] += 0.5
    hardly = replace(worse[0], shown=few), replace(worse[1], shown=bare[0].shown)
    assert needed([hardly[0], *bare[1:]], [hardly[1], *views[1:]], ReviewConfig())[1] > 0.4  # type: ignore[index]
    assert needed(bare, bare, ReviewConfig()) is None


def test_a_new_object_that_redraws_its_surroundings_is_judged_where_something_differed(start: Scene, visit: VisitCaptures) -> None:
    chronology = arrived(start, "appeared", POSE)
    state = chronology.state_at(1)
    views = visit.compare(state.gaussians, visit.expected_of(chronology, state.object_ids))
    bare = visit.compare(FIRST, visit.expected)
    # It alters a lot of what did not differ before and does not now.
    around = [np.where(b.mask | v.mask, 0, 0.05)[..., None].astype(np.float32) for b, v in zip(bare, views, strict=True)]
    wide = [replace(v, shown=v.shown + a) for v, a in zip(views, around, strict=True)]
    assert needed(bare, wide, ReviewConfig())[0] < 0.25 and needed(bare, views, ReviewConfig())[0] > 0.4  # type: ignore[index]
    config = ReviewConfig(new_changed=(0.01, 0.5))
    assert explains_change(bare, wide, config) and not explains_change(bare, wide, ReviewConfig(new_changed=(0.5, 0.5)))
    # In one photo nothing differed, as behind a phantom; or what differed still does.
    for score in (np.zeros_like(bare[0].score), bare[0].score):
        quiet = replace(bare[0], score=score), replace(wide[0], score=score)
        assert not explains_change([quiet[0], *bare[1:]], [quiet[1], *wide[1:]], config)
    assert not explains_change(bare, bare, config)


def test_what_a_template_explained_is_expected_of_it(start: Scene, visit: VisitCaptures) -> None:
    chronology = arrived(start, "appeared", POSE)
    ids = chronology.state_at(1).object_ids
    unknown = expected_residuals(start, chronology, ids, sure_views=3, template_doubt=0.25)
    assert torch.equal(unknown[ids == 1], UNSURE.repeat(int((ids == 1).sum()), 1))
    views = visit.compare(chronology.state_at(1).gaussians, visit.expected_of(chronology, ids))
    measured = with_residuals(chronology, views)
    residual = measured.templates[1].residual
    assert residual is not None and residual[:, 4].max() == 3
    assert residual[residual[:, 4] > 0, 1].mean() < 0.05, "the photos are its own renders"
    known = expected_residuals(start, measured, ids, sure_views=3, template_doubt=0.25)
    assert (known[ids == 1, 1] < 0.2).float().mean() > 0.9 and (known[ids == 1, 1] >= 0.07).all(), "few photos leave a doubt"
    assert with_residuals(measured, []) is measured, "measured once"
    # What still differs is no measure of it.
    masked = with_residuals(chronology, [replace(v, mask=np.ones_like(v.mask)) for v in views])
    assert masked.templates[1].residual is None
    with pytest.raises(ValueError, match="residual"):
        replace(measured.templates[1], gaussians=FLOOR)
    assert measured.templates[1].of(FLOOR).residual is None


def test_a_found_object_that_something_else_replaces_has_left(start: Scene) -> None:
    scene, events = advance(start, shots(TRUE, 1))
    (appeared,) = [e for e in events if e.kind == "appeared"]
    other = at(box((0.17, 0.26, 0.2), 23), 0.05, -0.42, 30)
    other = replace(other, sh=-0.7 * other.sh)  # Of other colours: one of the same might be the same, turned.
    scene, events = advance(scene, shots(Gaussians.concatenate([FIRST, other]), 2))
    assert ("removed", appeared.object_id) in [(e.kind, e.object_id) for e in events]
    assert "appeared" in [e.kind for e in events] and len(events) == 2
