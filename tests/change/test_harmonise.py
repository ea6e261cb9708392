"""The light of a photo is found in spite of changed content, and nothing else is explained away."""

import numpy as np
import pytest

from ltgs.change.harmonise import fit_colour


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
