"""What seems to have left is told apart into stored objects and things that no object holds yet, and these if they touched."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from solids import at, box, gaussians

from ltgs.core.cameras import Camera
from ltgs.core.chronology import ObjectTrack, Presence, Template
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import make_rigid
from ltgs.core.views import ComparedView
from ltgs.objects.associate import Match
from ltgs.objects.backing import Model
from ltgs.objects.carve import CarveConfig, VacatedSet
from ltgs.objects.hull import HullInstance
from ltgs.objects.hypothesis import PoseHypothesis
from ltgs.objects.split import SplitConfig
from ltgs.objects.support import SupportConfig
from ltgs.pipeline.update_inventory import Inventory
from ltgs.pipeline.update_left import Departures
from ltgs.pipeline.update_parts import KnownObject
from ltgs.pipeline.update_proofs import ProofConfig, ReviewConfig

UP = np.array([0.0, 0.0, 1.0])
SIZE = 40


def look_down() -> ComparedView:
    """A photo from 3 units above the ground; a pixel is 0.01 units there."""
    turned = np.diag([1.0, -1, -1, 1])
    turned[2, 3] = 3.0
    camera = Camera("v.png", 1, SIZE, SIZE, np.array([[300.0, 0, 20], [0, 300.0, 20], [0, 0, 1]]), turned)
    plain, ones = np.full((SIZE, SIZE, 3), 0.5, np.float32), np.ones((SIZE, SIZE), np.float32)
    mask = np.zeros((SIZE, SIZE), bool)
    return ComparedView(camera, plain, plain, np.eye(3, 4), np.ones_like(plain), ones, 3 * ones, 0 * ones, mask, ~mask, 0.01)


def departures(thing: Gaussians, surroundings: Gaussians) -> tuple[Departures, Gaussians]:
    """A stored object of many Gaussians, a thing of fewer that no object holds, and what is around it."""
    stored = at(box((0.14, 0.14, 0.24), 8, count=3000), -0.3, 0.0)
    everything = Gaussians.concatenate([stored, thing, surroundings])
    ids = torch.zeros(len(everything), dtype=torch.int64)
    ids[: len(stored)] = 4
    visit = SimpleNamespace(
        gaussians=everything, ids=ids, up=UP, old=SimpleNamespace(templates={4: Template(4, "object", stored, 1)}),
        config=SimpleNamespace(carve=CarveConfig(), split=SplitConfig(), support=SupportConfig()),
        in_support=lambda own, views: torch.zeros(len(own), dtype=torch.bool),
        support_of=lambda own, views: (torch.zeros(len(own), dtype=torch.bool), [np.array([0.0, 0, 1, 0])]),
    )
    return Departures(visit), everything  # type: ignore[arg-type]


def ground() -> Gaussians:
    x, y = np.meshgrid(*[np.arange(-0.6, 0.6, 0.03)] * 2)
    return gaussians(np.stack([x.ravel(), y.ravel(), np.full(x.size, -0.12)], 1), np.full((x.size, 3), 0.5), 0.01)


@pytest.mark.parametrize("whole", [True, False])
def test_what_lies_beside_a_stored_object_is_judged_for_itself(whole: bool) -> None:
    """A thing of few Gaussians, or a piece of one, beside a stored object of many."""
    thing = at(box((0.12, 0.12, 0.2), 8, count=600), 0.0, 0.0)
    half = thing.means[:, 0] < 0
    left, rest = (thing, ground()) if whole else (thing[half], Gaussians.concatenate([thing[~half], ground()]))
    found, everything = departures(left, rest)
    members = torch.arange(3000 + len(left))
    out = found._side_by_side(torch.arange(len(everything)), everything, members, [look_down()])
    assert sorted(len(o) for o in out) == [len(left), 3000] and sorted(torch.cat(out).tolist()) == members.tolist()
    assert found._foreign(torch.arange(len(everything)), torch.arange(3000, 3010)).tolist() == list(range(3000))
    assert len(found._foreign(torch.arange(len(everything)), torch.arange(2990, 3010))) == 0, "it holds some of that object"


@pytest.mark.parametrize(("gain", "explained", "displaced"), [(0.4, None, True), (0.2, 0.7, True), (0.2, None, False), (0.2, 0.4, False)])
def test_a_slim_thing_found_within_a_stored_shell_says_that_this_has_left(
    gain: float, explained: float | None, displaced: bool
) -> None:
    found, everything = departures(at(box((0.12, 0.12, 0.2), 8, count=600), 0.0, 0.0), ground())
    visit = found.visit
    slim = box((0.06, 0.06, 0.2), 9, count=600)
    visit.config.proof, visit.config.review = ProofConfig(), ReviewConfig()  # type: ignore[misc]
    visit.old.tracks, visit.old.templates = {4: ObjectTrack.start(4, 1, np.eye(4))}, {4: Template(4, "object", everything[:3000], 1)}  # type: ignore[misc]
    visit.drawn_ids = lambda kind: [4]  # type: ignore[method-assign]
    pose = PoseHypothesis(make_rigid(np.eye(3), np.array([-0.3, 0.0, 0.0])), 1 - gain, 1.0, np.eye(6), ambiguous=False)
    match = Match(7, HullInstance(np.zeros((1, 3)), (), 3), pose, explained=explained)
    arrived = [(KnownObject(7, slim, np.eye(4), True, Model(slim)), match)]
    kept = torch.ones(len(everything), dtype=torch.bool)
    assert found.is_displaced(kept, arrived) is displaced
    beside = replace(match, hypothesis=replace(pose, world_from_object=np.eye(4)))
    assert not found.is_displaced(kept, [(arrived[0][0], beside)])
    kept[0] = False
    assert not found.is_displaced(kept, arrived), "it is known to have left"


@pytest.mark.parametrize(("place", "things"), [(0.0, 1), (0.5, 0)], ids=["in its place", "beside it"])
def test_a_thing_that_an_object_stands_in_the_place_of_is_suspected_although_it_is_hidden(place: float, things: int) -> None:
    low = at(box((0.12, 0.12, 0.1), 8, count=600), 0.0, 0.0)
    found, everything = departures(low, ground())
    found.visit.config.proof = ProofConfig()  # type: ignore[misc]
    tall = box((0.18, 0.18, 0.26), 9, count=900)
    pose = PoseHypothesis(make_rigid(np.eye(3), np.array([place, 0.0, 0.0])), 0.5, 1.0, np.eye(6), ambiguous=False)
    arrived = [(KnownObject(7, tall, np.eye(4), True, Model(tall)), Match(7, HullInstance(np.zeros((1, 3)), (), 3), pose))]
    kept = torch.ones(len(everything), dtype=torch.bool)
    out = found._beneath_arrived(kept, arrived, [look_down()])
    assert len(out) == things
    for members in out:
        thing = (members >= 3000) & (members < 3600)
        assert thing.all() and len(members) > 300, "neither the ground nor the stored object goes with it"


def test_what_is_covered_by_the_table_is_no_thing() -> None:
    thing = at(box((0.12, 0.12, 0.2), 8, count=600), 0.0, 0.0)
    found, everything = departures(thing, ground())
    members, others = torch.arange(3000, 3600), torch.arange(3600, len(everything))
    index, views = torch.arange(len(everything)), [look_down()]
    assert found._is_whole(index, everything, members, others, views)
    table = np.array([0.0, 0, -1, 0.3])
    found.visit.support_of = lambda own, views: (torch.zeros(len(own), dtype=torch.bool), [table])  # type: ignore[method-assign]
    assert not found._is_whole(index, everything, members, others, views)


@pytest.mark.parametrize(("least", "cut"), [(75, [400, 400]), (500, [800])], ids=["two things", "a part that is too small for one"])
def test_things_that_touched_and_left_together_are_cut_out_one_by_one(least: int, cut: list[int]) -> None:
    half = np.array([0.1, 0.1, 0.12])
    places = np.array([[0.0, 0.0], [0.19, 0.17]])
    things = Gaussians.concatenate([at(box(tuple(2 * half), 8, count=400), *p) for p in places])
    floor = ground()
    own, own_points = Gaussians.concatenate([things, floor]), things.means.double().numpy()
    middles = [own_points[k * 400 : (k + 1) * 400].mean(0) for k in range(2)]

    def looked_through(points: np.ndarray) -> np.ndarray:
        return (~np.any([np.all(np.abs(points - m) <= half, axis=1) for m in middles], axis=0)).astype(np.int64)

    visit = SimpleNamespace(
        gaussians=own, ids=torch.zeros(len(own), dtype=torch.int64), up=UP, looked_through=looked_through,
        old=SimpleNamespace(next_id=5, static_mask=torch.ones(len(own), dtype=torch.bool), templates={}, tracks={}),
        config=SimpleNamespace(carve=CarveConfig(least=least), split=SplitConfig()), drawn_ids=lambda kind: [],
        in_support=lambda own, views: own.means[:, 2] < -0.11, sharpened=lambda template, pose, cut: template,
        model=lambda template, pose: template, with_base=lambda model, pose, views: model,
    )  # fmt: skip
    inventory = Inventory(visit, lambda members: 0)  # type: ignore[arg-type]
    members = torch.arange(800 + 300)
    inventory.add([VacatedSet(members, 0.8, 900)], [look_down()])
    assert [len(k.template) for k in inventory.known.values()] == pytest.approx(cut, abs=10)
    assert list(inventory.known) == [5, 6][: len(cut)]
    parts = [k.cut.members.tolist() + (k.footing.members.tolist() if k.footing else []) for k in inventory.known.values()]
    assert sorted(m for part in parts for m in part) == members.tolist(), "each takes the ground next to it"


@pytest.mark.parametrize(
    ("was", "photos", "patch"),
    [(Presence.UNKNOWN, 1, True), (Presence.UNKNOWN, 2, False), (Presence.ABSENT, 2, True), (Presence.PRESENT, 1, False)],
)
def test_a_set_of_a_later_surface_is_a_wrong_patch_of_it(was: Presence, photos: int, patch: bool) -> None:
    """What completes hardly seen places may hold things as well, if more than one photo says so."""
    ids = torch.cat([torch.zeros(100, dtype=torch.int64), torch.full((200,), 3)])
    track = ObjectTrack.start(3, 1, np.eye(4), before=was)
    visit = SimpleNamespace(ids=ids, old=SimpleNamespace(tracks={3: track}), drawn_ids=lambda kind: [3])
    inventory = Inventory(visit, lambda members: 0)  # type: ignore[arg-type]
    assert inventory._patch_of(torch.arange(60, 200), photos) == (3 if patch else 0)
    assert inventory._patch_of(torch.arange(0, 150), photos) == 0, "most of it is background"
