"""Colours tell one object from another, whatever side is seen and in whatever light."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import blobs

from ltgs.core.cameras import Camera
from ltgs.core.gaussians import Gaussians
from ltgs.core.sh import rgb_to_dc
from ltgs.core.views import ComparedView
from ltgs.objects.associate import AssociateConfig, _needed
from ltgs.objects.hull import HullInstance
from ltgs.objects.join import join_pieces, separate_things
from ltgs.objects.palette import content_palette, likeness, likeness_to_surroundings, palette, pixels_like, template_palette
from ltgs.objects.split import split_instance

UP = np.array([0.0, 0, 1])
SIZE = 60
RED, BLUE = [0.8, 0.2, 0.2], [0.2, 0.3, 0.8]
AFFINE = np.array([[0.7, 0.1, 0, 0.05], [0, 0.8, 0, 0.02], [0.1, 0, 0.6, 0.1]])


def thing(colours: list[list[float]], seed: int = 0) -> Gaussians:
    rng = np.random.default_rng(seed)
    g = blobs(rng, rng.uniform(-0.2, 0.2, (600, 3)), 0.05)
    chosen = np.array(colours)[rng.integers(0, len(colours), 600)] + rng.normal(0, 0.02, (600, 3))
    return replace(g, sh=rgb_to_dc(torch.tensor(chosen[:, None], dtype=torch.float32)))


def test_the_same_colours_in_another_arrangement_are_like_and_others_are_not() -> None:
    red, same, blue = thing([[0.8, 0.1, 0.1], [0.9, 0.8, 0.2]]), thing([[0.8, 0.1, 0.1], [0.9, 0.8, 0.2]], 5), thing([[0.1, 0.2, 0.8]])
    colours = [template_palette(g, UP) for g in (red, same, blue)]
    assert all(c is not None and c.sum() == pytest.approx(1) for c in colours)
    assert likeness(colours[0], colours[1]) > 0.9 and likeness(colours[0], colours[2]) < 0.3  # type: ignore[operator]
    assert likeness(colours[0], colours[0]) == pytest.approx(1)
    assert palette(np.zeros((3, 3), np.float32)) is None and likeness(None, colours[0]) is None


def view(photo: np.ndarray, mask: np.ndarray) -> ComparedView:
    camera = Camera("v.png", 1, SIZE, SIZE, np.array([[50.0, 0, 30], [0, 50.0, 30], [0, 0, 1]]), np.eye(4))
    ones = np.ones((SIZE, SIZE), np.float32)
    gain = np.full((SIZE, SIZE, 3), 0.8, np.float32)
    return ComparedView(camera, photo, photo, AFFINE, gain, ones, ones, 2.0 * mask, mask, ~mask, 0.01)


def test_content_is_compared_in_the_light_of_the_scene() -> None:
    rng = np.random.default_rng(1)
    true = np.array([[0.8, 0.3, 0.2], [0.2, 0.4, 0.7]])[rng.integers(0, 2, (SIZE, SIZE))].astype(np.float32)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[10:40, 20:50] = True
    shot = view(((true @ AFFINE[:, :3].T + AFFINE[:, 3]) * 0.8).astype(np.float32), mask)
    np.testing.assert_allclose(shot.in_first_light(*mask.nonzero()), true[mask], atol=1e-5)
    found = content_palette(HullInstance(np.zeros((1, 3)), (mask, np.zeros_like(mask)), 1), [shot, shot])
    assert likeness(found, palette(true[mask])) == pytest.approx(1, abs=1e-3)
    assert likeness(palette(shot.photo[mask]), palette(true[mask])) < 0.8  # type: ignore[operator]
    assert content_palette(HullInstance(np.zeros((1, 3)), (np.zeros_like(mask),), 0), [shot]) is None


def test_in_mixed_content_the_pixels_of_one_thing_are_told_by_its_colours() -> None:
    rng = np.random.default_rng(2)
    own, other = (palette(np.clip(c + rng.normal(0, 0.02, (500, 3)), 0, 1).astype(np.float32)) for c in ([0.8, 0.3, 0.2], [0.2, 0.4, 0.7]))
    true = np.tile(np.array([0.8, 0.3, 0.2]), (SIZE, SIZE, 1))
    true[:, 30:] = [0.2, 0.4, 0.7]
    shot = view(((true @ AFFINE[:, :3].T + AFFINE[:, 3]) * 0.8).astype(np.float32), np.ones((SIZE, SIZE), bool))
    mask = np.zeros((SIZE, SIZE), bool)
    mask[10:40, 15:50] = True
    both = HullInstance(np.zeros((1, 3)), (mask, np.zeros_like(mask)), 1)
    for colours, side in ((own, slice(None, 30)), (other, slice(30, None))):
        expected = np.zeros_like(mask)
        expected[:, side] = mask[:, side]
        like, nothing = pixels_like(colours, both, [shot, shot])
        assert (like ^ expected).sum() <= 60 and not nothing.any()
    assert not pixels_like(palette(np.full((500, 3), 0.1, np.float32)), both, [shot, shot])[0].any()


def test_a_pair_of_like_colours_needs_to_explain_less() -> None:
    config = AssociateConfig()
    assert _needed(None, config) == _needed(config.alike[0], config) == config.min_gain
    assert config.min_gain < _needed(0.78, config) < _needed(0.75, config) < config.min_gain_unlike == _needed(0.5, config)
    assert config.min_gain_alike < _needed(0.85, config) < config.min_gain and _needed(0.95, config) == config.min_gain_alike


def test_two_things_that_hang_together_by_a_neck_are_parts() -> None:
    axis = np.arange(-0.5, 0.5, 0.025)
    cube = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    ball = cube[np.linalg.norm(cube, axis=1) <= 0.5]
    points = np.concatenate([ball + [-0.45, 0, 5], ball + [0.45, 0, 5]])
    mask = np.ones((SIZE, SIZE), bool)
    shots = [view(np.zeros((SIZE, SIZE, 3), np.float32), mask)]
    both = HullInstance(points, (mask,), 1)
    parts = split_instance(both, shots)
    assert len(parts) == 2 and all(p.is_part for p in parts) and not both.is_part
    assert sorted(np.sign(p.centroid[0]) for p in parts) == [-1, 1]
    left, right = sorted(parts, key=lambda p: p.centroid[0])
    assert np.flatnonzero(left.pixels[0].any(0)).max() <= 32 and np.flatnonzero(right.pixels[0].any(0)).min() >= 27
    assert split_instance(HullInstance(ball + [0, 0, 5], (mask,), 1), shots) == []


def painted(*boxes: tuple[slice, slice, list[float]]) -> np.ndarray:
    """A grey photo with boxes of a colour; a little noise, so that no histogram is a single bin."""
    photo = np.full((SIZE, SIZE, 3), 0.5) + np.random.default_rng(2).normal(0, 0.01, (SIZE, SIZE, 3))
    for rows, columns, colour in boxes:
        photo[rows, columns] += np.array(colour) - 0.5
    return photo.astype(np.float32)


def boxed(rows: slice, columns: slice, centre: tuple[float, float, float]) -> HullInstance:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[rows, columns] = True
    return HullInstance(np.random.default_rng(3).uniform(-0.3, 0.3, (200, 3)) + centre, (mask,), 1)


def test_content_with_the_colours_of_its_surroundings_is_told() -> None:
    where = slice(20, 40), slice(20, 40)
    hidden, plain = boxed(*where, (0, 0, 5)), view(painted(), np.zeros((SIZE, SIZE), bool))
    seen = view(painted((*where, [0.8, 0.3, 0.2])), np.zeros((SIZE, SIZE), bool))
    assert likeness_to_surroundings(hidden, [plain]) > 0.9  # type: ignore[operator]
    assert likeness_to_surroundings(hidden, [seen]) < 0.3  # type: ignore[operator]
    assert likeness_to_surroundings(boxed(slice(0, 2), slice(0, 2), (0, 0, 5)), [seen]) is None


def test_pieces_of_one_thing_are_joined_and_neighbours_are_not() -> None:
    left, right = (slice(20, 40), slice(5, 25)), (slice(20, 40), slice(35, 55))
    one, near, far = boxed(*left, (0, 0, 5)), boxed(*right, (0.8, 0, 5)), boxed(*right, (3, 0, 5))
    same = [view(painted((*left, RED), (*right, RED)), np.zeros((SIZE, SIZE), bool))]
    other = [view(painted((*left, RED), (*right, BLUE)), np.zeros((SIZE, SIZE), bool))]
    (joined,) = join_pieces([one, near], same)
    assert len(joined.points) == 400 and joined.area_px == one.area_px + near.area_px and joined.num_views == 1
    assert join_pieces([one, near], other) == [one, near], "of other colours"
    assert join_pieces([one, far], same) == [one, far], "too far apart"


@pytest.mark.parametrize(("depth", "photos", "count"), [(9.0, 2, 2), (9.0, 1, 1), (3.0, 2, 1), (0.0, 2, 1)])
def test_like_things_between_which_photos_look_through_are_two(depth: float, photos: int, count: int) -> None:
    """Known ground behind the gap, seen by enough photos; something in front of it, or nothing known, tells nothing."""
    left, right = (slice(20, 40), slice(5, 25)), (slice(20, 40), slice(35, 55))
    nothing = np.zeros((SIZE, SIZE), bool)
    shot = view(painted((*left, RED), (*right, RED)), nothing)
    shot = replace(shot, depth=np.full((SIZE, SIZE), depth, np.float32), agreed=~nothing, alpha=np.ones((SIZE, SIZE), np.float32))
    one, other = (
        replace(i, pixels=i.pixels * photos) for i in (boxed(*left, (0, 0, 5)), boxed(*right, (0.8, 0, 5)))
    )
    assert len(join_pieces([one, other], [shot] * photos)) == count


def test_content_that_one_photo_shows_as_two_regions_is_parts_although_its_hull_hangs_together() -> None:
    rng = np.random.default_rng(4)
    points = rng.uniform([-0.9, -0.3, 4.9], [0.9, 0.3, 5.1], (3000, 3))
    whole = np.zeros((SIZE, SIZE), bool)
    whole[20:40, 15:45] = True
    apart = whole.copy()
    apart[:, 29:32] = False
    shots = [view(np.zeros((SIZE, SIZE, 3), np.float32), m) for m in (whole, apart)]
    parts = split_instance(HullInstance(points, (whole, apart), 2), shots)
    assert len(parts) == 2 and all(p.is_part for p in parts)
    assert sorted(np.sign(p.centroid[0]) for p in parts) == [-1, 1]
    assert split_instance(HullInstance(points, (whole, whole), 2), shots) == []


@pytest.mark.parametrize(
    ("colours", "shift", "count"),
    [((RED, BLUE), 0.0, 2), ((RED, RED), 0.0, 1), ((RED, BLUE), 0.7, 1)],
    ids=["unlike", "like", "one higher up"],
)
def test_things_of_unlike_colours_that_hang_together_are_cut_apart(
    colours: tuple[list[float], list[float]], shift: float, count: int
) -> None:
    """Two balls and a neck between them; the photo shows them as one region, each half in a colour."""
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(3000, 3))
    ball *= 0.6 * rng.uniform(0, 1, (3000, 1)) ** (1 / 3) / np.linalg.norm(ball, axis=1, keepdims=True)
    neck = rng.uniform(-0.1, 0.1, (200, 3)) + np.linspace([-0.7, 0, 5], [0.7, -shift, 5], 200)
    points = np.concatenate([ball + [-0.8, 0, 5], ball + [0.8, -shift, 5], neck])
    mask = np.zeros((SIZE, SIZE), bool)
    mask[12:40, 12:48] = True
    shot = view(painted((slice(12, 40), slice(12, 30), colours[0]), (slice(12, 40), slice(30, 48), colours[1])), mask)
    both = HullInstance(points, (mask,), 1)
    things = separate_things([both], [shot], up=np.array([0.0, -1, 0]))
    assert len(things) == count
    if count == 1:
        assert things == [both]
        return
    left, right = sorted(things, key=lambda t: t.centroid[0])
    assert not left.is_part and left.num_views == 1
    assert np.flatnonzero(left.pixels[0].any(0)).max() < 31 and np.flatnonzero(right.pixels[0].any(0)).min() >= 29
