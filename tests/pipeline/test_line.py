"""The whole line on a tiny capture: scene, figures, renders, exports, evaluation, one more visit, bad files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import HEIGHT, WIDTH, TinyCapture, call_ltgs, settings
from PIL import Image

from ltgs.core.chronology import ObjectTrack, Presence, Template
from ltgs.io.cameras_json import read_cameras_json
from ltgs.io.ply import read_ply
from ltgs.io.scene_store import SceneStore


def info(scene: Path) -> dict:
    done = call_ltgs("info", scene, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_scene_holds_every_visit(tiny_scene: Path, tiny_capture: TinyCapture) -> None:
    body = info(tiny_scene)
    assert [c["name"] for c in body["captures"]] == ["2024-01-05", "2024-02-10", "2024-03-20"]
    assert [c["date"][:10] for c in body["captures"]] == ["2024-01-05", "2024-02-10", "2024-03-20"]
    assert [len(c["photos"]) for c in body["captures"]] == [10, 3, 3]
    assert all(p["localised"] and p["reason"] == "" for c in body["captures"] for p in c["photos"])
    # Natural order: IMG_10 comes last, so the held-out photos are number 1 and number 6.
    assert [p["name"] for p in body["captures"][0]["photos"] if p["holdout"]] == ["2024-01-05/IMG_1.png", "2024-01-05/IMG_6.png"]
    assert not any(p["holdout"] for c in body["captures"][1:] for p in c["photos"]), "visits of 3 photos keep all of them"
    assert 500 < body["num_gaussians"] <= 2500 + 2000
    assert set(body["storage"]) == {"0", "1", "2"} and all(v > 0 for v in body["storage"].values())
    assert {"scan", "poses", "photos", "train", "change"} <= body["timing"].keys()
    assert all(v >= 0 for v in body["timing"].values()) and body["peak_memory_mb"] > 50
    assert {"poses", "train", "rasteriser", "change"} <= body["method"].keys()
    assert body["config"]["run"]["train"]["steps"] == 60 and body["config"]["cameras"] == "given"
    for event in body["events"]:
        assert event["kind"] in ("appeared", "removed", "moved", "returned") and 1 <= event["time"] <= 2
    for thing in body["objects"]:
        assert [t["time"] for t in thing["track"]] == [0, 1, 2]
        assert all(t["presence"] in ("present", "absent", "unknown") for t in thing["track"])


def test_given_poses_are_taken_exactly(tiny_scene: Path, tiny_capture: TinyCapture, tmp_path: Path) -> None:
    done = call_ltgs("export", tiny_scene, "--cameras", tmp_path / "c.json")
    assert done.returncode == 0, done.stderr
    given = {c.name: c for c in read_cameras_json(tiny_capture.cameras)}
    written = {c.name: c for c in read_cameras_json(tmp_path / "c.json")}
    assert written.keys() == given.keys()
    for name, camera in written.items():
        assert np.array_equal(camera.cam_from_world, given[name].cam_from_world)
        assert np.array_equal(camera.K, given[name].K) and camera.time == given[name].time
    assert info(tiny_scene)["cameras"][0]["K"] == given["2024-01-05/IMG_1.png"].K.tolist()


def test_verify_proves_the_scene(tiny_scene: Path) -> None:
    done = call_ltgs("verify", tiny_scene)
    assert done.returncode == 0 and "sound" in done.stdout


def test_verify_finds_a_flipped_bit_and_goes_back(tiny_scene: Path, tmp_path: Path) -> None:
    scene = tmp_path / "copy"
    shutil.copytree(tiny_scene, scene)
    manifest = scene / "manifest.json"
    data = bytearray(manifest.read_bytes())
    data[len(data) // 2] ^= 4
    manifest.write_bytes(bytes(data))
    done = call_ltgs("verify", scene)
    assert done.returncode == 3 and "manifest.json" in done.stdout and "--restore-previous" in done.stdout
    done = call_ltgs("verify", scene, "--restore-previous")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(info(scene)["captures"]) == 2


def test_held_out_photos_are_evaluated(tiny_scene: Path, tmp_path: Path) -> None:
    done = call_ltgs("eval", tiny_scene, "--json", tmp_path / "e.json")
    assert done.returncode == 0, done.stderr
    body = json.loads((tmp_path / "e.json").read_text())
    assert body["kind"] == "held-out photos" and body["num_images"] == 2
    assert [(i["width"], i["height"]) for i in body["images"]] == [(WIDTH, HEIGHT)] * 2
    # 60 steps on 8 photos reach 20 dB here; a wrong pose, axis or pixel centre gives about 14.
    assert body["mean"]["psnr"] > 17 and 0.3 < body["mean"]["ssim"] <= 1
    assert body["mean"]["psnr_colour_fit"] >= body["mean"]["psnr"] - 0.5
    assert "PSNR" in done.stdout and "2024-01-05" in done.stdout


def test_test_photos_are_evaluated_per_visit(tiny_scene: Path, tiny_capture: TinyCapture, tmp_path: Path) -> None:
    words = ["--test", tiny_capture.test, "--test-cameras", tiny_capture.test_cameras]
    done = call_ltgs("eval", tiny_scene, *words, "--json", "-")
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert [t["time"] for t in body["times"]] == [0, 1, 2] and body["num_images"] == 3
    assert min(t["psnr"] for t in body["times"]) > 16
    # A missing photo is named, the others are scored.
    broken = tmp_path / "test"
    shutil.copytree(tiny_capture.test, broken)
    (broken / "2024-02-10" / "IMG_91.png").write_bytes(b"")
    done = call_ltgs("eval", tiny_scene, "--test", broken, "--test-cameras", tiny_capture.test_cameras)
    assert done.returncode == 0 and "IMG_91.png" in done.stderr and "2 test photos" in done.stdout
    done = call_ltgs("eval", tiny_scene, "--test", tmp_path, "--test-cameras", tiny_capture.test_cameras)
    assert done.returncode == 3 and "none of the 3" in done.stderr


def test_rendering_resembles_the_test_photo(tiny_scene: Path, tiny_capture: TinyCapture, tmp_path: Path) -> None:
    done = call_ltgs(
        "render", tiny_scene, "--time", "2024-01-05", "--cameras", tiny_capture.test_cameras, "--what", "rgb,depth,alpha,objects",
        "-o", tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("*.png"))) == 12
    rgb = np.asarray(Image.open(tmp_path / "2024-01-05" / "IMG_90_rgb.png")).astype(float) / 255
    photo = np.asarray(Image.open(tiny_capture.test / "2024-01-05" / "IMG_90.png")).astype(float) / 255
    assert rgb.shape == photo.shape == (HEIGHT, WIDTH, 3)
    assert np.sqrt(np.mean((rgb - photo) ** 2)) < 0.16


def test_exports(tiny_scene: Path, tmp_path: Path) -> None:
    done = call_ltgs("export", tiny_scene, "--time", "1", "--format", "ply", "-o", tmp_path / "x.ply")
    assert done.returncode == 0, done.stderr
    assert len(read_ply(tmp_path / "x.ply")) > 500
    done = call_ltgs("export", tiny_scene, "--time", "all", "--format", "splat", "-o", tmp_path / "frames")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == [f"frame000{t}.splat" for t in range(3)]
    assert all(p.stat().st_size % 32 == 0 for p in (tmp_path / "frames").iterdir())


def test_resuming_a_finished_scene_changes_nothing(tiny_scene: Path, tiny_capture: TinyCapture) -> None:
    before = (tiny_scene / "manifest.json").read_bytes()
    done = call_ltgs(
        "reconstruct", tiny_capture.photos, "-o", tiny_scene, "--preset", "cpu_small", "--cameras", tiny_capture.cameras,
        "--holdout-every", "5", *settings(), "--resume",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is stored already") == 3
    assert (tiny_scene / "manifest.json").read_bytes() == before


@pytest.fixture
def scene_copy(tiny_scene: Path, tmp_path: Path) -> Path:
    """A scene that a test may change."""
    return Path(shutil.copytree(tiny_scene, tmp_path / "scene"))


@pytest.fixture
def fourth_visit(tiny_capture: TinyCapture, tmp_path: Path) -> Path:
    """Photos of the first visit again, as a later visit, with files that are no photos."""
    folder = tmp_path / "2024-05-01"
    folder.mkdir()
    for name in ("IMG_4.png", "IMG_7.png"):
        shutil.copy(tiny_capture.photos / "2024-01-05" / name, folder / name)
    (folder / "IMG_8.jpg").write_bytes(b"")
    (folder / "IMG_9.jpg").write_text("shopping list: milk, eggs")
    shutil.copy(folder / "IMG_4.png", folder / "copy of IMG_4.png")
    other = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(other).save(folder / "elsewhere.png")
    return folder


def test_bad_files_are_named_and_change_nothing(scene_copy: Path, fourth_visit: Path) -> None:
    before = SceneStore.open(scene_copy).load()
    done = call_ltgs("update", scene_copy, fourth_visit)
    assert done.returncode == 0, done.stderr
    body = info(scene_copy)
    photos = {p["name"].split("/")[1]: p for p in body["captures"][3]["photos"]}
    assert len(photos) == 6 and body["captures"][3]["date"][:10] == "2024-05-01"
    assert "empty" in photos["IMG_8.jpg"]["reason"] and "not a photo" in photos["IMG_9.jpg"]["reason"]
    assert "another place" in photos["elsewhere.png"]["reason"]
    copies = [p for n, p in photos.items() if "IMG_4" in n]
    assert sorted(p["localised"] for p in copies) == [False, True]
    assert any("same file" in p["reason"] for p in copies)
    assert photos["IMG_7.png"]["localised"] and photos["IMG_7.png"]["num_inliers"] >= 15
    for name in ("IMG_8.jpg", "IMG_9.jpg", "elsewhere.png"):
        assert not photos[name]["localised"] and name in done.stderr and name in done.stdout
        assert str(fourth_visit) not in photos[name]["reason"], "a stored scene does not know this machine's paths"
    after = SceneStore.open(scene_copy).load()
    assert [v.photos for v in after.visits[:3]] and len(after.visits) == 4
    for name, tensor in before.chronology.background.tensors().items():
        assert np.array_equal(tensor.numpy(), after.chronology.background.tensors()[name].numpy()), "the past is not touched"
    for key, track in before.chronology.tracks.items():
        assert np.array_equal(track.presence, after.chronology.tracks[key].presence[:3])
    assert call_ltgs("verify", scene_copy).returncode == 0


def test_localised_poses_agree_with_the_truth(scene_copy: Path, fourth_visit: Path, tiny_capture: TinyCapture) -> None:
    assert call_ltgs("update", scene_copy, fourth_visit, "--quiet").returncode == 0
    truth = {c.name: c for c in read_cameras_json(tiny_capture.cameras)}
    for camera in info(scene_copy)["cameras"]:
        if camera["time"] != 3:
            continue
        true = truth["2024-01-05/" + camera["name"].split("/")[1].removeprefix("copy of ")]
        center = -np.array(camera["cam_from_world"])[:3, :3].T @ np.array(camera["cam_from_world"])[:3, 3]
        # 96-pixel photos give pixel noise of a third of a pixel at 110 pixels focal length and 3 units distance.
        assert np.linalg.norm(center - true.center) < 0.15


def test_repeating_an_update_is_safe(scene_copy: Path, fourth_visit: Path) -> None:
    assert call_ltgs("update", scene_copy, fourth_visit, "--quiet").returncode == 0
    generation = SceneStore.open(scene_copy).generation
    done = call_ltgs("update", scene_copy, fourth_visit)
    assert done.returncode == 0 and "nothing to do" in done.stderr
    assert SceneStore.open(scene_copy).generation == generation
    (fourth_visit / "IMG_7.png").unlink()
    done = call_ltgs("update", scene_copy, fourth_visit)
    assert done.returncode == 2 and "IMG_7.png" in done.stderr and "missing" in done.stderr


def test_a_visit_of_another_place_is_stored_but_decides_nothing(scene_copy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "2024-06-01"
    folder.mkdir()
    for k in range(2):
        noise = np.random.default_rng(k).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{k}.png")
    done = call_ltgs("update", scene_copy, folder)
    assert done.returncode == 0, done.stderr
    body = info(scene_copy)
    assert not any(p["localised"] for p in body["captures"][3]["photos"])
    assert not [e for e in body["events"] if e["time"] == 3]
    assert body["captures"][3]["undecided"] and "undecided" in done.stdout
    assert all(o["track"][3]["presence"] in ("unknown", "absent") for o in body["objects"])


def test_a_visit_of_unreadable_files_only(scene_copy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "2024-07-01"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"")
    done = call_ltgs("update", scene_copy, folder)
    assert done.returncode == 0 and "a.jpg" in done.stderr
    assert info(scene_copy)["captures"][3]["photos"][0]["localised"] is False


def test_a_late_visit_is_inserted_by_its_date(scene_copy: Path, fourth_visit: Path) -> None:
    before = SceneStore.open(scene_copy)
    old, old_storage, generation = before.load(), before.storage_by_time(), before.generation
    done = call_ltgs("update", scene_copy, fourth_visit, "--time", "2024-02-20")
    assert done.returncode == 0 and "becomes time 2" in done.stderr, done.stderr
    store = SceneStore.open(scene_copy)
    new = store.load()
    assert store.generation == generation + 1 and len(new.visits) == 4, "one commit"
    assert [v.name for v in new.visits] == ["2024-01-05", "2024-02-10", "2024-05-01", "2024-03-20"]
    for time, shifted in ((0, 0), (1, 1), (2, 3)):
        one, two = old.chronology.state_at(time), new.chronology.state_at(shifted)
        # Objects cut out by the inserted visit come back through their own frame, which rounds.
        order = [np.lexsort(np.round(g.means.numpy(), 3).T) for g in (one.gaussians, two.gaussians)]
        assert len(one.gaussians) == len(two.gaussians)
        np.testing.assert_allclose(
            one.gaussians.means.numpy()[order[0]], two.gaussians.means.numpy()[order[1]], atol=1e-3, err_msg=f"time {time}"
        )
        assert np.array_equal(one.appearance.colour, two.appearance.colour)
        assert [p.image_blob for p in old.visits[time].photos] == [p.image_blob for p in new.visits[shifted].photos]
        assert {p.camera.time for p in new.visits[shifted].photos if p.camera} == {shifted}
        assert new.visits[shifted].quality == old.visits[time].quality
    storage = store.storage_by_time()
    # Only the list of lifted Gaussians, a few hundred bytes, is replaced as a whole.
    for now, was in zip((storage[0], storage[1], storage[3]), old_storage.values(), strict=True):
        assert was - 2000 <= now <= was, "bytes stay with the visit that brought them"
    assert call_ltgs("verify", scene_copy).returncode == 0
    done = call_ltgs("update", scene_copy, fourth_visit, "--time", "2024-02-20")
    assert done.returncode == 0 and "stored already as time 2" in done.stderr


def test_the_next_update_respects_edits(scene_copy: Path, fourth_visit: Path) -> None:
    store = SceneStore.open(scene_copy)
    scene = store.load()
    old = scene.chronology
    templates = {k: Template(k, "object", old.background[:50], 0) for k in (8, 9)}
    tracks = {k: ObjectTrack.start(k, 2, np.eye(4), before=Presence.PRESENT) for k in (8, 9)}
    store.commit(replace(scene, chronology=replace(old, templates={**old.templates, **templates}, tracks={**old.tracks, **tracks})))
    assert call_ltgs("edit", scene_copy, "--pin-pose", "8", "--time", "1", "--pose", "0.1 0 0 1 0 0 0").returncode == 0
    assert call_ltgs("edit", scene_copy, "--rename", "8", "lamp").returncode == 0
    assert call_ltgs("edit", scene_copy, "--delete", "9").returncode == 0
    done = call_ltgs("update", scene_copy, fourth_visit, "--quiet")
    assert done.returncode == 0, done.stderr
    after = SceneStore.open(scene_copy).load()
    assert 9 not in after.chronology.templates and after.chronology.templates[8].name == "lamp"
    kept = after.chronology.tracks[8]
    assert kept.num_times == 4 and kept.pinned == {1} and kept.world_from_object[1, 0, 3] == 0.1
    assert [e.operation for e in after.edits] == ["pin-pose", "rename", "delete"]
    assert "rename: object 8, name lamp" in call_ltgs("info", scene_copy).stdout


def test_a_visit_before_the_first_is_refused(scene_copy: Path, fourth_visit: Path) -> None:
    done = call_ltgs("update", scene_copy, fourth_visit, "--time", "2023-02-01")
    assert done.returncode == 2 and "before the first visit" in done.stderr and "2024-01-05" in done.stderr
    done = call_ltgs("update", scene_copy, fourth_visit, "--time", "last summer")
    assert done.returncode == 2 and "2024-03-01" in done.stderr
    assert len(info(scene_copy)["captures"]) == 3


def test_settings_of_one_visit_are_checked_before_anything_is_done(scene_copy: Path, fourth_visit: Path) -> None:
    done = call_ltgs("update", scene_copy, fourth_visit, "--set", "update.learned.sam=/nowhere/sam2")
    # Without the transformers package that is what is missing, otherwise the folder.
    assert done.returncode == 3 and "SAM 2" in done.stderr and "Traceback" not in done.stderr
    done = call_ltgs("update", scene_copy, fourth_visit, "--set", "update.wonder=1")
    assert done.returncode == 2 and "update.wonder" in done.stderr
    assert len(info(scene_copy)["captures"]) == 3


def test_json_events_and_summary(scene_copy: Path, fourth_visit: Path) -> None:
    done = call_ltgs("update", scene_copy, fourth_visit, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(e["event"] == "progress" for e in lines[:-1])
    assert lines[-1]["event"] == "done" and lines[-1]["committed"] == [3]
    assert {"scan", "poses"} <= {e["stage"] for e in lines[:-1]}
