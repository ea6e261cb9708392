"""Training fits photos, resumes exactly, repeats exactly, and stops with a clear error when numbers break."""

import dataclasses

import numpy as np
import pytest
import torch

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import make_rigid
from ltgs.errors import ConvergenceError
from ltgs.optim.growth import GrowthConfig
from ltgs.optim.initialize import InitConfig, TrainingPhoto, gaussians_from_points, points_from_pixels
from ltgs.optim.residual import expected_residual
from ltgs.optim.trainer import MAX_BOOST, TrainConfig, WarmStart, rate_factors, train
from ltgs.render import render

CONFIG = TrainConfig(
    steps=60, cap=900, sh_degree=1, half_resolution_share=0.17, growth=GrowthConfig(every=10, start=10), stop_window=1000,
    device="cpu",
)


@pytest.fixture(scope="module")
def capture() -> tuple[list[TrainingPhoto], np.ndarray, np.ndarray]:
    """Six photos of a coloured blob cloud, and points near its Gaussians."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (300, 3)) + [0, 0, 3]
    colours = rng.uniform(0, 1, (300, 3))
    truth = gaussians_from_points(points, colours, sh_degree=0)
    truth = Gaussians(truth.means, truth.quats, truth.log_scales, torch.full((300,), 2.0), truth.sh)
    photos = []
    for i in range(6):
        pose = make_rigid(np.eye(3), np.array([0.3 * (i - 2.5), 0.1 * (i % 2), 0]))
        camera = Camera(f"{i}.png", 0, 64, 48, np.array([[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]]), pose)
        rgb = render(truth, stack_cameras([camera])).rgb[0].clamp(0, 1).numpy()
        photos.append(TrainingPhoto(camera, (rgb * 255 + 0.5).astype(np.uint8)))
    return photos, points + rng.normal(0, 0.01, points.shape), colours


def test_training_lowers_the_loss_and_respects_the_cap(capture):
    losses = []
    result = train(*capture, extent=1.0, config=CONFIG, progress=lambda e: losses.append(e.figures["loss"]))
    short = train(*capture, extent=1.0, config=dataclasses.replace(CONFIG, steps=4))
    assert result.figures["train_loss"] < 0.7 * short.figures["train_loss"]
    assert len(result.gaussians) <= CONFIG.cap
    np.testing.assert_allclose(result.exposures.mean(0), np.eye(3, 4), atol=1e-4)


def test_same_seed_gives_identical_bits(capture):
    a, b = (train(*capture, extent=1.0, config=CONFIG, seed=3) for _ in range(2))
    for name, tensor in a.gaussians.tensors().items():
        assert torch.equal(tensor, b.gaussians.tensors()[name]), name


def test_resume_from_a_checkpoint_is_exact(capture):
    kept = {}
    config = dataclasses.replace(CONFIG, checkpoint_every=25)
    straight = train(
        *capture, extent=1.0, config=config,
        save_checkpoint=lambda step, state: kept.update({step: {k: v.clone() for k, v in state.items()}}),
    )
    resumed = train(*capture, extent=1.0, config=config, resume_from=kept[25])
    for name, tensor in straight.gaussians.tensors().items():
        assert torch.equal(tensor, resumed.gaussians.tensors()[name]), name


def test_a_constant_exposure_difference_goes_to_the_photo_not_the_scene(capture):
    photos, xyz, rgb = capture
    darker = [
        dataclasses.replace(p, rgb=(p.rgb * 0.7).astype(np.uint8)) if i == 0 else p for i, p in enumerate(photos)
    ]
    result = train(darker, xyz, rgb, extent=1.0, config=dataclasses.replace(CONFIG, steps=200, lr_exposure=5e-3))
    gain = result.exposures[:, :, :3].sum((1, 2)) / 3
    assert gain[0] < gain[1:].min() - 0.05


def test_non_finite_parameters_are_reported(capture):
    photos, xyz, rgb = capture
    with pytest.raises(ConvergenceError, match="step"):
        train(photos, xyz, rgb, extent=float("nan"), config=CONFIG)


def test_short_runs_take_longer_steps_that_fall_to_the_same_share():
    long, short = TrainConfig(steps=30_000), TrainConfig(steps=30_000 // 16)
    assert rate_factors(0, long) == (1.0, 1.0)
    assert rate_factors(0, short) == pytest.approx((4.0, 4.0))
    assert rate_factors(0, TrainConfig(steps=20)) == (MAX_BOOST, MAX_BOOST)
    assert rate_factors(0, short, is_warm=True) == (1.0, 1.0)
    for config in (long, short):
        first, last = rate_factors(0, config), rate_factors(config.steps, config)
        assert last == pytest.approx((config.lr_means_final * first[0], config.lr_final * first[1]))
        growing = int(config.growth.stop_share * config.steps)
        assert rate_factors(growing, config)[1] == pytest.approx(first[1])
        assert rate_factors(growing + config.steps // 5, config)[1] < first[1]


def test_the_unit_of_the_world_does_not_matter(capture):
    photos, xyz, rgb = capture
    config = dataclasses.replace(CONFIG, steps=30)

    def loss(scale: float) -> float:
        moved = []
        for p in photos:
            pose = p.camera.cam_from_world.copy()
            pose[:3, 3] *= scale
            moved.append(dataclasses.replace(p, camera=dataclasses.replace(p.camera, cam_from_world=pose)))
        return train(moved, xyz * scale, rgb, extent=scale, config=config).figures["train_loss"]

    assert loss(8.0) == pytest.approx(loss(1.0), rel=0.02)


def test_no_photos_is_refused():
    with pytest.raises(ValueError, match="at least one photo"):
        train([], np.zeros((9, 3)), np.zeros((9, 3)), extent=1.0, config=CONFIG)


def test_expected_residual_is_higher_where_the_scene_is_wrong(capture):
    photos, xyz, rgb = capture
    result = train(photos, xyz, rgb, extent=1.0, config=CONFIG)
    good = expected_residual(result.gaussians, photos, result.exposures)
    broken = [dataclasses.replace(p, rgb=np.where(np.arange(64)[None, :, None] < 32, 255 - p.rgb, p.rgb)) for p in photos]
    bad = expected_residual(result.gaussians, broken, result.exposures)
    left = result.gaussians.means[:, 0] < -0.3
    assert bad["mean"][left, 0].mean() > good["mean"][left, 0].mean() + 0.1
    assert (good["num_views"] <= 6).all() and good["variance"].min() > 0


def test_pixels_get_the_depth_of_their_neighbours(capture):
    photos, _, _ = capture
    plane = np.stack([*np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 20)), np.full((20, 20), 3.0)], -1).reshape(-1, 3)
    points, colours = points_from_pixels(photos, plane, count=100, config=InitConfig(), rng=np.random.default_rng(0))
    inside = np.abs(points[:, :2]).max(1) < 0.9
    np.testing.assert_allclose(points[inside, 2], 3.0, atol=1e-6)
    assert colours.min() >= 0 and colours.max() <= 1


def test_going_on_keeps_what_is_frozen_and_improves_the_rest(capture):
    photos, _, _ = capture
    start = train(*capture, extent=1.0, config=CONFIG).gaussians
    start = start[start.opacities > 4 * CONFIG.growth.dead_opacity]  # the rest may go within two steps
    moving, frozen = start[: len(start) // 2], start[len(start) // 2:]
    moving = dataclasses.replace(moving, sh=moving.sh + 0.4)
    config = dataclasses.replace(CONFIG, half_resolution_share=0.0, cap=len(moving) + 40)
    short = dataclasses.replace(config, steps=2)
    few, many = (train(photos, *capture[1:], extent=1.0, config=c, warm=WarmStart(moving, frozen)) for c in (short, config))
    assert many.figures["train_loss"] < 0.8 * few.figures["train_loss"]
    assert len(moving) < len(many.gaussians) <= config.cap
    # Without moments or growth, two steps of Adam move a centre by at most two learning rates.
    assert float((few.gaussians.means - moving.means).abs().max()) <= 2 * config.lr_means * float(moving.scales.median()) * (1 + 1e-3)


def test_a_light_shared_by_all_photos_is_exposure_beside_frozen_gaussians(capture):
    photos, _, _ = capture
    start = train(*capture, extent=1.0, config=CONFIG).gaussians
    dim = [dataclasses.replace(p, rgb=(p.rgb * 0.6).astype(np.uint8)) for p in photos]
    guess = np.tile(0.6 * np.eye(3, 4), (len(photos), 1, 1))
    warm = WarmStart(start[:50], start[50:], guess)
    config = dataclasses.replace(CONFIG, steps=10, half_resolution_share=0.0, cap=60)
    beside_frozen = train(dim, *capture[1:], extent=1.0, config=config, warm=warm)
    alone = train(dim, *capture[1:], extent=1.0, config=config, warm=dataclasses.replace(warm, frozen=None))
    np.testing.assert_allclose(beside_frozen.exposures[:, range(3), range(3)], 0.6, atol=0.03)
    np.testing.assert_allclose(alone.exposures.mean(0), np.eye(3, 4), atol=1e-4)


def test_nothing_to_go_on_from_is_an_error(capture):
    nothing = Gaussians.empty(1)
    with pytest.raises(ValueError, match="at least one Gaussian"):
        train(*capture, extent=1.0, config=CONFIG, warm=WarmStart(nothing))
