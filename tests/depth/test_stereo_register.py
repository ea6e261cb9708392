"""Registration: exact on clean data, unmoved by outliers, local where the truth is local."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ltgs.depth.register import RegisterConfig, fit_line, register_prior

HEIGHT, WIDTH = 150, 200


@pytest.fixture
def prior() -> np.ndarray:
    rng = np.random.default_rng(3)
    coarse = cv2.resize(rng.uniform(0, 1, (6, 8)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return (coarse + 0.05 * rng.normal(size=coarse.shape)).astype(np.float32)


KNOWN = np.ones((HEIGHT, WIDTH), bool)


@pytest.mark.parametrize("a, b", [(40.0, 5.0), (0.02, -3.0), (4e4, 1e3)])
def test_exact_without_noise(prior: np.ndarray, a: float, b: float) -> None:
    found = register_prior(a * prior + b, KNOWN, prior, KNOWN)
    assert np.allclose(found.a, a, rtol=1e-3) and np.allclose(found.b, b, atol=2e-3 * abs(a))
    assert np.abs(found.apply(prior) - (a * prior + b)).max() < 1e-3 * max(1, abs(a) / 40)


def test_any_affine_form_of_the_prior_gives_the_same(prior: np.ndarray) -> None:
    truth = 40 * prior + 5 + 2 * np.sin(np.arange(WIDTH) / 30)[None].astype(np.float32)
    first = register_prior(truth, KNOWN, prior, KNOWN).apply(prior)
    other = (0.001 * prior - 8).astype(np.float32)
    assert np.abs(register_prior(truth, KNOWN, other, KNOWN).apply(other) - first).max() < 0.1


def test_survives_outliers(prior: np.ndarray) -> None:
    rng = np.random.default_rng(4)
    truth = 40 * prior + 5
    wrong = rng.uniform(size=truth.shape) < 0.3
    matched = np.where(wrong, rng.uniform(0, 80, truth.shape), truth).astype(np.float32)
    error = np.abs(register_prior(matched, KNOWN, prior, KNOWN).apply(prior) - truth)
    assert np.median(error) < 0.1 and np.quantile(error, 0.99) < 1.0


def test_line_survives_a_third_of_gross_outliers() -> None:
    rng = np.random.default_rng(5)
    x = rng.uniform(0, 1, 3000).astype(np.float32)
    y = 30 * x + 4 + 0.05 * rng.normal(size=3000)
    y[:1000] = 5 + 2 * rng.normal(size=1000)
    a, b = fit_line(x, y.astype(np.float32))
    assert abs(a - 30) < 0.1 and abs(b - 4) < 0.1


def test_constant_prior_has_no_slope() -> None:
    assert fit_line(np.ones(10, np.float32), np.arange(10, dtype=np.float32)) == (0.0, 4.5)
    with pytest.raises(ValueError, match="at least 2"):
        fit_line(np.ones(1, np.float32), np.ones(1, np.float32))


def test_two_regions_with_fields_of_their_own(prior: np.ndarray) -> None:
    left = np.arange(WIDTH)[None].repeat(HEIGHT, 0) < WIDTH // 2
    truth = np.where(left, 40 * prior + 5, 48 * prior + 2).astype(np.float32)
    one = fit_line(prior.ravel(), truth.ravel())
    local = np.abs(register_prior(truth, KNOWN, prior, KNOWN).apply(prior) - truth)
    single = np.abs(one[0] * prior + one[1] - truth)
    inner = np.abs(np.arange(WIDTH) - WIDTH // 2) > 12
    assert max(single[:, : WIDTH // 2].mean(), single[:, WIDTH // 2 :].mean()) > 1.0
    assert local[:, inner].mean() < 0.1


def test_coherent_errors_of_the_match_do_not_pull_it(prior: np.ndarray) -> None:
    """A large flat error whose order contradicts the prior is what fooled windows without the ordering gate."""
    truth = 60 * prior + 5
    matched = truth.copy()
    matched[40:110, 60:130] = truth[40:110, 60:130].mean() - 18 * (prior[40:110, 60:130] - prior[40:110, 60:130].mean())
    gated = register_prior(matched, KNOWN, prior, KNOWN).apply(prior)
    free = register_prior(matched, KNOWN, prior, KNOWN, config=RegisterConfig(first_gate=-1.0, second_gate=-1.0)).apply(prior)
    inside = (slice(45, 105), slice(65, 125))
    assert np.abs(gated - truth)[inside].mean() < 0.75 * np.abs(free - truth)[inside].mean()


def test_gaps_are_extrapolated(prior: np.ndarray) -> None:
    truth = 40 * prior + 5
    known = KNOWN.copy()
    known[:, 60:140] = False
    found = register_prior(np.where(known, truth, np.nan).astype(np.float32), known, prior, KNOWN).apply(prior)
    assert np.abs(found - truth)[:, 60:140].max() < 0.5


def test_refusals(prior: np.ndarray) -> None:
    few = np.zeros_like(KNOWN)
    few[0, :10] = True
    with pytest.raises(ValueError, match="30 pixels"):
        register_prior(prior, few, prior, KNOWN)
    with pytest.raises(ValueError, match="larger = nearer"):
        register_prior(40 - 30 * prior, KNOWN, prior, KNOWN)


def test_gaps_continue_the_drift_of_the_prior() -> None:
    """A prior whose scale drifts across the photo, and a band at its left that only one camera sees."""
    rows, columns = np.mgrid[0:120, 0:240].astype(np.float32)
    disparity = 30 + 4 * np.sin(rows / 15) + 0.02 * columns
    drifting = disparity * (1 + 0.0012 * columns)
    seen = columns >= 48
    found = register_prior(disparity, seen, drifting, np.ones_like(seen))
    error = np.abs(found.apply(drifting) - disparity)
    # Half a pixel where the prior itself moved by 1.7 pixels beyond the last match.
    assert error[seen].max() < 0.25 and error[~seen].mean() < 0.3 and error[~seen].max() < 0.9
