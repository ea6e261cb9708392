"""Cameras, Gaussians, chronology, checks: behaviour at the edges and messages that name the variable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from ltgs.core.cameras import Camera, Cameras, stack_cameras
from ltgs.core.checks import check_finite, check_rotation, check_shape
from ltgs.core.chronology import Appearance, Chronology, Event, ObjectTrack, Presence, Template
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import make_rigid
from ltgs.core.sh import eval_sh


def gaussians(n: int, degree: int = 1, seed: int = 0) -> Gaussians:
    g = torch.Generator().manual_seed(seed)
    shapes = ((n, 3), (n, 4), (n, 3), (n,), (n, (degree + 1) ** 2, 3))
    return Gaussians(*(torch.randn(*s, generator=g) for s in shapes))


def rigid(seed: int = 0) -> np.ndarray:
    return make_rigid(Rotation.random(random_state=seed).as_matrix(), np.random.default_rng(seed).normal(size=3))


# -- checks -----------------------------------------------------------------------------------------------------------

def test_check_shape_names_variable_expected_and_given():
    check_shape("x", np.zeros((4, 4, 3)), "N N 3")
    for shape, pattern in (((4, 3), "N 4"), ((4, 5), "N N"), ((4,), "N 3"), ((1, 2, 3), "N 3")):
        with pytest.raises(ValueError, match=r"^pose must have shape \[N"):
            check_shape("pose", torch.zeros(shape), pattern)


def test_check_finite_counts():
    check_finite("x", torch.zeros(0))
    for array in (torch.tensor([1.0, float("nan"), float("inf")]), np.array([1.0, np.nan, -np.inf])):
        with pytest.raises(ValueError, match="x holds 2 non-finite values of 3"):
            check_finite("x", array)


def test_check_rotation():
    check_rotation("r", np.stack([rigid(0), rigid(1)]))
    check_rotation("r", torch.eye(3, requires_grad=True))
    for bad in (np.diag([1.0, 1, -1]), 1.01 * np.eye(3), np.full((3, 3), np.nan), np.full((3, 3), 1e308)):
        with pytest.raises(ValueError, match="r must be a proper rotation"):
            check_rotation("r", bad)


# -- cameras ----------------------------------------------------------------------------------------------------------

def camera(name: str = "a.jpg", seed: int = 0, width: int = 64) -> Camera:
    return Camera(name, 0, width, 48, np.array([[50.0, 0, 32], [0, 51, 24], [0, 0, 1]]), rigid(seed))


def test_camera_centre_maps_to_the_origin():
    one = camera()
    assert np.allclose(one.cam_from_world @ [*one.center, 1], [0, 0, 0, 1])
    batch = stack_cameras([one, camera("b.jpg", 1)], torch.float64)
    assert np.allclose(batch.centers[0].numpy(), one.center) and len(batch) == 2 and batch.names == ("a.jpg", "b.jpg")


def test_resizing_scales_pixels_and_keeps_rays():
    one = camera()
    ray = np.linalg.inv(one.K) @ [10.5, 7.5, 1]
    for other in (one.resized(32, 12), stack_cameras([one], torch.float64).resized(32, 12)):
        k = other.K if isinstance(other, Camera) else other.K[0].numpy()
        assert np.allclose(k @ ray, [10.5 / 2, 7.5 / 4, 1])
        assert other.sampling == 0.5 and other.resized(64, 48).sampling == 1.0
    assert stack_cameras([one.resized(32, 12)])[0].to("cpu").sampling == 0.5


def test_pixels_go_to_the_world_and_back():
    camera = Camera("a", 0, 6, 4, np.array([[5.0, 0, 2.8], [0, 5.5, 2.1], [0, 0, 1]]), rigid(3))
    depth = np.random.default_rng(0).uniform(1, 4, (4, 6)).astype(np.float32)
    local = camera.surface(depth) @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    np.testing.assert_allclose(local[..., 2], depth, rtol=1e-6)
    seen = local @ camera.K.T / local[..., 2:]
    rows, columns = np.indices(depth.shape)
    np.testing.assert_allclose(seen[..., :2], np.stack([columns + 0.5, rows + 0.5], -1), atol=1e-9)
    one = camera.rays(np.array([4.5, 1.5]))
    assert one.shape == (3,) and one[2] == 1
    np.testing.assert_allclose(camera.in_world(one * float(depth[1, 4])), camera.surface(depth)[1, 4])
    depth[2, 3] = np.nan
    assert np.isnan(camera.surface(depth)).any(-1).sum() == 1


def test_selecting_cameras_keeps_the_axis():
    batch = stack_cameras([camera(f"{i}", i) for i in range(4)])
    assert batch[1].names == ("1",) and batch[1].K.shape == (1, 3, 3)
    assert batch[-1].names == ("3",) and batch[1:3].names == ("1", "2") and batch[[2, 0]].names == ("2", "0")


def test_cameras_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="at least one"):
        stack_cameras([])
    with pytest.raises(ValueError, match="one image size"):
        stack_cameras([camera(), camera("b", width=32)])
    with pytest.raises(ValueError, match="sampling"):
        stack_cameras([camera(), replace(camera("b"), sampling=0.5)])
    with pytest.raises(ValueError, match="names must have 1"):
        Cameras(torch.eye(3)[None], torch.eye(4)[None], 4, 4, ("a", "b"))
    with pytest.raises(ValueError, match="image size"):
        Cameras(torch.eye(3)[None], torch.eye(4)[None], 0, 4)


# -- Gaussians --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_moving_gaussians_moves_means_covariances_and_colours(degree):
    g = Gaussians(**{k: v.double() for k, v in gaussians(9, degree).tensors().items()})
    pose = torch.from_numpy(rigid(3))
    moved, rotation = g.transformed(pose), pose[:3, :3]
    assert torch.allclose(moved.means, g.means @ rotation.T + pose[:3, 3])
    assert torch.allclose(moved.covariances, rotation @ g.covariances @ rotation.T, atol=1e-9)
    d = torch.nn.functional.normalize(torch.randn(9, 3, dtype=torch.float64), dim=1)
    assert torch.allclose(eval_sh(moved.sh, d @ rotation.T), eval_sh(g.sh, d), atol=1e-9)
    back = moved.transformed(torch.linalg.inv(pose))
    assert torch.allclose(back.means, g.means) and torch.allclose(back.sh, g.sh, atol=1e-9)


def test_half_precision_keeps_what_float16_cannot_hold():
    one = gaussians(50)
    one.opacity_logits[3], one.means[0, 0] = -1e6, 1e6
    half, surface = one.in_half_precision(means=True), one.in_half_precision(means=False)
    for name, value in half.tensors().items():
        before = one.tensors()[name]
        small = before.abs() < 6e4
        assert torch.equal(value[small], value[small].half().to(value.dtype)), name
        assert torch.allclose(value, before, rtol=6e-4, atol=1e-6), name
    assert half.opacity_logits[3] == -1e6 and half.means[0, 0] == 1e6
    assert torch.equal(surface.means, one.means) and torch.equal(surface.sh, half.sh) and not torch.equal(half.sh, one.sh)


def test_empty_gaussians_pass_through_everything():
    g = Gaussians.empty(2)
    assert len(g) == 0 and g.sh_degree == 2 and g.covariances.shape == (0, 3, 3)
    assert len(g.transformed(torch.eye(4))) == 0 and len(Gaussians.concatenate([])) == 0
    joined = Gaussians.concatenate([g, gaussians(3, 1)])
    assert len(joined) == 3 and joined.sh_degree == 2 and bool((joined.sh[:, 4:] == 0).all())


def test_gaussians_name_the_wrong_field():
    g = gaussians(4).tensors()
    for field, value in (("quats", torch.zeros(3, 4)), ("opacity_logits", torch.zeros(4, 1)), ("sh", torch.zeros(4, 5, 3))):
        with pytest.raises(ValueError, match=f"^{field} must have"):
            Gaussians(**{**g, field: value})


# -- chronology -------------------------------------------------------------------------------------------------------

def test_track_extends_by_the_last_known_pose():
    pose = rigid(1)
    track = ObjectTrack.start(1, 1, pose)
    assert track.presence.tolist() == [0, 1] and np.isnan(track.world_from_object[0]).all()
    track = track.extended(Presence.ABSENT).extended(Presence.UNKNOWN).extended(Presence.PRESENT, 2 * pose)
    assert track.presence.tolist() == [0, 1, 0, 2, 1]
    assert np.isnan(track.world_from_object[2]).all() and np.array_equal(track.world_from_object[3], pose)
    assert np.array_equal(track.last_pose(), 2 * pose)
    early = ObjectTrack.start(1, 2, pose, before=Presence.PRESENT)
    assert early.presence.tolist() == [1, 1, 1] and np.isfinite(early.world_from_object).all()


def test_track_refuses_presence_without_a_pose():
    nothing = np.full((2, 4, 4), np.nan)
    covariance, error = np.full((2, 6, 6), np.nan), np.full(2, np.nan)
    with pytest.raises(ValueError, match="object 5 has a time without a pose"):
        ObjectTrack(5, np.array([0, 1], np.uint8), nothing, covariance, error)
    never = ObjectTrack(5, np.zeros(2, np.uint8), nothing, covariance, error)
    with pytest.raises(ValueError, match="never had a pose"):
        never.last_pose()


def test_state_shows_what_is_present_where_it_is():
    background, template, pose = gaussians(10, 1), gaussians(4, 2, seed=1), rigid(2)
    track = ObjectTrack.start(3, 1, pose).extended(Presence.ABSENT)
    templates = {3: Template(3, "object", template, 1)}
    chronology = Chronology(background, torch.tensor([0, 9]), templates, {3: track}, (Appearance(),) * 3)
    assert [len(chronology.state_at(t).gaussians) for t in range(3)] == [8, 12, 8]
    state = chronology.state_at(1)
    assert state.object_ids.tolist() == [0] * 8 + [3] * 4 and state.gaussians.sh_degree == 2
    assert torch.allclose(state.gaussians.means[8:], template.transformed(torch.from_numpy(pose).float()).means)
    assert torch.equal(state.gaussians.means[:8], background.means[1:9])
    with pytest.raises(IndexError, match="time 3 is not stored"):
        chronology.state_at(3)
    with pytest.raises(ValueError, match="same ids"):
        Chronology(background, torch.tensor([]), {}, {3: track}, (Appearance(),) * 3)
    with pytest.raises(ValueError, match="expected 1"):
        Chronology(background, torch.tensor([]), templates, {3: track}, (Appearance(),))


def test_initial_chronology_and_light():
    background = gaussians(3)
    chronology = Chronology.initial(background)
    assert chronology.num_times == 1 and chronology.static_background is background
    rgb = torch.rand(2, 5, 3)
    assert torch.equal(Appearance().apply(rgb), rgb)
    dark = Appearance(np.hstack([0.5 * np.eye(3), [[0.1], [0.2], [0.3]]])).apply(rgb)
    assert torch.allclose(dark, rgb * 0.5 + torch.tensor([0.1, 0.2, 0.3]))


def test_the_past_alone():
    """`until` forgets what came later and keeps the templates."""
    scene = Chronology.initial(Gaussians.empty(0))
    early, late = np.eye(4), np.eye(4)
    late[0, 3] = 2.0
    tracks = {
        1: ObjectTrack.start(1, 0, early).extended(Presence.PRESENT, late).extended(Presence.ABSENT),
        2: ObjectTrack.start(2, 2, late),
    }
    templates = {k: Template(k, "object", Gaussians.empty(0), k) for k in tracks}
    events = (Event(1, "moved", 1), Event(2, "removed", 1), Event(2, "appeared", 2))
    whole = Chronology(scene.background, scene.lifted, templates, tracks, scene.appearance * 3, events)
    past = whole.until(2)
    assert past.num_times == 2 and [e.kind for e in past.events] == ["moved"] and past.templates == templates
    assert past.present_ids(1) == [1] and past.tracks[1].last_pose()[0, 3] == 2.0
    assert past.tracks[2].presence.tolist() == [Presence.ABSENT] * 2
    assert whole.until(3).events == events
    with pytest.raises(IndexError):
        whole.until(0)
    with pytest.raises(IndexError):
        whole.until(4)
