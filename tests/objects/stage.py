"""A stage for registration: objects before a grey, fully known background, as three photos show them, and the new content they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from helpers import look_at

from ltgs.change.compare import footprint
from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import random_rotations
from ltgs.core.views import ComparedView
from ltgs.objects.hull import HullInstance
from ltgs.objects.register import RegisterConfig
from ltgs.render import render

WIDTH, HEIGHT = 120, 90
UP = np.array([0.0, 0.0, 1.0])
EYES = ((1.6, 0.2, 1.0), (-0.5, 1.6, 1.1), (-0.6, -1.5, 0.9))
"""Where the three photos are taken from; all look at the origin."""
CHEAP = RegisterConfig(
    upright=16, tipped=4, free_rotations=16, num_turned=1, coarse_px=24, num_eased=24, ease_steps=3, num_scouted=3,
    scout_px=32, scout_steps=(6, 10), num_refined=1, steps=24, fine_px=48,
)
"""Registers in a second of a small processor; exact to a few degrees."""


def spins(config: RegisterConfig) -> np.ndarray:
    """[R, 3, 3] the orientations from all of SO(3) that a sweep tries, always the same."""
    return random_rotations(config.free_rotations, np.random.default_rng(0))


def camera(eye: tuple[float, float, float]) -> Camera:
    """A level camera that looks at the origin."""
    K = np.array([[110.0, 0, WIDTH / 2], [0, 110.0, HEIGHT / 2], [0, 0, 1]])
    return Camera("v.png", 1, WIDTH, HEIGHT, K, look_at(np.asarray(eye), np.zeros(3)))


def view(eye: tuple[float, float, float], scene: Gaussians) -> ComparedView:
    """Objects, in the world, that have come to stand before the background: whatever shows them differs."""
    cam = camera(eye)
    with torch.no_grad():
        out = render(scene, stack_cameras([cam]))
    alpha = out.alpha[0].numpy()
    grey = np.full((HEIGHT, WIDTH, 3), 0.5, np.float32)
    mask = alpha[..., 0] > 0.5
    ones = np.ones((HEIGHT, WIDTH), np.float32)
    return ComparedView(
        cam, out.rgb[0].numpy() + (1 - alpha) * grey, grey, np.eye(3, 4), np.ones_like(grey), ones, ones * 10,
        mask.astype(np.float32) * 2, mask, ~mask, 0.01,
    )


def views(*things: Gaussians) -> list[ComparedView]:
    """All photos of objects in the world."""
    return [view(eye, Gaussians.concatenate(things)) for eye in EYES]


def content(thing: Gaussians, shots: Sequence[ComparedView]) -> HullInstance:
    """The new content that an object in the world is."""
    pixels = tuple(footprint(thing, v.camera, above=0.5) & v.mask for v in shots)
    return HullInstance(thing.means.double().numpy(), pixels, sum(bool(p.any()) for p in pixels))
