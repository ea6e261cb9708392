"""Parts of the line that need no training: held-out rule, camera assignment, checkpoints, signals, progress, outputs."""

from __future__ import annotations

import io
import json
import signal
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import blobs, look_at

from ltgs.core.cameras import Camera
from ltgs.core.chronology import Appearance, Chronology, Event, ObjectTrack, Template
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import ProgressEvent
from ltgs.core.scene import Scene, VisitRecord
from ltgs.errors import InputError, UsageError
from ltgs.io.ply import read_ply
from ltgs.io.posed import PosedPhoto
from ltgs.pipeline.cameras import assign_cameras, check_some
from ltgs.pipeline.checkpoint import CheckpointFolder, fingerprint
from ltgs.pipeline.info import describe_event, event_lines, resolve_time
from ltgs.pipeline.interrupt import stop_signal
from ltgs.pipeline.outputs import export_gaussians, lit_gaussians, parse_kinds, render_images
from ltgs.pipeline.progress import LineSink, event_line, progress_sink
from ltgs.pipeline.stages import held_out
from ltgs.poses.features import PhotoInput

RNG = np.random.default_rng(0)


def photo(name: str, width: int = 40, height: int = 30) -> PhotoInput:
    return PhotoInput(name, Path(name), "0" * 64, width, height)


def posed(name: str, width: int = 40, height: int = 30) -> PosedPhoto:
    return PosedPhoto(name, width, height, "PINHOLE", (30.0, 30.0, width / 2, height / 2), np.eye(4))


def small_scene() -> Scene:
    """Background behind one object that is there at time 0, gone at 1, back at 2 in warm light."""
    wall = blobs(RNG, np.column_stack([RNG.uniform(-1, 1, (300, 2)), np.full(300, 4.0)]), 0.15)
    thing = blobs(RNG, RNG.uniform(-0.15, 0.15, (80, 3)), 0.08)
    pose = np.eye(4)
    pose[2, 3] = 2.5
    from ltgs.core.chronology import Presence

    track = ObjectTrack.start(1, 0, pose).extended(Presence.ABSENT).extended(Presence.PRESENT, pose)
    warm = Appearance(np.array([[1.0, 0, 0, 0.02], [0, 0.9, 0, 0], [0, 0, 0.7, 0]]), True, -0.2)
    events = (Event(1, "removed", 1), Event(2, "returned", 1, 0.5, 12.4))
    chronology = Chronology(
        wall, torch.zeros(0, dtype=torch.int64), {1: Template(1, "object", thing, 0)}, {1: track},
        (Appearance(), Appearance(), warm), events,
    )
    dates = (datetime(2024, 1, 5), datetime(2024, 2, 10), datetime(2024, 2, 10, 15))
    visits = tuple(VisitRecord(t, f"visit {t}", d, ()) for t, d in enumerate(dates))
    return Scene(chronology, visits)


def camera(name: str = "a/b.jpg") -> Camera:
    return Camera(name, 0, 48, 32, np.array([[40.0, 0, 24], [0, 40.0, 16], [0, 0, 1]]), np.eye(4))


# -- rules ------------------------------------------------------------------------------------------------------------

def test_held_out_rule() -> None:
    names = [f"IMG_{i}" for i in range(17)]
    assert held_out(names, 8) == {"IMG_0", "IMG_8", "IMG_16"}
    assert held_out(names[:7], 8) == set()
    assert held_out(names[:8], 8) == {"IMG_0"}
    assert held_out(names, 0) == set()


def test_cameras_are_assigned_by_name_then_by_tail() -> None:
    photos = [photo("2024/IMG_1.jpg"), photo("2024/IMG_2.jpg"), photo("2025/IMG_2.jpg"), photo("2024/IMG_3.jpg")]
    cameras = [posed("2024/IMG_1.jpg"), posed("IMG_2.jpg"), posed("images/IMG_3.jpg")]
    given = assign_cameras(cameras, photos, lambda e: None)
    # IMG_2 exists in two visits, so the bare name fits neither surely.
    assert list(given) == ["2024/IMG_1.jpg", "2024/IMG_3.jpg"]
    assert given["2024/IMG_3.jpg"].name == "2024/IMG_3.jpg"


def test_a_camera_of_another_visit_is_not_taken() -> None:
    assert assign_cameras([posed("2023/IMG_1.jpg")], [photo("2024/IMG_1.jpg")], lambda e: None) == {}


def test_cameras_follow_the_photos_size_but_not_another_shape() -> None:
    events: list[ProgressEvent] = []
    given = assign_cameras([posed("a.jpg"), posed("b.jpg")], [photo("a.jpg", 80, 60), photo("b.jpg", 30, 40)], events.append)
    assert list(given) == ["a.jpg"]
    assert given["a.jpg"].width == 80 and given["a.jpg"].K[0, 0] == pytest.approx(60)
    assert events[0].level == "warning" and "b.jpg" in events[0].message and "40x30" in events[0].message


