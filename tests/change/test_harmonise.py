"""The light of a photo is found in spite of changed content, and nothing else is explained away."""

import numpy as np
import pytest

from ltgs.change.harmonise import fit_colour
from ltgs.change.light import visit_light
from ltgs.core.chronology import Appearance
from ltgs.pipeline.update_parts import own_exposures


@pytest.fixture
def render() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0.1, 0.7, (12, 16, 3)).astype(np.float32)
    return np.kron(coarse, np.ones((10, 10, 1), np.float32))


def test_recovers_an_affine_light_with_a_tenth_of_the_pixels_changed(render):
    matrix = np.array([[0.7, 0.05, 0.0], [0.02, 0.6, 0.03], [0.0, 0.04, 0.5]])
    photo = np.clip(render @ matrix.T + 0.02, 0, 1).astype(np.float32)
    changed = photo.copy()
    changed[20:60, 30:70] = [0.9, 0.1, 0.8]
    fit = fit_colour(render, changed, np.ones(render.shape[:2], bool))
    shown = fit.apply(render)
    outside = np.ones(render.shape[:2], bool)
    outside[10:70, 20:80] = False
    assert np.abs(shown - photo)[outside].max() < 0.03
    assert np.abs(shown - changed)[25:55, 35:65].mean() > 0.2


def test_gain_follows_a_smooth_shading(render):
    ramp = np.linspace(0.7, 1.2, render.shape[1], dtype=np.float32)[None, :, None]
    photo = np.clip(render * ramp, 0, 1)
    fit = fit_colour(render, photo, np.ones(render.shape[:2], bool))
    assert np.abs(fit.apply(render) - photo).mean() < 0.03


def test_identity_without_enough_pixels(render):
    fit = fit_colour(render, render * 0.5, np.zeros(render.shape[:2], bool))
    np.testing.assert_array_equal(fit.affine, np.eye(3, 4))
    np.testing.assert_allclose(fit.apply(render), render)
    assert not fit.known and not fit.part((slice(0, 4), slice(0, 4))).known


def test_a_photo_that_shows_nothing_of_the_scene_says_nothing_about_the_light(render):
    everywhere = np.ones(render.shape[:2], bool)
    seeing, blind = fit_colour(render, render * 0.5, everywhere), fit_colour(render, render * 0.5, ~everywhere)
    before = Appearance(np.eye(3, 4) * 0.8)
    light = visit_light([seeing, seeing], before)
    assert light.colour[0, 0] == pytest.approx(0.5, abs=0.01) and light.changed
    np.testing.assert_array_equal(visit_light([seeing, blind, seeing], before).colour, light.colour)
    none = visit_light([blind], before)
    np.testing.assert_array_equal(none.colour, before.colour)
    assert not none.changed
    own = own_exposures([seeing, blind], light)
    np.testing.assert_allclose(own[0][:, :3] @ light.colour[:, :3], seeing.affine[:, :3], atol=1e-6)
    np.testing.assert_array_equal(own[1], np.eye(3, 4))
