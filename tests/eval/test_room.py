"""A room's truth against chronologies made from that truth: a perfect one, and ones with known mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ltgs.core.chronology import Appearance, Chronology, Event, ObjectTrack, Presence, Template
from ltgs.core.edits import split_object
from ltgs.core.events import derive_events
from ltgs.core.gaussians import Gaussians
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.core.se3 import axis_rotations, make_rigid
from ltgs.data.rooms import Room, read_room
from ltgs.errors import InputError
from ltgs.eval.room import align_scene, evaluate_room, light_report, room_json, room_rows, summary
from ltgs.eval.room_cameras import localisation_figures
from ltgs.eval.room_figures import forgetting, picture_figures
from ltgs.eval.room_images import RoomView, object_region, placed_in
from ltgs.eval.room_tracks import track_report
from ltgs.poses.gauge import Similarity

SAMPLE = Path(__file__).resolve().parents[2] / "datasets" / "sample_room"
TURN = axis_rotations(np.array([0.6, 0.0, 0.8]), 7)[2]
ROOM_FROM_SCENE = Similarity(0.5, TURN, np.array([0.3, -0.2, 1.0]))
SCENE_FROM_ROOM = Similarity(2.0, TURN.T, -2.0 * TURN.T @ np.array([0.3, -0.2, 1.0]))


@pytest.fixture(scope="module")
def room() -> Room:
    return read_room(SAMPLE)


def in_scene(pose: np.ndarray) -> np.ndarray:
    return make_rigid(SCENE_FROM_ROOM.rotation @ pose[:3, :3], SCENE_FROM_ROOM.points(pose[None, :3, 3])[0])


def gaussians(count: int = 4) -> Gaussians:
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    return Gaussians(torch.randn(count, 3) * 0.01, quats, torch.full((count, 3), -4.0), torch.zeros(count), torch.zeros(count, 1, 3))


def perfect(room: Room) -> Chronology:
    """What a flawless reconstruction in another frame of reference would store."""
    templates, tracks = {}, {}
    for k in sorted({e.object_id for e in room.events}):
        item = room.object(k)
        poses = np.array([
            in_scene(p) if ok else np.full((4, 4), np.nan) for p, ok in zip(item.world_from_object, item.present, strict=True)
        ])
        presence = np.where(item.present, Presence.PRESENT, Presence.ABSENT).astype(np.uint8)
        covariance = np.tile(np.eye(6) * 1e-4, (room.num_times, 1, 1))
        templates[k] = Template(k, "object", gaussians(), 0)
        tracks[k] = ObjectTrack(k, presence, poses, covariance, np.zeros(room.num_times))
    events = tuple(Event(e.time, e.kind, e.object_id) for e in room.events)
    return Chronology(
        gaussians(), torch.zeros(0, dtype=torch.int64), templates, tracks, (Appearance(),) * room.num_times, events
    )


def scene(room: Room, chronology: Chronology) -> Scene:
    visits = []
    for t, date in enumerate(room.dates):
        photos = tuple(
            PhotoRecord(p.name, t, "", True, camera=replace(p.camera, cam_from_world=SCENE_FROM_ROOM.camera(p.camera.cam_from_world)))
            for p in room.photos if p.time == t
        )
        visits.append(VisitRecord(t, date, None, photos))
    return Scene(chronology, tuple(visits))


def test_the_truth_itself_is_perfect(room: Room) -> None:
    report = track_report(perfect(room), room, ROOM_FROM_SCENE)
    assert (report.precision, report.recall, report.identity_f1) == (1.0, 1.0, 1.0)
    assert report.expected == len(room.events) > 0
    assert report.missed == report.false == ()
    moved = [e for e in room.events if e.kind in ("moved", "returned")]
    assert len(report.poses) == len(moved) > 0
    assert all(p.rotation_deg < 1e-4 and p.translation_percent < 1e-6 and p.covered for p in report.poses)


def test_a_false_and_a_missing_event_are_named(room: Room) -> None:
    chronology = perfect(room)
    gone = next(e for e in chronology.events if e.kind == "removed")
    ghost = max(chronology.templates) + 1
    track = ObjectTrack.start(ghost, room.num_times - 1, make_rigid(np.eye(3), np.full(3, 50.0)))
    events = (*[e for e in chronology.events if e != gone], Event(room.num_times - 1, "appeared", ghost))
    wrong = replace(
        chronology, events=events, templates={**chronology.templates, ghost: Template(ghost, "object", gaussians(), 1)},
        tracks={**chronology.tracks, ghost: track},
    )
    report = track_report(wrong, room, ROOM_FROM_SCENE)
    assert report.true_positives == len(room.events) - 1
    assert report.missed == (f"t{gone.time} removed {room.object(gone.object_id).name}",)
    assert report.false == (f"t{room.num_times - 1} appeared object {ghost} (at nothing)",)
    assert report.identity[1] == 1 and report.identity_f1 < 1


def test_the_forms_of_an_object_are_one_that_has_moved(room: Room) -> None:
    """Without the link between them the same tracks are a thing that left and another one that came."""
    event = next(e for e in room.events if e.kind == "moved")
    apart, new = split_object(perfect(room), event.object_id, event.time)
    report = track_report(apart, room, ROOM_FROM_SCENE)
    assert f"t{event.time} moved {room.object(event.object_id).name}" in report.missed and report.identity_f1 < 1
    templates = {**apart.templates, new: replace(apart.templates[new], replaces=event.object_id)}
    linked = replace(apart, templates=templates, events=derive_events(templates, apart.tracks))
    report = track_report(linked, room, ROOM_FROM_SCENE)
    assert (report.precision, report.recall, report.identity_f1) == (1.0, 1.0, 1.0)
    assert len(report.poses) == report.motions - 1, "how it moved is not known"


def test_pose_errors_and_their_coverage_are_measured(room: Room) -> None:
    chronology = perfect(room)
    event = next(e for e in room.events if e.kind == "moved")
    track = chronology.tracks[event.object_id]
    poses = track.world_from_object.copy()
    size = float(np.linalg.norm(room.object(event.object_id).extents))
    poses[event.time, :3, 3] += SCENE_FROM_ROOM.rotation @ [0, 0, 2.0 * 0.1 * size]
    poses[event.time, :3, :3] = axis_rotations(np.array([0, 0, 1.0]), 36)[1] @ poses[event.time, :3, :3]
    bent = replace(chronology, tracks={**chronology.tracks, event.object_id: replace(track, world_from_object=poses)})
    error = next(p for p in track_report(bent, room, ROOM_FROM_SCENE).poses if p.time == event.time)
    assert error.translation_percent == pytest.approx(10.0, abs=0.01)
    assert error.rotation_deg == pytest.approx(10.0, abs=0.01)
    assert error.covered is False


def test_the_whole_room_is_evaluated_in_any_frame(room: Room) -> None:
    result = evaluate_room(scene(room, perfect(room)), room, backend="reference")
    figures = summary(result)
    assert figures["events_recall"] == 1 and figures["localisation_localised"] == figures["localisation_photos"] > 0
    assert figures["localisation_rotation_deg_max"] == pytest.approx(0, abs=1e-3)
    assert figures["psnr_t0"] < 20, "a few black Gaussians cannot look like the room"
    assert len(result.views) == len(room.tests)
    assert figures["forgetting"] == figures["psnr_t0"] - np.mean([v.metrics["psnr"] for v in result.first_alone])
    assert figures["motions_measured"] == figures["motions_expected"] == sum(e.kind in ("moved", "returned") for e in room.events)
    assert figures["light_right_share"] == np.mean([not room.lights[t].changed_vs_previous for t in range(1, room.num_times)])
    values = room_json(result)
    assert values["summary"] == figures and len(values["views"]) == len(room.tests)
    assert {r["figure"] for r in room_rows(result)} >= {"events recall", "mask iou"}


def test_a_scene_of_another_place_is_refused(room: Room) -> None:
    other = scene(room, perfect(room))
    visits = tuple(replace(v, photos=tuple(replace(p, name=f"x/{p.name}") for p in v.photos)) for v in other.visits)
    with pytest.raises(InputError, match="none of its photos is in the scene"):
        evaluate_room(replace(other, visits=visits), room, backend="reference")


def view(time: int, metric: float, errors: dict[str, tuple[float, float, int]]) -> RoomView:
    return RoomView(f"{time}.png", time, {"psnr": metric, "psnr_colour_fit": metric + 1}, errors)


def test_figures_of_regions_have_known_values(room: Room) -> None:
    """An object's pixels of error 0.01 are 20 dB, of 0.1 are 10 dB; only objects changed by then count at the first visit."""
    first = sorted({e.object_id for e in room.events if e.time == 1})
    later = sorted({e.object_id for e in room.events} - set(first))
    assert later, "the sample has an object that changes after time 1"
    start = view(0, 30.0, {"objects": (2.0, 2.0, 20), **{object_region(k): (0.1, 0.1, 10) for k in first}})
    views = [
        start, view(1, 28.0, {"changed": (1.0, 0.1, 10), "unchanged": (0.01, 0.01, 10)}),
        view(2, 25.0, {"changed": (1.0, 1.0, 100), "unchanged": (0.1, 0.1, 10)}),
    ]
    figures = picture_figures(views, room, 3)
    assert figures["psnr_t0"] == 30 and figures["psnr_drop_mean"] == pytest.approx((2 + 5) / 2)
    assert figures["changed_psnr_mean"] == pytest.approx((10 + 20) / 2) and figures["unchanged_psnr_mean"] == pytest.approx(25)
    assert figures["changed_psnr_drop_mean"] == pytest.approx(20 - 15), "20 dB before, 10 and 20 now"
    assert figures["changed_psnr_colour_fit_drop_mean"] == pytest.approx(20 - 20)
    assert figures["objects_psnr_t0"] == pytest.approx(10)
    assert forgetting([view(0, 29.5, {}), view(1, 1.0, {})], [start]) == {
        "forgetting": pytest.approx(-0.5), "forgetting_colour_fit": pytest.approx(-0.5)
    }
    assert picture_figures(views[:1], room, 1)["changed_psnr_mean"] is None


