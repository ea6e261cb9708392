from __future__ import annotations

import numpy as np
import pytest

from ltgs.imaging.undistort import distort_normalised, undistort_photo, working_size


def pattern(ideal: np.ndarray, frequency: float) -> np.ndarray:
    """A smooth colour at ideal normalised coordinates, [..., 3] in 40..215."""
    x, y = ideal[..., 0], ideal[..., 1]
    waves = [np.sin(frequency * x), np.cos(frequency * y), np.sin(frequency * (x + y) / 1.4)]
    return 127.5 + 87 * np.stack(waves, -1)


def ideal_grid(K: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    u, v = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    return np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]], -1)


def straighten(bent: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    ideal = bent.copy()
    for _ in range(50):
        ideal -= distort_normalised(ideal, distortion) - bent
    return ideal


def taken(K: np.ndarray, distortion: np.ndarray, size: tuple[int, int], frequency: float) -> np.ndarray:
    return np.rint(pattern(straighten(ideal_grid(K, size), distortion), frequency)).astype(np.uint8)


LENSES = {
    "none": (0.0, 0.0, 0.0, 0.0), "barrel": (-0.2, 0.03, 0.0, 0.0), "pincushion": (0.12, 0.0, 0.0, 0.0),
    "tangential": (-0.05, 0.0, 0.004, -0.006),
}


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("size", [(400, 300), (200, 150), (173, 130)])
def test_the_result_is_the_pinhole_view(lens: str, size: tuple[int, int]) -> None:
    """An analytic scene through the lens, straightened, equals the same scene through the returned pinhole camera."""
    K = np.array([[380.0, 0, 190.0], [0, 390.0, 158.0], [0, 0, 1]])
    distortion = np.array(LENSES[lens])
    image, K_new = undistort_photo(taken(K, distortion, (400, 300), 18), K, distortion, size=size)
    assert image.shape == (size[1], size[0], 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    error = np.abs(image.astype(float) - pattern(ideal_grid(K_new, size), 18))
    # Measured: at most 1.1 grey levels inside; a shift of .1 pixels would cost 0.4 to 0.9 in the mean.
    assert error[3:-3, 3:-3].mean() < 0.45 and error[3:-3, 3:-3].max() < 3.0
    assert error.max() < 12, "no black or invented border"


@pytest.mark.parametrize("lens", LENSES)
def test_every_pixel_comes_from_inside_the_photo_and_little_is_lost(lens: str) -> None:
    K = np.array([[380.0, 0, 205.0], [0, 380.0, 148.0], [0, 0, 1]])
    distortion = np.array(LENSES[lens])
    _, K_new = undistort_photo(np.full((300, 400, 3), 9, np.uint8), K, distortion, size=(400, 300))
    corners = np.array([[x, y] for x in np.linspace(0, 400, 41) for y in np.linspace(0, 300, 31)])
    source = distort_normalised((corners - K_new[:2, 2]) / [K_new[0, 0], K_new[1, 1]], distortion) * [380, 380] + K[:2, 2]
    assert source.min() > -0.02 and (source <= [400.02, 300.02]).all()
    touching = min(source[:, 0].min(), source[:, 1].min(), 400 - source[:, 0].max(), 300 - source[:, 1].max())
    assert touching < 0.5, "the view is as wide as it can be"
    assert np.allclose(K_new[:2, 2], K[:2, 2])


def test_a_pinhole_photo_of_the_same_size_is_not_touched() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    K = np.array([[50.0, 0, 23.5], [0, 50.0, 15.5], [0, 0, 1]])
    image, K_new = undistort_photo(rgb, K, np.zeros(4), size=(47, 31))
    assert np.array_equal(image, rgb) and np.array_equal(K_new, K)


def test_reduction_does_not_alias() -> None:
    """Stripes of two pixels, reduced fourfold through a lens, become grey and not a moire pattern."""
    rgb = np.zeros((480, 640, 3), np.uint8)
    rgb[:, ::2] = 255
    K = np.array([[600.0, 0, 320.0], [0, 600.0, 240.0], [0, 0, 1]])
    image, _ = undistort_photo(rgb, K, np.array([-0.1, 0, 0, 0]), size=(160, 120))
    assert np.abs(image.astype(float) - 127.5).max() < 4


def test_reduction_keeps_what_the_working_size_can_hold() -> None:
    """Reduction and straightening together blur no more than an area reduction: a period of 8 working pixels keeps its contrast."""
    K = np.array([[1200.0, 0, 600.0], [0, 1200.0, 450.0], [0, 0, 1]])
    frequency = 2 * np.pi / (8 / 400)
    for distortion in (np.zeros(4), np.array([-0.1, 0, 0, 0])):
        image, K_new = undistort_photo(taken(K, distortion, (1200, 900), frequency), K, distortion, size=(400, 300))
        expected = pattern(ideal_grid(K_new, (400, 300)), frequency)
        contrast = image[20:-20, 20:-20].astype(float).std() / expected[20:-20, 20:-20].std()
        # An exact box filter over one pixel of a period of eight keeps sinc(1/8) = .974.
        assert 0.93 < contrast < 1.02


def test_working_size() -> None:
    assert working_size(4000, 3000, 1600) == (1600, 1200)
    assert working_size(900, 1600, 800) == (450, 800)
    assert working_size(640, 480, 800) == (640, 480), "never enlarged"
    assert working_size(10_000, 3, 100) == (100, 1)
