"""New objects start from surfaces that stereo measures where it can, from their hull where it cannot; the record says which."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree
from solids import at, gaussians, textured
from test_update import CONFIG, FIRST, shots

from ltgs.core.chronology import Chronology
from ltgs.core.gaussians import Gaussians
from ltgs.core.progress import silent
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.depth.seeds import SeedConfig
from ltgs.depth.surfaces import SurfaceConfig
from ltgs.depth.sweep import SweepConfig
from ltgs.objects.templates import build_template
from ltgs.optim.refine import RefineConfig
from ltgs.pipeline.config import RunConfig, from_plain, override, to_plain
from ltgs.pipeline.update import update_visit
from ltgs.pipeline.update_assemble import Decisions
from ltgs.pipeline.update_captures import VisitCaptures
from ltgs.pipeline.update_decide import Decider
from ltgs.pipeline.update_seeds import StereoSeeds

PALETTE = np.array([[0.9, 0.2, 0.1], [0.2, 0.3, 0.9], [0.1, 0.8, 0.3], [0.9, 0.9, 0.2], [0.15, 0.1, 0.1]])
COARSE = SeedConfig(SurfaceConfig(sweep=SweepConfig(max_pixels=500)))


def patterned_box() -> Gaussians:
    """A box shell in patches of a few pixels: something that stereo can match."""
    rng = np.random.default_rng(5)
    points = rng.uniform(-0.5, 0.5, (12000, 3))
    axis = rng.integers(0, 3, len(points))
    points[np.arange(len(points)), axis] = np.where(rng.random(len(points)) < 0.5, -0.5, 0.5)
    return at(gaussians((points + [0, 0, 0.5]) * [0.3, 0.3, 0.2], textured(points, PALETTE, 0.17, 7), 0.005), 0.05, -0.42, 20)


BOX = patterned_box()
RICHER = Gaussians.concatenate([FIRST, BOX])


@pytest.fixture(scope="module")
def scene() -> Scene:
    photos = shots(FIRST, 0, 8)
    records = tuple(PhotoRecord(p.camera.name, 0, "", True, camera=p.camera) for p in photos)
    return Scene(Chronology.initial(FIRST), (VisitRecord(0, "0", None, records),))


@pytest.fixture(scope="module")
def decided(scene: Scene) -> Decisions:
    """A visit of four photos with the new box, decided but not built."""
    visit = VisitCaptures(scene, shots(RICHER, 1, 4), [], CONFIG, "auto", 0, silent)
    return Decider(visit).decide(visit.before())


def seeds(decided: Decisions, **settings: Any) -> StereoSeeds:
    return StereoSeeds(decided.views, grow_px=CONFIG.hull.grow_px, **({"config": COARSE} | settings))


def test_measured_points_lie_on_the_surface_and_are_what_the_template_starts_from(decided: Decisions) -> None:
    (instance,) = decided.new
    stereo = seeds(decided)
    found = stereo(instance, instance.points)
    assert found is not None
    surface = cKDTree(BOX.means.double().numpy())
    near, far = surface.query(found.points)[0], surface.query(instance.points)[0]
    # The Gaussians' surface lies one or two hundredths outside of their centres.
    assert np.median(near) < 0.03 and np.quantile(near, 0.9) < 0.6 * np.quantile(far, 0.9)
    # The sides that no two photos show come from the hull, but not what lies in front of the measured ones.
    above = instance.points[:, 2] > 0.22
    assert 0 < found.rest.mean() < 0.8 and above.mean() > 0.2 and above[found.rest].mean() < 0.02
    template, _ = build_template(instance, decided.views, sh_degree=0, rng=np.random.default_rng(0), measure=stereo)
    assert len(template) > len(found.points)
    assert stereo.method() == {"templates": "stereo between the visit's photos for all new objects, visual hull for the rest"}


def test_where_stereo_fails_or_is_off_the_hull_remains(decided: Decisions) -> None:
    (instance,) = decided.new
    alone = replace(instance, pixels=(instance.pixels[0], *(np.zeros_like(p) for p in instance.pixels[1:])))
    none = "visual hull; stereo between the visit's photos measured none of the new objects"
    never: dict[str, Any] = {"config": replace(COARSE, min_coverage=1.01)}
    for settings, asked, words in (({}, alone, none), (never, instance, none), ({"use": False}, instance, "visual hull")):
        stereo = seeds(decided, **settings)
        assert stereo.method() == {} and stereo(asked, asked.points) is None and stereo.method() == {"templates": words}
    stereo = seeds(decided)
    assert stereo(alone, alone.points) is None and stereo(instance, instance.points) is not None
    assert stereo.method()["templates"].startswith("stereo between the visit's photos for 1 of 2 new objects")


def test_an_update_asks_for_them(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(StereoSeeds, "__call__", lambda self, instance, _hull: asked.append((self.use, instance.num_views)))
    config = replace(CONFIG, refine=RefineConfig(steps=1, steps_new=1), stereo_seeds=False)
    updated = update_visit(scene, shots(RICHER, 1), [], config=config)
    assert [e.kind for e in updated.chronology.events] == ["appeared"] and asked == [(False, 3)]


def test_settings_are_stored_and_read_again() -> None:
    config = override(RunConfig(), {"update.stereo_seeds": False, "update.seeds.surface.sweep.max_pixels": 900})
    assert not config.update.stereo_seeds and config.update.seeds.surface.sweep.max_pixels == 900
    stored = json.loads(json.dumps(to_plain(config)))
    assert from_plain(stored) == (config, [])
    del stored["update"]["seeds"], stored["update"]["stereo_seeds"]
    assert from_plain(stored)[0].update.stereo_seeds is RunConfig().update.stereo_seeds
