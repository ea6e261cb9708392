from __future__ import annotations

from dataclasses import replace

import numpy as np
import pycolmap
import pytest
import torch

from ltgs.core.se3 import se3_exp
from ltgs.errors import FormatError
from ltgs.poses.align import align_cameras, pose_errors
from ltgs.poses.features import FeatureConfig, PhotoInput
from ltgs.poses.localize import LocalizeConfig, center_covariance, localize_photos, pose_covariance
from ltgs.poses.map import LocalizationMap
from ltgs.poses.mapping import wild_camera

from .conftest import FirstVisit
from .place import Place, arc, look_at, shoot

CONFIG = LocalizeConfig(features=FeatureConfig(max_keypoints=800))


@pytest.fixture(scope="module")
def later(first_visit: FirstVisit):
    """Three photos between the poses of the first visit, by the same lens."""
    return shoot(Place(), first_visit.folder / "t1", [look_at((3.6, 2.2, 1.5)), *arc(2, 0.3, 0.62, 2.9)], k1=-0.1)


def in_truth(first_visit: FirstVisit, found) -> dict[str, np.ndarray]:
    estimated = {n: p.cam_from_world for n, p in first_visit.result.posed.items()}
    gauge = align_cameras(estimated, first_visit.truth)
    return {f.localization.name: gauge.camera(f.posed.cam_from_world) for f in found if f.posed is not None}


def test_later_photos_are_placed(first_visit: FirstVisit, later) -> None:
    photos, truth = later
    before = first_visit.result.map.to_tensors()
    found = localize_photos(first_visit.result.map, photos, config=CONFIG)
    assert [f.localization.name for f in found] == [p.name for p in photos]
    for f in found:
        assert f.localization.num_inliers > 100 and f.localization.inlier_ratio > 0.5
        assert f.localization.reason == "known camera"
        assert np.array_equal(f.posed.cam_from_world, f.localization.cam_from_world)
        assert np.linalg.eigvalsh(f.localization.covariance).min() > 0
    errors = pose_errors(in_truth(first_visit, found), truth, align=False)
    # Measured up to .012 units and .2 degrees, most of it the alignment of the first visit itself.
    assert errors.center.max() < 0.05 and errors.rotation_deg.max() < 0.5
    after = first_visit.result.map.to_tensors()
    assert all(torch.equal(before[k], after[k]) for k in before), "the base never moves"


def test_an_unknown_lens_is_fitted_once_for_the_visit(first_visit: FirstVisit) -> None:
    """Another camera without EXIF, another format: its photos end with one focal length near the truth."""
    photos, truth = shoot(
        Place(), first_visit.folder / "t2", arc(3, 0.25, 0.7, 3.0), focal=380.0, size=(288, 288), focal_prior=None
    )
    photos = [replace(p, camera_model="Another") for p in photos]
    found = localize_photos(first_visit.result.map, photos, config=CONFIG)
    assert all(f.posed is not None for f in found), [f.localization.reason for f in found]
    focals = {f.posed.params[0] for f in found}
    assert len(focals) == 1 and abs(focals.pop() / 380 - 1) < 0.03
    errors = pose_errors(in_truth(first_visit, found), truth, align=False)
    assert errors.center.max() < 0.12 and errors.rotation_deg.max() < 1


def test_smaller_copies_keep_the_lens_of_the_first_visit(first_visit: FirstVisit) -> None:
    """The same camera at another size has its lens, unless its focal length says that it was zoomed."""
    lens = first_visit.result.posed[next(iter(first_visit.result.posed))].params[0] / 320
    for focal, same in ((225.0, True), (280.0, False)):
        photos, _ = shoot(
            Place(), first_visit.folder / f"t{focal:.0f}", arc(2, 0.3, 0.62, 2.9), focal=focal, size=(240, 180), focal_prior=focal, k1=-0.1
        )
        found = localize_photos(first_visit.result.map, photos, config=CONFIG)
        for f in found:
            assert f.posed is not None, f.localization.reason
            assert abs(f.posed.params[0] / 240 / lens - 1) < 1e-9 if same else abs(f.posed.params[0] / focal - 1) < 0.06


def test_photos_of_another_place_are_rejected(first_visit: FirstVisit, later) -> None:
    foreign, _ = shoot(Place(seed=5), first_visit.folder / "foreign", arc(2))
    mixed = [later[0][0], *foreign]
    found = localize_photos(first_visit.result.map, mixed, config=CONFIG)
    assert found[0].posed is not None
    for f in found[1:]:
        assert f.posed is None and f.localization.cam_from_world is None
        assert "another place" in f.localization.reason and f.localization.num_inliers < 15


