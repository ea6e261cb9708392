"""Ordering maps: what a relative depth map says whatever its scale."""

from __future__ import annotations

import numpy as np
import pytest

from ltgs.depth.ordering import PUBLISHED_OFFSETS, ordering_agreement, ordering_map, ring_offsets


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)


def test_published_neighbourhood() -> None:
    assert len(PUBLISHED_OFFSETS) == 8
    assert set(PUBLISHED_OFFSETS) == {(-5, -5), (5, 5), (5, -5), (-5, 5), (-3, 0), (3, 0), (0, -3), (0, 3)}


@pytest.mark.parametrize("function", [lambda x: 3 * x + 7, np.exp, np.cbrt, lambda x: np.arctan(x) * 100])
@pytest.mark.parametrize("offsets", [PUBLISHED_OFFSETS, ring_offsets((1, 4))])
def test_hard_map_knows_order_only(values: np.ndarray, function, offsets) -> None:
    assert np.array_equal(ordering_map(values, offsets), ordering_map(function(values), offsets))


def test_codes_flip_under_negation(values: np.ndarray) -> None:
    values[3:9, 4:20] = 0.5
    for softness in (None, 1.0, 0.2):
        a, b = ordering_map(values, softness=softness), ordering_map(-values, softness=softness)
        assert np.allclose(a + b, 1, atol=1e-6)
    assert (ordering_map(values) == 0.5).any()


def test_one_means_that_the_neighbour_is_larger() -> None:
    ramp = np.repeat(np.arange(20, dtype=np.float32)[None], 10, 0)
    hard = ordering_map(ramp, ((0, 3), (0, -3), (3, 0)))
    assert (hard[0, :, :17] == 1).all() and (hard[1, :, 3:] == 0).all() and (hard[2] == 0.5).all()
    soft = ordering_map(ramp, ((0, 3),), softness=1.0)
    assert np.allclose(soft[0, :, :17], 1 / (1 + np.exp(-3.0)), atol=1e-6)


def test_soft_map_becomes_hard(values: np.ndarray) -> None:
    assert np.abs(ordering_map(values, softness=1e-6) - ordering_map(values)).max() < 1e-3


@pytest.mark.parametrize("call", [lambda: ring_offsets((0,)), lambda: ordering_map(np.zeros((4, 4), np.float32), softness=0.0)])
def test_impossible_settings(call) -> None:
    with pytest.raises(ValueError, match="must be"):
        call()


def test_agreement_counts_contradictions() -> None:
    step = np.where(np.arange(40)[None] < 20, 5.0, 15.0).repeat(30, 0).astype(np.float32)
    known = np.ones(step.shape, bool)
    offsets = ring_offsets((4,))
    same = ordering_agreement(step, known, step + 3, known, offsets=offsets, threshold=1.5)
    against = ordering_agreement(step, known, -step, known, offsets=offsets, threshold=1.5)
    flat = ordering_agreement(step, known, np.zeros_like(step), known, offsets=offsets, threshold=1.5)
    edge = (slice(5, 25), slice(16, 24))
    assert (same == 1).all() and (against[edge] == 0).all() and (flat[edge] == 0.5).all()
    assert (against[:, :10] == 1).all(), "pixels without a decided neighbour are not distrusted"
    nowhere = ordering_agreement(step, known, -step, np.zeros_like(known), offsets=offsets, threshold=1.5)
    assert (nowhere == 1).all()
