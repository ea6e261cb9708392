"""The generator's truth: exact geometry, photometric consistency, occlusion, and a prior that is wrong only where it should be."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ltgs.depth.synth.draw import Draw
from ltgs.depth.synth.faulty_prior import EXACT, PriorFaults, faulty_prior
from ltgs.depth.synth.generator import SynthConfig, SynthSample, make_sample, render_sample, render_view
from ltgs.depth.synth.photometric import CameraLook
from ltgs.depth.synth.raycast import cast, pixel_rays
from ltgs.depth.synth.scene import Material, Primitive, Rig, Scene, Shape, Texture, random_rig, random_scene
from ltgs.depth.synth.shading import value_noise

ROOM = Primitive(Shape.BOX, (0.0, 0.0, 0.0), (3.0, 2.0, 4.0), texture=Texture.NOISE, frequency=3.0)
RIG = Rig(96, 64, 80.0, 0.2)
PLAIN = (CameraLook(), CameraLook())


def warp(right: Tensor, disparity: Tensor) -> Tensor:
    """[3, H, W] right image seen at the left pixels."""
    _, h, w = right.shape
    x = torch.arange(w) + 0.5 - disparity[0]
    y = (torch.arange(h) + 0.5)[:, None].expand(h, w)
    grid = torch.stack([2 * x / w - 1, 2 * y / h - 1], -1)
    return F.grid_sample(right[None], grid[None], align_corners=False, padding_mode="border")[0]


def seen(sample: SynthSample) -> Tensor:
    """[H, W] well inside of what both cameras see: not next to an edge or an occluded pixel."""
    d = sample.disparity[None]
    steep = (F.max_pool2d(d, 3, 1, 1) + F.max_pool2d(-d, 3, 1, 1))[0, 0] > 1.0
    return ~(F.max_pool2d((sample.occluded[0] | steep).float()[None], 3, 1, 1)[0] > 0)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_truth_is_photometrically_consistent(seed: int) -> None:
    draw = Draw(seed)
    rig, near, far = random_rig(draw, 160, 96)
    scene = random_scene(draw, rig, near, far, objects=(6, 12))
    # Highlights, mirrors and panes look different from the two cameras by right; flat surfaces cannot tell offsets apart.
    scene.material[:] = int(Material.LAMBERT)
    scene.texture[:] = int(Texture.NOISE)
    scene.frequency[:] = scene.frequency.clamp(max=0.06 * rig.focal / far)
    sample = render_sample(scene, rig, draw, PLAIN, supersample=3)
    mask = seen(sample)
    assert mask.float().mean() > 0.4

    def error(offset: float) -> float:
        return float((warp(sample.right, sample.disparity + offset) - sample.left).abs().mean(0)[mask].mean())

    assert error(0) < 1.5
    assert all(error(offset) > 1.5 * error(0) for offset in (-1.0, 1.0)), [error(o) for o in (-1, -0.5, 0, 0.5, 1)]


def test_occlusion_agrees_with_a_depth_map_of_the_right_view() -> None:
    draw = Draw(7)
    rig, near, far = random_rig(draw, 160, 96)
    scene = random_scene(draw, rig, near, far, objects=(6, 12))
    sample = render_sample(scene, rig, draw, PLAIN, supersample=1)
    v, u = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(160) + 0.5, indexing="ij")
    rays = pixel_rays(rig, u, v).view(-1, 3)
    right_disparity = rig.disparity(cast(scene, torch.tensor([rig.baseline, 0, 0]).expand_as(rays), rays).t).view(1, 96, 160)
    there = warp(right_disparity, sample.disparity)
    x = u - sample.disparity[0]
    visible = (there[0] - sample.disparity[0] < 0.5) & (x >= 0) & (x <= 160)
    # The comparison samples a depth map between pixels, so it can differ along edges only.
    assert (visible == ~sample.occluded[0]).float().mean() > 0.97
    assert 0.005 < sample.occluded.float().mean() < 0.6


def test_depth_of_each_shape_is_the_analytic_one() -> None:
    quarter = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    cases = [
        (Primitive(Shape.SPHERE, (0.0, 0.0, 2.0), (0.5, 0.5, 0.25)), 1.75),
        (Primitive(Shape.BOX, (0.0, 0.0, 2.0), (0.5, 0.5, 0.25), quarter), 1.5),
        (Primitive(Shape.CYLINDER, (0.0, 0.0, 2.0), (0.5, 0.5, 0.25)), 1.75),
        (Primitive(Shape.CYLINDER, (0.0, 0.0, 2.0), (0.4, 0.4, 0.9), quarter), 1.6),
        (Primitive(Shape.SPHERE, (2.0, 0.0, 2.0), (0.5, 0.5, 0.5)), 4.0),
    ]
    for primitive, depth in cases:
        hits = cast(Scene.of([ROOM, primitive], (0.0, -1.0, 0.0)), torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))
        assert float(hits.t) == pytest.approx(depth, abs=1e-5)
        torch.testing.assert_close(hits.normal, torch.tensor([[0.0, 0.0, -1.0]]), atol=1e-5, rtol=0)
    hits = cast(Scene.of([ROOM], (0.0, -1.0, 0.0)), torch.zeros(1, 3), torch.tensor([[3.0, 0.0, 1.0]]))
    assert float(hits.t) == pytest.approx(1.0) and hits.normal[0].tolist() == pytest.approx([-1, 0, 0])


def test_normals_are_perpendicular_to_the_surface() -> None:
    """Against differences of neighbouring hits on a turned ellipsoid."""
    scene = Scene.of([ROOM, Primitive(Shape.SPHERE, (0.1, 0.0, 2.0), (0.9, 0.4, 0.6), Draw(1).rotation())], (0.0, -1.0, 0.0))
    u, v = torch.tensor([[40.0, 40.01, 40.0]]), torch.tensor([[30.0, 30.0, 30.01]])
    hits = cast(scene, torch.zeros(3, 3), pixel_rays(RIG, u, v)[0].double().float())
    assert (hits.index == 1).all()
    for other in (1, 2):
        along = hits.point[other] - hits.point[0]
        assert abs(float((along / along.norm()) @ hits.normal[0])) < 2e-2


def test_mirror_shows_the_room_behind_and_glass_what_is_behind_it() -> None:
    wall = Primitive(Shape.BOX, (0.0, 0.0, -3.5), (3.0, 2.0, 0.1), texture=Texture.FLAT, colors=torch.tensor([[1.0, 0, 0]] * 2))
    back = Primitive(Shape.BOX, (0.0, 0.0, 3.5), (3.0, 2.0, 0.1), texture=Texture.FLAT, colors=torch.tensor([[0, 1.0, 0]] * 2))
    for material, channel in ((Material.MIRROR, 0), (Material.GLASS, 1)):
        pane = Primitive(Shape.BOX, (0.0, 0.0, 2.0), (1.0, 1.0, 0.01), texture=Texture.FLAT, colors=torch.zeros(2, 3), material=material)
        scene = Scene.of([ROOM, wall, back, pane], (0.0, -1.5, 0.5))
        sample = render_sample(scene, RIG, Draw(0), PLAIN, supersample=1, faults=EXACT)
        middle = sample.left[:, 32, 30]
        assert middle.argmax() == channel and middle[channel] > 2 * middle[2]
        # The truth is the pane's own surface.
        assert float(sample.disparity[0, 32, 30]) == pytest.approx(RIG.focal * RIG.baseline / 1.99, rel=1e-4)


def test_samples_are_reproducible_and_complete() -> None:
    config = SynthConfig(width=64, height=48, supersample=1)
    first, again, other = make_sample(config, 1, 2), make_sample(config, 1, 2), make_sample(config, 1, 3)
    assert torch.equal(first.left, again.left) and torch.equal(first.prior, again.prior) and not torch.equal(first.left, other.left)
    fractions = []
    for seed in range(12):
        sample = make_sample(config, 9, seed)
        for name in ("left", "right", "disparity", "prior"):
            assert torch.isfinite(getattr(sample, name)).all(), (seed, name)
        assert sample.left.min() >= 0 and sample.left.max() <= 255 and sample.left.std() > 3
        assert sample.disparity.min() > 0
        fractions += [float(sample.disparity.min()) / 64, float(sample.disparity.max()) / 64]
    assert min(fractions) < 0.02 and 0.12 < max(fractions) < 0.5


def test_row_jitter_moves_the_right_image_only() -> None:
    scene = Scene.of([Primitive(Shape.BOX, (0.0, 0.0, 0.0), (3.0, 2.0, 4.0), texture=Texture.STRIPES, frequency=1.0)], (0.0, -1.0, 1.0))
    shifted = render_view(scene, RIG, 0.1, 1.0, 1)
    torch.testing.assert_close(shifted[:-1], render_view(scene, RIG, 0.1, 0.0, 1)[1:], atol=1e-4, rtol=0)


def test_prior_without_faults_is_affine_in_inverse_depth() -> None:
    depth = 1 + 3 * torch.rand(20, 30, generator=torch.Generator().manual_seed(0))
    index = torch.zeros(20, 30, dtype=torch.long)
    prior = faulty_prior(depth, depth, index, Draw(2), EXACT)[0]
    x, y = (1 / depth).flatten(), prior.flatten()
    a = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    assert a > 0
    torch.testing.assert_close(a * (x - x.mean()) + y.mean(), y, atol=1e-3, rtol=1e-4)


def test_each_fault_does_what_it_says() -> None:
    depth = torch.full((40, 60), 4.0)
    depth[:, 20:24] = 1.0
    depth[10:20, 40:50] = 2.0
    without_thin = depth.clone()
    without_thin[:, 20:24] = 4.0
    index = torch.zeros(40, 60, dtype=torch.long)
    index[:, 20:24], index[10:20, 40:50] = 1, 2

    def made(**faults: float) -> Tensor:
        prior = faulty_prior(depth, without_thin, index, Draw(0), PriorFaults(**{f: 0.0 for f in EXACT.__dict__} | faults))[0]
        wall, box = prior[0, 0], prior[15, 45]
        return (prior - wall) / (box - wall)

    exact = made()
    assert float(exact[5, 22]) == pytest.approx(3.0, rel=1e-3)
    assert abs(float(made(miss_thin=1.0)[5, 22])) < 1e-3
    assert abs(float(made(wrong_scale=1.0)[5, 22]) - 3) > 0.05
    assert float(made(warp=0.2)[:, :10].std()) > 100 * float(exact[:, :10].std())
    assert float(made(blur=400.0)[5, 25]) > 0.02 > abs(float(exact[5, 25]))
    assert float(made(pictures=1.0).flatten().unique().numel()) > 10
    assert abs(float(made(gamma=0.5)[5, 22]) - 3) > 0.01


def test_noise_is_smooth_bounded_and_different_per_seed() -> None:
    p = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) * 20 - 10
    a, b = (value_noise(p, torch.full((4000,), seed)) for seed in (1, 2))
    assert a.min() >= 0 and a.max() <= 1 and a.std() > 0.1
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.1
    assert (value_noise(p + 1e-3, torch.ones(4000, dtype=torch.long)) - a).abs().max() < 0.02


def test_rotations_are_proper_and_uniform() -> None:
    draw = Draw(3)
    rotations = torch.stack([draw.rotation() for _ in range(300)])
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand(300, 3, 3), atol=1e-5, rtol=0)
    assert (torch.linalg.det(rotations) > 0).all() and rotations.mean(0).abs().max() < 4 / math.sqrt(300 * 3)
