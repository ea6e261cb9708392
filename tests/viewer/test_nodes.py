"""What is uploaded, in which frame, and that stepping through time sends poses and switches only."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest
import torch
import viser
import zstandard
from viewer_scenes import camera_at, cube, make_bare_scene, make_scene, read_image, surface
from websockets.sync.client import connect

from ltgs.core.se3 import invert_rigid
from viewer.app import ViewerApp
from viewer.photo_nodes import thin, thumbnail
from viewer.scene_nodes import (
    MAX_ASPECT,
    MIN_SIGMA,
    SplatBudget,
    box_edges,
    choose_splats,
    robust_bounds,
    to_splats,
)
from viewer.view_frame import VIEW_RADIUS, first_view, looking_at, make_view_frame, pose_of_camera, sample_points

PROTOCOL = [f"viser-v{viser.__version__}"]


class RawClient:
    """A websocket client that decodes viser's frames, to count what a browser would receive."""

    def __init__(self, app: ViewerApp) -> None:
        self.socket = connect(f"ws://127.0.0.1:{app.server.get_port()}", subprotocols=PROTOCOL, max_size=None)

    def drain(self, quiet: float = 0.3) -> tuple[int, list[dict]]:
        """Bytes and messages until nothing came for `quiet` seconds."""
        size, messages = 0, []
        while True:
            try:
                frame = self.socket.recv(timeout=quiet)
            except TimeoutError:
                return size, messages
            size += len(frame)
            inner, packed = (int.from_bytes(frame[i : i + 8], "little") for i in (0, 8))
            raw = zstandard.ZstdDecompressor().decompress(frame[16 : 16 + packed], max_output_size=inner)
            messages += msgspec.msgpack.decode(raw)["messages"]

    def close(self) -> None:
        self.socket.close()


def test_stepping_uploads_nothing_again(app):
    client = RawClient(app)
    try:
        size, first = client.drain(0.8)
        groups = [m for m in first if m["type"] == "GaussianSplatsMessage"]
        splats = len(app.scene.chronology.static_background) + sum(len(t.gaussians) for t in
                                                                   app.scene.chronology.templates.values())
        assert [m["name"] for m in groups] == ["/background", "/object_1", "/object_2", "/object_3"]
        assert size > 32 * splats
        for step in (1, 2, 0, 2):
            app.set_time(step)
            size, messages = client.drain()
            kinds = {m["type"] for m in messages}
            assert size < 1500, (step, size, messages)
            assert not kinds & {"GaussianSplatsMessage", "CameraFrustumMessage", "LabelMessage"}
            assert "SetSceneNodeVisibilityMessage" in kinds
        app.set_time(2)
        assert client.drain()[0] == 0, "showing the visit already shown sends nothing"
    finally:
        client.close()


def test_a_late_visitor_gets_the_visit_shown_now(app):
    app.set_time(2)
    client = RawClient(app)
    try:
        _, messages = client.drain(0.8)
    finally:
        client.close()
    shown = {m["name"]: m["visible"] for m in messages if m["type"] == "SetSceneNodeVisibilityMessage"}
    assert shown["/object_1"] and shown["/object_3"] and not shown["/object_2"]
    places = {m["name"]: m["position"] for m in messages if m["type"] == "SetPositionMessage"}
    expected = app._frame.to_view(app.scene.chronology.tracks[1].world_from_object[2][:3, 3])
    np.testing.assert_allclose(places["/object_1"], expected, atol=1e-5)


def test_twenty_clients_come_and_go(app):
    start = time.perf_counter()
    clients = [RawClient(app) for _ in range(20)]
    assert all(c.socket.recv(timeout=15) for c in clients)
    app.set_time(1)
    for client in clients[::2]:
        client.close()
    app.set_time(2)
    assert clients[1].drain(0.2)[0] > 0
    for client in clients[1::2]:
        client.close()
    again = RawClient(app)
    assert again.drain(0.5)[0] > 10_000
    again.close()
    deadline = time.monotonic() + 5
    while app.server._websock_server._client_state_from_id and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not app.server._websock_server._client_state_from_id
    assert time.perf_counter() - start < 20


