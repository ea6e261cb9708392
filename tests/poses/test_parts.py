"""Features, matching, pair choice, gauge and alignment on their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltgs.core.se3 import so3_exp
from ltgs.errors import InputError
from ltgs.poses.align import align_cameras, pose_errors
from ltgs.poses.features import (
    FeatureConfig,
    PhotoFeatures,
    PhotoInput,
    config_key,
    extract_features,
    load_arrays,
    photo_features,
    root_sift,
    save_arrays,
)
from ltgs.poses.gauge import MEDIAN_DEPTH, Similarity, camera_center, normalising_similarity, up_direction
from ltgs.poses.matching import MatchConfig, choose_pairs, match_descriptors, preview_scores, unit_descriptors

from .conftest import FirstVisit
from .place import arc, look_at, texture


def test_keypoints_sit_at_pixel_centres_plus_half() -> None:
    """A round blob drawn at a known place is found there, in original pixels, with and without reduction."""
    for side, limit in ((200, 1600), (800, 200)):
        v, u = np.mgrid[0:side, 0:side] + 0.5
        center, sigma = np.array([0.43, 0.61]) * side, 0.03 * side
        blob = 40 + 180 * np.exp(-((u - center[0]) ** 2 + (v - center[1]) ** 2) / (2 * sigma**2))
        rgb = np.repeat(blob[..., None], 3, 2).astype(np.uint8)
        found = extract_features(rgb, FeatureConfig(max_long_side=limit))
        assert len(found) > 0
        distance = np.linalg.norm(found.xy - center, axis=1)
        # Measured .05 detection pixels at 200 px.
        assert distance.min() < 0.15 * side / min(side, limit)


def test_keypoints_are_bounded_spread_and_repeatable() -> None:
    rgb = texture(1, 512).copy()
    rgb[:, 256:] = (rgb[:, 256:].astype(int) - 128) // 8 + 128
    config = FeatureConfig(max_keypoints=300)
    first, second = extract_features(rgb, config), extract_features(rgb, config)
    assert len(first) == 300 and np.array_equal(first.xy, second.xy) and np.array_equal(first.descriptors, second.descriptors)
    weak_half = np.mean(first.xy[:, 0] > 256)
    assert 0.15 < weak_half < 0.6, "the low-contrast half keeps its share"
    assert (first.xy >= 0).all() and (first.xy <= 512).all()


def test_photos_without_texture_or_size_have_no_keypoints() -> None:
    for shape in ((240, 320, 3), (1, 1, 3), (3, 900, 3)):
        found = extract_features(np.full(shape, 77, np.uint8), FeatureConfig())
        assert len(found) == 0 and found.descriptors.shape == (0, 128) and (found.height, found.width) == shape[:2]


def test_root_sift_is_a_unit_vector_in_bytes() -> None:
    rows = root_sift(np.random.default_rng(0).gamma(0.5, 30, (50, 128)).astype(np.float32))
    assert rows.dtype == np.uint8 and np.allclose(np.linalg.norm(rows.astype(float), axis=1), 512, rtol=0.03)
    assert np.array_equal(root_sift(np.zeros((1, 128), np.float32)), np.zeros((1, 128), np.uint8))


def test_cache_files_are_whole_or_absent(tmp_path) -> None:
    path = tmp_path / "deep" / "a.npz"
    arrays = {"a": np.arange(5), "b": np.ones((2, 3), np.float32)}
    save_arrays(path, arrays)
    loaded = load_arrays(path)
    assert loaded is not None and all(np.array_equal(loaded[k], arrays[k]) for k in arrays)
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]
    data = path.read_bytes()
    for cut in (0, 10, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:cut])
        assert load_arrays(path) is None
    assert load_arrays(tmp_path / "none.npz") is None


def test_objects_in_a_cache_file_are_not_executed(tmp_path) -> None:
    path = tmp_path / "evil.npz"
    np.savez(path, a=np.array([{"x": 1}], dtype=object))
    assert load_arrays(path) is None


def test_features_are_cached_by_hash_and_settings(first_visit: FirstVisit, tmp_path) -> None:
    photo = first_visit.photos[0]
    a = photo_features(photo, tmp_path, FeatureConfig(max_keypoints=100))
    photo_features(photo, tmp_path, FeatureConfig(max_keypoints=120))
    assert len(list(tmp_path.glob("*.npz"))) == 2
    moved = PhotoInput("other/name.png", tmp_path / "gone.png", photo.sha256, 320, 240)
    b = photo_features(moved, tmp_path, FeatureConfig(max_keypoints=100))
    assert np.array_equal(a.xy, b.xy), "the cache answers without the file"
    with pytest.raises(InputError):
        photo_features(moved, None, FeatureConfig())
    assert config_key(FeatureConfig()) == config_key(FeatureConfig()) != config_key(FeatureConfig(max_keypoints=1))


def brute_force(a: np.ndarray, b: np.ndarray, ratio: float, angle: float) -> list[tuple[int, int]]:
    distance = np.sqrt(np.maximum(2 - 2 * a @ b.T, 0))
    out = []
    for i in range(len(a)):
        order = np.argsort(distance[i])
        j = order[0]
        lowest = distance[:, j].min()
        if distance[i, j] < ratio * distance[i, order[1]] and a[i] @ b[j] >= np.cos(angle) and distance[i, j] <= lowest + 1e-9:
            out.append((i, int(j)))
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 40))
def test_matching_equals_brute_force(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, 128))
    b = np.concatenate([a[rng.permutation(n)[: m // 2]] + rng.normal(0, 0.4, (min(n, m // 2), 128)), rng.normal(size=(m, 128))])
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    got = match_descriptors(torch.tensor(a), torch.tensor(b), max_ratio=0.8, max_angle_rad=0.7)
    assert [tuple(map(int, r)) for r in got] == brute_force(a, b, 0.8, 0.7)
    assert got.dtype == np.uint32


def test_matching_of_nothing() -> None:
    none, one = torch.zeros(0, 128), unit_descriptors(np.full((1, 128), 45, np.uint8))
    for a, b in ((none, one), (one, none), (one, one), (none, none)):
        assert match_descriptors(a, b, max_ratio=0.8, max_angle_rad=0.7).shape == (0, 2)
    assert preview_scores(none, torch.zeros(3, 4, 128)).tolist() == [0, 0, 0]
    assert preview_scores(one, torch.zeros(0, 4, 128)).shape == (0,)


def chain_features(count: int) -> dict[str, PhotoFeatures]:
    """Photos along a walk: each shares half of its keypoints with the next."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, 60, (count * 20 + 40, 128)).astype(np.uint8)
    out = {}
    for i in range(count):
        rows = words[i * 20 : i * 20 + 40]
        zeros = np.zeros((len(rows), 2), np.float32)
        out[f"p{i:03d}"] = PhotoFeatures(zeros, np.arange(len(rows), dtype=np.float32), rows, np.zeros((len(rows), 3), np.uint8), 9, 9)
    return out


