"""The recorder of decisions: numbering, last words, links to objects, what is thrown away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ltgs.core.cameras import Camera
from ltgs.core.chronology import Chronology, ObjectTrack, Presence, Template
from ltgs.core.decisions import DecisionRecorder, projected_box
from ltgs.core.gaussians import Gaussians

CAMERA = Camera("a.jpg", 1, 64, 48, np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]), np.eye(4))


@dataclass(frozen=True, eq=False)
class Blob:
    """New content in front of the camera."""

    points: np.ndarray
    pixels: tuple[np.ndarray, ...]
    num_views: int = 1


@dataclass(frozen=True)
class Pose:
    gain: float
    ambiguous: bool = False


def blob(x: float = 0.0, size: int = 8) -> Blob:
    mask = np.zeros((48, 64), bool)
    mask[10 : 10 + size, 20 : 20 + size] = True
    return Blob(np.random.default_rng(0).normal([x, 0, 4], 0.1, (50, 3)), (mask,))


def gaussians(points: np.ndarray) -> Gaussians:
    n = len(points)
    return Gaussians(torch.as_tensor(points, dtype=torch.float32), torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1), torch.zeros(n, 3),
                     torch.zeros(n), torch.zeros(n, 1, 3))


def two_objects() -> Chronology:
    """Two objects that stood at x = 1 and x = -1; the first has left."""
    cloud = np.random.default_rng(1).normal(0, 0.1, (40, 3))
    start = Chronology.initial(gaussians(np.zeros((3, 3))))
    tracks = {}
    for k, x in ((1, 1.0), (2, -1.0)):
        pose = np.eye(4)
        pose[0, 3] = x
        tracks[k] = ObjectTrack.start(k, 0, pose).extended(Presence.ABSENT if k == 1 else Presence.PRESENT)
    return Chronology(
        start.background, start.lifted, {k: Template(k, "object", gaussians(cloud), 0) for k in tracks}, tracks, start.appearance * 2
    )


def test_content_is_known_by_identity_and_keeps_its_number_and_place():
    recorder, first, twin = DecisionRecorder([CAMERA]), blob(), blob()
    recorder.stage = "round 1"
    assert [recorder.seen(c) for c in (first, twin, first)] == [1, 2, 1]
    found = recorder.finish(two_objects(), 1).instances
    assert [i.number for i in found] == [1, 2] and {i.stage for i in found} == {"round 1"}
    assert found[0].boxes == {"a.jpg": (20, 10, 28, 18)} and found[0].area_px == 64
    np.testing.assert_allclose(found[0].centre, [0, 0, 4], atol=0.1)


def test_the_last_verdict_counts():
    recorder, content = DecisionRecorder([CAMERA]), blob()
    recorder.verdict(content, "leftover", 3, "beside it")
    recorder.verdict(content, "new", 7)
    (found,) = recorder.finish(two_objects(), 1).instances
    assert (found.verdict, found.object_id, found.reason) == ("new", 7, "")


def test_pairs_say_why_they_were_not_chosen():
    recorder, contents = DecisionRecorder([CAMERA]), [blob(x) for x in range(5)]
    recorder.pairs(
        [4], contents, {(0, c): 0.1 * c for c in (0, 1, 2, 3)}, {(0, 1): Pose(0.1), (0, 2): Pose(0.3), (0, 3): Pose(0.5, True)},
        [(0, 3)], {(0, c): 0.2 for c in range(5)},
    )
    record = recorder.finish(two_objects(), 1)
    reasons = [p.reason for p in record.pairs]
    assert [p.chosen for p in record.pairs] == [False, False, False, True, False]
    assert "not refined" in reasons[0] and "explains 10% of what differs, 20% are needed" in reasons[1]
    assert "another assignment" in reasons[2] and reasons[3] == "" and "not tried" in reasons[4]
    assert record.pairs[3].ambiguous and [p.sweep_gain for p in record.pairs][-1] is None
    assert [(i.verdict, i.object_id) for i in record.instances] == [*[("open", 0)] * 3, ("matched", 4), ("open", 0)]


def test_removals_are_linked_to_the_objects_that_they_are_part_of():
    recorder, chronology = DecisionRecorder([CAMERA]), two_objects()
    cloud = chronology.templates[1].gaussians.means
    recorder.removal(cloud[:20] + torch.tensor([1.0, 0, 0]), {"explained": 0.51239}, reason="")
    recorder.removal(cloud - torch.tensor([1.0, 0, 0]), {"explained": 0.0}, reason="fits no better")
    recorder.removal(cloud + torch.tensor([0.0, 3, 0]), {"explained": float("nan")}, reason="fits no better")
    tests = recorder.finish(chronology, 1).removals
    assert [(t.object_id, t.taken) for t in tests] == [(1, True), (2, False), (0, False)]
    assert tests[0].scores["explained"] == 0.5124 and tests[2].scores["explained"] == 0


def test_what_is_put_back_was_not_taken():
    recorder, chronology = DecisionRecorder(), two_objects()
    cloud = chronology.templates[1].gaussians.means
    recorder.stage = "round 1"
    for x in (1.0, -1.0):
        recorder.removal(cloud + torch.tensor([x, 0, 0]), {}, reason="")
    recorder.stays(2, "still there")
    assert [(t.object_id, t.taken, t.reason) for t in recorder.finish(chronology, 1).removals] == [
        (1, True, ""), (2, False, "still there"),
    ]


def test_repeated_and_small_refusals_are_dropped_but_nothing_that_left():
    recorder, rng = DecisionRecorder(), np.random.default_rng(3)
    points = torch.as_tensor(rng.normal(size=(9, 3)))
    recorder.removal(points, {}, reason="first")
    recorder.removal(points, {}, reason="second")
    recorder.removal(points[:2] + 5, {}, reason="", note="something else stands there")
    for n in range(recorder.max_refused + 10):
        recorder.removal(torch.as_tensor(rng.normal(size=(3 + n // 30, 3))), {}, reason="small")
    tests = recorder.finish(two_objects(), 1).removals
    refused = [t for t in tests if not t.taken]
    assert [t.reason for t in refused if t.num_gaussians == 9] == ["second"] and len(refused) == recorder.max_refused
    assert [t.reason for t in tests if t.taken] == ["something else stands there"]


def test_content_in_a_hole_that_stays_open_gets_its_reason():
    recorder, contents = DecisionRecorder([CAMERA]), [blob(), blob()]
    recorder.seen_all(contents, 1)
    record = recorder.finish(two_objects(), 1)
    assert [i.in_hole for i in record.instances] == [False, True]
    assert record.instances[0].reason == "" and "hole" in record.instances[1].reason


def test_projected_boxes():
    points = np.array([[x, y, 4.0] for x in (-0.8, 0.8) for y in (-0.4, 0.4)])
    assert projected_box(CAMERA, points) == (22, 19, 43, 30)
    assert projected_box(CAMERA, points * [1, 1, -1]) is None, "behind the camera"
    assert projected_box(CAMERA, points + [40, 0, 0]) is None, "outside of the image"
