"""Exact pictures, their comparison, and the job queue behind them."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from viewer_scenes import make_bare_scene, make_scene

from ltgs.core.cameras import stack_cameras
from ltgs.core.se3 import invert_rigid
from viewer.compare import compose
from viewer.rendered import RENDER_MODES, LatestOnly, RenderedView, depth_image, render_view
from viewer.view_frame import make_view_frame, pose_of_camera, sample_points


@pytest.fixture(scope="module")
def small():
    return make_scene(1500)


def view_of_photo(scene, frame):
    camera = scene.photos(time=0)[2].camera
    pose = pose_of_camera(camera, frame, sample_points(scene))
    return RenderedView(pose.view_from_camera, pose.fov_rad, camera.width / camera.height), camera


def test_a_visitor_at_a_photo_has_the_photos_camera(small):
    frame = make_view_frame(small)
    view, camera = view_of_photo(small, frame)
    cameras, expected = view.cameras(frame, 320), stack_cameras([camera])
    assert (cameras.width, cameras.height) == (320, 240)
    torch.testing.assert_close(cameras.K, expected.K)
    torch.testing.assert_close(cameras.cam_from_world, expected.cam_from_world, atol=1e-5, rtol=1e-5)
    tall = RenderedView(view.view_from_camera, view.fov_rad, 0.5).cameras(frame, 9999)
    assert (tall.width, tall.height) == (800, 1600)
    assert cameras.sampling == 1.0 and view.cameras(frame, 160, small.fitted_focal).sampling == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("fov, aspect", [(float("nan"), 1.0), (0.0, 1.0), (1.0, 0.0), (1.0, float("inf"))])
def test_impossible_cameras_are_refused(small, fov, aspect):
    with pytest.raises(ValueError, match="reload"):
        RenderedView(np.eye(4), fov, aspect).cameras(make_view_frame(small), 100)


def test_pictures_follow_time_light_and_mode(small):
    frame = make_view_frame(small)
    cameras = view_of_photo(small, frame)[0].cameras(frame, 96)
    pictures = {(m, t): render_view(small.chronology, t, cameras, m) for m in RENDER_MODES for t in (0, 2)}
    assert all(p.shape == (72, 96, 3) and p.dtype == np.uint8 for p in pictures.values())
    assert len({p.tobytes() for p in pictures.values()}) == 6
    warm, plain = pictures["photo colours", 2], render_view(small.chronology, 2, cameras, "photo colours", light=False)
    assert warm[..., 2].mean() < 0.8 * plain[..., 2].mean() and warm[..., 0].mean() > plain[..., 0].mean()


def test_an_empty_scene_renders_black():
    scene = make_bare_scene(0)
    frame = make_view_frame(scene)
    cameras = RenderedView(invert_rigid(np.eye(4)), 1.0, 1.5).cameras(frame, 30)
    for mode in RENDER_MODES:
        assert not render_view(scene.chronology, 0, cameras, mode).any()


def test_depth_colours_near_red_far_blue_nothing_black():
    depth = np.tile(np.linspace(1, 4, 50, dtype=np.float32), (4, 1))
    alpha = np.ones_like(depth)
    alpha[:, -1] = 0
    picture = depth_image(depth, alpha)
    assert picture[0, 0, 0] > picture[0, 0, 2] and picture[0, -2, 2] > picture[0, -2, 0] and not picture[:, -1].any()
    assert not depth_image(np.full((2, 2), np.nan, np.float32), np.ones((2, 2), np.float32)).any()


def test_compositions():
    before, after = np.full((4, 20, 3), 10, np.uint8), np.full((4, 20, 3), 200, np.uint8)
    wiped = compose(before, after, "wipe", 0.5)
    assert (wiped[:, :9] == 10).all() and (wiped[:, 12:] == 200).all()
    assert (compose(before, after, "wipe", -3) == after).all() and (compose(before, after, "wipe", 7) == before).all()
    assert compose(before, after, "side by side").shape == (4, 42, 3)
    same = compose(after, after, "difference")
    assert (same <= 80).all() and compose(before, after, "difference").mean() > same.mean()
    with pytest.raises(ValueError, match="one size"):
        compose(before, after[:2], "wipe")
    with pytest.raises(ValueError, match="unknown style"):
        compose(before, after, "blend")  # type: ignore[arg-type]


def test_only_the_newest_waiting_job_runs_and_errors_are_reported():
    done, problems = [], []
    gate, started = threading.Event(), threading.Event()
    jobs = LatestOnly(problems.append)

    def blocking():
        started.set()
        gate.wait(5)

    jobs.submit(blocking)
    assert started.wait(5)
    for i in range(5):
        jobs.submit(lambda i=i: done.append(i))
    gate.set()
    deadline = time.monotonic() + 5
    while not done and time.monotonic() < deadline:
        time.sleep(0.01)
    assert done == [4]
    jobs.submit(lambda: 1 / 0)
    while not problems and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "division" in problems[0]
    jobs.close()
    jobs.submit(lambda: done.append(9))
    time.sleep(0.05)
    assert done == [4]
