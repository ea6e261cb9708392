"""`ltgs edit` on stored scenes: one commit per correction, shown by `ltgs info`, taken back by --undo; and surfaces behind objects."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import blobs, call_ltgs
from timelines import ABSENT, NUM_TIMES, PRESENT, cluster, pose, same_content, scene_of, timeline, track

from ltgs.core.chronology import Template
from ltgs.core.decisions import DecisionRecord, InstanceVerdict, PairTest
from ltgs.core.edits import delete_object
from ltgs.core.gaussians import Gaussians
from ltgs.core.scene import Scene
from ltgs.errors import InputError, UsageError
from ltgs.io.scene_store import SceneStore
from ltgs.objects.associate import AssociateConfig
from ltgs.objects.register import RegisterConfig
from ltgs.pipeline.config import to_plain
from ltgs.pipeline.edit import Delete, Merge, Split, edit_scene, parse_pose, undo_edit
from ltgs.pipeline.edit_surfaces import departures, surfaces_without
from ltgs.pipeline.object_frames import frame_change

QUICK = RegisterConfig(
    upright=24, tipped=1, free_rotations=8, turns=4, num_turned=1, coarse_px=24, num_scouted=2, scout_px=32, scout_steps=(2, 4),
    num_refined=1, steps=12, fine_px=40,
)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The hand-made timeline in a scene folder."""
    path = tmp_path / "scene"
    store = SceneStore.create(path)
    scene = scene_of(timeline())
    store.commit(replace(scene, config={"run": {"update": {"register": to_plain(QUICK)}}}), message="made by hand")
    return path


