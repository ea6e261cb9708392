"""Killed, stopped and resumed: what was finished stays, what was not is done again, and the result is the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from helpers import REPOSITORY, TinyCapture, call_ltgs, run_ltgs, settings

from ltgs.io.scene_store import SceneStore

SLOW = (*settings(), *settings(("train.steps=150", "checkpoint_every=25")))


def words_for(capture: TinyCapture, scene: Path, photos: Path | None = None) -> list[str]:
    return [
        "reconstruct", str(photos or capture.photos), "-o", str(scene), "--preset", "cpu_small", "--cameras", str(capture.cameras),
        *SLOW,
    ]


def stop_when(words: list[str], condition: Callable[[dict], bool], number: int) -> tuple[int, str]:
    """Run with JSON events and send a signal at the first event that fits; returns the exit code and standard error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ltgs", *words, "--json"], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert process.stdout is not None and process.stderr is not None
    sent = False
    for line in process.stdout:
        if not sent and condition(json.loads(line)):
            process.send_signal(number)
            sent = True
    errors = process.stderr.read()
    code = process.wait(timeout=60)
    process.stdout.close()
    process.stderr.close()
    assert sent, f"the awaited event never came: {errors}"
    return code, errors


def in_training(event: dict) -> bool:
    return event.get("stage") == "train" and event.get("done", 0) >= 50


def test_kill_while_training_then_resume_gives_the_same_scene(tiny_capture: TinyCapture, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(tiny_capture.photos / "2024-01-05", photos / "2024-01-05")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = call_ltgs(*words_for(tiny_capture, whole, photos))
    assert done.returncode == 0, done.stderr
    code, _ = stop_when(words_for(tiny_capture, killed, photos), in_training, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert call_ltgs("verify", killed).returncode == 0
    assert call_ltgs("info", killed).returncode == 3, "nothing is committed yet, and the message says so"
    done = call_ltgs(*words_for(tiny_capture, killed, photos), "--resume")
    assert done.returncode == 0, done.stderr
    assert "continuing at step" in done.stderr
    a, b = SceneStore.open(whole).load(), SceneStore.open(killed).load()
    for name, tensor in a.chronology.background.tensors().items():
        assert torch.equal(tensor, b.chronology.background.tensors()[name]), f"{name}: a resumed run must be exact"
    assert not list((killed / "stages" / "train").glob("*")) if (killed / "stages" / "train").exists() else True


def test_terminate_writes_a_checkpoint_and_says_how_to_go_on(tiny_capture: TinyCapture, tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    code, errors = stop_when(words_for(tiny_capture, scene), in_training, signal.SIGTERM)
    assert code == 130
    assert "Continue with: ltgs reconstruct" in errors and "--resume" in errors and "Traceback" not in errors
    note = json.loads((scene / "stages" / "train" / "latest.json").read_text())
    assert note["step"] >= 50
    # Other inputs are not mixed into a started run.
    done = call_ltgs(*words_for(tiny_capture, scene), "--resume", "--set", "train.cap=999")
    assert done.returncode == 2 and "train.cap" in done.stderr and "--overwrite" in done.stderr
    done = call_ltgs("reconstruct", tiny_capture.photos, "-o", scene, "--preset", "cpu_small", *SLOW, "--resume")
    assert done.returncode == 2 and "--cameras" in done.stderr


def test_kill_in_an_update_keeps_the_past_and_the_same_command_completes(
    tiny_scene: Path, tiny_capture: TinyCapture, tmp_path: Path
) -> None:
    scene, folder = tmp_path / "scene", tmp_path / "2024-05-01"
    shutil.copytree(tiny_scene, scene)
    shutil.copytree(tiny_capture.photos / "2024-03-20", folder)
    before = (scene / "manifest.json").read_bytes()
    code, _ = stop_when(["update", str(scene), str(folder)], lambda e: e.get("stage") == "change", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert (scene / "manifest.json").read_bytes() == before
    assert call_ltgs("verify", scene).returncode == 0
    done = call_ltgs("update", scene, folder)
    assert done.returncode == 0, done.stderr
    assert len(SceneStore.open(scene).load().visits) == 4
    assert call_ltgs("verify", scene).returncode == 0


def test_resume_with_other_photos_is_refused(tiny_scene: Path, tiny_capture: TinyCapture, tmp_path: Path) -> None:
    scene, photos = tmp_path / "scene", tmp_path / "photos"
    shutil.copytree(tiny_scene, scene)
    shutil.copytree(tiny_capture.photos, photos)
    words = [
        "reconstruct", photos, "-o", scene, "--preset", "cpu_small", "--cameras", tiny_capture.cameras, "--holdout-every", "5",
        *settings(), "--resume",
    ]
    (photos / "2024-01-05" / "IMG_3.png").write_bytes((photos / "2024-01-05" / "IMG_4.png").read_bytes())
    done = call_ltgs(*words)
    assert done.returncode == 2 and "IMG_3.png" in done.stderr and "changed" in done.stderr
    (photos / "2024-01-05" / "IMG_3.png").unlink()
    done = call_ltgs(*words)
    assert done.returncode == 2 and "missing" in done.stderr


def test_a_new_visit_folder_is_picked_up_by_resume(tiny_scene: Path, tiny_capture: TinyCapture, tmp_path: Path) -> None:
    scene, photos = tmp_path / "scene", tmp_path / "photos"
    shutil.copytree(tiny_scene, scene)
    shutil.copytree(tiny_capture.photos, photos)
    shutil.copytree(photos / "2024-03-20", photos / "2024-04-20")
    done = call_ltgs(
        "reconstruct", photos, "-o", scene, "--preset", "cpu_small", "--cameras", tiny_capture.cameras, "--holdout-every", "5",
        *settings(), "--resume",
    )
    assert done.returncode == 0, done.stderr
    assert [v.name for v in SceneStore.open(scene).load().visits][-1] == "2024-04-20"


def test_two_writers_exclude_each_other(tiny_scene: Path, tiny_capture: TinyCapture, tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    shutil.copytree(tiny_scene, scene)
    store = SceneStore.open(scene)
    with store.lock():
        done = run_ltgs("update", scene, tiny_capture.photos / "2024-03-20")
    assert done.returncode == 3 and str(os.getpid()) in done.stderr
