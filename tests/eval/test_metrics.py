"""PSNR, SSIM, the colour fit and masks, against closed forms and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest

from ltgs.eval.metrics import MAX_PSNR, apply_colour, fit_colour, image_metrics, psnr, structural_similarity

RNG = np.random.default_rng(3)


def picture(height: int = 40, width: int = 50) -> np.ndarray:
    """Smooth colours with noise, well inside [0, 1]."""
    y, x = np.mgrid[:height, :width]
    base = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], -1)
    return np.clip(0.5 + 0.25 * base + 0.03 * RNG.standard_normal((height, width, 3)), 0, 1)


def test_psnr_closed_form() -> None:
    photo = np.full((8, 8, 3), 0.5)
    assert psnr(photo + 0.1, photo) == pytest.approx(20.0)
    assert psnr(photo, photo) == MAX_PSNR
    assert psnr(photo + 1.0, photo) == pytest.approx(20 * np.log10(2)), "renders are clamped to [0, 1] first"


def test_psnr_on_a_mask() -> None:
    photo = np.full((8, 8, 3), 0.5)
    render = photo.copy()
    render[:, :4] += 0.1
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True
    assert psnr(render, photo, mask) == pytest.approx(20.0)
    assert psnr(render, photo, ~mask) == MAX_PSNR
    assert psnr(render, photo) == pytest.approx(20.0 + 10 * np.log10(2))
    with pytest.raises(ValueError, match="inside of the mask"):
        psnr(render, photo, np.zeros((8, 8), bool))
    with pytest.raises(ValueError, match="mask must have shape"):
        psnr(render, photo, np.zeros((8, 7), bool))


def test_ssim_agrees_with_scikit_image() -> None:
    skimage = pytest.importorskip("skimage.metrics", reason="scikit-image is a development dependency")
    photo = picture()
    render = np.clip(photo + 0.08 * RNG.standard_normal(photo.shape), 0, 1)
    expected = skimage.structural_similarity(
        photo, render, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
    )
    # scikit-image averages over the same whole windows with a crop of 5 pixels; float32 here, float64 there.
    assert structural_similarity(render, photo) == pytest.approx(expected, abs=2e-4)
    assert structural_similarity(photo, photo) == pytest.approx(1.0, abs=1e-5)


def test_ssim_refuses_tiny_images_and_other_shapes() -> None:
    with pytest.raises(ValueError, match="11x11"):
        structural_similarity(np.zeros((10, 20, 3)), np.zeros((10, 20, 3)))
    with pytest.raises(ValueError, match="render must have shape"):
        structural_similarity(np.zeros((20, 20, 3)), np.zeros((20, 21, 3)))
    with pytest.raises(ValueError, match="photo must have shape"):
        psnr(np.zeros((20, 20)), np.zeros((20, 20)))


def test_masked_ssim_sees_only_its_part() -> None:
    photo = picture()
    render = photo.copy()
    render[:, 30:] = RNG.uniform(0, 1, render[:, 30:].shape)
    left, right = np.zeros((40, 50), bool), np.zeros((40, 50), bool)
    left[:, :20], right[:, 36:] = True, True
    assert structural_similarity(render, photo, left) == pytest.approx(1.0, abs=1e-4)
    assert structural_similarity(render, photo, right) < 0.5


def test_colour_fit_undoes_exposure_and_white_balance() -> None:
    photo = picture()
    matrix = np.array([[0.7, 0.1, 0, 0.05], [0, 0.8, 0.05, 0.02], [0.05, 0, 0.6, 0.1]])
    render = (photo - matrix[:, 3]) @ np.linalg.inv(matrix[:, :3]).T
    inside = np.clip(render, 0, 1)
    scores = image_metrics(inside, photo)
    assert scores["psnr"] < 20
    assert scores["psnr_colour_fit"] > scores["psnr"] + 10
    assert scores["ssim_colour_fit"] >= scores["ssim"]
    if np.array_equal(inside, render):
        assert np.allclose(fit_colour(render, photo), matrix, atol=1e-3)


def test_colour_fit_never_makes_it_worse_by_much_and_survives_one_colour() -> None:
    photo = picture()
    assert np.allclose(fit_colour(photo, photo), np.eye(3, 4), atol=1e-4)
    flat = np.full_like(photo, 0.3)
    fitted = apply_colour(fit_colour(flat, photo), flat)
    assert np.isfinite(fitted).all()
    assert psnr(fitted, photo) >= psnr(flat, photo)


def test_small_images_have_no_ssim() -> None:
    assert set(image_metrics(np.zeros((5, 5, 3)), np.ones((5, 5, 3)))) == {"psnr", "psnr_colour_fit"}
