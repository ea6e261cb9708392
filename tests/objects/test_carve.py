"""What left: candidates by decided evidence, clusters of unequal Gaussians, and what a removal proves."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import blobs

from ltgs.change.evidence import agreement
from ltgs.core.cameras import Camera
from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.objects.carve import Judges, VacatedSet, _Carver, _merge_touching, candidates
from ltgs.objects.removal import CarveConfig, RemovalBenefit, removal_benefit
from ltgs.objects.split import linked

SIZE = 60


def view(mask: np.ndarray, score: np.ndarray, shown: float) -> ComparedView:
    grey = np.full((SIZE, SIZE, 3), shown, np.float32)
    camera = Camera("v.png", 1, SIZE, SIZE, np.array([[50.0, 0, 30], [0, 50.0, 30], [0, 0, 1]]), np.eye(4))
    ones = np.ones((SIZE, SIZE), np.float32)
    return ComparedView(
        camera, grey, grey.copy(), np.eye(3, 4), np.ones_like(grey), ones, ones, score.astype(np.float32), mask, ~mask, 0.01
    )


def square(low: int, high: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[low:high, low:high] = True
    return mask


def test_undecided_views_do_not_speak_for_a_gaussian() -> None:
    sums = torch.tensor([
        # changed, agreed, pixels of Gaussians: changed everywhere; changed once, else undecided; changed once, agreed once
        [[5.0, 0.0, 5.0], [4.0, 0.0, 6.0], [5.0, 0.0, 5.0]],
        [[3.0, 0.5, 5.0], [0.0, 0.0, 9.0], [0.0, 5.0, 5.0]],
    ])
    assert candidates(sums, CarveConfig()).tolist() == [True, True, False]


def test_a_blurred_place_neither_agrees_nor_changes() -> None:
    cues = np.zeros((SIZE, SIZE, 2), np.float32)
    cues[20:40, 20:40] = [0.15, 0.5]
    agreed = agreement(cues, np.ones((SIZE, SIZE), np.float32))
    assert agreed[:12, :12].all() and not agreed[25:35, 25:35].any()


def test_large_gaussians_far_apart_are_one_set() -> None:
    points = np.array([[0.0, 0, 0], [0.3, 0, 0], [0.9, 0, 0]])
    g = blobs(np.random.default_rng(0), points, 0.01)
    g = replace(g, log_scales=torch.log(torch.tensor([[0.12] * 3, [0.12] * 3, [0.01] * 3])))
    assert len(set(linked(g, 0.08).tolist())) == 2
    small = replace(g, log_scales=torch.full((3, 3), float(np.log(0.01))))
    assert len(set(linked(small, 0.08).tolist())) == 3


@pytest.mark.parametrize(
    ("outline", "explained", "left"),
    [(0.9, 0.15, True), (0.65, 0.15, False), (0.65, 0.3, True), (0.4, 0.3, False), (0.4, 0.5, True), (0.9, 0.02, False)],
)
def test_what_hid_an_unseen_place_is_proven_by_its_outline(outline: float, explained: float, left: bool) -> None:
    assert (not RemovalBenefit(explained, 5000, 0.1, outline, 3).refusal(CarveConfig(), 300_000)) is left


def test_a_speck_in_a_single_photo_proves_nothing() -> None:
    assert not RemovalBenefit(0.5, 400, 0.0, 0.9, 2).refusal(CarveConfig(), 300_000)
    assert RemovalBenefit(0.5, 400, 0.0, 0.9, 1).refusal(CarveConfig(), 300_000)


def test_a_single_photo_is_enough_where_it_leaves_no_doubt() -> None:
    clear = RemovalBenefit(0.5, 400, 0.0, 0.9, 1, contradicted=0.9, confirmed=0.02)
    assert not clear.refusal(CarveConfig(), 300_000)
    assert not replace(clear, altered_px=4000, holes=0.7).refusal(CarveConfig(), 300_000)
    for doubt in ({"explained": 0.4}, {"contradicted": 0.7}, {"confirmed": 0.1}, {"outline": 0.7}):
        assert replace(clear, **doubt).refusal(CarveConfig(), 300_000)
        assert replace(clear, altered_px=4000, holes=0.7, **doubt).refusal(CarveConfig(), 300_000)


def test_removing_the_right_thing_explains_its_whole_region() -> None:
    changed = square(20, 40)
    before = view(changed, changed * 2.0, 0.5)
    shown = before.shown.copy()
    shown[changed] = 0.2
    after = replace(view(np.zeros_like(changed), np.zeros((SIZE, SIZE)), 0.5), shown=shown)
    whole = removal_benefit([before], [after])
    assert whole.explained == pytest.approx(1) and whole.outline == pytest.approx(1) and whole.altered_px == 400
    part = square(20, 30)
    shown = before.shown.copy()
    shown[part] = 0.2
    patch = removal_benefit([before], [replace(before, shown=shown)])
    assert patch.explained == pytest.approx(0) and patch.outline == pytest.approx(0.25)


def test_what_the_photos_contradict_all_over_has_left_whatever_stands_there_now() -> None:
    thing = square(20, 40)
    score = thing * 2.0
    before = view(thing, score, 0.5)
    shown = before.shown.copy()
    shown[thing] = 0.2
    # Something else stands there now: without the thing the photo fits no better.
    other = removal_benefit([before, before], [replace(before, shown=shown)] * 2)
    assert other.explained == pytest.approx(0) and other.contradicted == 1
    config = replace(CarveConfig(), min_footprint=1e-3)
    assert other.contradicts(config, SIZE * SIZE) and other.refusal(config, SIZE * SIZE)
    # One photo shows most of it unchanged, or all do so with a third: something merely hides the rest.
    for width, photos in ((26, 1), (34, 3)):
        seen = np.broadcast_to(np.arange(SIZE) < width, thing.shape)
        partly = replace(before, score=(score * seen).astype(np.float32), agreed=~(thing & seen))
        views = [*[before] * (3 - photos), *[partly] * photos]
        hidden = removal_benefit(views, [replace(v, shown=shown) for v in views])
        assert hidden.contradicted == pytest.approx((width - 20) / 20) and hidden.confirmed == pytest.approx((40 - width) / 20 * photos / 3)
        assert not hidden.contradicts(config, SIZE * SIZE)
    single = removal_benefit([before], [replace(before, shown=shown)])
    assert not single.contradicts(config, SIZE * SIZE), "what a single photo shows may be hidden"


@pytest.mark.parametrize(
    ("contradicted", "confirmed", "left", "stands"),
    [
        (0.42, 0.012, True, False), (0.42, 0.1, False, False), (0.6, 0.1, True, False), (0.06, 0.35, False, True),
        (0.3, 0.28, False, False), (0.13, 0.24, False, True),
    ],
)
def test_a_whole_object_has_left_stands_or_nothing_can_be_said(contradicted: float, confirmed: float, left: bool, stands: bool) -> None:
    benefit = RemovalBenefit(-0.2, 3400, 0.0, 0.6, 2, contradicted, confirmed)
    assert benefit.contradicts(CarveConfig(), 300_000) is left
    assert benefit.stands(CarveConfig()) is stands


@pytest.mark.parametrize(("stored", "thing", "sets"), [(True, True, 2), (True, False, 1), (False, True, 1)])
def test_a_thing_that_touches_a_stored_object_that_left_too_is_another_one(stored: bool, thing: bool, sets: int) -> None:
    """A stored object and a set beside it: a thing of its own stays apart, a scrap goes with the object, as pieces of one thing do."""
    blob = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    means = torch.cat([blob, blob[:80] + torch.tensor([0.3, 0.0, 0.0])]).numpy()
    own, beside = torch.arange(200), torch.arange(200, 280)
    depth = np.ones((SIZE, SIZE), np.float32)
    carver = SimpleNamespace(
        gaussians=blobs(np.random.default_rng(0), means, 0.01), config=CarveConfig(),
        found=[VacatedSet(own, 0.8, 900), VacatedSet(beside, 0.6, 300)],
        views=[replace(view(square(20, 40), depth, 0.5), depth=depth)], alone=lambda members, _: thing,
        judges=Judges(whole=lambda members: stored and len(members) == 200),
    )  # fmt: skip
    assert len(_merge_touching(carver)) == sets  # type: ignore[arg-type]


def verdict(benefit: RemovalBenefit, count: int, **judges: bool) -> str:
    """Why a set of so many Gaussians stays; empty if it has left."""
    own = blobs(np.random.default_rng(0), np.random.default_rng(1).uniform(0, 0.3, (count, 3)), 0.01)
    shot = view(square(20, 40), np.ones((SIZE, SIZE)), 0.5)
    asked = Judges(**{name: lambda *_, answer=answer: answer for name, answer in judges.items()})  # type: ignore[arg-type]
    config = replace(CarveConfig(), min_footprint=1e-3)
    carver = _Carver(own, lambda *_: torch.zeros(0), lambda *_: [], config, asked, None, [shot] * 2, None)
    return carver._verdict(torch.arange(count), benefit, ())[0]


def test_a_patch_that_goes_on_beside_is_hidden_rather_than_gone_unless_the_photos_fit_much_better_without_it() -> None:
    weak = RemovalBenefit(0.25, 5000, 0.1, 0.95, 2, 0.8, 0.07)
    assert not verdict(weak, 300, unowned=True, alone=True)
    assert "goes on beside" in verdict(weak, 300, unowned=True, alone=False)
    assert not verdict(replace(weak, explained=0.5), 300, unowned=True, alone=False)
    assert verdict(replace(weak, explained=0.5), 100, unowned=True, alone=False), "so few must be a whole thing"
    assert not verdict(weak, 300, unowned=True, alone=False, displaced=True), "what was found elsewhere stands there now"
    assert not verdict(weak, 50, unowned=True, alone=False), "a scrap is no patch"
    assert not verdict(weak, 300, unowned=False, alone=False), "part of a stored object"


def test_a_whole_thing_of_which_nothing_is_seen_has_left_although_its_outline_is_lost_among_other_changes() -> None:
    lost = RemovalBenefit(0.26, 2600, 0.0, 0.49, 3, 0.51, 0.023)
    assert not verdict(lost, 150, alone=True)
    assert verdict(lost, 90, alone=True), "a patch of few Gaussians is hidden by what came"
    assert verdict(lost, 150, alone=False)
    assert verdict(replace(lost, confirmed=0.1), 150, alone=True), "a part of it still agrees"
    assert verdict(replace(lost, explained=0.1), 150, alone=True), "nor do the photos fit better without it"


@pytest.mark.parametrize("displaced", [True, False])
def test_what_no_photo_sees_any_more_has_left_only_if_something_else_stands_there(displaced: bool) -> None:
    own = blobs(np.random.default_rng(0), np.random.default_rng(1).uniform(0, 0.3, (100, 3)), 0.01)
    shot = view(square(20, 40), np.zeros((SIZE, SIZE)), 0.5)
    judges = Judges(displaced=lambda _: displaced)
    carver = _Carver(own, lambda g, *_: torch.zeros(2, len(g), 3), lambda *_: [shot] * 2, CarveConfig(), judges, None, [shot] * 2, None)
    assert carver.take(torch.arange(100)) is displaced


def test_what_a_set_hid_is_no_part_of_another_stored_object() -> None:
    """Behind a set, inside its box, the photos contradict more: it goes as well, unless a stored object holds it."""
    depth = np.ones((SIZE, SIZE), np.float32)
    shot = replace(view(square(20, 40), square(20, 40) * 2.0, 0.5), depth=depth)
    gone = replace(shot, shown=np.where(square(20, 40)[..., None], np.float32(0.2), shot.shown), score=0 * depth)
    points = np.random.default_rng(1).uniform(0, 0.3, (200, 3))
    own = blobs(np.random.default_rng(0), points, 0.01)

    def lift(gaussians: Gaussians, views: object, images: object, rows: torch.Tensor | None) -> torch.Tensor:
        changed = torch.zeros(2, len(gaussians), 3)
        changed[..., 0] = 5.0
        return changed

    for foreign, left in ((torch.arange(100, 200), 100), (torch.arange(0), 200)):
        judges = Judges(foreign=lambda _, rows=foreign: rows)  # type: ignore[misc]
        config = replace(CarveConfig(), min_footprint=1e-3)
        carver = _Carver(own, lift, lambda *_: [gone] * 2, config, judges, None, [shot] * 2, None)
        assert carver.take(torch.arange(100)) and len(carver.found[0].members) == left
