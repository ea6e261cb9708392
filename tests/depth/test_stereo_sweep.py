"""Depth from photos that stand far apart: orientations, occupancy, cross-check, points and seeds."""

from __future__ import annotations

import numpy as np
import pytest
from posed_scenes import BOARD, BOARD_X, BOARD_Y, WALL, camera, look

from ltgs.depth.paths import aggregate_paths
from ltgs.depth.seeds import SeedConfig, seed_object
from ltgs.depth.surfaces import SurfaceConfig, SurfaceDepth, looked_through, measure_surfaces, surface_points
from ltgs.depth.sweep import SweepConfig, SweepView, plane_normals, sweep_patch

CAMERAS = [camera((x, -0.3, 3.4 - np.sqrt(9 - x * x)), name=f"{x}") for x in (-1.5, 0.0, 1.5)]
"""Three photos on a circle of radius 3 around the board, 60 degrees from the first to the last."""
SEEN = [look(c) for c in CAMERAS]
EMPTY = [look(c, board=False)[1] for c in CAMERAS]


def views(*, known: bool = True) -> list[SweepView]:
    """The photos; with `known`, the wall without the board is the known scene and the board's pixels are unknown content."""
    return [
        SweepView(c, photo, board if known else None, empty if known else None)
        for c, (photo, _, board), empty in zip(CAMERAS, SEEN, EMPTY, strict=True)
    ]


BOARDS = [board for _, _, board in SEEN]
COARSE = SurfaceConfig(sweep=SweepConfig(max_pixels=500))


@pytest.fixture(scope="module")
def measured() -> list[SurfaceDepth]:
    """The board in all three photos."""
    return measure_surfaces(views(), BOARDS, config=SurfaceConfig(sweep=SweepConfig(max_pixels=1200)))


def test_surfaces_of_photos_thirty_and_sixty_degrees_apart(measured: list[SurfaceDepth]) -> None:
    for found, (_, truth, board) in zip(measured, SEEN, strict=True):
        assert found.measured[board].mean() > 0.9 and not found.measured[~board].any()
        error = np.abs(found.depth / truth - 1)[found.measured]
        assert np.median(error) < 0.004 and np.quantile(error, 0.95) < 0.02
        # Half a pixel is a cautious standard deviation.
        assert np.median(np.abs(found.depth - truth)[found.measured] / found.sigma[found.measured]) < 1
        assert (found.support[found.measured] > 0).mean() > 0.9 and (found.support[~found.measured] == 0).all()


def test_orientations_are_what_matches_slanted_surfaces() -> None:
    """The board is seen at 30 degrees from both sides: windows that face the photo are sheared in the other one."""
    median = []
    for tilts in ((0.0,), (0.0, 35.0)):
        found = sweep_patch(views()[0], views()[2:], BOARDS[0], farthest=4.0, config=SweepConfig(tilts=tilts, max_pixels=800))
        assert found is not None
        median.append(float(np.median(found.score[found.where])))
    assert median[1] > 0.8 and median[1] > median[0] + 0.05


def test_without_a_known_scene() -> None:
    (found, *_) = measure_surfaces(views(known=False), BOARDS, typical_depth=3.0, config=COARSE)
    error = np.abs(found.depth / SEEN[0][1] - 1)[found.measured]
    assert found.measured[BOARDS[0]].mean() > 0.7 and np.median(error) < 0.02
    with pytest.raises(ValueError, match="typical_depth"):
        measure_surfaces(views(known=False), BOARDS)


def test_known_content_elsewhere_means_empty_space() -> None:
    """Where the other photos show the known scene only, no depth is possible."""
    blind = [views()[0], *(SweepView(v.camera, v.rgb, np.zeros_like(BOARDS[0]), v.surface) for v in views()[1:])]
    assert sweep_patch(blind[0], blind[1:], BOARDS[0], farthest=4.0) is None


def test_what_only_one_photo_shows_is_not_measured() -> None:
    alone = camera((0, 0, 0.5), (5, 0, 0.6), name="aside")
    extra = SweepView(alone, look(alone)[0], None, look(alone)[1])
    assert not measure_surfaces([views()[1], extra], [BOARDS[1], np.zeros_like(BOARDS[1])])[0].measured.any()


def test_cross_check_removes_what_no_photo_confirms() -> None:
    """The last photo is noise: what it seems to measure is dropped, the others still confirm each other."""
    noise = np.random.default_rng(1).integers(0, 256, SEEN[2][0].shape).astype(np.uint8)
    spoilt = [*views()[:2], SweepView(CAMERAS[2], noise, BOARDS[2], EMPTY[2])]
    found = measure_surfaces(spoilt, BOARDS, config=COARSE)
    assert found[2].measured[BOARDS[2]].mean() < 0.15 and found[0].measured[BOARDS[0]].mean() > 0.7


