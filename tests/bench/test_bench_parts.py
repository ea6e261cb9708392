"""Parts of the benchmarks with known answers: a scaled first visit, altered photos, verdicts and the table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.chronology import Chronology
from ltgs.core.gaussians import Gaussians
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.core.se3 import make_rigid, so3_exp
from ltgs.render import render
from tests.bench.chronology import GOALS, chosen_baselines, table, with_gains
from tests.bench.first_visit import first_visit, scaled
from tests.bench.photo_variants import copied, halved, relit
from tests.bench.robustness import same_bytes, verdicts


@pytest.fixture
def scene() -> Scene:
    rng = torch.Generator().manual_seed(2)
    count = 60
    background = Gaussians(
        torch.rand(count, 3, generator=rng) - 0.5 + torch.tensor([0, 0, 2.5]), torch.randn(count, 4, generator=rng),
        torch.full((count, 3), -2.5) + 0.4 * torch.rand(count, 3, generator=rng), torch.rand(count, generator=rng) * 4,
        torch.randn(count, 4, 3, generator=rng) * 0.4,
    )
    rotation = so3_exp(torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64)).numpy()
    camera = Camera("a.png", 0, 64, 48, np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]), make_rigid(rotation, np.array([0.2, 0.1, 0.3])))
    photo = PhotoRecord("a.png", 0, "", True, camera=camera, covariance=np.eye(6) * 1e-4)
    poses = torch.as_tensor(camera.cam_from_world)[None].clone()
    base = {"xyz": torch.rand(5, 3).double(), "cam_from_world": poses, "first": torch.zeros(2)}
    return Scene(Chronology.initial(background), (VisitRecord(0, "0", None, (photo,)),), {"localization_map": base})


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_scaled_scene_looks_the_same(scene: Scene, factor: float) -> None:
    other = scaled(scene, factor)
    pictures = [
        render(s.chronology.background, stack_cameras([s.photos()[0].camera]), near=0.01 * k).rgb
        for s, k in ((scene, 1.0), (other, factor))
    ]
    torch.testing.assert_close(pictures[1], pictures[0], atol=1e-5, rtol=0)
    assert pictures[0].std() > 0.05, "an empty picture proves nothing"
    assert other.extent == pytest.approx(scene.extent * factor) or scene.extent <= 1e-6
    photo, base = other.photos()[0], other.side_data["localization_map"]
    np.testing.assert_allclose(base["cam_from_world"][0], photo.camera.cam_from_world)
    np.testing.assert_allclose(np.diag(photo.covariance), [1e-4] * 3 + [1e-4 * factor**2] * 3)
    torch.testing.assert_close(base["xyz"], scene.side_data["localization_map"]["xyz"] * factor)
    back = scaled(other, 1 / factor)
    torch.testing.assert_close(back.chronology.background.means, scene.chronology.background.means)


def test_scaling_refuses_what_it_does_not_know(scene: Scene) -> None:
    strange = dataclasses.replace(scene, side_data={**scene.side_data, "heights": {"z": torch.ones(1)}})
    with pytest.raises(ValueError, match="heights"):
        scaled(strange, 2.0)


def test_the_first_visit_takes_the_settings_of_this_version(scene: Scene) -> None:
    old = dataclasses.replace(scene, config={"run": {"seed": 5, "update": {"rounds": 99}}})
    run = first_visit(old).config["run"]
    assert run["seed"] == 5 and run["update"]["rounds"] != 99


def test_altered_photos(tmp_path: Path) -> None:
    source = tmp_path / "2024-01-05"
    source.mkdir()
    for k in range(3):
        exif = Image.Exif()
        exif[271] = "maker"
        Image.new("RGB", (40, 30), (120 + k, 120, 120)).save(source / f"{k}.jpg", quality=95, exif=exif)
    assert [p.name for p in copied(source, tmp_path / "one", first=1).iterdir()] == ["0.jpg"]
    with Image.open(halved(source, tmp_path / "half") / "1.jpg") as image:
        assert image.size == (20, 15) and image.getexif()[271] == "maker"
    with Image.open(relit(source, tmp_path / "lit", (0.5, 1.0, 1.0)) / "0.jpg") as image:
        red, green, _ = np.asarray(image).reshape(-1, 3).mean(0)
    assert green == pytest.approx(120, abs=1.5) and red == pytest.approx(120 * 0.5 ** (1 / 2.2), abs=1.5)


def test_equal_folders_are_equal_and_one_byte_is_noticed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "blobs").mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_bytes(b"{}")
        (tmp_path / name / "blobs" / "x.png").write_bytes(b"123")
        (tmp_path / name / "timing.json").write_text(name)
    assert same_bytes(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "blobs" / "x.png").write_bytes(b"124")
    assert not same_bytes(tmp_path / "a", tmp_path / "b")


def test_verdicts_hold_and_fail_where_they_should() -> None:
    good = {
        "events_precision": 1.0, "events_recall": 1.0, "missed": [], "false": [], "psnr_drop_mean": 1.0, "changed_psnr_mean": 24.0,
        "unchanged_psnr_mean": 30.0, "localisation_center_percent_median": 0.1, "uncertain": 1, "events": 4,
    }
    bad = {**good, "events_recall": 0.5, "missed": ["t1 moved box"], "changed_psnr_mean": 23.0, "localisation_center_percent_median": 0.2}
    rows = {"reference": good, "smaller": good, "larger": bad, "halved": bad, "single": bad, "again": {"identical": False}}
    held = {claim: ok for claim, _, ok in verdicts(rows)}
    assert held == {
        "same seed: manifest and blobs bit-identical": False, "smaller: events as in the reference": True,
        "larger: events as in the reference": False, "halved: events as in the reference": False,
        **{f"smaller: {k} within 0.1 dB": True for k in ("psnr drop mean", "changed psnr mean", "unchanged psnr mean")},
        "larger: psnr drop mean within 0.1 dB": True, "larger: changed psnr mean within 0.1 dB": False,
        "larger: unchanged psnr mean within 0.1 dB": True, "halved: camera position error within 1.5 times": False,
        "single: recall >= 0.8": False,
    }


def test_the_table_shows_gains_goals_and_baselines() -> None:
    own = {name: None for name in GOALS} | {"events_recall": 0.9, "changed_psnr_mean": 25.0, "changed_psnr_colour_fit_mean": 26.0}
    beside = {
        "frozen": {"changed_psnr_mean": 15.0, "changed_psnr_colour_fit_mean": 18.0},
        "local": {"changed_psnr_mean": 22.0, "changed_psnr_colour_fit_mean": None},
    }
    row = with_gains(own, beside)
    assert row["gain_over_best_baseline"] == 3.0 and row["gain_over_best_baseline_colour_fit"] == 8.0
    text = table({"desk": row}, {"desk": beside})
    assert "| events recall | >= 0.95 | 0.9 | 0.9 (missed) |" in text
    assert "| gain over best baseline | >= 2 | 3 | 3 |" in text
    assert "| local: changed psnr mean |  | 22 | 22 |" in text
    assert with_gains(own, {})["gain_over_best_baseline"] is None
    assert chosen_baselines("none") == [] and chosen_baselines("local,frozen") == ["local", "frozen"]