def test_bad_times_are_refused_and_stop_is_idempotent(scene):
    viewer = ViewerApp(scene, read_image)
    with pytest.raises(RuntimeError, match="not running"):
        _ = viewer.server
    url = viewer.start()
    assert viewer.start() == url
    for bad in (-1, 3, 99):
        with pytest.raises(IndexError, match=r"0\.\.2"):
            viewer.set_time(bad)
    viewer.stop()
    viewer.stop()


@pytest.mark.parametrize("count", [0, 1, 50])
def test_bare_scenes_start(count):
    viewer = ViewerApp(make_bare_scene(count), read_image)
    viewer.start()
    viewer.set_time(0)
    viewer.stop()


def test_names_reach_markdown_escaped_only():
    viewer = ViewerApp(make_scene(300, nasty=True), read_image)
    viewer.start()
    client = RawClient(viewer)
    try:
        for step in (0, 1, 2):
            viewer.set_time(step)
        _, messages = client.drain(0.8)
    finally:
        client.close()
        viewer.stop()
    texts = [str(m.get("props", {}).get("_markdown", "")) + str(m.get("updates", {}).get("_markdown", "")) for m in messages]
    joined = "\n".join(texts)
    assert "&#60;script&#62;" in joined
    for danger in ("<script", "<img", "{alert", "javascript:", "](", "onerror=alert(1)>"):
        assert danger not in joined
    assert not [m for m in messages if m["type"] in ("GuiHtmlMessage", "GuiUploadButtonMessage")]


def test_world_points_and_poses_agree_in_the_view(scene):
    frame = make_view_frame(scene)
    pose = scene.chronology.tracks[1].world_from_object[1]
    template = scene.chronology.templates[1].gaussians
    in_world = template.transformed(torch.as_tensor(pose, dtype=torch.float32)).means.numpy()
    view = frame.pose_to_view(pose)
    in_view = to_splats(template, frame, recentre=False).centers @ view[:3, :3].T + view[:3, 3]
    np.testing.assert_allclose(in_view, frame.to_view(in_world), atol=2e-4)
    np.testing.assert_allclose(frame.to_world(frame.to_view(in_world)), in_world, atol=1e-9)


def test_first_view_stands_at_a_photo_and_is_upright(scene):
    frame = make_view_frame(scene)
    view = first_view(scene, frame)
    centres = [frame.to_view(p.camera.center) for p in scene.photos(time=0)]
    assert min(np.linalg.norm(c - view.position) for c in centres) < 1e-9
    assert frame.up @ [0, -1, 0] > 0.9
    assert 0.5 < view.orbit_up(frame.up) @ frame.up <= 1 + 1e-9
    bare = make_bare_scene(20)
    view = first_view(bare, make_view_frame(bare))
    assert np.isfinite(view.view_from_camera).all() and np.linalg.norm(view.look_at) < 1e-9


def test_pose_of_camera_orbits_the_depth_it_sees(scene):
    frame = make_view_frame(scene)
    camera = camera_at((0, -1.0, -1.0), (0, -1.0, 2), "a", 0)
    pose = pose_of_camera(camera, frame, np.array([[0, -1.0, 2.0], [0.1, -1.0, 2.0], [0, -1, -9]]))
    assert pose.distance == pytest.approx(3.0 * frame.scale)
    np.testing.assert_allclose(pose.view_from_camera[:3, :3], invert_rigid(camera.cam_from_world)[:3, :3])
    assert len(sample_points(scene)) > 100


