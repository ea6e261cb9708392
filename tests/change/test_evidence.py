"""The change score is measured against what was to be expected; masks are clean regions."""

import numpy as np

from ltgs.change.evidence import change_mask, change_score

SHAPE = (96, 128)


def cues(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([np.abs(rng.normal(0, 0.02, SHAPE)), np.abs(rng.normal(0, 0.12, SHAPE))], -1).astype(np.float32)


def expected(colour: float = 0.016, structure: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    mean = np.broadcast_to(np.float32([colour, structure]), (*SHAPE, 2)).copy()
    return mean, np.broadcast_to(np.float32([0.012, 0.07]), (*SHAPE, 2)).copy()


def test_noise_as_expected_is_no_change():
    score = change_score(cues(), *expected(), np.ones(SHAPE, np.float32))
    assert not change_mask(score).any()


def test_a_changed_block_is_found_with_its_extent():
    c = cues()
    c[30:60, 40:80] = [0.3, 0.9]
    mask = change_mask(change_score(c, *expected(), np.ones(SHAPE, np.float32)))
    truth = np.zeros(SHAPE, bool)
    truth[30:60, 40:80] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.8


def test_residual_that_was_there_while_training_is_not_a_change():
    """A reflection that moves with the camera left a high expected residual."""
    c = cues()
    c[30:60, 40:80] = [0.3, 0.9]
    mean, std = expected()
    mean[25:65, 35:85] = [0.2, 0.6]
    std[25:65, 35:85] = [0.1, 0.3]
    assert not change_mask(change_score(c, mean, std, np.ones(SHAPE, np.float32))).any()


def test_unknown_pixels_are_never_changed():
    c = cues()
    c[30:60, 40:80] = [0.3, 0.9]
    alpha = np.ones(SHAPE, np.float32)
    alpha[:, 30:90] = 0.2
    assert not change_mask(change_score(c, *expected(), alpha)).any()


def test_a_blurred_photo_raises_its_own_bar():
    c = cues()
    c[..., 1] += 0.35
    assert change_mask(change_score(c, *expected(), np.ones(SHAPE, np.float32))).mean() < 0.02


def test_specks_are_dropped():
    score = np.zeros((480, 640), np.float32)
    score[100:103, 100:103] = 5
    score[200:230, 200:230] = 5
    mask = change_mask(score)
    assert mask[215, 215] and not mask[101, 101]
