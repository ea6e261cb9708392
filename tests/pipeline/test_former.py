"""New content that is an object which left, in another form: told by its colours and its size, never by one photo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from solids import at, box
from test_update import FIRST, shots

from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.objects.backing import Model
from ltgs.objects.hull import HullInstance
from ltgs.pipeline.update_former import FormerConfig, former_objects
from ltgs.pipeline.update_parts import KnownObject

UP = np.array([0.0, 0.0, 1.0])
THING = box((0.2, 0.2, 0.14), 11)
OTHER = replace(THING, sh=THING.sh * torch.tensor([1.0, -1.0, -1.0]) + torch.tensor([1.0, -0.5, -0.5]))
PLACE = (0.05, -0.42)


def known(object_id: int, template: Gaussians) -> KnownObject:
    return KnownObject(object_id, template, np.eye(4), True, Model(template))


def content(thing: Gaussians, photos: int = 3) -> tuple[HullInstance, list[ComparedView]]:
    """What the photos show of a thing that stands at PLACE, and these."""
    placed = at(thing, *PLACE)
    taken = shots(Gaussians.concatenate([FIRST, placed]), 1)[:photos]
    views, pixels = [], []
    for photo, bare in zip(taken, shots(FIRST, 1), strict=False):
        rgb = photo.rgb.astype(np.float32) / 255
        mask = np.abs(photo.rgb.astype(int) - bare.rgb.astype(int)).max(-1) > 12
        plain = np.ones(mask.shape, np.float32)
        views.append(ComparedView(
            photo.camera, rgb, rgb, np.eye(3, 4), np.ones_like(rgb), plain, 3 * plain, 2.0 * mask.astype(np.float32), mask, ~mask, 0.01,
        ))
        pixels.append(mask)
    return HullInstance(placed.means.double().numpy(), tuple(pixels), photos), views


def test_a_thing_of_the_same_colours_and_size_is_the_next_form() -> None:
    instance, views = content(THING)
    missing = {4: known(4, OTHER), 7: known(7, THING)}
    assert former_objects([instance], missing, views, UP, config=FormerConfig()) == [7]
    assert former_objects([instance], {4: missing[4]}, views, UP, config=FormerConfig()) == [0]
    assert former_objects([instance], {}, views, UP, config=FormerConfig()) == [0]


def test_one_object_has_one_next_form_and_the_more_alike_content_is_it() -> None:
    one, views = content(THING)
    # Half of its pixels and as many beside it: the colours of the ground are among them.
    mixed = replace(one, pixels=tuple(m | np.roll(m, 12, axis=1) for m in one.pixels))
    loose = FormerConfig(alike=0.3)
    assert former_objects([mixed], {7: known(7, THING)}, views, UP, config=loose) == [7]
    assert former_objects([mixed, one, one], {7: known(7, THING)}, views, UP, config=loose) in ([0, 7, 0], [0, 0, 7])


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_what_is_much_larger_or_smaller_is_another_thing(scale: float) -> None:
    instance, views = content(THING)
    resized = replace(THING, means=scale * THING.means, log_scales=THING.log_scales + float(np.log(scale)))
    assert former_objects([instance], {7: known(7, resized)}, views, UP, config=FormerConfig()) == [0]


def test_a_single_photo_tells_no_next_form() -> None:
    instance, views = content(THING, 1)
    assert former_objects([instance], {7: known(7, THING)}, views, UP, config=FormerConfig()) == [0]
