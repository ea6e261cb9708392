"""Rotations and rigid motions against scipy, at the singular points, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from ltgs.core import se3


def quats(n: int = 50) -> torch.Tensor:
    return torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_quat_to_matrix_matches_scipy_for_any_norm():
    q = quats()
    expected = Rotation.from_quat(q[:, [1, 2, 3, 0]].numpy()).as_matrix()
    assert np.allclose(se3.quat_to_matrix(3 * q).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, 3.0, np.pi - 1e-7, np.pi])
def test_matrix_to_quat_inverts_also_near_pi(axis, angle):
    vector = np.zeros(3)
    vector[axis] = angle
    matrix = torch.from_numpy(Rotation.from_rotvec(vector).as_matrix())
    q = se3.matrix_to_quat(matrix)
    assert q[0] >= 0 and torch.allclose(se3.quat_to_matrix(q), matrix, atol=1e-12)


def test_matrix_to_quat_round_trip_and_gradient():
    q = se3.quat_normalize(quats())
    q = torch.where(q[:, :1] < 0, -q, q)
    assert torch.allclose(se3.matrix_to_quat(se3.quat_to_matrix(q)), q, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: se3.matrix_to_quat(se3.quat_to_matrix(x)), q[:5].clone().requires_grad_())


def test_quat_multiply_is_matrix_product():
    a, b = quats(7), quats(14)[7:]
    product = se3.quat_to_matrix(se3.quat_multiply(a, b))
    assert torch.allclose(product, se3.quat_to_matrix(a) @ se3.quat_to_matrix(b), atol=1e-12)


def test_hat_is_the_cross_product():
    a, b = quats(5)[:, :3], quats(10)[5:, :3]
    assert torch.allclose((se3.hat(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b))


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 9e-5, 1.1e-4, 0.5, 3.1])
def test_so3_exp_matches_scipy_and_log_inverts(angle):
    vector = np.array([0.6, -0.48, 0.64]) * angle
    matrix = se3.so3_exp(torch.from_numpy(vector)).numpy()
    assert np.allclose(matrix, Rotation.from_rotvec(vector).as_matrix(), atol=1e-12)
    assert np.allclose(se3.so3_log(matrix), vector, atol=1e-9)
    assert se3.rotation_angle_deg(matrix) == pytest.approx(np.degrees(angle), abs=1e-6)


def test_so3_exp_has_a_finite_gradient_at_zero():
    for vector in (torch.zeros(3), torch.tensor([1e-6, 0, 0]), torch.tensor([0.3, 0.1, -2.0])):
        x = vector.double().requires_grad_()
        assert torch.autograd.gradcheck(se3.so3_exp, x)


def test_se3_exp_is_translation_and_rotation_apart():
    xi = torch.tensor([1.0, 2, 3, 0, 0, np.pi / 2], dtype=torch.float64)
    expected = [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    assert torch.allclose(se3.se3_exp(xi), torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    assert se3.se3_exp(torch.zeros(2, 5, 6)).shape == (2, 5, 4, 4)


def test_invert_rigid_batched():
    m = se3.se3_exp(torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).numpy()
    assert np.allclose(se3.invert_rigid(m) @ m, np.eye(4), atol=1e-12)
    assert np.allclose(se3.make_rigid(m[0, 0, :3, :3], m[0, 0, :3, 3]), m[0, 0])


@pytest.mark.parametrize("with_scale", [True, False])
@pytest.mark.parametrize("planar", [True, False])
def test_umeyama_recovers_a_similarity(with_scale, planar):
    rng = np.random.default_rng(0)
    source = rng.normal(size=(10, 3)) * [1, 1, 0 if planar else 1]
    scale = 2.5 if with_scale else 1.0
    rotation, translation = Rotation.random(random_state=3).as_matrix(), rng.normal(size=3)
    s, r, t = se3.umeyama(source, scale * source @ rotation.T + translation, with_scale=with_scale)
    assert s == pytest.approx(scale) and np.allclose(r, rotation, atol=1e-9) and np.allclose(t, translation, atol=1e-9)


def test_umeyama_never_mirrors_and_checks_shapes():
    source = np.random.default_rng(1).normal(size=(10, 3))
    _, rotation, _ = se3.umeyama(source, source * [1, 1, -1])
    assert np.linalg.det(rotation) == pytest.approx(1)
    for bad in (source[:2], source[:, :2], source[:5]):
        with pytest.raises(ValueError, match="umeyama"):
            se3.umeyama(bad, source if len(bad) == 5 else bad)
