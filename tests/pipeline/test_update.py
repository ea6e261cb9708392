"""Updates on a small scene of Gaussians whose photos are its own renders: every kind of event, and none where there is none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from solids import at, box, gaussians, textured

from ltgs.change.compare import footprint
from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.chronology import Chronology, Presence
from ltgs.core.gaussians import Gaussians
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.core.se3 import make_rigid, rotation_angle_deg
from ltgs.io.template_codec import compact
from ltgs.objects.register import RegisterConfig
from ltgs.optim.initialize import TrainingPhoto
from ltgs.optim.refine import RefineConfig
from ltgs.pipeline.update import UpdateConfig, update_visit
from ltgs.render import render

WIDTH, HEIGHT = 160, 120
CONFIG = UpdateConfig(
    register=RegisterConfig(
        upright=24, tipped=4, free_rotations=32, turns=12, num_scouted=3, scout_px=40, num_refined=2, steps=40, fine_px=56
    ),
    refine=RefineConfig(steps=24),
)


def floor() -> Gaussians:
    x, y = np.meshgrid(np.linspace(-1.6, 1.6, 130), np.linspace(-1.6, 1.6, 130))
    points = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], 1)
    palette = np.array([[0.35, 0.3, 0.25], [0.5, 0.45, 0.35], [0.42, 0.4, 0.42], [0.55, 0.5, 0.5]])
    return gaussians(points, textured(points, palette, 0.11, 1), 0.016)


def camera(eye, name: str, time: int) -> Camera:
    eye = np.asarray(eye, float)
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    intrinsics = np.array([[158.0, 0, WIDTH / 2], [0, 158.0, HEIGHT / 2], [0, 0, 1]])
    return Camera(name, time, WIDTH, HEIGHT, intrinsics, make_rigid(rotation, -rotation @ eye))


def shots(state: Gaussians, time: int, count: int = 3, light=(1.0, 1.0, 1.0)) -> list[TrainingPhoto]:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False) + 0.4 + 0.2 * time
    out = []
    for i, a in enumerate(angles):
        cam = camera((1.1 * np.cos(a), 1.1 * np.sin(a), 1.25), f"{time}/{i}.png", time)
        with torch.no_grad():
            rgb = render(state, stack_cameras([cam])).rgb[0].clamp(0, 1).numpy() * np.asarray(light)
        out.append(TrainingPhoto(cam, (rgb * 255 + 0.5).astype(np.uint8)))
    return out


FLOOR, BOX, SMALL = floor(), box(), box((0.14, 0.14, 0.24), 8)
FIRST = Gaussians.concatenate([FLOOR, at(BOX, 0.28, 0.12), at(SMALL, -0.3, -0.2)])


@pytest.fixture(scope="module")
def start() -> Scene:
    photos = shots(FIRST, 0, 8)
    records = tuple(PhotoRecord(p.camera.name, 0, "", True, camera=p.camera) for p in photos)
    return Scene(Chronology.initial(FIRST), (VisitRecord(0, "0", None, records),))


def advance(scene: Scene, photos: list[TrainingPhoto], config: UpdateConfig = CONFIG) -> tuple[Scene, list]:
    update = update_visit(scene, photos, [], config=config)
    t = scene.chronology.num_times
    records = tuple(PhotoRecord(p.camera.name, t, "", True, camera=p.camera) for p in photos)
    visits = (*scene.visits, VisitRecord(t, str(t), None, records, decisions=update.decisions))
    longer = dataclasses.replace(scene, chronology=update.chronology, visits=visits)
    return longer, [e for e in update.chronology.events if e.time == t]


def test_nothing_changed(start):
    scene, events = advance(start, shots(FIRST, 1))
    assert events == [] and not scene.chronology.appearance[1].changed
    assert scene.chronology.templates == {}


def test_light_alone_is_no_event(start):
    scene, events = advance(start, shots(FIRST, 1, light=(0.7, 0.62, 0.5)))
    assert events == []
    assert scene.chronology.appearance[1].changed and scene.chronology.appearance[1].exposure_ev < -0.5


def test_removed_then_returned_elsewhere_is_the_same_object(start):
    without = Gaussians.concatenate([FLOOR, at(SMALL, -0.3, -0.2)])
    scene, events = advance(start, shots(without, 1))
    assert [e.kind for e in events] == ["removed"]
    object_id = events[0].object_id
    assert scene.chronology.tracks[object_id].presence.tolist() == [Presence.PRESENT, Presence.ABSENT]
    assert len(scene.chronology.state_at(0).gaussians) == len(FIRST), "the past is not touched"
    back = Gaussians.concatenate([FLOOR, at(SMALL, -0.3, -0.2), at(BOX, -0.1, 0.35, 60)])
    scene, events = advance(scene, shots(back, 2))
    assert [(e.kind, e.object_id) for e in events] == [("returned", object_id)]
    pose = scene.chronology.tracks[object_id].world_from_object
    assert np.linalg.norm(pose[2, :2, 3] - [-0.1, 0.35]) < 0.03


def test_moved_object_keeps_its_identity_and_gets_its_pose(start):
    moved = Gaussians.concatenate([FLOOR, at(BOX, -0.05, 0.4, 40), at(SMALL, -0.3, -0.2)])
    scene, events = advance(start, shots(moved, 1))
    assert [e.kind for e in events] == ["moved"]
    event = events[0]
    assert abs(event.translation - np.hypot(0.33, 0.28)) < 0.03
    own = scene.chronology.templates[event.object_id].gaussians
    assert {t.dtype for t in compact(own).values()} == {torch.float16}, "a fitted template takes half the place"
    poses = scene.chronology.tracks[event.object_id].world_from_object
    assert abs(rotation_angle_deg(poses[1, :3, :3] @ poses[0, :3, :3].T) - 40) < 6
    np.testing.assert_allclose(poses[1, :2, 3], [-0.05, 0.4], atol=0.03)
    record = scene.visits[1].decisions
    left = [t for t in record.removals if t.taken]
    assert left and {t.object_id for t in left} == {event.object_id}
    assert all(set(t.boxes) <= {"1/0.png", "1/1.png", "1/2.png"} for t in left)
    chosen = [p for p in record.pairs if p.chosen]
    assert [p.object_id for p in chosen] == [event.object_id] and chosen[0].gain >= CONFIG.associate.min_gain and not chosen[0].reason
    content = record.instances[chosen[0].instance - 1]
    assert content.verdict == "matched" and np.linalg.norm(np.array(content.centre[:2]) - [-0.05, 0.4]) < 0.1


def test_a_single_photo_tells_where_an_object_went_because_it_stands_on_the_floor(start):
    moved = Gaussians.concatenate([FLOOR, at(BOX, 0.05, 0.42, 40)])
    scene, events = advance(start, shots(moved, 1, count=1))
    assert sorted(e.kind for e in events) == ["moved", "removed"] and all(e.uncertain for e in events)
    (pose,) = [scene.chronology.tracks[e.object_id].world_from_object[1] for e in events if e.kind == "moved"]
    np.testing.assert_allclose(pose[:2, 3], [0.05, 0.42], atol=0.04)


def test_a_single_photo_tells_where_a_new_object_stands(start):
    scene, events = advance(start, shots(Gaussians.concatenate([FIRST, at(box((0.2, 0.2, 0.3), 23), 0.35, -0.3)]), 1, count=1))
    assert [(e.kind, e.uncertain) for e in events] == [("appeared", True)]
    k = events[0].object_id
    middle = scene.chronology.templates[k].gaussians.means.median(0).values.numpy()
    place = scene.chronology.tracks[k].world_from_object[1, :3, 3] + middle
    np.testing.assert_allclose(place[:2], [0.35, -0.3], atol=0.08)


@pytest.mark.parametrize("turn", [35, 180])
def test_an_object_turned_in_place_has_moved(start, turn):
    turned = Gaussians.concatenate([FLOOR, at(BOX, 0.28, 0.12, turn), at(SMALL, -0.3, -0.2)])
    _, events = advance(start, shots(turned, 1))
    assert [e.kind for e in events] == ["moved"]
    assert abs(events[0].rotation_deg - turn) < 5 and events[0].translation < 0.03


def test_new_object_appears_where_it_stands(start):
    more = Gaussians.concatenate([FIRST, at(box((0.2, 0.2, 0.14), 11), 0.05, -0.42, 20)])
    scene, events = advance(start, shots(more, 1))
    assert [e.kind for e in events] == ["appeared"]
    track = scene.chronology.tracks[events[0].object_id]
    assert track.presence.tolist() == [Presence.ABSENT, Presence.PRESENT]
    np.testing.assert_allclose(track.world_from_object[1, :2, 3], [0.05, -0.42], atol=0.08)
    record = scene.visits[1].decisions
    assert [i.object_id for i in record.instances if i.verdict == "new"] == [events[0].object_id] and not record.pairs


def test_a_photo_that_shows_nothing_of_the_place_leaves_the_decision_to_the_others(start):
    """It looks up past everything known, at something busy."""
    turned = camera((1.1, 0, 1.25), "1/elsewhere.png", 1)
    turned = dataclasses.replace(turned, cam_from_world=np.diag([-1.0, 1, -1, 1]) @ turned.cam_from_world)
    assert not footprint(FIRST, turned).any()
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    without = Gaussians.concatenate([FLOOR, at(SMALL, -0.3, -0.2)])
    light = (0.8, 0.75, 0.7)
    scene, events = advance(start, [*shots(without, 1, 2, light), TrainingPhoto(turned, noise)])
    assert [e.kind for e in events] == ["removed"]
    chronology = scene.chronology
    objects = [k for k, t in chronology.templates.items() if t.kind == "object"]
    assert objects == [events[0].object_id] and chronology.tracks[objects[0]].presence.tolist() == [Presence.PRESENT, Presence.ABSENT]
    np.testing.assert_allclose(chronology.tracks[objects[0]].world_from_object[0, :2, 3], [0.28, 0.12], atol=0.03)
    grey = torch.full((3,), 0.5)
    np.testing.assert_allclose(chronology.appearance[1].apply(grey), grey * torch.tensor(light), atol=0.03)


def test_visit_without_photos_leaves_everything_unknown(start):
    without = Gaussians.concatenate([FLOOR, at(SMALL, -0.3, -0.2)])
    scene, _ = advance(start, shots(without, 1))
    update = update_visit(scene, [], [], config=CONFIG)
    assert update.chronology.num_times == 3 and update.undecided
    assert all(t.presence[-1] in (Presence.UNKNOWN, Presence.ABSENT) for t in update.chronology.tracks.values())
