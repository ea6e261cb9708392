"""Matching, filling and fusion on made-up pairs with exact truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stereo_scenes import box_scene, pair_from_disparity

from ltgs.depth.arbitrate import advantage, correlation, warp_right
from ltgs.depth.fill import background_fill, near_edges, vote
from ltgs.depth.fuse import STRIP_PIXELS, match_stereo, strips
from ltgs.depth.matches import find_matches
from ltgs.depth.pictures import grey8, rgb8
from ltgs.depth.sgm import consistent, estimate_range, match_both_ways, match_one_way
from ltgs.depth.simulate import distorted_truth, stale_box
from ltgs.depth.types import DisparityRange, Source
from ltgs.errors import InputError

TRUTH, BOX = box_scene()
LEFT, RIGHT = pair_from_disparity(TRUTH)
SEARCH = DisparityRange(0, 32)


def bad(disparity: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None, limit: float = 1.0) -> float:
    wrong = ~(np.abs(disparity - truth) <= limit)
    return float(wrong.mean() if where is None else wrong[where].mean())


@pytest.mark.parametrize("shift", [0.0, 3.0, 7.0, 10.5, -4.0])
def test_plane_of_random_dots(shift: float) -> None:
    truth = np.full((60, 150), shift, np.float32)
    left, right = pair_from_disparity(truth)
    found = match_both_ways(grey8(left), grey8(right), DisparityRange(-8 if shift < 0 else 0, 16 if shift < 0 else 24))
    inner = np.zeros(truth.shape, bool)
    inner[8:-8, 30:-30] = True
    assert found.consistent[inner].mean() > 0.98
    # At half a pixel the parabola through three integer costs leans towards whole pixels.
    assert np.median(np.abs(found.left - shift)[inner & found.consistent]) <= (1 / 4 if shift % 1 else 1 / 8)


def test_right_view_is_the_mirrored_problem() -> None:
    left, right = grey8(LEFT), grey8(RIGHT)
    both = match_both_ways(left, right, SEARCH)
    mirrored = match_one_way(np.ascontiguousarray(right[:, ::-1]), np.ascontiguousarray(left[:, ::-1]), SEARCH)
    assert np.array_equal(both.right, mirrored[:, ::-1], equal_nan=True)
    # The box appears 20 pixels farther left in the right view.
    columns = np.flatnonzero(BOX[60])
    inner = both.right[40:80, columns[0] - 20 + 6 : columns[-1] - 20 - 6]
    assert np.nanmedian(inner) == pytest.approx(20, abs=0.1) and np.isfinite(inner).mean() > 0.95


def test_check_of_both_directions() -> None:
    forward = np.full((4, 20), 5.0, np.float32)
    backward = np.full((4, 20), 5.0, np.float32)
    backward[:, 3] = 9.0
    kept = consistent(forward, backward)
    assert not kept[:, :5].any(), "the match lies outside"
    assert not kept[:, 8].any(), "the match points elsewhere"
    assert kept[:, 9:].all()


def test_range_is_found_without_the_truth() -> None:
    left, right = grey8(LEFT), grey8(RIGHT)
    found = estimate_range(left, right, find_matches(left, right))
    assert found.low <= 8 and found.high > 20 and len(found) <= 64
    truth = np.full((120, 200), -6.0, np.float32)
    truth[30:90, 60:140] = 9
    a, b = (grey8(p) for p in pair_from_disparity(truth, seed=7))
    shifted = estimate_range(a, b, find_matches(a, b))
    assert shifted.low <= -6 and shifted.high > 9


def test_without_prior() -> None:
    result = match_stereo(LEFT, RIGHT)
    assert result.valid.all() and np.isfinite(result.disparity).all() and result.a is None
    assert bad(result.disparity, TRUTH) < 0.05
    assert set(np.unique(result.source)) <= {Source.STEREO, Source.FILLED}
    assert result.confidence[result.source == Source.FILLED].max() < result.confidence[result.source == Source.STEREO].min()
    assert result.confidence.min() >= 0 and result.confidence.max() <= 1


def test_occlusion_lies_left_of_the_box() -> None:
    result = match_stereo(LEFT, RIGHT, disparity_range=SEARCH)
    columns = np.flatnonzero(BOX[60])
    hidden = result.occlusion[35:85, columns[0] - 12 : columns[0]]
    assert hidden.mean() > 0.7
    assert result.occlusion[:, :8].mean() > 0.9, "the right photo does not show this band"
    assert result.occlusion[35:85, columns[0] + 6 : columns[-1] - 4].mean() < 0.05


@pytest.mark.parametrize("form", ["grey", "channel", "alpha", "uint16", "float", "tensor", "odd"])
def test_forms_of_photos(form: str) -> None:
    def change(p: np.ndarray):
        if form == "odd":
            return p[:-3, :-5]
        return {
            "grey": lambda: p[..., 0], "channel": lambda: p[..., :1], "alpha": lambda: np.dstack([p, np.zeros(p.shape[:2], np.uint8)]),
            "uint16": lambda: p.astype(np.uint16) * 257, "float": lambda: p.astype(np.float64) / 255,
            "tensor": lambda: torch.from_numpy(p.astype(np.float32) / 255),
        }[form]()

    truth = TRUTH[:-3, :-5] if form == "odd" else TRUTH
    assert bad(match_stereo(change(LEFT), change(RIGHT), disparity_range=SEARCH).disparity, truth) < 0.06


@pytest.mark.parametrize("image, reason", [
    (np.zeros((20, 20, 2), np.uint8), "shape"), (np.zeros((8, 40), np.uint8), "too few"), (np.full((20, 20), 7.0), "within"),
    (np.full((20, 20), np.nan), "finite"), (np.zeros((20, 20), np.int32), "uint8"),
])
def test_unusable_photos_are_named(image: np.ndarray, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as raised:
        rgb8(image, "left photo")
    assert "left photo" in str(raised.value)


def test_different_sizes_and_places_are_refused() -> None:
    with pytest.raises(InputError, match="differ in size"):
        match_stereo(LEFT, RIGHT[:, :-4])
    with pytest.raises(InputError, match="prior has shape"):
        match_stereo(LEFT, RIGHT, prior=np.ones((5, 5)))
    elsewhere, _ = pair_from_disparity(TRUTH, seed=50)
    with pytest.raises(InputError, match="same place"):
        match_stereo(elsewhere, RIGHT)
    with pytest.raises(InputError, match="same place"):
        match_stereo(np.full_like(LEFT, 128), RIGHT, disparity_range=SEARCH)


def test_prior_fills_what_the_photos_do_not_show() -> None:
    prior = distorted_truth(TRUTH, seed=2)
    plain, fused = match_stereo(LEFT, RIGHT), match_stereo(LEFT, RIGHT, prior=prior)
    assert fused.a is not None and fused.b is not None and (fused.source == Source.PRIOR).any()
    assert bad(fused.disparity, TRUTH, limit=2.0) < 0.02
    assert np.abs(fused.disparity - TRUTH).mean() < np.abs(plain.disparity - TRUTH).mean()


def test_affine_form_of_the_prior_does_not_matter() -> None:
    prior = distorted_truth(TRUTH, seed=2)
    first = match_stereo(LEFT, RIGHT, prior=prior).disparity
    second = match_stereo(LEFT, RIGHT, prior=1e-3 * prior - 4).disparity
    assert np.quantile(np.abs(first - second), 0.99) < 0.2


def test_a_changed_place_never_pulls_a_new_object_to_the_old_depth() -> None:
    """The prior still shows the wall where the box now stands; nobody says so, or a change mask does."""
    old = np.full_like(TRUTH, 8.0) + np.linspace(0, 3, TRUTH.shape[1], dtype=np.float32)[None]
    truth = np.where(BOX, TRUTH, old).astype(np.float32)
    left, right = pair_from_disparity(truth, seed=3)
    inner = np.zeros_like(BOX)
    inner[36:84, 86:134] = True
    assert (inner & ~BOX).sum() == 0
    plain = match_stereo(left, right, disparity_range=SEARCH)
    fused = match_stereo(left, right, prior=0.1 * old, disparity_range=SEARCH)
    told = match_stereo(left, right, prior=0.1 * old, prior_valid=~BOX, disparity_range=SEARCH)
    for result in (fused, told):
        assert bad(result.disparity, truth, inner) <= bad(plain.disparity, truth, inner) + 0.02
        assert (result.source[inner] == Source.PRIOR).mean() < 0.02
        assert bad(result.disparity, truth, ~BOX, limit=2.0) < 0.06


def test_a_right_prior_wins_where_there_is_no_texture() -> None:
    """A flat board hides the box's middle from matching; the prior knows it."""
    left, right = LEFT.copy(), RIGHT.copy()
    columns = np.flatnonzero(BOX[60])
    rows = slice(45, 75)
    left[rows, columns[0] + 10 : columns[0] + 50] = 120
    right[rows, columns[0] - 10 : columns[0] + 30] = 120
    fused = match_stereo(left, right, prior=0.3 * TRUTH + 1, disparity_range=SEARCH)
    assert bad(fused.disparity[rows, columns[0] + 12 : columns[0] + 48], TRUTH[rows, columns[0] + 12 : columns[0] + 48]) < 0.05