def test_a_cameras_file_of_other_photos_is_refused() -> None:
    with pytest.raises(InputError, match=r"none of the photos.*'x\.jpg'.*'a\.jpg'"):
        check_some({}, [posed("x.jpg")], [photo("a.jpg")], Path("cameras.json"))


# -- checkpoints and signals ------------------------------------------------------------------------------------------

def test_checkpoint_round_trip_and_refusals(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = CheckpointFolder(tmp_path, "key")
    assert folder.load() is None
    folder.save(25, {"a": torch.arange(3.0)})
    folder.save(50, {"a": torch.arange(4.0), "n": torch.tensor(7)})
    found = folder.load()
    assert found is not None and found[0] == 50
    assert torch.equal(found[1]["a"], torch.arange(4.0)) and int(found[1]["n"]) == 7
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["step_0000050.safetensors"]
    assert CheckpointFolder(tmp_path, "other photos").load() is None
    assert "other photos or settings" in caplog.text
    data = bytearray((tmp_path / "step_0000050.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "step_0000050.safetensors").write_bytes(bytes(data))
    assert folder.load() is None and "damaged" in caplog.text
    (tmp_path / "latest.json").write_text("{")
    assert folder.load() is None
    folder.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_note_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    inner = tmp_path / "train"
    inner.mkdir()
    (inner / "latest.json").write_text(json.dumps({"file": "../secret", "step": 1, "sha256": "", "key": "key"}))
    assert CheckpointFolder(inner, "key").load() is None


def test_fingerprint_depends_on_every_value() -> None:
    assert fingerprint([1, 2], {"a": 1}) == fingerprint([1, 2], {"a": 1})
    assert len({fingerprint([1, 2]), fingerprint([2, 1]), fingerprint([1], 2), fingerprint(np.float64(1))}) == 4


def test_signals_wait_for_the_safe_point() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signal() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with stop.deferred():
            signal.raise_signal(signal.SIGINT)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stop.raise_if_requested()
    assert signal.getsignal(signal.SIGTERM) == before


# -- progress ---------------------------------------------------------------------------------------------------------

def test_plain_lines_are_rare_but_keep_messages() -> None:
    stream = io.StringIO()
    sink = LineSink(stream)
    for step in range(1, 1001):
        sink(ProgressEvent("train", step, 1000, figures={"loss": 1 / step}))
    sink(ProgressEvent("commit", message="stored"))
    sink(ProgressEvent("poses", message="IMG_1 was not placed", level="warning"))
    lines = stream.getvalue().splitlines()
    assert lines == [
        "train: 1/1000 loss 1", "train: 1000/1000 loss 0.001", "commit: stored", "warning: IMG_1 was not placed",
    ]


def test_json_and_quiet_sinks() -> None:
    stream = io.StringIO()
    with progress_sink(stream, as_json=True) as sink:
        sink(ProgressEvent("train", 5, 10, figures={"loss": 0.5, "bad": float("nan")}))
        sink(ProgressEvent("scan", message='a "quoted" name'))
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first == {"event": "progress", "stage": "train", "level": "info", "done": 5, "total": 10, "figures": {"loss": 0.5}}
    assert second["message"] == 'a "quoted" name'
    quiet = io.StringIO()
    with progress_sink(quiet, quiet=True) as sink:
        sink(ProgressEvent("train", 5, 10))
        sink(ProgressEvent("scan", message="bad photo", level="warning"))
    assert quiet.getvalue() == "warning: bad photo\n"


def test_terminal_bar_shows_names_literally(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with progress_sink(stream) as sink:
        sink(ProgressEvent("scan", message="[bold]IMG[/bold] is skipped", level="warning"))
        sink(ProgressEvent("train", 1, 2))
        sink(ProgressEvent("train", 2, 2))
    assert "[bold]IMG[/bold] is skipped" in stream.getvalue()
    assert event_line(ProgressEvent("train", 1, 2)) == "train: 1/2"


# -- words and times --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "time"), [
    ("0", 0), ("2", 2), ("-1", 2), ("visit 1", 1), ("2024-01-05", 0), ("2024-02-09", 0), ("2024-02-10", 2), ("20240301", 2),
])
def test_times(text: str, time: int) -> None:
    assert resolve_time(small_scene(), text) == time


@pytest.mark.parametrize("text", ["3", "-4", "2023-12-31", "soon", ""])
def test_times_that_do_not_exist(text: str) -> None:
    with pytest.raises(UsageError):
        resolve_time(small_scene(), text)


def test_events_in_words() -> None:
    scene = small_scene()
    assert event_lines(scene) == [
        "2024-02-10: object 1 removed",
        "2024-02-10: object 1 returned, 0.5 units from where it was, turned 12 deg",
        "2024-02-10: light changed (-0.20 EV against the first visit)",
    ]
    moved = Event(1, "moved", 3, 0.42, 47.2, uncertain=True, note="symmetric")
    assert describe_event(moved, scene.visits[1]) == "2024-02-10: object 3 moved 0.42 units, turned 47 deg (uncertain); symmetric"
    form = Event(1, "replaced", 4, 0.2, uncertain=True)
    assert describe_event(form, scene.visits[1], former="object 3") == "2024-02-10: object 4 replaced object 3, 0.2 units away (uncertain)"
    assert "moved 0.84 m" in describe_event(moved, scene.visits[1], 2.0)


# -- outputs ----------------------------------------------------------------------------------------------------------

def test_renders_of_every_kind(tmp_path: Path) -> None:
    from PIL import Image

    chronology = small_scene().chronology
    written = render_images(chronology, 0, [camera()], ("rgb", "depth", "alpha", "objects"), tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in written) == [
        "a/b_alpha.png", "a/b_depth.png", "a/b_objects.png", "a/b_rgb.png",
    ]
    note = json.loads((tmp_path / "render.json").read_text())
    ids = np.asarray(Image.open(tmp_path / "a/b_objects.png"))
    depth = np.asarray(Image.open(tmp_path / "a/b_depth.png")).astype(float) / note["depth_steps_per_unit"]
    alpha = np.asarray(Image.open(tmp_path / "a/b_alpha.png"))
    assert ids.dtype == np.uint8 and set(np.unique(ids)) == {0, 1}
    assert ids[16, 24] == 1 and ids[2, 2] == 0
    assert depth[16, 24] == pytest.approx(2.5, abs=0.3) and depth[2:6, 20].max() == pytest.approx(4.0, abs=0.3)
    assert alpha[16, 24] > 250
    assert Image.open(tmp_path / "a/b_depth.png").mode.startswith("I")
    render_images(chronology, 1, [camera()], ("objects",), tmp_path / "gone")
    assert np.asarray(Image.open(tmp_path / "gone/a/b_objects.png")).max() == 0


@pytest.mark.parametrize("name", ["../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg"])
def test_camera_names_stay_inside_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leads out"):
        render_images(small_scene().chronology, 0, [camera(name)], ("rgb",), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_differ_in_their_ending_do_not_overwrite_each_other(tmp_path: Path) -> None:
    written = render_images(small_scene().chronology, 0, [camera("a.jpg"), camera("a.png")], ("rgb",), tmp_path)
    assert sorted(p.name for p in written) == ["a.jpg_rgb.png", "a.png_rgb.png"]


def test_light_is_part_of_exported_colours(tmp_path: Path) -> None:
    chronology = small_scene().chronology
    state = chronology.state_at(2)
    lit = lit_gaussians(state.gaussians, state.appearance)
    # Exact for colours that are not clamped: the affine commutes with the linear SH evaluation.
    torch.testing.assert_close(lit.base_rgb, state.appearance.apply(state.gaussians.base_rgb), rtol=0, atol=1e-5)
    count = export_gaussians(chronology, 2, "ply", tmp_path / "deep" / "x.ply")
    read = read_ply(tmp_path / "deep" / "x.ply")
    assert len(read) == count == 380
    torch.testing.assert_close(read.base_rgb, lit.base_rgb, rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="choose ply or splat"):
        export_gaussians(chronology, 2, "obj", tmp_path / "x.obj")


def test_light_acts_on_all_bands() -> None:
    gaussians = Gaussians(*(torch.randn(*s) for s in ((5, 3), (5, 4), (5, 3), (5,), (5, 4, 3))))
    colour = np.array([[0.5, 0.1, 0, 0.1], [0, 1.2, 0, 0], [0.2, 0, 1, -0.1]])
    from ltgs.core.sh import eval_sh

    directions = torch.nn.functional.normalize(torch.randn(5, 3), dim=1)
    before = 0.5 + eval_sh(gaussians.sh, directions)
    after = 0.5 + eval_sh(lit_gaussians(gaussians, Appearance(colour)).sh, directions)
    torch.testing.assert_close(after, Appearance(colour).apply(before), rtol=0, atol=1e-5)


def test_kinds_are_parsed() -> None:
    assert parse_kinds("rgb, depth,rgb") == ("rgb", "depth")
    with pytest.raises(UsageError, match="smell"):
        parse_kinds("rgb,smell")
    with pytest.raises(UsageError):
        parse_kinds(",")


def test_look_at_helper_is_rigid() -> None:
    pose = look_at(np.array([1.0, -2, 1]), np.zeros(3))
    assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3)) and np.linalg.det(pose[:3, :3]) > 0
