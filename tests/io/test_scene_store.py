"""The scene store: round trip, determinism, deduplication, refusal of what is damaged or hostile."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ltgs.core.chronology import Chronology
from ltgs.errors import ConvergenceError, FormatError, InputError
from ltgs.io.manifest import read_manifest, seal
from ltgs.io.scene_store import SceneStore


def rewrite_manifest(path: Path, change) -> None:
    """Change the manifest's body and seal it again, as an attacker would."""
    body = dict(read_manifest(path).body)
    change(body)
    path.write_bytes(seal(body))


def test_round_trip_is_exact(store, make_scene, same_scene):
    scene = make_scene(store, 3)
    assert store.commit(scene, message="three") == 1
    loaded = SceneStore.open(store.path).load()
    same_scene(scene, loaded)
    fine = loaded.chronology.appearance[1].field.detail
    assert fine.index.tolist() == [3, 8, 200] and fine.log_gain.tolist() == [-0.5, 0.25, 1.0] and fine.shape == (5, 5, 9)
    track = loaded.chronology.tracks[1]
    assert np.isnan(track.world_from_object[0]).all() and track.presence.tolist() == [0, 1, 2]
    assert loaded.visits[0].captured_at == scene.visits[0].captured_at and loaded.visits[1].captured_at.tzinfo is not None
    assert loaded.side_data["map"]["half"].dtype == torch.float16 and loaded.visits[0].quality["psnr"] == float("inf")
    photo = loaded.visits[1].photos[0]
    assert photo.camera.sampling == 1 + 1 / 3
    assert np.array_equal(store.read_image(photo.image_blob), np.full((6, 8, 3), 40, np.uint8))
    report = store.verify()
    assert report.ok and report.generation == 1 and not report.leftovers and report.num_blobs == 10


def test_the_sampling_of_a_camera(two_generations):
    def stored_as(value):
        def change(body):
            camera = body["visits"][0]["photos"][0]["camera"]
            camera.pop("sampling", None)
            camera.update({} if value is None else {"sampling": value})

        rewrite_manifest(two_generations.path / "manifest.json", change)
        return SceneStore.open(two_generations.path).load().visits[0].photos[0].camera

    assert stored_as(None).sampling == 1.0, "as scenes of earlier versions have it"
    assert stored_as(2).sampling == 2.0
    for wrong in (0, -1.0, "0.5", 1e9):
        with pytest.raises(FormatError, match="sampling"):
            stored_as(wrong)


def test_a_camera_takes_its_sampling_from_the_first_visit(store, make_scene):
    scene = make_scene(store, 2)
    later = scene.visits[1].photos[0].camera
    assert scene.sampled(later).sampling == 1.0
    assert scene.sampled(later.resized(4, 3)).sampling == 0.5
    unplaced = replace(scene.visits[0], photos=())
    assert replace(scene, visits=(unplaced, scene.visits[1])).sampled(later) is later


def test_previous_generation_stays_readable(two_generations, same_scene, make_scene):
    store = two_generations
    assert store.generation == 2
    assert len(store.load("previous").visits) == 1 and len(store.load(1).visits) == 1 and len(store.load(2).visits) == 2
    assert store.load(1).visits[0].timing == {"train": 0.1}
    with pytest.raises(InputError, match="generation 7 is not stored"):
        store.load(7)


def test_same_scene_gives_identical_bytes(tmp_path, make_scene):
    contents = []
    for name in "ab":
        store = SceneStore.create(tmp_path / name)
        store.commit(make_scene(store, 1), message="m")
        store.commit(make_scene(store, 2), message="n")
        files = [store.path / "manifest.json", store.path / "manifest.prev.json", *sorted((store.path / "blobs").iterdir())]
        contents.append([(f.name, f.read_bytes()) for f in files])
    assert contents[0] == contents[1]


def test_memory_layout_does_not_change_the_name(store, gaussians):
    g = gaussians(20)
    strided = replace(g, means=g.means.t().contiguous().t())
    from ltgs.io.scene_codec import tensors_to_bytes

    assert tensors_to_bytes(g.tensors()) == tensors_to_bytes(strided.tensors())


