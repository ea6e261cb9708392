"""From photos with cameras to points: choice of pairs, depth with and without a known scene, filters, voxels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from posed_scenes import BOARD, WALL, camera, look

from ltgs.core.cameras import Camera
from ltgs.depth.pairs import PairConfig, choose_stereo_pairs, judge_pair, sample_points
from ltgs.depth.points import PointsConfig, merge_voxels, stereo_points
from ltgs.depth.rectify import RectifiedPair
from ltgs.depth.types import Source
from ltgs.depth.views import discontinuity, measure_view
from ltgs.errors import InputError

FIRST = camera((0, 0, 0))
ROUND = {
    "right": camera((0.35, 0.02, 0.02)), "left": camera((-0.35, 0.0, 0.03)), "above": camera((0.02, -0.35, 0.0)),
    "below": camera((0.0, 0.33, 0.0)), "oblique": camera((0.25, -0.25, 0.05)),
}


def in_pixels(depth: np.ndarray, truth: np.ndarray, pair: RectifiedPair) -> np.ndarray:
    """Errors of depth as the disparity errors they come from."""
    return np.abs(1 / depth - 1 / truth) * pair.focal * pair.baseline


def on_surface(points: np.ndarray) -> np.ndarray:
    return np.minimum(np.abs(points[:, 2] - WALL), np.abs(points[:, 2] - BOARD))


@pytest.mark.parametrize("name", ROUND)
def test_depth_from_any_side(name: str) -> None:
    photo, truth, on_board = look(FIRST)
    other, _, _ = look(ROUND[name])
    view = measure_view((photo, other), (FIRST, ROUND[name]), depth_range=(2.5, 5.0))
    depth, source = view.at_view(FIRST)
    known = np.isfinite(depth)
    error = in_pixels(depth, truth, view.pair)
    assert known.mean() > 0.5 and np.median(error[known]) < 0.06 and (error[known] > 1).mean() < 0.02
    assert known[on_board].mean() > 0.6 and np.median(error[known & on_board]) < 0.1
    assert (source[~known] == Source.NONE).all() and (source[known] == Source.STEREO).all() and view.gap is None


def test_known_scene_helps_where_it_is_valid_and_not_where_it_changed() -> None:
    photo, truth, on_board = look(FIRST)
    other, _, _ = look(ROUND["right"])
    _, old, _ = look(FIRST, board=False)
    changed = np.zeros_like(on_board)
    rows, columns = np.nonzero(on_board)
    changed[rows.min() - 4 : rows.max() + 5, columns.min() - 4 : columns.max() + 5] = True
    views = {
        "none": measure_view((photo, other), (FIRST, ROUND["right"]), depth_range=(2.5, 5.0)),
        "masked": measure_view((photo, other), (FIRST, ROUND["right"]), depth=old, depth_valid=~changed),
        "stale": measure_view((photo, other), (FIRST, ROUND["right"]), depth=old),
    }
    inner = np.zeros_like(on_board)
    inner[rows.min() + 4 : rows.max() - 3, columns.min() + 4 : columns.max() - 3] = True
    found = {k: v.at_view(FIRST) for k, v in views.items()}
    for name, (depth, source) in found.items():
        assert np.nanmedian(in_pixels(depth, truth, views["none"].pair)[inner]) < 0.1, name
        assert (source[inner] == Source.STEREO).mean() > 0.85, name
    assert np.isfinite(found["masked"][0]).sum() > np.isfinite(found["none"][0]).sum() + 500
    assert views["masked"].gap is not None and views["masked"].gap < 0.5


def test_wrong_pose_is_noticed() -> None:
    photo, truth, _ = look(FIRST)
    other, _, _ = look(ROUND["right"])
    pose = ROUND["right"].cam_from_world.copy()
    pose[0, 3] += 0.08
    with pytest.raises(InputError, match="differ from the known depth by"):
        measure_view((photo, other), (FIRST, replace(ROUND["right"], cam_from_world=pose)), depth=truth)


def test_deviation_grows_with_the_square_of_depth() -> None:
    photo, _, _ = look(FIRST)
    other, _, _ = look(ROUND["right"])
    view = measure_view((photo, other), (FIRST, ROUND["right"]), depth_range=(2.5, 5.0))
    sure = np.isfinite(view.depth) & (view.confidence > 0.9)
    scale = view.sigma[sure] * view.confidence[sure] / view.depth[sure] ** 2
    assert np.allclose(scale, 0.25 / (view.pair.focal * view.pair.baseline), rtol=1e-4)


def test_discontinuities_are_both_sides_of_a_step() -> None:
    step = np.where(np.arange(20)[None] < 10, 5.0, 9.0).repeat(8, 0).astype(np.float32)
    assert np.array_equal(np.flatnonzero(discontinuity(step, 1.0)[4]), [9, 10])
    ramp = np.arange(20, dtype=np.float32)[None].repeat(8, 0)
    assert not discontinuity(0.9 * ramp, 1.0).any() and discontinuity(1.2 * ramp, 1.0).all()


def views_and_photos(names: tuple[str, ...] = ("right", "left")) -> tuple[list[Camera], list[np.ndarray], list[np.ndarray]]:
    cameras = [FIRST, *(ROUND[n] for n in names)]
    seen = [look(c) for c in cameras]
    return cameras, [s[0] for s in seen], [s[1] for s in seen]


def test_points_lie_on_the_surfaces() -> None:
    cameras, photos, _ = views_and_photos()
    found = stereo_points(photos, cameras, typical_depth=3.5)
    assert len(found) > 1500 and not found.refused and len(found.pairs) >= 4
    error = on_surface(found.xyz)
    assert np.median(error) < 0.02 and np.quantile(error, 0.98) < 0.15
    assert found.rgb.dtype == np.uint8 and len(found.rgb) == len(found.sigma) == len(found.support) == len(found)
    assert (found.support > 1).mean() > 0.3


def test_agreement_removes_what_one_photo_invents() -> None:
    """A patch that has slid sideways in one photo looks like another depth to the pairs with that photo only."""
    cameras, photos, _ = views_and_photos()
    photos[1][20:60, 66:126] = photos[1][20:60, 60:120].copy()
    wrong, kept = [], []
    for needed in (1, 2):
        found = stereo_points(photos, cameras, typical_depth=3.5, config=PointsConfig(min_agreement=needed, voxel=1e-6))
        wrong.append(int((on_surface(found.xyz) > 0.5).sum()))
        kept.append(len(found))
    assert wrong[0] > 200 and wrong[1] < 0.5 * wrong[0] and kept[1] > 0.6 * kept[0]


def test_only_wanted_pixels_become_points() -> None:
    cameras, photos, depths = views_and_photos()
    boards = [look(c)[2] for c in cameras]
    found = stereo_points(photos, cameras, depths=depths, depth_valid=[~b for b in boards], wheres=boards)
    assert len(found) > 80 and (np.abs(found.xyz[:, 2] - BOARD) < 0.15).mean() > 0.9


def test_tensors_groups_and_refusals() -> None:
    cameras, photos, depths = views_and_photos()
    tensors = [torch.from_numpy(p.astype(np.float32) / 255) for p in photos]
    grouped = stereo_points(tensors, cameras, typical_depth=3.5, groups=[0, 0, 1])
    assert {(p.first, p.second) for p in grouped.pairs} == {(0, 1), (1, 0)}
    alone = stereo_points(photos, cameras, typical_depth=3.5, groups=[0, 1, 2])
    assert len(alone) == 0 and alone.xyz.shape == (0, 3)
    pose = cameras[1].cam_from_world.copy()
    pose[0, 3] += 0.1
    moved = [cameras[0], replace(cameras[1], cam_from_world=pose)]
    refused = stereo_points(photos[:2], moved, depths=depths[:2])
    assert len(refused) == 0 and len(refused.refused) == 2 and "known depth" in refused.refused[0, 1]
    with pytest.raises(ValueError, match="typical_depth"):
        stereo_points(photos, cameras)
    with pytest.raises(ValueError, match="one entry per camera"):
        stereo_points(photos[:2], cameras, typical_depth=3.0)


def test_voxels_weigh_by_certainty() -> None:
    xyz = np.array([[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [5.0, 5, 5]])
    rgb = np.array([[0.0, 0, 0], [100, 100, 100], [7, 8, 9]])
    mean, colour, sigma, count = merge_voxels(xyz, rgb, np.array([0.1, 0.2, 0.5]), 1.0)
    assert mean[0, 0] == pytest.approx(0.14) and colour[0].tolist() == [20, 20, 20] and count.tolist() == [2, 1]
    assert sigma[0] == pytest.approx(1 / np.sqrt(125)) and sigma[1] == pytest.approx(0.5) and colour[1].tolist() == [7, 8, 9]


def test_pairs_by_angle_and_overlap() -> None:
    points = sample_points(FIRST, 3.5)
    assert 300 <= len(points) <= 400 and np.allclose(points[:, 2], 3.5)
    verdict = judge_pair(FIRST, ROUND["right"], points, PairConfig())
    assert verdict is not None and verdict[0] == pytest.approx(np.degrees(np.arctan2(0.35, 3.5)), rel=0.15) and verdict[1] > 0.8
    bad = {
        "too close together": camera((0.05, 0, 0)), "too far apart": camera((2.0, 0, 0)), "in front": camera((0.05, 0, 1.0)),
        "elsewhere": camera((0.3, 0, 0), target=(3.0, 0, 3.0)), "one place": FIRST,
    }
    for reason, other in bad.items():
        assert judge_pair(FIRST, other, points, PairConfig()) is None, reason
    cameras = [FIRST, ROUND["right"], camera((0.5, 0, 0)), camera((0.25, 0.1, 0))]
    chosen = choose_stereo_pairs(cameras, [3.5] * 4, config=PairConfig(partners=2))
    assert [p.first for p in chosen] == sorted(p.first for p in chosen) and max(np.bincount([p.first for p in chosen])) == 2
    assert chosen[0].score >= chosen[1].score
    where = np.zeros((180, 240), bool)
    assert choose_stereo_pairs([FIRST, ROUND["right"]], [3.5, 3.5], wheres=[where, where]) == []