def test_prior_the_wrong_way_round_is_refused() -> None:
    with pytest.raises(InputError, match="larger = nearer"):
        match_stereo(LEFT, RIGHT, prior=1 / TRUTH)


def test_settings_of_gaps() -> None:
    values = np.array([[np.nan, 4, np.nan, 9, np.nan], [np.nan] * 5], np.float32)
    filled = background_fill(values, np.isfinite(values))
    assert filled[0].tolist() == [4, 4, 4, 9, 9] and (filled[1] == 6.5).all()
    with pytest.raises(ValueError, match="at least one"):
        background_fill(values, np.zeros(values.shape, bool))


def test_votes_follow_colour() -> None:
    rgb = np.zeros((30, 30, 3), np.uint8)
    rgb[:, 15:] = 200
    values = np.where(np.arange(30)[None] < 17, 5.0, 20.0).repeat(30, 0).astype(np.float32)
    where = near_edges(values)
    assert where[:, 15:21].all() and not where[:, :10].any()
    straight = vote(values, rgb, where)
    assert (straight[5:-5, 15:] == 20).all() and (straight[5:-5, :15] == 5).all()
    assert np.array_equal(vote(values, rgb, np.zeros_like(where)), values)


def test_photos_decide_between_two_maps() -> None:
    left, right = grey8(LEFT), grey8(RIGHT)
    wrong = np.where(BOX, 8.0, TRUTH).astype(np.float32)
    evidence = advantage(left, right, TRUTH, wrong, np.ones_like(BOX))
    inner = (slice(36, 84), slice(86, 134))
    assert evidence[inner].min() > 0.05
    assert np.abs(advantage(left, right, TRUTH, TRUTH, np.ones_like(BOX))).max() < 1e-4
    assert np.median(correlation(left, right, TRUTH)[inner]) > 0.95 > np.median(correlation(left, right, wrong)[inner])