def test_pairs_all_for_few_photos_and_bounded_for_many() -> None:
    few = chain_features(5)
    assert len(choose_pairs(list(few), few, MatchConfig())) == 10
    many = chain_features(40)
    shuffled = list(np.random.default_rng(1).permutation(list(many)))
    config = MatchConfig(exhaustive_up_to=10, neighbours=4, sequence_neighbours=1)
    pairs = choose_pairs(shuffled, many, config)
    assert pairs == sorted(set(pairs)) and all(i < j for i, j in pairs) and len(pairs) <= 40 * 5
    named = {frozenset((shuffled[i], shuffled[j])) for i, j in pairs}
    overlapping = {frozenset((f"p{i:03d}", f"p{i + 1:03d}")) for i in range(39)}
    assert overlapping <= named, "every overlapping pair is found by looks, whatever the order of names"


def test_upright_and_sized_gauge() -> None:
    poses = np.stack(arc(6))
    xyz = np.random.default_rng(0).uniform(-2, 2, (501, 3))
    tilt = so3_exp(torch.tensor([0.5, -0.9, 0.3], dtype=torch.float64)).numpy()
    hidden = Similarity(0.3, tilt, np.array([5.0, -2.0, 9.0]))
    moved = np.stack([hidden.camera(p) for p in poses])
    assert up_direction(moved) @ (tilt @ [0, 0, 1]) > 0.9999
    gauge = normalising_similarity(moved, hidden.points(xyz), 1.5)
    assert gauge.scale == pytest.approx(MEDIAN_DEPTH / 1.5)
    assert np.allclose(gauge.rotation @ gauge.rotation.T, np.eye(3)) and np.linalg.det(gauge.rotation) > 0
    assert np.allclose(np.median(gauge.points(hidden.points(xyz)), axis=0), 0, atol=1e-9)
    flat = np.stack([gauge.camera(p) for p in moved])
    assert np.allclose(flat[:, 0, 2], 0, atol=1e-6) and (flat[:, 1, 2] < 0).all(), "x axes level, image down is world down"