def test_objects_reported_where_only_the_light_changed_are_counted(room: Room) -> None:
    still = replace(room, events=tuple(e for e in room.events if e.time != 2))
    report = light_report(perfect(room), still)
    assert report.light_only == {2: len({e.object_id for e in room.events if e.time == 2})} != {2: 0}
    assert light_report(perfect(room), room).light_only == {}


def test_camera_errors_are_judged_by_their_covariance(room: Room) -> None:
    """A later camera off by 2 mm in the room: 4 mm in the scene, whose units are half as long."""
    def moved(sigma: float) -> Scene:
        whole = scene(room, perfect(room))
        photos = []
        for p in whole.visits[1].photos:
            assert p.camera is not None
            pose = p.camera.cam_from_world.copy()
            pose[:3, 3] += [0.004, 0, 0]
            photos.append(replace(p, camera=replace(p.camera, cam_from_world=pose), covariance=np.eye(6) * sigma**2))
        return replace(whole, visits=(whole.visits[0], replace(whole.visits[1], photos=tuple(photos)), *whole.visits[2:]))

    for sigma, covered in ((0.002, 1.0), (0.0005, 0.0)):
        figures = localisation_figures(moved(sigma), room, align_scene(moved(sigma), room))
        assert figures["covered_share"] == covered
        assert figures["center_percent_max"] == pytest.approx(100 * 0.002 / extent(room), rel=1e-3)
        assert figures["rotation_deg_max"] == pytest.approx(0, abs=1e-4)


def extent(room: Room) -> float:
    centres = np.array([p.camera.center for p in room.photos if p.time == 0])
    return float(np.linalg.norm(centres - centres.mean(0), axis=1).max())


def test_room_photos_larger_than_those_a_scene_was_fitted_to_are_drawn_as_such(room: Room) -> None:
    full = scene(room, perfect(room))
    first = full.visits[0]
    small = tuple(replace(p, camera=p.camera.resized(p.camera.width // 2, p.camera.height // 2)) for p in first.photos if p.camera)
    place = placed_in(replace(full, visits=(replace(first, photos=small), *full.visits[1:])), SCENE_FROM_ROOM)
    photo = room.photos[0]
    assert place(photo).sampling == pytest.approx(2.0) and place(photo).width == photo.camera.width
    assert placed_in(full, SCENE_FROM_ROOM)(photo).sampling == pytest.approx(1.0)
    np.testing.assert_allclose(place(photo).cam_from_world, SCENE_FROM_ROOM.camera(photo.camera.cam_from_world))
