"""Views of hypotheses: what is computed only around a difference equals what is computed anew everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import blobs

from ltgs.change.compare import Ground, Shot, compare, compare_altered, footprint
from ltgs.change.earlier import Witness
from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.imaging.boxes import bounding_box
from ltgs.render import render
from ltgs.render.lift import lift_to_gaussians

WIDTH, HEIGHT = 160, 120
FIELDS = ("shown", "alpha", "depth", "score", "mask", "agreed")


def camera(x: float) -> Camera:
    pose = np.eye(4)
    pose[0, 3] = x
    return Camera(f"{x}.png", 1, WIDTH, HEIGHT, np.array([[140.0, 0, 80], [0, 140.0, 60], [0, 0, 1]]), pose)


def expected(gaussians: Gaussians) -> torch.Tensor:
    return torch.tensor([[0.02, 0.1, 0.01**2, 0.08**2]]).repeat(len(gaussians), 1)


def wall_and_thing() -> tuple[Gaussians, Gaussians]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1.6:1.6:40j, -2.2:2.2:56j]
    wall = blobs(rng, np.stack([x.ravel(), y.ravel(), np.full(x.size, 3.0)], 1), 0.06)
    return wall, blobs(rng, rng.normal(0, 0.08, (60, 3)) + [0.3, 0.1, 2.4], 0.04)


def shoot(scene: Gaussians) -> list[Shot]:
    """Photos of a scene with a little noise, darker by a tenth."""
    rng, shots = np.random.default_rng(1), []
    for at in map(camera, (0.0, 0.2)):
        rgb = render(scene, stack_cameras([at]), with_depth=False).rgb[0].numpy()
        shots.append(Shot(at, np.clip(0.9 * rgb + rng.normal(0, 0.01, rgb.shape), 0, 1).astype(np.float32)))
    return shots


@pytest.mark.parametrize("asked", [False, True], ids=["alone", "with earlier photos"])
@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "comes"])
def test_an_altered_state_is_compared_as_if_anew(leaves: bool, asked: bool) -> None:
    wall, thing = wall_and_thing()
    both = Gaussians.concatenate([wall, thing])
    one, other = (both, wall) if leaves else (wall, both)
    shots = shoot(both)
    views, grounds = compare(one, expected(one), shots)
    if asked:
        rng = np.random.default_rng(2)
        seen = [Witness(rng.uniform(0, 0.5, (HEIGHT, WIDTH, 2)).astype(np.float32), v.depth) for v in views]
        grounds = [Ground(g.fit, w) for g, w in zip(grounds, seen, strict=True)]
        views, grounds = compare(one, expected(one), shots, grounds=grounds)
    anew, same = compare(other, expected(other), shots, grounds=grounds)
    around = compare_altered(views, thing, other, expected(other), shots, grounds)
    assert all(a is b or a.noise is b.noise for a, b in zip(grounds, same, strict=True)), "the grounds hold for every hypothesis"
    for a, b, start in zip(anew, around, views, strict=True):
        assert not np.array_equal(start.mask, b.mask), "the thing makes a difference"
        for name in FIELDS:
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-5, err_msg=name)


def test_what_no_photo_can_see_alters_no_view() -> None:
    wall, thing = wall_and_thing()
    views, grounds = compare(wall, expected(wall), shoot(wall))
    behind = thing.transformed(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -9], [0, 0, 0, 1]]))
    assert bounding_box(footprint(behind, camera(0.0))) is None
    both = Gaussians.concatenate([wall, behind])
    after = compare_altered(views, behind, both, expected(both), shoot(wall), grounds)
    assert all(a is b for a, b in zip(after, views, strict=True))


def test_without_the_photos_noise_nothing_can_be_compared_in_part() -> None:
    wall, thing = wall_and_thing()
    views, grounds = compare(wall, expected(wall), shoot(wall))
    with pytest.raises(ValueError, match="whole photo first"):
        compare_altered(views, thing, wall, expected(wall), shoot(wall), [Ground(g.fit) for g in grounds])


def test_sums_over_the_footprint_of_some_gaussians_are_right_for_them() -> None:
    wall, thing = wall_and_thing()
    both = Gaussians.concatenate([wall, thing])
    image = np.random.default_rng(3).uniform(0, 1, (HEIGHT, WIDTH, 2)).astype(np.float32)
    rows = torch.arange(len(wall), len(both))
    region = footprint(both[rows], camera(0.0))
    assert 0.01 < region.mean() < 0.3
    full = lift_to_gaussians(both, [camera(0.0)], [image])
    part = lift_to_gaussians(both, [camera(0.0)], [image], regions=[region])
    torch.testing.assert_close(part[:, rows], full[:, rows], atol=1e-4, rtol=1e-4)
    assert part[..., -1].sum() < 0.5 * full[..., -1].sum()