def test_rigid_move_rewrites_no_gaussians(store, make_scene):
    store.commit(make_scene(store, 2, shift=1.0))
    before = {p.name: p.stat().st_mtime_ns for p in (store.path / "blobs").iterdir()}
    store.commit(make_scene(store, 2, shift=2.0))
    after = {p.name: p.stat().st_mtime_ns for p in (store.path / "blobs").iterdir()}
    assert before == after


def test_old_generation_is_collected_after_the_next_commit(store, make_scene):
    for seed in range(4):
        store.commit(make_scene(store, 1, seed=seed))
    names = {p.name for p in (store.path / "blobs").iterdir()}
    kept = set(read_manifest(store.path / "manifest.json").blobs) | set(read_manifest(store.path / "manifest.prev.json").blobs)
    assert names == kept and not store.verify().leftovers


def test_uncommitted_image_survives_commits_and_a_restart(store, make_scene):
    waiting = store.put_image(np.zeros((3, 3, 3), np.uint8))
    for seed in range(3):
        store.commit(make_scene(store, 1, seed=seed))
    assert store.read_image(waiting).shape == (3, 3, 3)
    other = SceneStore.open(store.path)
    other.commit(make_scene(other, 1, seed=9))
    assert other.read_image(waiting).shape == (3, 3, 3)
    assert other.collect_garbage() == 1
    with pytest.raises(FormatError, match="missing"):
        other.read_image(waiting)


def test_storage_is_attributed_to_visits(store, make_scene):
    store.commit(make_scene(store, 1))
    first = store.storage_by_time()[0]
    store.commit(make_scene(store, 3))
    by_time = store.storage_by_time()
    assert set(by_time) == {0, 1, 2} and by_time[0] == first and by_time[1] > 0 and by_time[2] > 0
    assert sum(by_time.values()) == sum(e["bytes"] for e in read_manifest(store.path / "manifest.json").blobs.values())


def test_create_refuses_to_destroy(tmp_path, store, make_scene):
    store.commit(make_scene(store, 1))
    with pytest.raises(InputError, match="--overwrite"):
        SceneStore.create(store.path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "IMG.jpg").write_bytes(b"x")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="other files"):
            SceneStore.create(tmp_path / "photos", overwrite=overwrite)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        SceneStore.create(tmp_path / "file")
    assert (tmp_path / "photos" / "IMG.jpg").exists()


def test_overwrite_starts_anew_and_can_be_taken_back(store, make_scene):
    store.commit(make_scene(store, 2))
    store.stage_dir("poses")
    new = SceneStore.create(store.path, overwrite=True)
    assert new.generation == 0 and not (store.path / "stages" / "poses").exists() and new.verify().ok
    with pytest.raises(InputError, match="empty"):
        new.load()
    assert new.restore_previous() == 1 and len(new.load().visits) == 2


def test_open_says_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        SceneStore.open(tmp_path / "none")
    with pytest.raises(InputError, match="not a scene folder"):
        SceneStore.open(tmp_path)
    assert not SceneStore.exists(tmp_path)


def test_newer_format_is_refused_kindly(two_generations):
    rewrite_manifest(two_generations.path / "manifest.json", lambda b: b.update(format_version=99))
    with pytest.raises(InputError, match="Upgrade ltgs"):
        SceneStore.open(two_generations.path)


def test_damaged_manifest_points_to_the_previous_one(two_generations):
    path = two_generations.path / "manifest.json"
    path.write_bytes(path.read_bytes()[:-5])
    store = SceneStore.open(two_generations.path)
    with pytest.raises(FormatError, match=r"restore-previous"):
        store.load()
    assert not store.verify().ok
    assert store.restore_previous() == 1 and store.restore_previous() == 1
    assert store.verify().ok and len(store.load().visits) == 1


