"""What a single photo shows stands on what is seen beneath it: that bounds its place and holds its pose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from stage import CHEAP, EYES, HEIGHT, UP, WIDTH, camera, content, spins, view
from test_hull import view_of_spheres
from test_register import template

from ltgs.core.se3 import axis_rotations, make_rigid, rotation_angle_deg
from ltgs.core.views import ComparedView
from ltgs.objects.backing import Model
from ltgs.objects.ground import Stand, base_points, ground_beneath, grounded
from ltgs.objects.hull import HullInstance, hull_instances
from ltgs.objects.register import PoseHypothesis, register_template, scout_template, sweep_template

SPHERE = ((0.2, -0.1, 0.15), 0.15)
SHOT = view_of_spheres((2.0, 0.2, 1.5), [SPHERE])
FLOOR = np.array([0.0, 0.0, 1.0, 0.0])


def pose_at(x: float, y: float, height: float, yaw_deg: int = 0) -> np.ndarray:
    """[4, 4] upright, turned, its middle at a height."""
    return make_rigid(axis_rotations(UP, 360)[yaw_deg], np.array([x, y, height]))


def test_the_floor_is_found_beneath_an_outline() -> None:
    found = ground_beneath(SHOT, SHOT.mask, UP)
    assert found is not None and np.allclose(found, FLOOR, atol=1e-3)


def test_there_is_no_ground_where_nothing_level_is_known() -> None:
    rng = np.random.default_rng(0)
    rough = replace(SHOT, depth=(SHOT.depth * rng.uniform(0.6, 1.4, SHOT.depth.shape)).astype(np.float32))
    unknown = replace(SHOT, alpha=np.zeros_like(SHOT.alpha))
    above = view_of_spheres((0.21, -0.1, 3.0), [SPHERE])
    for shot in (rough, unknown, above):
        assert ground_beneath(shot, shot.mask, UP) is None


def test_ground_further_below_is_taken_where_a_hole_is_right_beneath() -> None:
    rows, columns = np.nonzero(SHOT.mask)
    alpha = SHOT.alpha.copy()
    alpha[rows.max() - 2 : rows.max() + 6, columns.min() - 6 : columns.max() + 6] = 0
    found = ground_beneath(replace(SHOT, alpha=alpha), SHOT.mask, UP)
    assert found is not None and np.allclose(found, FLOOR, atol=1e-3)


def test_a_small_thing_above_a_wide_hole_stands_on_what_is_seen_beyond_it() -> None:
    rows, columns = np.nonzero(SHOT.mask)
    tiny = np.zeros_like(SHOT.mask)
    tiny[rows.min() : rows.min() + 4, columns.min() : columns.min() + 4] = True
    alpha = np.zeros_like(SHOT.alpha)
    alpha[rows.min() + 14 :] = 1
    found = ground_beneath(replace(SHOT, alpha=alpha), tiny, UP)
    assert found is not None and np.allclose(found, FLOOR, atol=1e-3)


def test_a_single_photo_places_content_where_it_stands() -> None:
    (free,) = hull_instances([SHOT])
    (held,) = grounded([free], [SHOT], UP, margin_px=2)
    assert np.linalg.norm(free.centroid - SPHERE[0]) > 0.3, "along the line of sight it may be anywhere"
    assert np.linalg.norm(held.centroid - SPHERE[0]) < 0.09
    assert np.ptp(held.points[:, 0]) < 0.45, "about as deep as wide"
    assert held.ground is not None and held.pixels is free.pixels


def test_what_several_photos_show_needs_no_ground() -> None:
    shots = [SHOT, view_of_spheres((-1.2, 1.7, 1.6), [SPHERE])]
    (both,) = hull_instances(shots)
    assert grounded([both], shots, UP, margin_px=2)[0] is both


def test_poses_are_brought_to_the_ground() -> None:
    model = Model(template())
    stand = Stand(FLOOR, np.array([2.0, 0.0, 1.0]), model)
    poses = torch.as_tensor(np.array([pose_at(0.1, 0.0, 0.5), pose_at(0.1, 0.0, -0.4)]), dtype=torch.float32)
    settled = stand.settled(poses)
    assert (stand.clearance(settled).abs() <= stand.slack + 1e-5).all()
    assert torch.allclose(settled[:, :2, 3], poses[:, :2, 3]), "straight down, or up"
    assert torch.allclose(stand.settled(settled), settled)
    middle = model.seen.means.median(0).values
    cast = stand.cast(poses, middle)
    assert stand.clearance(cast).abs().max() < 1e-4
    before, after = (p[:, :3, :3] @ middle + p[:, :3, 3] - stand.eye for p in (poses, cast))
    assert torch.allclose(before / before.norm(dim=1, keepdim=True), after / after.norm(dim=1, keepdim=True), atol=1e-5)


def test_an_object_stands_on_its_base_and_not_on_its_lowest_known_points() -> None:
    thing = template()
    pose = pose_at(0.0, 0.0, 0.2)
    placed = thing.transformed(torch.as_tensor(pose, dtype=torch.float32)).means.double().numpy()
    base = (base_points(placed, FLOOR) - pose[:3, 3]) @ pose[:3, :3]
    model = replace(Model(thing), base=torch.as_tensor(base, dtype=torch.float32))
    at = torch.as_tensor(pose, dtype=torch.float32)[None]
    assert abs(float(Stand(FLOOR, np.zeros(3), model).clearance(at))) < 1e-5
    assert float(Stand(FLOOR, np.zeros(3), Model(thing)).clearance(at)) > 0.1


def shown_once(yaw_deg: int) -> tuple[ComparedView, HullInstance, np.ndarray]:
    """One photo of the L on the floor, its content without any idea of its depth, and its pose."""
    true = pose_at(0.1, -0.05, 0.06, yaw_deg)
    placed = template().transformed(torch.as_tensor(true, dtype=torch.float32))
    cam = camera(EYES[0])
    rays = cam.rays() @ cam.cam_from_world[:3, :3]
    down = np.minimum(rays[..., 2], -1e-3)
    shot = replace(view(EYES[0], placed), depth=(-cam.center[2] / down).clip(0, 10).astype(np.float32))
    assert shot.mask.shape == (HEIGHT, WIDTH)
    pixels = content(placed, [shot]).pixels
    (free,) = hull_instances([replace(shot, mask=pixels[0])])
    return shot, free, true


def found_by(shot: ComparedView, instance: HullInstance) -> PoseHypothesis:
    model = Model(template())
    sweep = sweep_template(model, [shot], instance, last_rotation=np.eye(3), up=UP, free=spins(CHEAP), config=CHEAP)
    assert sweep is not None
    scouted = scout_template(model, [shot], instance, sweep, config=CHEAP)
    return register_template(model, [shot], instance, scouted, config=CHEAP)


@pytest.mark.parametrize("yaw_deg", [0, 140])
def test_a_pose_from_one_photo_is_right_on_the_ground(yaw_deg: int) -> None:
    shot, free, true = shown_once(yaw_deg)
    (held,) = grounded([free], [shot], UP, margin_px=2)
    on_ground, in_the_air = found_by(shot, held), found_by(shot, free)
    off = [float(np.linalg.norm(f.world_from_object[:3, 3] - true[:3, 3])) for f in (on_ground, in_the_air)]
    assert off[0] < 0.03 and off[1] > 2 * off[0], off
    assert rotation_angle_deg(on_ground.world_from_object[:3, :3].T @ true[:3, :3]) < 5
