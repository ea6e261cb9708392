"""Spherical harmonics: orthonormal, and rotated exactly with their object."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.transform import Rotation

from ltgs.core.sh import C0, dc_to_rgb, eval_sh, rgb_to_dc, rotate_sh, sh_basis


def directions(n: int) -> torch.Tensor:
    d = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return d / d.norm(dim=1, keepdim=True)


def test_basis_is_orthonormal():
    d = directions(200_000)
    b = sh_basis(d, 3)
    gram = 4 * torch.pi * b.T @ b / len(d)
    # Monte Carlo with 2e5 samples: the largest deviation measured is 0.02.
    assert torch.allclose(gram, torch.eye(16, dtype=torch.float64), atol=0.04)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_rotation_of_coefficients_is_rotation_of_the_function(degree):
    sh = torch.randn(6, (degree + 1) ** 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rotation = torch.from_numpy(Rotation.random(random_state=2).as_matrix())
    d = directions(6)
    assert torch.allclose(eval_sh(rotate_sh(sh, rotation), d @ rotation.T), eval_sh(sh, d), atol=1e-10)


def test_rotations_compose_and_identity_changes_nothing():
    sh = torch.randn(4, 16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    a, b = (torch.from_numpy(Rotation.random(random_state=s).as_matrix()) for s in (4, 5))
    assert torch.allclose(rotate_sh(rotate_sh(sh, a), b), rotate_sh(sh, b @ a), atol=1e-10)
    assert torch.allclose(rotate_sh(sh, torch.eye(3, dtype=torch.float64)), sh, atol=1e-12)


def test_rotation_is_differentiable():
    sh = torch.randn(2, 16, 3, dtype=torch.float64)
    rotation = torch.from_numpy(Rotation.random(random_state=6).as_matrix()).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: rotate_sh(sh, r), rotation)


def test_colour_conversion_and_degree_choice():
    rgb = torch.rand(5, 3)
    assert torch.allclose(dc_to_rgb(rgb_to_dc(rgb)), rgb, atol=1e-6)
    sh = torch.randn(5, 16, 3, dtype=torch.float64)
    assert torch.allclose(eval_sh(sh, directions(5), degree=0), C0 * sh[:, 0])
    assert torch.allclose(eval_sh(sh[:, :4], directions(5)), eval_sh(sh, directions(5), degree=1))