def test_evidence_ignores_exposure() -> None:
    left, right = grey8(LEFT), grey8(RIGHT)
    dim = np.clip(np.rint(0.6 * right + 20.0), 0, 255).astype(np.uint8)
    wrong = np.where(BOX, 8.0, TRUTH).astype(np.float32)
    assert advantage(left, dim, TRUTH, wrong, np.ones_like(BOX))[36:84, 86:134].min() > 0.05


def test_warp_moves_right_to_left() -> None:
    right = np.zeros((5, 20), np.float32)
    right[:, 4] = 1
    assert (warp_right(right, np.full((5, 20), 3.0, np.float32)).argmax(1) == 7).all()


def test_strips_cover_all_rows_once() -> None:
    for height, width in ((50, 60), (3000, 4000), (4001, 3000)):
        rows = [np.arange(height)[outer][core] for outer, core in strips(height, width)]
        assert np.array_equal(np.concatenate(rows), np.arange(height))
        assert all((o.stop - o.start - 128) * width <= STRIP_PIXELS + width for o, _ in strips(height, width))


def test_strips_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, _ = box_scene(200, 160)
    left, right = pair_from_disparity(truth, seed=5)
    prior = distorted_truth(truth, seed=1)
    whole = match_stereo(left, right, prior=prior, disparity_range=SEARCH)
    monkeypatch.setattr("ltgs.depth.fuse.STRIP_PIXELS", 200 * 160 // 3 + 1)
    pieces = match_stereo(left, right, prior=prior, disparity_range=SEARCH)
    assert len(strips(200, 160)) == 3
    assert (np.abs(whole.disparity - pieces.disparity) > 0.5).mean() < 0.01


def test_simulated_faults_keep_order_and_move_the_box() -> None:
    prior = distorted_truth(TRUTH, seed=9)
    assert np.array_equal(prior, distorted_truth(TRUTH, seed=9)) and not np.array_equal(prior, distorted_truth(TRUTH, seed=8))
    assert prior[60, 110] > prior[60, 20]
    stale, box = stale_box(prior)
    assert np.array_equal(stale[~box], prior[~box]) and stale[box].max() < prior[box].min() + prior.std()
