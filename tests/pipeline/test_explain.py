"""The page that explains a visit: complete, self-contained, harmless whatever the names are, and honest about what is missing."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import blobs, call_ltgs, look_at

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.chronology import Appearance, Chronology, Event, ObjectTrack, Presence, Template
from ltgs.core.decisions import DecisionRecord, InstanceVerdict, PairTest, RemovalTest
from ltgs.core.gaussians import Gaussians
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.errors import UsageError
from ltgs.io.scene_store import SceneStore
from ltgs.pipeline.explain.facts import motion_of, touched_objects
from ltgs.pipeline.explain.page import _deed
from ltgs.pipeline.explain.pictures import crop_window
from ltgs.pipeline.explain.visit import explain_visit
from ltgs.pipeline.explain.words import text, with_sigma
from ltgs.render import render

WIDTH, HEIGHT = 96, 72
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>\u202egpj.&amp;'
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a browser makes of the page: tags, attributes, text; tags must be balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, name: str) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get(name)) is not None]


def check(path: Path) -> Page:
    """A page that opens from a folder: no scripts, no handlers, every link leads somewhere inside."""
    page = Page(path)
    assert not {t for t, _ in page.tags} & {"script", "iframe", "object", "embed", "form", "link", "base"}
    assert not [n for _, attrs in page.tags for n in attrs if n.startswith("on")]
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    for address in [*page.all("href"), *page.all("src")]:
        if address.startswith("#"):
            assert address[1:] in ids, address
        else:
            assert (path.parent / address).is_file() and not Path(address).is_absolute() and ":" not in address
    return page


def _camera(name: str, time: int, angle: float) -> Camera:
    center = np.array([2.8 * np.sin(angle), -2.8 * np.cos(angle), 1.3])
    K = np.array([[80.0, 0, WIDTH / 2], [0, 80.0, HEIGHT / 2], [0, 0, 1]])
    return Camera(name, time, WIDTH, HEIGHT, K, look_at(center, np.array([0, 0.3, 0.4])))


def _photos(store: SceneStore, chronology: Chronology, time: int, names: list[str]) -> tuple[PhotoRecord, ...]:
    out = []
    for name, angle in zip(names, np.linspace(-0.5, 0.5, len(names)), strict=True):
        camera = _camera(name, time, float(angle))
        state = chronology.state_at(time)
        rgb = state.appearance.apply(render(state.gaussians, stack_cameras([camera]), with_depth=False).rgb[0]).clamp(0, 1)
        blob = store.put_image((rgb.numpy() * 255).round().astype(np.uint8))
        out.append(PhotoRecord(name, time, "", True, camera=camera, image_blob=blob, num_inliers=77, inlier_ratio=0.5,
                               covariance=np.eye(6) * 1e-6))
    return tuple(out)


def _moved() -> Chronology:
    """A thing that moved by (0.9, 0.4, 0) and turned 90 degrees, another that came, warmer light."""
    rng = np.random.default_rng(5)
    floor = np.column_stack([rng.uniform(-2, 2, (500, 2)), np.zeros(500)])
    thing, other = (blobs(rng, rng.uniform(-0.2, 0.2, (60, 3)), 0.06) for _ in range(2))
    before, now, place = np.eye(4), np.eye(4), np.eye(4)
    before[:3, 3], now[:3, 3], place[:3, 3] = (-0.5, 0, 0.2), (0.4, 0.4, 0.2), (0.8, -0.5, 0.2)
    now[:2, :2] = [[0, -1], [1, 0]]
    covariance = np.diag([1e-4, 1e-4, 1e-4, 4e-4, 4e-4, 4e-4])
    tracks = {
        1: ObjectTrack.start(1, 0, before).extended(Presence.PRESENT, now, covariance),
        2: ObjectTrack.start(2, 1, place),
    }
    warm = Appearance(np.hstack([np.diag([0.95, 0.85, 0.75]), np.zeros((3, 1))]), True, -0.4)
    return Chronology(
        blobs(rng, floor, 0.09), torch.arange(0), {1: Template(1, "object", thing, 0), 2: Template(2, "object", other, 1)}, tracks,
        (Appearance(), warm), (Event(1, "moved", 1, 0.98, 90.0, True, HOSTILE), Event(1, "appeared", 2)),
    )


def _record(photo: str) -> DecisionRecord:
    box = {photo: (10, 10, 30, 30)}
    return DecisionRecord(
        (RemovalTest("round 1", (-0.5, 0, 0.2), 0.3, 60, {"explained": 0.4, "outline": 0.9, HOSTILE: 2.0}, True, "", 1, box),
         RemovalTest("round 1", (1, 1, 0), 0.2, 31, {"explained": 0.05}, False, f"fits no better {HOSTILE}", 0, box)),
        (PairTest("round 1", 1, 1, 0.2, 0.6, True), PairTest("round 1", 1, 2, -0.4, None, False, HOSTILE)),
        (InstanceVerdict(1, "round 1", (0.4, 0.4, 0.2), 0.2, 90, 2, False, "matched", 1, "", box),
         InstanceVerdict(2, "round 1", (0.8, -0.5, 0.2), 0.2, 90, 1, False, "new", 2, "", box),
         InstanceVerdict(3, HOSTILE, (0, 1, 0.1), 0.2, 40, 2, False, "dropped", 0, HOSTILE, {photo: (0, 0, 4000, 9)}),
         InstanceVerdict(4, "round 1", (0, 1, 0.1), 0.2, 40, 2, False, "leftover", 1, "beside it", box),
         InstanceVerdict(5, "round 1", (0, 1, 0.1), 0.2, 40, 2, False, "covered", 0, "", box)),
    )


def _scene(store: SceneStore, chronology: Chronology, *, visit: str = "later", recorded: bool = True, photos: int = 2) -> Scene:
    first = VisitRecord(0, "first", datetime(2024, 1, 5), _photos(store, chronology, 0, [f"first/{i}.jpg" for i in range(4)]))
    names = [f"{i} {visit.replace('/', '_')}.jpg" for i in range(photos)]
    lost = PhotoRecord(f"lost {visit.replace('/', '_')}.jpg", 1, "", False, f"9 inliers {visit}")
    second = VisitRecord(
        1, visit, None, (*_photos(store, chronology, 1, names), lost), {visit: visit}, {"change": 2.0, "poses": 1.0},
        {"psnr_before": 20.0, "psnr_after": 30.0, "changed_share_before": 0.05, "changed_share_after": 0.01}, (visit,),
        _record(names[0]) if recorded and names else None,
    )
    return Scene(chronology, (first, second))


@pytest.fixture
def store(tmp_path: Path) -> SceneStore:
    return SceneStore.create(tmp_path / "scene <b>")


def _explained(store: SceneStore, scene: Scene, folder: Path) -> Page:
    store.commit(scene)
    return check(explain_visit(SceneStore.open(store.path), 1, folder, backend="auto"))


def test_page_of_a_visit_with_everything_and_hostile_names(store: SceneStore, tmp_path: Path):
    page = _explained(store, _scene(store, _moved(), visit=HOSTILE), tmp_path / "out")
    shown = text(HOSTILE)
    assert "<" not in shown and '"' not in shown and "\u202e" not in shown
    assert "<script>alert(1)</script>" in page.words, "shown letter by letter"
    assert "Object 1 moved" in page.words and "Object 2 appeared" in page.words and "chosen" in page.words
    assert "Scores were not recorded" not in page.words
    assert "moved (uncertain)" in page.words
    assert "0.985 ± 0.010 units" in page.words and "90.0 ± 1.1°, about the vertical" in page.words
    assert "1 more fragment lies on pixels" in page.words
    assert "outline" in page.words and "Removals that were refused" in page.words and "Content that became no object" in page.words
    sources = page.all("src")
    rows = [s for s in sources if s.startswith("pictures/p")]
    assert len(set(rows)) == 12, "two photos, six pictures each"
    assert {"o1_left_p01_photo", "o1_came_p02_after", "o2_came_p01_before"} <= {Path(s).stem for s in sources}
    assert not any("script" in s for s in sources)
    names = [p.name for p in (tmp_path / "out").rglob("*")]
    assert all(n.isascii() and "<" not in n for n in names)


def test_page_of_a_visit_without_photos(store: SceneStore, tmp_path: Path):
    base = _moved()
    empty = replace(
        base, templates={}, tracks={}, events=(), appearance=(Appearance(), Appearance()),
    )
    page = _explained(store, _scene(store, empty, photos=0, recorded=False), tmp_path)
    assert "No photo of this visit could be placed" in page.words and "9 inliers later" in page.words
    assert "Scores were not recorded" not in page.words, "there was nothing to record"
    assert not page.all("src")


def test_page_of_a_light_only_visit(store: SceneStore, tmp_path: Path):
    base = _moved()
    light = replace(base, templates={}, tracks={}, events=())
    scene = _scene(store, light)
    scene = replace(scene, visits=(scene.visits[0], replace(scene.visits[1], decisions=DecisionRecord())))
    page = _explained(store, scene, tmp_path)
    assert "No object changed. Only the light did." in page.words and "−0.40 EV" in page.words
    assert len({s for s in page.all("src") if s.startswith("pictures/p")}) == 12 and "Scores were not recorded" not in page.words


def test_page_of_a_visit_whose_photos_looked_through_haze(store: SceneStore, tmp_path: Path):
    base = _moved()
    members = torch.arange(7)
    away = ObjectTrack.start(3, 0, np.eye(4)).extended(Presence.ABSENT)
    haze = Template(3, "surface", base.background[members], 0, members=members, haze=True)
    hazed = replace(base, lifted=members, templates={**base.templates, 3: haze}, tracks={**base.tracks, 3: away})
    page = _explained(store, _scene(store, hazed), tmp_path / "hazed")
    assert "7 Gaussians of the first visit were haze before these photos" in page.words
    assert "haze" not in _explained(store, _scene(store, base), tmp_path / "clear").words


def test_page_of_a_visit_of_an_older_version(store: SceneStore, tmp_path: Path):
    page = _explained(store, _scene(store, _moved(), recorded=False), tmp_path)
    assert "Scores were not recorded" in page.words and "Object 1 moved" in page.words
    assert "Candidates considered" not in page.words and "o1_left_p01_photo" in {Path(s).stem for s in page.all("src")}


def test_records_survive_the_store_and_older_scenes_load(store: SceneStore):
    scene = _scene(store, _moved())
    store.commit(scene)
    loaded = SceneStore.open(store.path).load()
    assert loaded.visits[1].decisions == scene.visits[1].decisions and loaded.visits[0].decisions is None
    assert '"decisions"' in (store.path / "manifest.json").read_text()
    older = replace(scene, visits=tuple(replace(v, decisions=None) for v in scene.visits))
    store.commit(older)
    assert '"decisions"' not in (store.path / "manifest.json").read_text()
    assert SceneStore.open(store.path).load().visits[1].decisions is None


def test_motion_and_its_uncertainty(store: SceneStore):
    scene = _scene(store, _moved(), recorded=False)
    motion = motion_of(scene, 1, 1)
    assert motion is not None
    assert motion.distance == pytest.approx(np.hypot(0.9, 0.4)) and motion.turn_deg == pytest.approx(90)
    assert motion.distance_sigma == pytest.approx(0.01) and motion.turn_sigma_deg == pytest.approx(np.degrees(0.02))
    assert motion.axis_tilt_deg < 5 and motion_of(scene, 2, 1) is None
    assert [(f.object_id, f.left, f.came) for f in touched_objects(scene, 1)] == [(1, True, True), (2, False, True)]
    facts = touched_objects(scene, 1)[1]
    form = replace(facts, former=1, events=(Event(1, "replaced", 2, 0.3, uncertain=True), Event(1, "moved", 2)))
    assert form.deeds == ["replaced object 1", "moved"] and "replaced object 1" in _deed(form, first=True)


@pytest.mark.parametrize(("value", "sigma", "words"), [
    (1.0421, 0.00561, "1.042 ± 0.006 m"), (74.2, 1.72, "74.2 ± 1.7 m"), (74.2, 12.0, "74 ± 12 m"), (0.5, float("nan"), "0.5 m"),
    (3.0, 0.0, "3 m"),
])
def test_values_are_shown_to_the_digit_that_is_known(value: float, sigma: float, words: str):
    assert with_sigma(value, sigma, " m") == words


def test_crops_stay_inside_the_image():
    for box in ((0, 0, 5, 5), (90, 60, 96, 72), (0, 0, 96, 72), (40, 30, 60, 36)):
        left, top, right, bottom = crop_window(box, WIDTH, HEIGHT)
        assert 0 <= left < right <= WIDTH and 0 <= top < bottom <= HEIGHT and right - left == bottom - top


def test_command(store: SceneStore, tmp_path: Path):
    store.commit(_scene(store, _moved()))
    done = call_ltgs("explain", store.path, "-o", tmp_path / "page", "--time", "later", "--quiet")
    assert (done.returncode, done.stdout) == (0, "") and (tmp_path / "page" / "index.html").is_file()
    assert call_ltgs("explain", store.path, "-o", tmp_path / "page", "--quiet").returncode == 0, "a page of its own is replaced"
    done = call_ltgs("explain", store.path, "-o", tmp_path / "page", "--time", "0")
    assert done.returncode == 2 and "the first visit" in done.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("<p>my own page")
    done = call_ltgs("explain", store.path, "-o", tmp_path / "mine")
    assert done.returncode == 2 and "another origin" in done.stderr
    assert (tmp_path / "mine" / "index.html").read_text() == "<p>my own page"


def test_first_visit_has_nothing_to_explain(store: SceneStore, tmp_path: Path):
    chronology = Chronology.initial(Gaussians.concatenate([_moved().background]))
    store.commit(Scene(chronology, (VisitRecord(0, "a", None, ()),)))
    with pytest.raises(UsageError, match="ltgs update"):
        explain_visit(SceneStore.open(store.path), 0, tmp_path / "x")
    assert not (tmp_path / "x").exists()