def test_unreadable_photos_keep_their_place_in_the_list(first_visit: FirstVisit, later, tmp_path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"this is text")
    bad = PhotoInput("t1/broken.jpg", broken, "", 320, 240)
    found = localize_photos(first_visit.result.map, [bad, later[0][0]], config=CONFIG)
    assert found[0].posed is None and "not a photo" in found[0].localization.reason
    assert found[1].posed is not None
    assert localize_photos(first_visit.result.map, [], config=CONFIG) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"min_inliers": 100_000}, "matches with the first visit"),
        ({"min_inlier_ratio": 1.1}, "of the matches agree"),
        ({"max_centre_sigma": 1e-9}, "uncertain"),
        ({"max_rotation_sigma_deg": 1e-9}, "uncertain"),
        ({"min_spread": 20.0}, "cover only"),
        ({"max_distance": 1e-3}, "far away"),
    ],
)
def test_every_gate_rejects_with_its_reason(first_visit: FirstVisit, later, change, words) -> None:
    found = localize_photos(first_visit.result.map, later[0][:1], config=replace(CONFIG, **change))[0]
    assert found.posed is None and found.localization.cam_from_world is None and words in found.localization.reason


def test_map_round_trip_and_damage(first_visit: FirstVisit, later) -> None:
    tensors = first_visit.result.map.to_tensors()
    loaded = LocalizationMap.from_tensors(tensors)
    a = localize_photos(first_visit.result.map, later[0][:1], config=CONFIG)[0]
    b = localize_photos(loaded, later[0][:1], config=CONFIG)[0]
    assert np.array_equal(a.posed.cam_from_world, b.posed.cam_from_world)
    assert loaded.photos[0].camera_model == "Test Camera" and loaded.photos[0].focal_prior_px == 300.0
    for key in tensors:
        with pytest.raises(FormatError, match="damaged"):
            LocalizationMap.from_tensors({k: v for k, v in tensors.items() if k != key})
    with pytest.raises(FormatError, match="damaged"):
        LocalizationMap.from_tensors(tensors | {"point": tensors["point"] + 10**6})
    with pytest.raises(FormatError, match="damaged"):
        LocalizationMap.from_tensors(tensors | {"xy": tensors["xy"][:-1]})
    text = bytes(tensors["meta_json"].numpy()).replace(b"root", b"cool")
    with pytest.raises(FormatError, match="Reconstruct the scene again"):
        LocalizationMap.from_tensors(tensors | {"meta_json": torch.frombuffer(bytearray(text), dtype=torch.uint8)})


@pytest.mark.parametrize("fitted_focal", [False, True])
def test_covariance_matches_the_scatter_of_repeated_estimates(fitted_focal: bool) -> None:
    """Monte Carlo: the stated covariance of rotation, translation and centre equals the sample covariance within its noise."""
    rng = np.random.default_rng(0)
    pose = look_at((3.0, 2.5, 1.6))
    local = np.stack([rng.uniform(-1, 1, 60), rng.uniform(-0.8, 0.8, 60), np.ones(60)], 1) * rng.uniform(2, 6, (60, 1))
    xyz = (local - pose[:3, 3]) @ pose[:3, :3]
    lens = dict(model="SIMPLE_PINHOLE", width=640, height=480, params=[400.0, 320.0, 240.0])
    exact = np.asarray(pycolmap.Camera(**lens).img_from_cam(local))
    samples, centers, stated, stated_center = [], [], [], []
    options = pycolmap.AbsolutePoseRefinementOptions()
    options.refine_focal_length = fitted_focal
    options.gradient_tolerance, options.loss_function_scale = 1e-6, 1e3
    for _ in range(1000):
        xy = exact + rng.normal(0, 1.0, exact.shape)
        camera = pycolmap.Camera(**lens)
        start = pycolmap.Rigid3d(pose[:3])
        result = pycolmap.refine_absolute_pose(start, xy, xyz, np.ones(60, bool), camera, refinement_options=options)
        estimate = np.eye(4)
        estimate[:3] = result["cam_from_world"].matrix()
        turn = estimate[:3, :3] @ pose[:3, :3].T
        w = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
        samples.append(np.r_[w, estimate[:3, 3] - pose[:3, 3]])
        centers.append(-estimate[:3, :3].T @ estimate[:3, 3])
        covariance = pose_covariance(xy, xyz, camera, estimate, fitted_focal=fitted_focal)
        stated.append(covariance)
        stated_center.append(np.trace(center_covariance(estimate, covariance)))
    ratio = np.sqrt(np.diag(np.cov(np.array(samples).T)) / np.diag(np.mean(stated, axis=0)))
    # 1,000 samples fix a standard deviation within 2.2 %; fitted parameters shrink the residuals by 3 %.
    assert np.all((ratio > 0.85) & (ratio < 1.15)), ratio
    spread = np.trace(np.cov(np.array(centers).T)) / np.mean(stated_center)
    assert 0.75 < spread < 1.3, spread


