"""Playing, stored scenes that grow while they are shown, the offline page and the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from viewer_scenes import NASTY_NAMES, make_bare_scene, make_scene

from ltgs.core.scene import Scene
from ltgs.errors import InputError
from ltgs.io.scene_store import SceneStore
from viewer.__main__ import main
from viewer.app import ViewerApp, view_scene
from viewer.static_export import export_html, visit_caption
from viewer.timeline import Player

ROOT = Path(__file__).resolve().parents[2]


def stored(scene: Scene) -> Scene:
    """The scene without pictures, which a store would ask for."""
    visits = tuple(
        replace(v, photos=tuple(replace(p, image_blob=None, name=f"{v.timestep}/{i}.jpg") for i, p in enumerate(v.photos)))
        for v in scene.visits
    )
    return replace(scene, visits=visits)


def first_visit(scene: Scene) -> Scene:
    """The same place before anything happened."""
    return Scene(type(scene.chronology).initial(scene.chronology.background), scene.visits[:1])


def test_player_runs_to_the_end_or_round():
    seen, ended = [], threading.Event()
    state = {"t": 0}

    def set_time(t: int) -> None:
        state["t"] = t
        seen.append(t)

    player = Player(3, lambda: state["t"], set_time)
    player.seconds_per_visit, player.loop, player.on_end = 0.01, False, ended.set
    player.start()
    assert ended.wait(5) and seen == [1, 2] and not player.playing
    seen.clear()
    player.loop = True
    player.start()
    while len(seen) < 6:
        time.sleep(0.005)
    player.stop()
    assert seen[:6] == [0, 1, 2, 0, 1, 2] and not player.playing
    single = Player(1, lambda: 0, set_time)
    single.start()
    assert not single.playing


def test_playing_moves_the_scene(app):
    app._timeline.player.seconds_per_visit = 0.02
    app._timeline.player.start()
    deadline = time.monotonic() + 5
    while app.time == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    app._timeline.player.stop()
    assert app.time in (1, 2) and app._nodes.time == app.time


def test_a_growing_scene_is_announced_and_reloaded_whole(tmp_path):
    full = stored(make_scene(400))
    store = SceneStore.create(tmp_path / "scene")
    with store.lock():
        store.commit(first_visit(full))
    said = []
    app = view_scene(store.path, port=0, open_browser=False, block=False, announce=said.append)
    try:
        assert "127.0.0.1" in said[0] and len(app.scene.visits) == 1
        with store.lock():
            store.commit(full)
        assert app._generation() > app._shown_generation
        assert len(app.scene.visits) == 1, "what is shown does not change under the visitor"
        app.reload()
        assert len(app.scene.visits) == 3 and app._shown_generation == app._generation()
        app.set_time(2)
        app._load = lambda: (_ for _ in ()).throw(InputError("gone"))
        app.reload()
        assert len(app.scene.visits) == 3 and app.time == 2, "a failed reload keeps what is shown"
    finally:
        app.stop()


def test_readers_see_whole_generations_while_commits_run(tmp_path):
    full = stored(make_scene(200))
    store = SceneStore.create(tmp_path / "scene")
    early = first_visit(full)
    with store.lock():
        store.commit(early)
    stop, problems = threading.Event(), []

    def write() -> None:
        try:
            while not stop.is_set():
                for scene in (full, early):
                    with store.lock():
                        store.commit(scene)
                        store.collect_garbage()
        except Exception as error:
            problems.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(30):
            scene = SceneStore.open(store.path).load()
            assert len(scene.visits) in (1, 3) and len(scene.visits) == scene.chronology.num_times
            assert len(scene.chronology.tracks) == (3 if len(scene.visits) == 3 else 0)
    finally:
        stop.set()
        writer.join(10)
    assert not problems


def test_page_is_one_offline_file(tmp_path):
    target = tmp_path / "deep" / "page.html"
    report = export_html(make_scene(400, nasty=True), target, seconds_per_visit=0.5, title="</title><script>")
    page = target.read_text(encoding="utf-8")
    assert report.shown == report.total and 500_000 < len(page) < 3_000_000
    assert "__VISER_EMBED_DATA__" in page and "<title>&#60;&#47;title&#62;&#60;script&#62;</title>" in page
    for name in NASTY_NAMES[:3]:
        assert name not in page
    assert [p.name for p in target.parent.iterdir()] == ["page.html"]
    export_html(make_bare_scene(0), target)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="page"):
        export_html(make_bare_scene(0), tmp_path / "file" / "page.html")


def test_page_captions():
    scene = make_scene(100)
    assert visit_caption(scene, 0) == "2024-01-05"
    assert visit_caption(scene, 1).splitlines()[1:] == ["object 1 moved 1.46 units, turned 47°", "object 2 removed"]


def test_command_line_errors_and_page(tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 3
    assert "nothing" in capsys.readouterr().err
    store = SceneStore.create(tmp_path / "scene")
    assert main([str(store.path), "--no-open"]) == 3, "an empty scene cannot be shown"
    with store.lock():
        store.commit(stored(make_scene(200)))
    assert main([str(store.path), "--html", str(tmp_path / "page.html")]) == 0
    assert "Gaussians shown" in capsys.readouterr().out and (tmp_path / "page.html").stat().st_size > 500_000


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_control_c_ends_cleanly(tmp_path):
    store = SceneStore.create(tmp_path / "scene")
    with store.lock():
        store.commit(stored(make_scene(200)))
    command = [sys.executable, "-m", "viewer", str(store.path), "--no-open", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # A job in the background of a shell ignores Control-C, and so would what it starts.
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=listens)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in err and out == ""


def test_viewer_app_needs_no_store():
    app = ViewerApp(make_bare_scene(3), lambda blob: None)
    app.start()
    app.reload()
    assert app.scene.visits[0].name == "t0"
    app.stop()
