"""What proves that something existed, that two things cannot share a place, and what completes a hardly seen place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from helpers import _camera, _object, _place, blobs

from ltgs.change.compare import Shot, compare
from ltgs.change.earlier import prepare_earlier
from ltgs.core.cameras import stack_cameras
from ltgs.core.chronology import Appearance, Chronology, Presence
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import make_rigid
from ltgs.objects.templates import BuildConfig
from ltgs.optim.complete import CompleteConfig
from ltgs.optim.patch import Target
from ltgs.pipeline.update_complete import complete_visit
from ltgs.pipeline.update_proofs import ProofConfig, existed, share_inside
from ltgs.render import render

ANGLES = (-0.5, -0.2, 0.1, 0.4)


def photograph(scene: Gaussians, angle: float) -> np.ndarray:
    with torch.no_grad():
        return render(scene, stack_cameras([_camera(f"{angle}.png", 0, angle)]), with_depth=False).rgb[0].clamp(0, 1).numpy()


def to8(image: np.ndarray) -> np.ndarray:
    return np.rint(image * 255).astype(np.uint8)


def test_an_object_is_needed_by_the_photos_and_a_faint_layer_is_not() -> None:
    rng = np.random.default_rng(5)
    place, thing = _place(rng), _object(rng, (0.2, 0.3, 0.25))
    layer = blobs(rng, rng.uniform([-0.9, 0.8, 0.1], [-0.3, 0.9, 0.6], (60, 3)), 0.08)
    # The layer is faint and has the colour of nothing that was photographed.
    layer = replace(layer, opacity_logits=torch.full((60,), -1.5))
    true = Gaussians.concatenate([place, thing])
    trained = Gaussians.concatenate([place, thing, layer])
    photos = [prepare_earlier(trained, _camera("p.png", 0, a), to8(photograph(true, a))) for a in ANGLES]
    members = torch.arange(len(place), len(place) + len(thing))
    extra = torch.arange(len(place) + len(thing), len(trained))
    config = ProofConfig()
    assert existed(trained, members, photos, config) > 0.8
    assert existed(trained, extra, photos, config) < 0
    assert existed(trained, members, [], config) is None


def test_points_inside_a_placed_object() -> None:
    thing = _object(np.random.default_rng(5), (0.0, 0.0, 0.0))
    pose = make_rigid(np.eye(3), np.array([1.0, 0, 0]))
    config = ProofConfig()
    inside = np.random.default_rng(0).uniform(-0.1, 0.1, (50, 3)) + [1.0, 0, 0]
    assert share_inside(inside, thing, pose, config) == 1.0
    assert share_inside(inside - [1.0, 0, 0], thing, pose, config) == 0.0
    assert share_inside(np.zeros((0, 3)), thing, pose, config) == 0.0


def test_a_wall_that_was_never_seen_is_completed_at_all_times_and_the_first_photos_stay() -> None:
    place = _place(np.random.default_rng(5))
    missing = (place.means[:, 0] > 0.6) & (place.means[:, 1] > 1.5)
    known = place[~missing]
    angles = (-0.3, 0.0, 0.3)
    shots = [Shot(_camera(f"{a}.png", 1, a), photograph(place, a)) for a in angles]
    expected = torch.tensor([[0.02, 0.1, 0.02**2, 0.1**2]]).repeat(len(known), 1)
    views, _ = compare(known, expected, shots)
    old_angle = -0.6
    first = [Target(_camera("old.png", 0, old_angle), photograph(known, old_angle), np.eye(3, 4), None)]
    start = Chronology.initial(known)
    chronology = replace(start, appearance=(Appearance(), Appearance()))
    config = CompleteConfig(steps=60)

    def nowhere(points: np.ndarray) -> np.ndarray:
        return np.zeros(len(points), np.int64)

    out = complete_visit(chronology, views, first, torch.full((len(known),), 9.0), nowhere, nowhere, config=config, build=BuildConfig())
    (k,) = out.templates
    assert out.templates[k].kind == "surface" and out.tracks[k].presence.tolist() == [Presence.UNKNOWN, Presence.PRESENT]
    assert len(out.lifted) == 0, "well seen Gaussians are not touched"

    def error(gaussians: Gaussians, angle: float) -> float:
        with torch.no_grad():
            shown = render(gaussians, stack_cameras([_camera("t.png", 1, angle)]), with_depth=False).rgb[0].clamp(0, 1).numpy()
        return float(((shown - photograph(place, angle)) ** 2).mean())

    assert error(out.state_at(1).gaussians, 0.15) < 0.5 * error(known, 0.15), "a view between the photos gets better"
    rarely = replace(config, min_share=0.9)
    same = complete_visit(chronology, views, first, None, nowhere, nowhere, config=rarely, build=BuildConfig())
    assert same is chronology, "where little is open nothing is done"

    def everywhere(points: np.ndarray) -> np.ndarray:
        return np.full(len(points), 3)

    same = complete_visit(chronology, views, first, None, nowhere, everywhere, config=config, build=BuildConfig())
    assert same is chronology, "what many photos saw needs no completion"