def test_up_of_one_camera_and_of_cameras_looking_straight_down() -> None:
    one = look_at((2.0, 1.0, 1.0))[None]
    assert up_direction(one) @ -one[0, 1, :3] == pytest.approx(1)
    down = np.eye(4)
    down[:3, :3] = np.diag([1.0, -1.0, -1.0])
    gauge = normalising_similarity(np.stack([down, down]), np.eye(3), 2.0)
    assert np.isfinite(gauge.rotation).all() and np.linalg.det(gauge.rotation) == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_alignment_recovers_any_similarity(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    poses = {f"{i}": p for i, p in enumerate(arc(5, *sorted(rng.uniform(0.05, 0.95, 2)) if seed % 2 else (0.1, 0.9)))}
    hidden = Similarity(scale, so3_exp(torch.tensor(rng.normal(size=3))).numpy(), rng.normal(size=3) * 10)
    moved = {n: hidden.camera(p) for n, p in poses.items()}
    for n, p in poses.items():
        assert np.allclose(camera_center(moved[n]), hidden.points(camera_center(p)[None])[0])
    found = align_cameras(poses, moved)
    assert found.scale == pytest.approx(scale, rel=1e-3)
    errors = pose_errors(poses, moved)
    assert errors.center.max() < 1e-4 * errors.extent and errors.rotation_deg.max() < 0.05


def test_alignment_refuses_what_is_undetermined() -> None:
    line = {f"{i}": look_at((3 + i, 3 + i, 1.6), (9 + i, 3 + i, 1)) for i in range(4)}
    with pytest.raises(InputError, match="one line"):
        align_cameras(line, line)
    with pytest.raises(InputError, match="at least 3"):
        align_cameras({"a": np.eye(4)}, {"a": np.eye(4)})
    with pytest.raises(InputError, match="No photo"):
        pose_errors({"a": np.eye(4)}, {"b": np.eye(4)})


def test_errors_are_measured_in_degrees_and_units() -> None:
    truth = {f"{i}": p for i, p in enumerate(arc(4))}
    turned = dict(truth)
    turn = np.eye(4)
    turn[:3, :3] = so3_exp(torch.tensor([0.0, 0.0, np.radians(2.0)], dtype=torch.float64)).numpy()
    turned["1"] = turn @ truth["1"]
    shifted = truth["2"].copy()
    shifted[:3, 3] -= shifted[:3, :3] @ [0.3, 0, 0]
    turned["2"] = shifted
    errors = pose_errors(turned, truth, align=False)
    assert errors.rotation_deg == pytest.approx([0, 2, 0, 0], abs=1e-4) and errors.center == pytest.approx([0, 0, 0.3, 0], abs=1e-9)


def test_nearest_photos_of_a_long_list_cost_little_more_and_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from ltgs.poses import matching

    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(200, 256, 128)).astype(np.float32)).abs()
    stack = rows / rows.norm(dim=2, keepdim=True)
    query = stack[0].clone()
    overlap = {40: 200, 150: 128, 7: 96, 199: 64}
    for photo, shared in overlap.items():
        # Every second keypoint, so that the largest ones are among the shared ones.
        chosen = torch.arange(256)[torch.argsort(torch.arange(256) % 2, stable=True)][:shared]
        stack[photo, chosen] = query[chosen]
    stack[0] = stack[1].flip(1)
    compared = []
    whole = matching.preview_scores
    monkeypatch.setattr(matching, "preview_scores", lambda q, s, **k: compared.append(len(q) * s.shape[0] * s.shape[1]) or whole(q, s, **k))
    full = matching.nearest_photos(query, stack, 4, shortlist=200)
    exhaustive = sum(compared)
    compared.clear()
    short = matching.nearest_photos(query, stack, 4, shortlist=20)
    assert full.tolist() == short.tolist() == [40, 150, 7, 199]
    assert exhaustive == 256 * 256 * 200 and sum(compared) == 256 * 256 * 20 + 64 * 64 * 200


def test_nearest_photos_of_nothing() -> None:
    from ltgs.poses.matching import nearest_photos

    assert nearest_photos(torch.zeros(0, 128), torch.zeros(5, 4, 128), 3, shortlist=2).tolist() == [0, 1]
    assert nearest_photos(torch.zeros(4, 128), torch.zeros(0, 4, 128), 3, shortlist=2).tolist() == []