def test_covariance_is_infinite_where_the_pose_is_free() -> None:
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=640, height=480, params=[400.0, 320.0, 240.0])
    xyz = np.repeat([[0.1, 0.2, 3.0]], 20, axis=0)
    xy = np.asarray(camera.img_from_cam(xyz))
    assert np.isinf(pose_covariance(xy, xyz, camera, np.eye(4), fitted_focal=False)).all()


def test_center_covariance_against_finite_differences() -> None:
    pose = look_at((3.0, 1.0, 2.0))
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(6, 6)) * 1e-4
    draws = rng.normal(size=(4000, 6)) @ factor.T
    moved = se3_exp(torch.as_tensor(np.c_[np.zeros((4000, 3)), draws[:, :3]])).numpy() @ pose
    moved[:, :3, 3] = pose[:3, 3] + draws[:, 3:]
    centers = -np.einsum("nji,nj->ni", moved[:, :3, :3], moved[:, :3, 3])
    stated = center_covariance(pose, factor @ factor.T)
    assert np.allclose(np.cov(centers.T), stated, rtol=0.15, atol=0.05 * np.trace(stated))


def test_known_lens_models_are_judged_too() -> None:
    from ltgs.io.posed import PosedPhoto

    assert wild_camera(PosedPhoto("a", 320, 240, "PINHOLE", (300.0, 300.0, 160.0, 120.0), np.eye(4))) == ""


def test_cost_per_photo_does_not_grow_with_the_first_visit(first_visit: FirstVisit, later, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptor comparisons with the map stored ten times over: the same matching, and little more looking for neighbours."""
    from ltgs.poses import localize, matching
    from tests.bench.localize import repeated

    compared = {"matching": 0, "retrieval": 0}
    match, preview = localize.match_descriptors, matching.preview_scores

    def counted_match(first, second, **options):
        compared["matching"] += len(first) * len(second)
        return match(first, second, **options)

    def counted_preview(query, stack, **options):
        compared["retrieval"] += len(query) * stack.shape[0] * stack.shape[1]
        return preview(query, stack, **options)

    monkeypatch.setattr(localize, "match_descriptors", counted_match)
    monkeypatch.setattr(matching, "preview_scores", counted_preview)
    config = replace(CONFIG, shortlist=7, first_neighbours=3, enough_inliers=50)
    costs, poses = [], []
    for times in (1, 10):
        compared.update(matching=0, retrieval=0)
        found = localize_photos(repeated(first_visit.result.map, times), later[0][:1], config=config)[0]
        costs.append(dict(compared))
        poses.append(found.posed.cam_from_world)
    assert costs[1]["matching"] < 1.3 * costs[0]["matching"], costs
    assert costs[1]["retrieval"] - costs[0]["retrieval"] == 64 * 64 * 70, "a sixteenth of a comparison per stored photo"
    assert np.abs(poses[1] - poses[0]).max() < 0.01


def test_more_neighbours_are_matched_only_when_the_pose_is_weak(first_visit: FirstVisit, later, monkeypatch: pytest.MonkeyPatch) -> None:
    from ltgs.poses import localize

    calls = []
    match = localize.match_descriptors
    monkeypatch.setattr(localize, "match_descriptors", lambda *a, **k: calls.append(1) or match(*a, **k))
    for enough, expected in ((50, 2), (100_000, 6)):
        calls.clear()
        config = replace(CONFIG, neighbours=6, first_neighbours=2, enough_inliers=enough)
        found = localize_photos(first_visit.result.map, later[0][:1], config=config)[0]
        assert found.posed is not None and len(calls) == expected
