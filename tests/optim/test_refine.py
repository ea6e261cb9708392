"""Refinement of one visit: who gets how many steps, how the rates fall, and that a wrong colour is mended without losing the past."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ltgs.core.cameras import stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.light_field import LightField, brightened
from ltgs.core.sh import dc_to_rgb, rgb_to_dc
from ltgs.optim.patch import Target
from ltgs.optim.refine import Past, RefineConfig, RefineItem, _Movable, _schedule, refine_visit
from ltgs.render import render
from tests.helpers import _camera, _object, _place, threads


def item(gaussians: Gaussians, **changes) -> RefineItem:
    return replace(RefineItem(1, gaussians, np.eye(4), {}, 0, False), **changes)


def photograph(gaussians: Gaussians, angle: float = 0.15) -> np.ndarray:
    with torch.no_grad():
        return render(gaussians, stack_cameras([_camera("t.png", 1, angle)]), with_depth=False).rgb[0].clamp(0, 1).numpy()


def test_steps_are_shared_by_what_is_known_of_an_item() -> None:
    thing = _object(np.random.default_rng(1), (0.0, 0.0, 0.0))
    config = RefineConfig(steps=6, steps_new=10, steps_surface=3, max_steps=100)
    items = [item(thing, num_known=len(thing)), item(thing), item(thing, surface=True)]
    rounds = _schedule(items, config)
    assert [sum(i in turned for turned in rounds) for i in range(3)] == [6, 10, 3] and rounds[0] == [0, 1, 2] and rounds[-1] == [1]
    assert sum(map(len, _schedule(items, replace(config, max_steps=10)))) == pytest.approx(10, abs=1)
    assert _schedule([], config) == []


def test_rates_fall_to_their_last_share() -> None:
    movable = _Movable(item(_object(np.random.default_rng(1), (0.0, 0.0, 0.0)), free_pose=True), {}, RefineConfig(final_rate=0.2))
    groups = [*movable.optimizer.adam.param_groups, *movable.pose_adam.param_groups]
    first = [g["lr"] for g in groups]
    for progress, factor in ((0.0, 1.0), (0.5, 0.6), (1.0, 0.2)):
        movable.step(progress)
        assert [g["lr"] for g in groups] == pytest.approx([factor * rate for rate in first])


def test_a_wrong_colour_is_mended_and_seeds_move_more_than_what_was_known() -> None:
    rng = np.random.default_rng(5)
    place, thing = _place(rng), _object(rng, (0.2, 0.3, 0.25))
    true = Gaussians.concatenate([place, thing])
    targets = [Target(_camera("t.png", 1, a), photograph(true, a), np.eye(3, 4)) for a in (-0.3, 0.0, 0.3)]
    dark = rgb_to_dc(dc_to_rgb(thing.sh) * 0.5)
    wrong = replace(thing, sh=dark)
    known = len(thing) // 2
    own = item(wrong, num_known=known)
    (new,) = refine_visit(place, [own], targets, {}, config=RefineConfig(steps=60, opacity_pull=0.0, scale_pull=0.0))
    moved = (new.gaussians.sh - wrong.sh).abs().mean((1, 2))
    assert float(moved[:known].mean()) < 0.6 * float(moved[known:].mean())
    before, after = (np.abs(photograph(Gaussians.concatenate([place, g])) - photograph(true)).mean() for g in (wrong, new.gaussians))
    assert after < 0.8 * before, "a view between the photos gets better"
    (same,) = refine_visit(place, [own], [], {})
    assert same is own, "without photos nothing is refined"


def test_items_of_one_round_see_each_other_as_they_stood_before_it() -> None:
    """So any number of threads, and any order of the items, gives the same bits."""
    rng = np.random.default_rng(5)
    place, things = _place(rng), [_object(rng, (0.2, 0.3, 0.25)), _object(rng, (0.0, 0.1, 0.25))]
    both = Gaussians.concatenate([place, *(replace(t, sh=t.sh * 0.7) for t in things)])
    now = [Target(_camera("n.png", 2, 0.15), photograph(both), np.eye(3, 4))]
    items = [item(t, object_id=k, num_known=len(t), free_pose=True) for k, t in enumerate(things)]
    out = []
    for count, order in ((1, items), (2, items), (2, items[::-1])):
        with threads(count):
            out.append({i.object_id: i for i in refine_visit(place, order, now, {}, config=RefineConfig(steps=20))})
    for other in out[1:]:
        for k, own in out[0].items():
            np.testing.assert_array_equal(own.pose_now, other[k].pose_now)
            assert torch.equal(own.gaussians.means, other[k].gaussians.means) and torch.equal(own.gaussians.sh, other[k].gaussians.sh)
    assert not np.array_equal(out[0][0].pose_now, items[0].pose_now)


def test_what_an_earlier_visit_showed_is_not_forgotten() -> None:
    rng = np.random.default_rng(5)
    place, thing = _place(rng), _object(rng, (0.2, 0.3, 0.25))
    there = np.eye(4)
    there[:2, 3] = -0.4, -0.3
    stood = thing.transformed(torch.as_tensor(there, dtype=torch.float32))
    target = Target(_camera("t.png", 1, 0.15), photograph(Gaussians.concatenate([place, stood])), np.eye(3, 4))
    darker = replace(thing, sh=rgb_to_dc(dc_to_rgb(thing.sh) * 0.5))
    now = [Target(_camera("n.png", 2, 0.15), photograph(Gaussians.concatenate([place, darker])), np.eye(3, 4))]
    own = item(thing, num_known=len(thing))
    config = RefineConfig(steps=60)
    change = {}
    for name, poses, past in (
        ("none", {}, {1: Past([target], place)}), ("earlier", {1: there}, {1: Past([target], place)}), ("not at hand", {1: there}, {}),
    ):
        (new,) = refine_visit(place, [replace(own, past_poses=poses)], now, past, config=config)
        change[name] = float((new.gaussians.sh - thing.sh).abs().mean())
    assert change["none"] == change["not at hand"], "where it was not seen, photos say nothing about it"
    assert change["earlier"] < 0.7 * change["none"]


def test_light_is_told_apart_from_an_items_own_colours() -> None:
    """Now it stands in the shade, as it did once before, when the visit's light field said so: it is made of the same colours."""
    rng = np.random.default_rng(5)
    place, thing = _place(rng), _object(rng, (0.2, 0.3, 0.25))
    shade = LightField(torch.full((3,), -5.0), 10.0, torch.full((2, 2, 2, 6, 3), float(np.log(0.5))), torch.zeros(3))
    dark = brightened(thing, torch.full((len(thing), 3), 0.5))
    cameras = [_camera("t.png", 1, a) for a in (-0.3, 0.0, 0.3)]

    def targets(seen: Gaussians) -> list[Target]:
        both = Gaussians.concatenate([place, seen])
        return [Target(c, photograph(both, a), np.eye(3, 4)) for c, a in zip(cameras, (-0.3, 0.0, 0.3), strict=True)]

    bright, shaded, own = targets(thing), targets(dark), item(thing, num_known=len(thing), past_poses={0: np.eye(4), 1: np.eye(4)})
    change = {}
    for name, past in (
        ("as it was", {0: Past(bright, place), 1: Past(shaded, place, shade)}), ("light not known", {1: Past(shaded, place)}),
    ):
        (new,) = refine_visit(place, [own], shaded, past, config=RefineConfig(steps=90))
        change[name] = float((new.gaussians.sh - thing.sh).abs().mean())
    assert change["as it was"] < 0.4 * change["light not known"]
