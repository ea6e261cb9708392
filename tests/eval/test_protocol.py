"""What is scored, at which size, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltgs.core.cameras import stack_cameras
from ltgs.core.scene import Scene
from ltgs.errors import InputError
from ltgs.eval.protocol import Evaluation, ImageScore, evaluate_folder, evaluate_heldout
from ltgs.eval.report import evaluation_json, evaluation_rows, mean_metrics
from ltgs.io.cameras_json import read_cameras
from ltgs.io.scene_store import SceneStore
from ltgs.render import render


@pytest.fixture(scope="module")
def scene(tiny_scene: Path) -> Scene:
    return SceneStore.open(tiny_scene).load()


@pytest.fixture
def perfect(scene: Scene, tiny_capture, tmp_path: Path) -> Path:
    """Test photos that are the scene's own renders in the light of their visit."""
    for camera in read_cameras(tiny_capture.test_cameras):
        state = scene.chronology.state_at(camera.time or 0)
        rgb = state.appearance.apply(render(state.lit(), stack_cameras([camera.pinhole()])).rgb[0]).clamp(0, 1)
        path = tmp_path / camera.name
        path.parent.mkdir(parents=True)
        Image.fromarray((rgb * 255).round().byte().numpy()).save(path)
    return tmp_path


def test_a_perfect_scene_scores_like_its_rounding(scene: Scene, perfect: Path, tiny_capture) -> None:
    result = evaluate_folder(scene, perfect, read_cameras(tiny_capture.test_cameras))
    assert [i.time for i in result.images] == [0, 1, 2]
    # Rounding to 8 bits has a variance of 1/12 step: 58.9 dB. Any wrong time, light or pixel centre is far below.
    assert all(i.metrics["psnr"] > 55 and i.metrics["ssim"] > 0.999 for i in result.images)


def test_size_limit_is_reported(scene: Scene, perfect: Path, tiny_capture) -> None:
    result = evaluate_folder(scene, perfect, read_cameras(tiny_capture.test_cameras), max_size=64)
    assert {(i.width, i.height) for i in result.images} == {(64, 48)}
    assert evaluation_rows(result, scene)[0]["resolution"] == "64x48"


def test_the_folder_name_says_the_visit_if_the_file_does_not(scene: Scene, perfect: Path, tiny_capture) -> None:
    from dataclasses import replace

    cameras = [replace(c, time=None) for c in read_cameras(tiny_capture.test_cameras)]
    assert [i.time for i in evaluate_folder(scene, perfect, cameras).images] == [0, 1, 2]
    stray = replace(cameras[0], name="somewhere/IMG_90.png")
    result = evaluate_folder(scene, perfect, [*cameras, stray])
    assert "which visit" in result.skipped["somewhere/IMG_90.png"]


def test_wrong_shapes_and_paths_are_skipped_with_a_reason(scene: Scene, perfect: Path, tiny_capture) -> None:
    from dataclasses import replace

    cameras = read_cameras(tiny_capture.test_cameras)
    Image.fromarray(np.zeros((96, 200, 3), np.uint8)).save(perfect / cameras[1].name)
    outside = replace(cameras[2], name="../outside.png")
    result = evaluate_folder(scene, perfect, [cameras[0], cameras[1], outside])
    assert len(result.images) == 1
    assert "200x96" in result.skipped[cameras[1].name] and "leads out" in result.skipped["../outside.png"]
    with pytest.raises(InputError, match="none of the 1"):
        evaluate_folder(scene, perfect, [outside])


def test_cameras_in_another_frame_are_called_out(scene: Scene, perfect: Path, tiny_capture) -> None:
    from dataclasses import replace

    cameras = []
    for camera in read_cameras(tiny_capture.test_cameras):
        pose = camera.cam_from_world.copy()
        pose[:3, 3] += [500.0, 0, 0]
        cameras.append(replace(camera, cam_from_world=pose))
    assert "far from the scene" in evaluate_folder(scene, perfect, cameras).warnings[0]


def test_held_out_photos_of_the_scene(scene: Scene, tiny_scene: Path) -> None:
    result = evaluate_heldout(SceneStore.open(tiny_scene), scene)
    assert {i.name for i in result.images} == {p.name for p in scene.photos(holdout=True)}


def test_report_means_and_spread(scene: Scene) -> None:
    images = tuple(
        ImageScore(f"{t} {p}", t, 10, 8, {"psnr": p, "psnr_colour_fit": p + 1}) for t, p in [(0, 20.0), (0, 30.0), (2, 26.0)]
    )
    body = evaluation_json(Evaluation("test photos", images), scene)
    assert body["times"][0]["psnr"] == 25.0 and body["times"][0]["psnr_std"] == 5.0
    assert body["mean"]["psnr"] == pytest.approx(76 / 3) and body["mean"]["ssim"] is None
    assert [r["time"] for r in evaluation_rows(Evaluation("x", images), scene)] == ["0", "2", "all"]
    assert mean_metrics([])["psnr"] is None and evaluation_rows(Evaluation("x", ()), scene) == []
