"""The optional networks inside of an update: without them nothing changes, with them they are asked and the record says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from learned_folders import dino_folder, needs_transformers, sam_folder
from solids import at
from test_update import CONFIG, FIRST, SMALL, shots

from ltgs.change.evidence import EvidenceConfig
from ltgs.change.learned import LearnedConfig, LearnedCues
from ltgs.core.chronology import Chronology
from ltgs.core.gaussians import Gaussians
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.errors import UsageError
from ltgs.pipeline.config import RunConfig, from_plain, override, to_plain
from ltgs.pipeline.update import METHOD, VisitUpdate, update_visit
from ltgs.pipeline.update_learned import Learned

RICHER = Gaussians.concatenate([FIRST, at(SMALL, -0.15, 0.42, 40)])


@pytest.fixture(scope="module")
def scene() -> Scene:
    photos = shots(FIRST, 0, 8)
    records = tuple(PhotoRecord(p.camera.name, 0, "", True, camera=p.camera) for p in photos)
    return Scene(Chronology.initial(FIRST), (VisitRecord(0, "0", None, records),))


def update(scene: Scene, learned: LearnedConfig) -> VisitUpdate:
    return update_visit(scene, shots(RICHER, 1), [], config=replace(CONFIG, learned=learned))


def new_events(update: VisitUpdate) -> list[str]:
    return [e.kind for e in update.chronology.events if e.time == 1]


def test_without_folders_every_step_passes_through() -> None:
    nothing = Learned(LearnedConfig(), EvidenceConfig())
    marker = object()
    assert nothing.rescore is None and nothing.with_outlines([marker], []) == [marker] and nothing.method(METHOD) == METHOD  # type: ignore[list-item]
    assert nothing.cues is None


def test_folders_are_settings_like_any_other() -> None:
    config = override(RunConfig(), {"update.learned.dino": "/models/dinov2-small", "update.learned.device": "cpu"})
    assert config.update.learned == LearnedConfig(dino="/models/dinov2-small", device="cpu")
    stored = json.loads(json.dumps(to_plain(config)))
    assert from_plain(stored) == (config, [])
    # A scene that was stored before there were such settings.
    del stored["update"]["learned"]
    assert from_plain(stored)[0].update.learned == LearnedConfig()
    for name, value in (("dino", 3), ("dino", ""), ("device", "tpu"), ("weights", "x")):
        with pytest.raises(UsageError, match=name if value != "" else "empty"):
            override(RunConfig(), {f"update.learned.{name}": value})


@needs_transformers
def test_the_networks_are_asked_in_an_update(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = update(scene, LearnedConfig())
    assert {k: plain.method[k] for k in METHOD} == METHOD and new_events(plain) == ["appeared"]
    rescored, snapped = [], []
    rescore, outlines = LearnedCues.rescore, LearnedCues.outlines
    monkeypatch.setattr(LearnedCues, "rescore", lambda self, view: rescored.append(view) or rescore(self, view))
    monkeypatch.setattr(LearnedCues, "outlines", lambda self, photo, masks: snapped.append(len(masks)) or outlines(self, photo, masks))
    folders = LearnedConfig(dino=str(dino_folder(tmp_path / "dino")), sam=str(sam_folder(tmp_path / "sam")), device="cpu")
    learned = update(scene, folders)
    assert len(rescored) >= 9 and len(snapped) >= 3 and max(snapped) >= 1
    assert any(not np.array_equal(v.score, w.score) for v, w in zip(plain.views_before, learned.views_before, strict=True))
    assert "DINOv2 feature distance (dino, 32 channels)" in learned.method["change"]
    assert "SAM 2 outlines (sam): " in learned.method["objects"] and learned.method["association"] == METHOD["association"]
    # Even random features see where photo and render differ, so the event is still the one that happened.
    assert new_events(learned) == ["appeared"]
