"""Templates keep their place, surfaces continue their surroundings, cut-outs take their hidden parts along."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from ltgs.core.cameras import Camera
from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.objects.hull import HullInstance, project
from ltgs.objects.templates import build_template, complete_members, enclosed, framed, grow_template, revealed_surface


def cloud(points: np.ndarray) -> Gaussians:
    n = len(points)
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    return Gaussians(
        torch.as_tensor(points, dtype=torch.float32), quats, torch.full((n, 3), -5.0), torch.ones(n), torch.zeros(n, 1, 3)
    )


def plane_view(colour=(0.2, 0.6, 0.4)) -> ComparedView:
    """A camera 2 units above the plane z = 0, looking straight down at an angle of 30 degrees."""
    angle = np.radians(30)
    rotation = np.array([[1, 0, 0], [0, -np.cos(angle), -np.sin(angle)], [0, np.sin(angle), -np.cos(angle)]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ np.array([0, -1.0, 2.0])
    camera = Camera("v", 0, 80, 60, np.array([[90.0, 0, 40], [0, 90.0, 30], [0, 0, 1]]), pose)
    v, u = np.mgrid[0:60, 0:80] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.K).T @ pose[:3, :3]
    depth = (-2.0 / rays[..., 2]).astype(np.float32)
    photo = np.broadcast_to(np.float32(colour), (60, 80, 3)).copy()
    return ComparedView(
        camera, photo, photo, np.eye(3, 4), np.ones_like(photo), np.ones((60, 80), np.float32), depth,
        np.zeros((60, 80), np.float32), np.zeros((60, 80), bool), np.ones((60, 80), bool), 0.01,
    )


def test_cut_out_and_pose_back_is_the_same_place():
    g = cloud(np.random.default_rng(0).normal(size=(50, 3)) + 5)
    template, pose = framed(g[10:30])
    assert template.means.abs().max() < 4
    back = template.transformed(torch.as_tensor(pose, dtype=torch.float32))
    torch.testing.assert_close(back.means, g.means[10:30], rtol=0, atol=1e-5)


def test_revealed_surface_lies_on_the_surrounding_plane():
    view = plane_view()
    hole = np.zeros((60, 80), bool)
    hole[20:40, 30:50] = True
    depth = view.depth.copy()
    depth[hole] = 7.0  # What shows through the hole must not matter.
    view = ComparedView(**{**view.__dict__, "depth": depth})
    surface = revealed_surface([view], [hole], sh_degree=1)
    assert surface is not None and len(surface) == 100
    assert surface.means[:, 2].abs().max() < 0.01
    torch.testing.assert_close(surface.base_rgb, torch.tensor([[0.2, 0.6, 0.4]]).expand(100, 3), rtol=0, atol=1e-3)


def test_a_patch_is_pushed_behind_what_is_known_to_be_empty():
    hole = np.zeros((60, 80), bool)
    hole[20:40, 30:50] = True
    view = plane_view()
    free = revealed_surface([view], [hole], sh_degree=0)
    centre = view.camera.center
    reach = float(np.linalg.norm(free.means.double().numpy() - centre, axis=1).mean())

    def near(points):
        return np.linalg.norm(points - centre, axis=1) < 1.3 * reach

    pushed = revealed_surface([view], [hole], sh_degree=0, empty=near)
    away = np.linalg.norm(pushed.means.double().numpy() - centre, axis=1)
    assert len(pushed) == len(free) and away.min() >= 1.3 * reach and away.max() < 1.3 * 1.15 * reach * 1.2
    at = [project(view.camera, g.means.double().numpy())[0] for g in (free, pushed)]
    np.testing.assert_allclose(*at, atol=1e-2)
    assert revealed_surface([view], [hole], sh_degree=0, empty=lambda points: np.ones(len(points), bool)) is None


def test_no_hole_no_surface():
    assert revealed_surface([plane_view()], [np.zeros((60, 80), bool)], sh_degree=0) is None


def test_back_of_a_box_is_completed_but_not_its_distant_neighbour():
    rng = np.random.default_rng(1)
    shell = rng.uniform(-1, 1, (1500, 3))
    face = rng.integers(0, 3, 1500)
    shell[np.arange(1500), face] = np.sign(shell[np.arange(1500), face])
    far = rng.uniform(-1, 1, (200, 3)) + [5, 0, 0]
    g = cloud(np.concatenate([shell, far]))
    seen = torch.from_numpy(np.flatnonzero(shell[:, 0] > -0.6))
    completed = complete_members(g, seen)
    assert (completed < 1500).all() and len(completed) > len(seen)


def test_new_template_has_the_colour_of_the_photos_in_the_first_light():
    view = plane_view((0.3, 0.15, 0.1))
    darker = ComparedView(**{**view.__dict__, "colour_affine": np.eye(3, 4) * 0.5})
    mask = np.zeros((60, 80), bool)
    mask[25:35, 35:45] = True
    points = np.random.default_rng(2).uniform(-0.1, 0.1, (500, 3)) + [0, 0.15, 0.1]
    template, pose = build_template(
        HullInstance(points, (mask,), 1), [darker], sh_degree=1, rng=np.random.default_rng(0)
    )
    np.testing.assert_allclose(pose[:3, 3], [0, 0.15, 0.1], atol=0.03)
    assert (template.base_rgb - torch.tensor([0.6, 0.3, 0.2])).abs().max() < 0.05


def test_a_photo_that_looks_away_says_nothing_about_a_new_object_and_sides_are_added_to_a_known_one():
    view = plane_view((0.3, 0.15, 0.1))
    turned = view.camera.cam_from_world.copy()
    turned[:3] = np.diag([-1.0, 1, -1]) @ turned[:3]
    away = ComparedView(**{**view.__dict__, "camera": replace(view.camera, cam_from_world=turned)})
    mask = np.zeros((60, 80), bool)
    mask[25:35, 35:45] = True
    points = np.random.default_rng(2).uniform(-0.1, 0.1, (500, 3)) + [0, 0.15, 0.1]
    instance = HullInstance(points, (mask, np.zeros_like(mask)), 1)
    template, pose = build_template(instance, [view, away], sh_degree=1, rng=np.random.default_rng(0))
    assert len(template) > 20 and torch.isfinite(template.means).all()
    half = template[template.means[:, 0] < 0]
    grown = grow_template(half, pose, instance, [view, away], extent=template, rng=np.random.default_rng(0))
    new = grown.means[len(half) :]
    assert torch.equal(grown.means[: len(half)], half.means) and len(new) > 0
    assert (new[:, 0] > 0).all(), "only the unknown half is added"
    narrow = grow_template(half, pose, instance, [view, away], extent=half, rng=np.random.default_rng(0))
    assert len(narrow) - len(half) < 0.5 * len(new), "outside of its extent hardly anything is added"


def test_measured_points_take_the_place_of_the_hull_they_explain() -> None:
    view = plane_view((0.3, 0.15, 0.1))
    mask = np.zeros((60, 80), bool)
    mask[25:35, 35:45] = True
    hull = np.random.default_rng(2).uniform(-0.1, 0.1, (500, 3)) + [0, 0.15, 0.1]
    instance = HullInstance(hull, (mask,), 1)
    points = np.array([[0.01, 0.16, 0.1], [0.02, 0.16, 0.1], [0.03, 0.16, 0.1]])

    def measure(asked: HullInstance, samples: np.ndarray) -> SimpleNamespace:
        assert asked is instance
        return SimpleNamespace(points=points, colours=np.full((3, 3), 0.25), spacing=0.01, rest=samples[:, 0] < 0)

    plain, _ = build_template(instance, [view], sh_degree=1, rng=np.random.default_rng(0))
    template, pose = build_template(instance, [view], sh_degree=1, rng=np.random.default_rng(0), measure=measure)
    world = template.means.double().numpy() + pose[:3, 3]
    np.testing.assert_allclose(world[:3], points, atol=1e-6)
    assert (world[3:, 0] < 0).all() and 3 < len(template) < len(plain)
    torch.testing.assert_close(template.base_rgb[:3], torch.full((3, 3), 0.25), rtol=0, atol=1e-5)
    torch.testing.assert_close(template.scales[:3], torch.full((3, 3), 0.007))
    assert template.opacities[0] > template.opacities[-1]
    again, same = build_template(instance, [view], sh_degree=1, rng=np.random.default_rng(0), measure=lambda *_: None)
    assert torch.equal(again.means, plain.means) and np.allclose(same[:3, 3], [0, 0.15, 0.1], atol=0.03)


def test_what_an_object_encloses_belongs_to_it() -> None:
    rng = np.random.default_rng(4)
    shell = rng.normal(size=(300, 3))
    shell /= np.linalg.norm(shell, axis=1, keepdims=True)
    inner, outer = rng.uniform(-0.4, 0.4, (40, 3)), rng.uniform(1.2, 2.0, (40, 3))
    found = enclosed(np.concatenate([inner, outer]), shell)
    assert found[:40].all() and not found[40:].any()
    assert not enclosed(rng.uniform(-0.4, 0.4, (200, 3)), shell).any(), "so many belong to something else that it spans"
    flat = shell * [1, 1, 0]
    assert not enclosed(inner, flat).any() and not enclosed(inner, shell[:5]).any() and not enclosed(inner, shell[:0]).any()