def test_a_scene_that_changed_meanwhile_is_not_overwritten(store, make_scene):
    other = SceneStore.open(store.path)
    store.commit(make_scene(store, 1))
    with pytest.raises(InputError, match="another process changed the scene"):
        other.commit(make_scene(other, 1, seed=3))


def test_broken_gaussians_are_not_stored(store, make_scene):
    scene = make_scene(store, 1)
    scene.chronology.background.means[3, 1] = float("nan")
    with pytest.raises(ConvergenceError, match="background"):
        store.commit(scene)
    assert store.generation == 0


def test_configuration_must_be_plain_json(store, make_scene):
    for value in (Path("x"), float("nan"), {"a": object()}):
        with pytest.raises(ValueError, match="config"):
            store.commit(replace(make_scene(store, 1), config={"value": value}))
    assert store.generation == 0 and store.verify().ok


def test_damaged_existing_blob_is_healed_by_the_next_put(two_generations, make_scene):
    store = two_generations
    name = read_manifest(store.path / "manifest.json").body["background"]
    (store.path / "blobs" / name).write_bytes(b"rot")
    assert not store.verify().ok
    store.commit(make_scene(store, 2))
    assert store.verify().ok


def test_every_flipped_byte_is_detected(two_generations, tmp_path):
    rng = np.random.default_rng(0)
    files = [p for p in two_generations.path.rglob("*") if p.is_file() and p.name != "lock" and p.stat().st_size]
    assert len(files) >= 10
    for i in range(200):
        path = files[i % len(files)]
        sound = path.read_bytes()
        damaged = bytearray(sound)
        for at in rng.integers(0, len(sound), int(rng.integers(1, 9))):
            damaged[at] ^= int(rng.integers(1, 256))
        if bytes(damaged) != sound:
            path.write_bytes(damaged)
            assert not two_generations.verify().ok, f"{path.name} was changed unnoticed"
            path.write_bytes(sound)
    assert two_generations.verify().ok


def test_every_truncation_is_detected(two_generations):
    rng = np.random.default_rng(1)
    for path in [p for p in two_generations.path.rglob("*") if p.is_file() and p.name != "lock"]:
        sound = path.read_bytes()
        for length in {0, 1, len(sound) // 2, len(sound) - 1, *rng.integers(0, len(sound), 4).tolist()}:
            path.write_bytes(sound[:length])
            report = two_generations.verify()
            # A log cut at its tail looks like a kill while it was being written: reported, but no damage to the scene.
            if path.name == "log.jsonl":
                assert not report.ok or report.leftovers or sound[:length].endswith(b"\n") or length == 0
            else:
                assert not report.ok, f"{path.name} cut to {length} bytes unnoticed"
        path.write_bytes(sound)


def test_damaged_blob_is_never_loaded(two_generations):
    manifest = read_manifest(two_generations.path / "manifest.json")
    for name in (n for n in manifest.blobs if n.endswith("safetensors")):
        path = two_generations.path / "blobs" / name
        sound = path.read_bytes()
        path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        with pytest.raises(FormatError, match=name):
            two_generations.load()
        path.unlink()
        with pytest.raises(FormatError, match="missing"):
            two_generations.load()
        path.write_bytes(sound)


def test_hostile_manifests_give_only_typed_errors(two_generations):
    """Bodies with valid checksums but arbitrary entries: the checksum protects from rot, not from people."""
    path = two_generations.path / "manifest.json"
    sound = read_manifest(path).body
    rng = np.random.default_rng(2)
    junk = [None, -1, 1e308, "x" * 50, [], {}, True, "../../etc/passwd", [[[]]], 2**70, "nan", ["a"], {"a": 1}, 0, 0.5]

    def spots(node, found):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            found.append((node, key))
            if isinstance(node[key], (dict, list)):
                spots(node[key], found)
        return found

    refused = 0
    for _ in range(300):
        body = json.loads(json.dumps(sound))
        places = spots(body, [])
        node, key = places[int(rng.integers(len(places)))]
        if rng.random() < 0.3:
            del node[key]
        else:
            node[key] = junk[int(rng.integers(len(junk)))]
        path.write_bytes(seal(body))
        try:
            SceneStore.open(two_generations.path).load()
        except InputError:
            refused += 1
    assert refused > 150


HOSTILE_NAMES = ["../../x.safetensors", "/etc/passwd", "0" * 64 + ".pickle", "a\0b", "0" * 63 + "/.png", "-rf"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_blob_names_cannot_leave_the_folder(two_generations, name):
    with pytest.raises(FormatError):
        two_generations.read_image(name)
    rewrite_manifest(two_generations.path / "manifest.json", lambda b: b.update(background=name))
    with pytest.raises(FormatError):
        two_generations.load()


def test_links_out_of_the_scene_are_refused(two_generations, tmp_path):
    name = read_manifest(two_generations.path / "manifest.json").body["background"]
    blob = two_generations.path / "blobs" / name
    shutil.move(blob, tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FormatError, match="leads out"):
        two_generations.load()
    (two_generations.path / "stages" / "link").symlink_to(tmp_path)
    with pytest.raises(FormatError, match="leads out"):
        two_generations.stage_dir("link")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "-x", "a\0", "x" * 65, "ü"])