def info(path: Path) -> dict:
    done = call_ltgs("info", path, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# -- the command ------------------------------------------------------------------------------------------------------

def test_split_then_merge_through_the_command(stored: Path) -> None:
    before = SceneStore.open(stored).load().chronology
    done = call_ltgs("edit", stored, "--split", "2", "--time", "2024-03-01")
    assert done.returncode == 0, done.stderr
    assert "- 2024-03-01: object 2 moved" in done.stdout and "+ 2024-03-01: object 5 appeared" in done.stdout
    assert "generation 2" in done.stdout and "--undo" in done.stdout
    body = info(stored)
    assert [o["id"] for o in body["objects"]] == [1, 2, 3, 4, 5]
    done = call_ltgs("edit", stored, "--merge", "2", "5")
    assert done.returncode == 0 and "same template" in done.stdout, done.stderr
    after = SceneStore.open(stored).load().chronology
    assert [(e.time, e.kind, e.object_id) for e in after.events] == [(e.time, e.kind, e.object_id) for e in before.events]
    assert all(same_content(before, t, after, t) for t in range(NUM_TIMES))
    edits = info(stored)["edits"]
    assert [e["words"] for e in edits] == ["split: object 2, new 5, visit month 3", "merge: object 2, other 5"]
    assert edits[0]["words"] in call_ltgs("info", stored).stdout
    assert call_ltgs("verify", stored).returncode == 0


def test_recorded_decisions_follow_the_ids(stored: Path) -> None:
    store = SceneStore.open(stored)
    seen = InstanceVerdict(1, "round 1", (0.0, 0.0, 0.0), 0.1, 50, 3, False, "matched", 2)
    record = DecisionRecord(pairs=(PairTest("round 1", 2, 1, 0.3, 0.5, True),), instances=(seen,))
    scene = store.load()
    store.commit(replace(scene, visits=tuple(replace(v, decisions=record if v.timestep else None) for v in scene.visits)))

    def ids(scene: Scene) -> list[int]:
        return [v.decisions.pairs[0].object_id for v in scene.visits if v.decisions is not None]

    assert ids(edit_scene(stored, Split(2, "2")).scene) == [2, 5, 5], "from then on it was the new object that was decided about"
    assert ids(edit_scene(stored, Merge(2, 5)).scene) == [2, 2, 2]


def test_delete_and_undo(stored: Path) -> None:
    before = (stored / "manifest.json").read_bytes()
    done = call_ltgs("edit", stored, "--delete", "3", "--dry-run")
    assert done.returncode == 0 and "nothing was stored" in done.stdout and "- 2024-02-01: object 3" in done.stdout
    assert (stored / "manifest.json").read_bytes() == before
    assert call_ltgs("edit", stored, "--delete", "3").returncode == 0
    assert [o["id"] for o in info(stored)["objects"]] == [1, 2, 4]
    done = call_ltgs("edit", stored, "--undo")
    assert done.returncode == 0 and "taken back: delete: object 3" in done.stdout, done.stderr
    body = info(stored)
    assert [o["id"] for o in body["objects"]] == [1, 2, 3, 4] and body["generation"] == 3
    assert [e["operation"] for e in body["edits"]] == ["delete", "undo"]
    assert call_ltgs("verify", stored).returncode == 0
    done = call_ltgs("edit", stored, "--undo")
    assert done.returncode == 2 and "one step back" in done.stderr


def test_an_undone_split_does_not_free_its_id(stored: Path) -> None:
    assert 5 in edit_scene(stored, Split(2, "2")).scene.chronology.templates
    undo_edit(stored)
    assert 6 in edit_scene(stored, Split(2, "2")).scene.chronology.templates


def test_undo_never_takes_anything_but_an_edit(stored: Path) -> None:
    with pytest.raises(UsageError, match="no edit to undo"):
        undo_edit(stored)
    edit_scene(stored, Delete(3))
    store = SceneStore.open(stored)
    store.commit(replace(store.load(), config={"other": 1}), message="something else")
    with pytest.raises(UsageError, match="something else was stored"):
        undo_edit(stored)
    assert SceneStore.open(stored).generation == 3


def test_pin_and_rename(stored: Path, tmp_path: Path) -> None:
    matrix = pose(0.1, 0.2, yaw_deg=90)
    (tmp_path / "pose.json").write_text(json.dumps(matrix.tolist()))
    done = call_ltgs("edit", stored, "--pin-pose", "1", "--time", "2", "--pose", tmp_path / "pose.json")
    assert done.returncode == 0 and "times 3" in done.stdout, done.stderr
    done = call_ltgs("edit", stored, "--rename", "1", "red box")
    assert done.returncode == 0 and "stay as they are" in done.stdout, done.stderr
    body = info(stored)
    entry = body["objects"][0]["track"][2]
    assert body["objects"][0]["name"] == "red box" and entry["pinned"] and not body["objects"][0]["track"][3]["pinned"]
    np.testing.assert_allclose(entry["world_from_object"], matrix)
    assert any("object 1 (red box) returned" in e["words"] and "set by hand" in e["words"] for e in body["events"])
    assert "red box" in call_ltgs("info", stored).stdout


@pytest.mark.parametrize(("words", "message"), [
    ([], "got none"),
    (["--delete", "1", "--split", "2", "--time", "1"], "got --split and --delete"),
    (["--split", "1"], "needs --time"),
    (["--delete", "1", "--time", "1"], "does not use --time"),
    (["--pin-pose", "1", "--time", "1"], "needs --pose"),
    (["--merge", "1", "2"], "both in the place at time 0"),
    (["--merge", "1", "9"], "no object 9"),
    (["--split", "3", "--time", "3"], "cannot be split"),
    (["--split", "1", "--time", "12"], "0..3"),
    (["--pin-pose", "1", "--time", "1", "--pose", "1 2 3"], "tx ty tz"),
    (["--rename", "1", "a\nb"], "printable"),
])
def test_wrong_calls_change_nothing(stored: Path, words: list[str], message: str) -> None:
    before = (stored / "manifest.json").read_bytes()
    done = call_ltgs("edit", stored, *words)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert (stored / "manifest.json").read_bytes() == before


def test_poses_are_parsed_strictly(tmp_path: Path) -> None:
    np.testing.assert_allclose(parse_pose("1 2 3 2 0 0 0"), pose(1, 2, 3))
    np.testing.assert_allclose(parse_pose("1, 2, 3, 0.7071067811865476, 0, 0, 0.7071067811865476"), pose(1, 2, 3, 90), atol=1e-12)
    for bad in ("1 2 3", "1 2 3 0 0 0 0", "nan 2 3 1 0 0 0"):
        with pytest.raises(UsageError):
            parse_pose(bad)
    with pytest.raises(InputError):
        parse_pose(str(tmp_path / "missing.json"))
    (tmp_path / "p.json").write_text("[[1, 2], [3, 4]]")
    with pytest.raises(InputError, match="4x4"):
        parse_pose(str(tmp_path / "p.json"))
    (tmp_path / "p.json").write_text(json.dumps(np.ones((4, 4)).tolist()))
    with pytest.raises(UsageError, match="last row"):
        parse_pose(str(tmp_path / "p.json"))


def test_another_writer_is_not_overwritten(stored: Path) -> None:
    with SceneStore.open(stored).lock():
        edit_scene(stored, Delete(3), dry_run=True)
    store = SceneStore.open(stored)
    scene = store.load()
    edit_scene(stored, Delete(3))
    with pytest.raises(InputError, match="another process changed the scene"):
        store.commit(scene)


# -- frames of templates that are the same thing -----------------------------------------------------------------------

def test_a_template_is_registered_to_the_other_ones_look() -> None:
    """Object 3 is object 1 built anew in axes of its own, with other noise; the frame change brings one onto the other."""
    true = pose(0.02, -0.01, 0.01, yaw_deg=50)
    thing = large(7)
    anew = thing.transformed(torch.as_tensor(true, dtype=torch.float32))
    anew = replace(anew, sh=anew.sh + 0.02 * torch.randn(anew.sh.shape, generator=torch.Generator().manual_seed(0)))
    chronology = timeline()
    templates = {**chronology.templates, 1: Template(1, "object", thing, 0), 3: Template(3, "object", anew, 1)}
    scene = scene_of(replace(chronology, templates=templates))
    found = frame_change(scene, 1, 3, register=QUICK, associate=AssociateConfig())
    assert "registered" in found.how
    one = thing.transformed(torch.as_tensor(found.other_from_object, dtype=torch.float32)).means
    # A tenth of the radius of 0.4; unregistered, the points are 0.2 apart.
    assert float((one - anew.means).norm(dim=1).mean()) < 0.04


def test_without_photos_the_object_keeps_its_orientation() -> None:
    scene = scene_of(timeline(), away=(1,))
    found = frame_change(scene, 1, 3, register=QUICK, associate=AssociateConfig())
    assert "as it stood before" in found.how
    np.testing.assert_allclose(found.other_from_object[:3, :3], np.eye(3), atol=1e-12)
    world = scene.chronology.tracks[3].world_from_object[1] @ found.other_from_object
    own = world[:3, :3] @ np.median(cluster(1).means.numpy(), axis=0) + world[:3, 3]
    np.testing.assert_allclose(own, pose(0, 0.9)[:3, 3] + np.median(cluster(3).means.numpy(), axis=0), atol=0.02)


def test_what_stood_at_the_same_place_did_not_move() -> None:
    """Object 3 stands a little beside where object 1 stood, as templates of few photos do, and no photo helps to register it."""
    chronology = timeline((1, 3))
    beside = pose(0.93, 0.02)
    tracks = {**chronology.tracks, 3: track(3, [ABSENT, PRESENT, ABSENT, ABSENT], [None, beside, None, None])}
    scene = scene_of(replace(chronology, tracks=tracks), away=(1,))
    outcome = Merge(1, 3).apply(scene, "auto")
    assert "stood still" in outcome.remarks[0]
    np.testing.assert_allclose(outcome.chronology.tracks[1].world_from_object[1], pose(0.9, 0.0), atol=1e-12)
    assert [(e.time, e.kind) for e in outcome.chronology.events] == [(2, "moved")]


def large(seed: int) -> Gaussians:
    """An object of many colours, large enough for pictures of 80 by 60."""
    rng = np.random.default_rng(seed)
    return blobs(rng, rng.uniform(-0.3, 0.3, (250, 3)) * [1.0, 0.5, 0.8], 0.05)


def test_merging_different_templates_through_the_store(stored: Path) -> None:
    outcome = edit_scene(stored, Merge(1, 3))
    assert outcome.generation == 2 and outcome.scene.chronology.tracks[1].presence.tolist() == [PRESENT] * 4
    assert 3 not in SceneStore.open(stored).load().chronology.templates


# -- surfaces behind deleted objects ----------------------------------------------------------------------------------

def with_holes() -> Scene:
    """Objects 1 and 2 both leave at time 1; surface 4 fills what was behind each of them."""
    behind = Gaussians.concatenate([cluster(9).transformed(shift(*p)) for p in ((0.9, 0.0, 0.05), (-0.9, 0.2, 0.05))])
    nothing = [pose(0, 0), None, None, None]
    chronology = timeline((1, 2, 4))
    tracks = {
        k: track(k, [PRESENT, ABSENT, ABSENT, ABSENT], [chronology.tracks[k].world_from_object[0], *nothing[1:]]) for k in (1, 2)
    } | {4: chronology.tracks[4]}
    templates = {**chronology.templates, 4: replace(chronology.templates[4], gaussians=behind)}
    return scene_of(replace(chronology, templates=templates, tracks=tracks, events=()))


def shift(x: float, y: float, z: float) -> torch.Tensor:
    return torch.as_tensor(pose(x, y, z), dtype=torch.float32)


def test_only_the_surface_in_the_objects_own_hole_goes() -> None:
    scene = with_holes()
    assert departures(scene.chronology, 1) == [1]
    stays = surfaces_without(scene, 1)[4].numpy()
    assert stays[:12].mean() < 0.2 and stays[12:].all(), "the cluster behind object 1 goes, that behind 2 stays"
    chronology = delete_object(scene.chronology, 1, {4: torch.from_numpy(stays)})
    assert len(chronology.templates[4].gaussians) == stays.sum()


def test_a_surface_that_one_object_alone_revealed_goes_as_a_whole() -> None:
    scene = scene_of(timeline())
    assert not surfaces_without(scene, 1)[4].any()
    assert surfaces_without(scene, 2) == {} and surfaces_without(scene, 3) == {}, "they left at other times"
    outcome = Delete(1).apply(scene, "auto")
    assert 4 not in outcome.chronology.templates
    assert all(same_content(outcome.chronology, t, timeline((2, 3)), t) for t in range(NUM_TIMES))