def test_reduced_size_keeps_place() -> None:
    small = measure_surfaces(views(), BOARDS, config=COARSE)[1]
    error = np.abs(small.depth / SEEN[1][1] - 1)[small.measured]
    assert small.measured[BOARDS[1]].mean() > 0.7 and np.median(error) < 0.01


def test_points_lie_on_the_board_with_its_colours(measured: list[SurfaceDepth]) -> None:
    points = surface_points(views(), measured)
    low, high = np.quantile(points.xyz, (0.02, 0.98), axis=0)
    assert len(points) > 500 and np.allclose((low[:2] + high[:2]) / 2, (np.mean(BOARD_X), np.mean(BOARD_Y)), atol=0.03)
    assert np.median(np.abs(points.xyz[:, 2] - BOARD)) < 0.02
    tinted = surface_points(views(), measured, colours=[np.full(p.shape, 0.25) for p, _, _ in SEEN])
    assert np.allclose(tinted.rgb, 0.25, atol=0.01) and points.rgb.std() > 0.05
    assert int(points.support.sum()) > len(points) and (points.spacing > 0).all()
    half = points.merged(2 * float(points.spacing[0]))
    assert len(half) < 0.5 * len(points) and half.support.sum() == points.support.sum()
    none = surface_points(views(), measure_surfaces(views(), [np.zeros_like(b) for b in BOARDS]))
    assert len(none) == 0


def test_seeds_replace_the_hull_and_keep_its_hidden_side(measured: list[SurfaceDepth]) -> None:
    front = np.array([[0.05, 0.0, BOARD - 0.4], [0.0, 0.1, BOARD - 0.6]])
    surface = np.array([[0.05, 0.0, BOARD], [0.2, 0.1, BOARD]])
    behind = np.array([[0.05, 0.0, BOARD + 0.3]])
    hull = np.concatenate([front, surface, behind])
    assert (looked_through(front, views(), measured) >= 1).all() and (looked_through(behind, views(), measured) == 0).all()
    seeds = seed_object(views(), BOARDS, hull, config=SeedConfig(COARSE, max_points=300))
    assert 50 < len(seeds.points) <= 300 and seeds.points.shape == seeds.colours.shape and 0 < seeds.spacing < 0.2
    assert seeds.rest.tolist() == [False, False, False, False, True] and seeds.coverage > 0.7
    nothing = seed_object(views(), [np.zeros_like(b) for b in BOARDS], hull)
    assert len(nothing.points) == 0 and nothing.rest.all() and nothing.coverage == 0
    assert seeds.reliable(SeedConfig()) and not seeds.reliable(SeedConfig(min_coverage=1.01)) and not nothing.reliable(SeedConfig())


def test_normals_face_the_viewer() -> None:
    view = np.array([0.3, -0.2, 1.0])
    normals = plane_normals(view, (0.0, 50.0), 5)
    cosines = normals @ -view / np.linalg.norm(view)
    assert normals.shape == (6, 3) and np.allclose(np.linalg.norm(normals, axis=1), 1)
    assert np.allclose(cosines, [1, *[np.cos(np.radians(50))] * 5])


def test_paths_are_exact_on_a_row_and_stop_at_gaps() -> None:
    """Against the definition, on one row with three labels."""
    cost = np.random.default_rng(0).uniform(0, 1, (3, 1, 6)).astype(np.float32)
    where = np.array([[True, True, False, True, True, True]])
    small, large = 0.1, 0.25
    step = np.array([[0, small, large], [small, 0, small], [large, small, 0]], np.float32)
    sums = 2 * cost[:, 0].copy()
    for order in (range(6), range(5, -1, -1)):
        before, through = np.zeros(3), 0.0
        for k in order:
            before = cost[:, 0, k] + through * ((before[None] + step).min(1) - before.min())
            through = float(where[0, k])
            sums[:, k] += before
    assert np.allclose(aggregate_paths(cost, where, small, large)[:, 0], sums / 4, atol=1e-6)


def test_impossible_calls() -> None:
    nothing = np.zeros_like(BOARDS[0])
    with pytest.raises(ValueError, match="wanted"):
        sweep_patch(views()[0], views()[1:], nothing, farthest=WALL)
    with pytest.raises(ValueError, match="wheres"):
        measure_surfaces(views(), BOARDS[:2])
