"""What edits leave in the scene folder: stored exactly, absent from older scenes, refused when damaged."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch

from ltgs.core.chronology import Template
from ltgs.core.scene import Edit, Scene
from ltgs.errors import FormatError
from ltgs.io.manifest import read_manifest, seal
from ltgs.io.scene_store import SceneStore
from ltgs.io.template_codec import compact


@pytest.fixture
def edited(store, make_scene, gaussians) -> Scene:
    """A scene with everything that edits and their undoing need."""
    scene = make_scene(store, 2)
    old = scene.chronology
    own = old.templates[1].gaussians
    template = Template(
        1, "object", own, 1, "red box", torch.tensor([7, 3]), {4: gaussians(3, 9), 2: gaussians(2, 8)}, footing_of=2, haze=True, replaces=3,
        residual=torch.tensor([[0.5, 0.25, 0.125, 0.0625, 3.0]]).repeat(len(own), 1),
    )
    track = replace(old.tracks[1], pinned=frozenset({1}))
    edits = (
        Edit("split", {"object": 2, "visit": "visit 1", "new": 1}, datetime(2024, 5, 1, 12, 0, 0, 7, tzinfo=UTC)),
        Edit("pin-pose", {"object": 1, "visit": "visit 1", "pose": [0.1, 2.0, 1 / 3]}, datetime(2024, 5, 2)),
    )
    return replace(scene, chronology=replace(old, templates={1: template}, tracks={1: track}, retired=3), edits=edits)


def test_round_trip(store, edited, same_scene):
    store.commit(edited)
    loaded = SceneStore.open(store.path).load()
    same_scene(edited, loaded)
    template = loaded.chronology.templates[1]
    assert template.name == "red box" and template.members.tolist() == [7, 3] and sorted(template.surface_parts) == [2, 4]
    assert template.replaces == 3 and template.footing_of == 2 and template.haze
    assert torch.equal(template.residual, edited.chronology.templates[1].residual)
    assert torch.equal(template.surface_parts[4].means, edited.chronology.templates[1].surface_parts[4].means)
    assert loaded.chronology.tracks[1].pinned == {1} and loaded.edits == edited.edits
    assert loaded.chronology.retired == 3 and loaded.chronology.next_id == 4
    assert loaded.edits[1].words() == "pin-pose: object 1, visit visit 1", "the pose is left out of the line"
    assert store.verify().ok


def test_what_float16_holds_takes_half_the_place(store, edited, same_scene):
    template = edited.chronology.templates[1]
    sizes = []
    for gaussians in (template.gaussians, template.gaussians.in_half_precision(means=True)):
        scene = replace(edited, chronology=replace(edited.chronology, templates={1: replace(template, gaussians=gaussians)}))
        store.commit(scene)
        same_scene(scene, SceneStore.open(store.path).load())
        sizes.append(sum(4 * t.numel() if t.dtype == torch.float32 else 2 * t.numel() for t in compact(gaussians).values()))
    assert sizes[1] == sizes[0] / 2


def test_scenes_of_earlier_versions_have_no_edits(store, edited):
    store.commit(edited)
    path = store.path / "manifest.json"
    body = dict(read_manifest(path).body)
    del body["edits"], body["retired_id"]
    for key in ("name", "members", "surface_parts", "footing_of", "haze", "replaces", "residual"):
        del body["templates"][0][key]
    del body["tracks"][0]["pinned"]
    path.write_bytes(seal(body))
    loaded = SceneStore.open(store.path).load()
    template = loaded.chronology.templates[1]
    assert loaded.edits == () and loaded.chronology.retired == 0 and loaded.chronology.tracks[1].pinned == frozenset()
    assert (template.name, template.members, dict(template.surface_parts), template.footing_of) == ("", None, {}, 0)
    assert template.residual is None and template.replaces == 0 and not template.haze


@pytest.mark.parametrize("change", [
    lambda b: b.update(edits={}),
    lambda b: b["edits"].append(3),
    lambda b: b["edits"][0].update(arguments={"a": {"b": 1}}),
    lambda b: b["edits"][0].update(arguments={"a": "x" * 5000}),
    lambda b: b["edits"][0].update(made_at="yesterday"),
    lambda b: b["edits"][0].pop("operation"),
    lambda b: b["templates"][0].update(name="two\nlines"),
    lambda b: b["templates"][0].update(name=7),
    lambda b: b["templates"][0].update(members="../x"),
    lambda b: b["templates"][0].update(members=b["background"]),
    lambda b: b["templates"][0].update(footing_of=-1),
    lambda b: b["templates"][0].update(haze=1),
    lambda b: b["templates"][0].update(replaces="1"),
    lambda b: b["templates"][0].update(residual=b["background"]),
    lambda b: b["templates"][0].update(surface_parts=[{"surface": 0, "gaussians": b["background"]}]),
    lambda b: b["tracks"][0].update(pinned=[0]),
    lambda b: b["tracks"][0].update(pinned=[9]),
    lambda b: b["tracks"][0].update(pinned=[True]),
])
def test_damaged_entries_are_named(store, edited, change):
    store.commit(edited)
    path = store.path / "manifest.json"
    body = dict(read_manifest(path).body)
    change(body)
    path.write_bytes(seal(body))
    with pytest.raises(FormatError, match=r"manifest\.json"):
        SceneStore.open(store.path).load()


def test_bytes_stay_with_their_visit_when_another_is_inserted(store, make_scene):
    three = make_scene(store, 3)
    store.commit(replace(three, visits=three.visits[:1], chronology=make_scene(store, 1).chronology))
    two = make_scene(store, 2)
    store.commit(replace(two, visits=(three.visits[0], replace(three.visits[2], timestep=1))))
    before = store.storage_by_time()
    store.commit(three)
    after = store.storage_by_time()
    images = [store.read_image(v.photos[0].image_blob).nbytes for v in three.visits]
    assert len(after) == 3 and after[2] == pytest.approx(before[1], abs=2000), images
    assert after[1] > 0
