"""What stands before a photo and was never seen from near: haze where the photo shows what is behind it, and content where not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import blobs

from ltgs.change.compare import Shot
from ltgs.change.haze import HazeConfig, find_haze
from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.render import render
from ltgs.render.lift import lift_to_gaussians

WIDTH, HEIGHT = 160, 120


def camera(x: float) -> Camera:
    """Looks along z from (x, 0, 0)."""
    pose = np.eye(4)
    pose[0, 3] = -x
    return Camera(f"{x}.png", 1, WIDTH, HEIGHT, np.array([[140.0, 0, 80], [0, 140.0, 60], [0, 0, 1]]), pose)


def wall() -> Gaussians:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1.6:1.6:40j, -3:3:76j]
    return blobs(rng, np.stack([x.ravel(), y.ravel(), np.full(x.size, 3.0)], 1), 0.06)


def cloud(z: float, seed: int = 1) -> Gaussians:
    """Large faint Gaussians right before the camera of the new photo."""
    rng = np.random.default_rng(seed)
    own = blobs(rng, np.stack([rng.uniform(0.85, 1.15, 8), rng.uniform(-0.1, 0.1, 8), np.full(8, z)], 1), 0.12)
    return replace(own, opacity_logits=torch.zeros(8), sh=own.sh * 0.3)


FIRST = [camera(x) for x in (-1.2, -1.0, -0.8)]
NEW = camera(1.0)


def weight_in(gaussians: Gaussians) -> torch.Tensor:
    ones = [np.ones((HEIGHT, WIDTH, 1), np.float32) for _ in FIRST]
    return lift_to_gaussians(gaussians, FIRST, ones)[..., 0].sum(0)


def photo(gaussians: Gaussians, light: float = 0.8) -> Shot:
    rgb = render(gaussians, stack_cameras([NEW]), with_depth=False).rgb[0].detach().numpy()
    noise = np.random.default_rng(2).normal(0, 0.01, rgb.shape)
    return Shot(NEW, np.clip(light * rgb + noise, 0, 1).astype(np.float32))


@pytest.fixture(scope="module")
def behind() -> Gaussians:
    return wall()


@pytest.mark.parametrize("layers", [1, 2])
def test_haze_before_what_the_photo_shows_is_found_in_all_its_layers(behind: Gaussians, layers: int) -> None:
    clouds = [cloud(0.5), cloud(0.75, 3)][:layers]
    scene = Gaussians.concatenate([behind, *clouds])
    # The part of the wall that the new photo shows must not hang on how much of it the first visit saw.
    weight = torch.cat([torch.full((len(behind),), 50.0), weight_in(scene)[len(behind):]])
    found = find_haze(scene, weight, [photo(behind)])
    assert not found[: len(behind)].any()
    assert int(found.sum()) >= 6 * layers, "nearly all of the cloud, whatever its fainter Gaussians cover"


def test_a_hidden_layer_needs_a_second_look(behind: Gaussians) -> None:
    front, hidden = cloud(0.3), cloud(0.6, 3)
    opaque = replace(front, log_scales=front.log_scales + 0.7, opacity_logits=torch.full((8,), 4.0))
    scene = Gaussians.concatenate([behind, hidden, opaque])
    weight = torch.cat([torch.full((len(behind),), 50.0), torch.full((16,), 5.0)])
    once = find_haze(scene, weight, [photo(behind)], config=HazeConfig(layers=1))
    assert not once[len(behind):-8].all()
    assert find_haze(scene, weight, [photo(behind)])[len(behind):].sum() > once.sum()


def test_content_that_the_photo_shows_is_no_haze(behind: Gaussians) -> None:
    scene = Gaussians.concatenate([behind, cloud(0.5)])
    weight = torch.cat([torch.full((len(behind),), 50.0), torch.zeros(8)])
    assert not find_haze(scene, weight, [photo(scene)]).any()


def test_what_was_only_seen_from_afar_is_no_haze_if_nothing_is_known_behind_it(behind: Gaussians) -> None:
    other = replace(behind, sh=behind.sh.flip(0))
    assert not find_haze(behind, torch.zeros(len(behind)), [photo(other)]).any()


def test_what_the_first_visit_saw_well_or_is_known_for_sure_is_no_haze(behind: Gaussians) -> None:
    scene = Gaussians.concatenate([behind, cloud(0.5)])
    for sure in (1e5, torch.inf):
        assert not find_haze(scene, torch.full((len(scene),), sure), [photo(behind)]).any()


def test_a_little_haze_does_no_harm(behind: Gaussians) -> None:
    speck = cloud(0.5)[:1]
    scene = Gaussians.concatenate([behind, replace(speck, log_scales=speck.log_scales - 3.0)])
    weight = torch.cat([torch.full((len(behind),), 50.0), torch.zeros(1)])
    assert not find_haze(scene, weight, [photo(behind)]).any()