def test_looking_straight_down_has_a_defined_picture():
    pose = looking_at(np.zeros(3), np.array([0, 0, 1.0]), 5.0, np.array([0, 0, 1.0]), 1.0)
    np.testing.assert_allclose(pose.view_from_camera[:3, :3] @ pose.view_from_camera[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(pose.look_at, 0, atol=1e-12)


def test_covariances_suit_half_precision(scene):
    frame = make_view_frame(scene)
    assert np.ptp([frame.to_view(p.camera.center) for p in scene.photos(time=0)], axis=0).max() <= 2 * VIEW_RADIUS
    g = surface(np.zeros((3, 3)), np.ones((3, 3)), 1.0)
    g = type(g)(g.means, g.quats, torch.tensor([[-30.0, -30, -30], [0, -20, 0], [30, 30, 30]]), g.opacity_logits, g.sh)
    half = to_splats(g, frame, recentre=True).covariances.astype(np.float16).astype(np.float64)
    values = np.linalg.eigvalsh(half)
    assert np.isfinite(half).all() and (values > 0).all()
    assert values[0].min() >= 0.9 * MIN_SIGMA**2
    assert np.sqrt(values[1].max() / values[1].min()) < 1.2 * MAX_ASPECT


def test_budget_drops_the_least_important_and_says_so():
    rng = np.random.default_rng(0)
    background = surface(rng.normal(size=(100, 3)), rng.random((100, 3)), 0.1)
    scales = background.log_scales.clone()
    scales[:30] -= 3
    logits = background.opacity_logits.clone()
    logits[95:] = -9
    means = background.means.clone()
    means[90] = float("nan")
    background = type(background)(means, background.quats, scales, logits, background.sh)
    parts = {0: background, 1: cube(rng, 10, 0.3, (1, 0, 0))}
    keep, report = choose_splats(parts, SplatBudget(60))
    assert report.shown == 60 and report.broken == 1 and report.invisible == 5 and report.dropped == 44
    assert len(keep[1]) == 10 and int(keep[0].min()) >= 30 and 90 not in keep[0].tolist()
    assert 0 < report.dropped_weight < 0.6 and "left out" in report.text() and "broken" in report.text()
    keep, report = choose_splats(parts, SplatBudget(8))
    assert report.shown <= 8 and len(keep[1]) == 4
    keep, report = choose_splats({0: background[:0]}, SplatBudget())
    assert report.shown == 0 and report.text() == "0 of 0 Gaussians shown."


def test_box_and_bounds():
    low, high = robust_bounds(np.concatenate([np.random.default_rng(0).random((500, 3)), [[99, 99, 99]]]).astype(np.float32))
    assert (high < 1.2).all() and (low > -0.2).all()
    edges = box_edges(np.zeros(3), np.array([1.0, 2, 3]))
    assert edges.shape == (12, 2, 3) and np.allclose(np.abs(edges[:, 0] - edges[:, 1]).sum(), 4 * 6)
    assert np.isfinite(robust_bounds(np.zeros((0, 3), np.float32))).all()


def test_thumbnails_are_small_and_checked():
    small = thumbnail(np.random.default_rng(0).random((300, 400, 3)).astype(np.float32))
    assert small.shape == (120, 160, 3) and small.dtype == np.uint8
    assert thumbnail(np.zeros((20, 10, 4), np.uint8)).shape == (20, 10, 3)
    with pytest.raises(ValueError, match=r"\[H, W, 3\]"):
        thumbnail(np.zeros((5, 5)))
    assert thin(list(range(10)), 3) == [0, 4, 9] or len(thin(list(range(10)), 3)) == 3


def test_photos_are_read_only_when_shown_and_a_damaged_one_is_survived(scene):
    asked = []

    def read(blob: str) -> np.ndarray:
        asked.append(blob)
        if blob.endswith("-1"):
            raise OSError("gone")
        return read_image(blob)

    viewer = ViewerApp(scene, read)
    viewer.start()
    try:
        assert not asked
        viewer._photos.show(visible=True)
        deadline = time.monotonic() + 10
        while len(asked) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert sorted(asked) == [f"blob-0-{i}" for i in range(5)]
        viewer.set_time(1)
        while len(asked) < 8 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(asked) == 8 and viewer._photos.problems[0].endswith("IMG_0001.jpg")
        viewer.set_time(0)
        time.sleep(0.1)
        assert len(asked) == 8, "read once"
    finally:
        viewer.stop()