def test_stage_names_are_checked(store, name):
    with pytest.raises(ValueError, match="stage names"):
        store.stage_dir(name)
    assert store.stage_dir("poses_t0.sfm").is_dir()


def test_photo_names_cannot_leave_the_folder(store, make_scene):
    scene = make_scene(store, 1)
    for name in ("../x.jpg", "/x.jpg", "a/../../b.jpg", "a\0.jpg", ""):
        visit = replace(scene.visits[0], photos=(replace(scene.visits[0].photos[0], name=name),))
        with pytest.raises(FormatError, match="relative"):
            store.commit(replace(scene, visits=(visit,)))


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


def test_pickles_and_yaml_are_never_executed(two_generations, tmp_path):
    canary = tmp_path / "canary"
    payloads = [pickle.dumps(Bomb(canary)), f"!!python/object/apply:os.mkdir ['{canary}']".encode()]
    for path in [p for p in two_generations.path.rglob("*") if p.is_file() and p.name != "lock"]:
        sound = path.read_bytes()
        for payload in payloads:
            path.write_bytes(payload)
            assert not two_generations.verify().ok or path.name == "log.jsonl"
            # Refusing is right; executing is what must not happen.
            with contextlib.suppress(InputError):
                SceneStore.open(two_generations.path).load()
            assert not canary.exists()
        path.write_bytes(sound)


def test_oversized_manifest_is_refused_unread(two_generations):
    with (two_generations.path / "manifest.json").open("ab") as stream:
        stream.truncate(1 << 36)  # 64 GiB, sparse
    with pytest.raises(FormatError, match="larger than"):
        two_generations.load()


def test_log_survives_a_torn_line(store):
    store.append_log({"event": "x"})
    with (store.path / "log.jsonl").open("ab") as stream:
        stream.write(b'{"sum": "0123')
    report = store.verify()
    assert report.ok and any("log.jsonl" in x for x in report.leftovers)
    store.append_log({"event": "y"})
    assert [e["event"] for e in store.read_log()] == ["created", "x", "y"] and not store.verify().leftovers


def test_damaged_timings_do_not_block_the_scene(two_generations):
    (two_generations.path / "timing.json").write_text("{}")
    assert dict(two_generations.load().visits[0].timing) == {} and not two_generations.verify().ok


def test_scene_without_objects_and_without_gaussians(store, make_scene, gaussians):
    scene = make_scene(store, 1)
    store.commit(replace(scene, chronology=Chronology.initial(gaussians(0, degree=0))))
    assert len(store.load().chronology.background) == 0 and store.load().chronology.templates == {}


def test_a_scene_folder_can_be_moved(two_generations, tmp_path):
    shutil.move(two_generations.path, tmp_path / "moved")
    assert SceneStore.open(tmp_path / "moved").verify().ok
