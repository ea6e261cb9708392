"""A light field gives each place and direction its own gain, and changes nothing else."""

import numpy as np
import pytest
import torch

from ltgs.core.chronology import Appearance, Chronology, ObjectTrack, Template
from ltgs.core.gaussians import Gaussians
from ltgs.core.light_field import FACES, LightField, facing, stencil
from tests.helpers import blobs


def cloud(count: int = 40) -> Gaussians:
    rng = np.random.default_rng(3)
    return blobs(rng, rng.uniform(-1, 1, (count, 3)), 0.05)


def field(log_gain: torch.Tensor) -> LightField:
    return LightField(torch.full((3,), -1.0), 1.0, log_gain, torch.tensor([0.0, -5.0, 0.0]))


def test_a_linear_field_is_reproduced_between_grid_points_and_held_outside():
    x = torch.linspace(-0.4, 0.4, 3)[:, None, None, None, None].expand(3, 3, 3, FACES, 3)
    points = torch.tensor([[-1.0, 0, 0], [-0.25, 0.3, 0.9], [0.5, -0.5, 0.1], [7.0, 0, 0]])
    normals = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0], [1, 1, 1], [0, -1, 0], [0, 0, 1]]), dim=1)
    gains = field(x.contiguous()).gains(points, normals)
    np.testing.assert_allclose(gains[:, 0].log().numpy(), [-0.4, -0.1, 0.2, 0.4], atol=2e-4)


def test_each_direction_has_its_own_gain():
    log_gain = torch.zeros(2, 2, 2, FACES, 3)
    log_gain[..., 0, :], log_gain[..., 1, :] = -0.5, 0.5
    normals = torch.tensor([[-1.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    gains = field(log_gain).gains(torch.zeros(3, 3), normals)
    np.testing.assert_allclose(gains[:, 1].log().numpy(), [-0.5, 0.5, 0.0], atol=1e-6)


def test_weights_sum_to_one_for_any_point_and_normal():
    g = torch.Generator().manual_seed(0)
    points, normals = 4 * torch.randn(200, 3, generator=g), torch.randn(200, 3, generator=g)
    index, weight = stencil(torch.zeros(3), 0.7, (3, 4, 5), points, normals)
    assert index.min() >= 0 and index.max() < 3 * 4 * 5 * FACES
    np.testing.assert_allclose(weight.sum(1).numpy(), 1, atol=1e-5)


def test_lit_gaussians_have_scaled_colours_and_the_same_shape():
    gaussians = cloud()
    log_gain = torch.full((2, 2, 2, FACES, 3), float(np.log(0.5)))
    lit = field(log_gain).lit(gaussians, torch.eye(3)[torch.zeros(len(gaussians), dtype=torch.long)])
    np.testing.assert_allclose(lit.base_rgb.numpy(), 0.5 * gaussians.base_rgb.numpy(), atol=1e-6)
    assert torch.equal(lit.means, gaussians.means) and torch.equal(lit.opacity_logits, gaussians.opacity_logits)


def test_normals_are_the_shortest_axis_on_the_asked_side():
    gaussians = cloud(1)
    thin = Gaussians(**{**gaussians.tensors(), "log_scales": torch.tensor([[0.0, -3.0, 0.0]])})
    np.testing.assert_allclose(facing(thin, torch.tensor([[0.1, -2.0, 0.3]])).numpy(), [[0, -1, 0]], atol=1e-6)


def test_objects_face_outwards_and_the_rest_the_viewpoint():
    background, thing = cloud(6), cloud(5)
    pose = np.eye(4)
    pose[:3, 3] = [3.0, 0, 0]
    track = ObjectTrack.start(1, 0, pose)
    light = Appearance(field=field(torch.zeros(2, 2, 2, FACES, 3)))
    chronology = Chronology(background, torch.zeros(0, dtype=torch.long), {1: Template(1, "object", thing, 0)}, {1: track}, (light,))
    state = chronology.state_at(0)
    viewpoint = torch.tensor([0.0, -5.0, 0.0])
    normals = state.normals(viewpoint)
    outward = (normals * (state.gaussians.means - torch.tensor([3.0, 0, 0]))).sum(1)
    assert (outward[6:] >= 0).all()
    assert ((normals * (viewpoint - state.gaussians.means)).sum(1)[:6] >= 0).all()
    assert torch.allclose(state.lit().sh, state.gaussians.sh, atol=1e-5), "a field of zeros changes nothing"


@pytest.mark.parametrize("shape, cell", [((1, 2, 2, FACES, 3), 1.0), ((2, 2, 2, 5, 3), 1.0), ((2, 2, 2, FACES, 3), 0.0)])
def test_a_field_that_cannot_be_is_refused(shape, cell):
    with pytest.raises(ValueError):
        LightField(torch.zeros(3), cell, torch.zeros(shape), torch.zeros(3))
