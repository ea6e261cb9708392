"""Real spherical harmonics up to degree 3 in the basis of 3D Gaussian splatting, and their exact rotation."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

C0 = 0.28209479177387814
C1 = 0.4886025119029199
C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
C3 = (
    -0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154,
    -0.4570457994644658, 1.445305721320277, -0.5900435899266435,
)


def rgb_to_dc(rgb: Tensor) -> Tensor:
    """Colour in [0, 1] to the DC coefficient."""
    return (rgb - 0.5) / C0


def dc_to_rgb(dc: Tensor) -> Tensor:
    """DC coefficient to colour, not clamped."""
    return dc * C0 + 0.5


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """[..., 3] unit directions -> [..., (degree + 1)^2] basis values (sign convention of 3DGS)."""
    x, y, z = directions.unbind(-1)
    out = [torch.full_like(x, C0)]
    if degree >= 1:
        out += [-C1 * y, C1 * z, -C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        out += [C2[0] * x * y, C2[1] * y * z, C2[2] * (2 * zz - xx - yy), C2[3] * x * z, C2[4] * (xx - yy)]
    if degree >= 3:
        out += [
            C3[0] * y * (3 * xx - yy), C3[1] * x * y * z, C3[2] * y * (4 * zz - xx - yy),
            C3[3] * z * (2 * zz - 3 * xx - 3 * yy), C3[4] * x * (4 * zz - xx - yy),
            C3[5] * z * (xx - yy), C3[6] * x * (xx - 3 * yy),
        ]
    return torch.stack(out, -1)


def eval_sh(sh: Tensor, directions: Tensor, degree: int | None = None) -> Tensor:
    """[N, K, 3] coefficients and [N, 3] unit directions -> [N, 3] signed value (add 0.5 and clamp for colour)."""
    if degree is None:
        degree = int(round(sh.shape[1] ** 0.5)) - 1
    bases = (degree + 1) ** 2
    return (sh_basis(directions, degree)[..., None] * sh[:, :bases]).sum(-2)


@lru_cache(maxsize=1)
def _sample_directions() -> Tensor:
    """A fixed set of 64 well-spread unit vectors (Fibonacci sphere), float64."""
    i = torch.arange(64, dtype=torch.float64) + 0.5
    z = 1 - 2 * i / 64
    phi = i * (torch.pi * (3 - 5**0.5))
    r = (1 - z * z).sqrt()
    return torch.stack([r * phi.cos(), r * phi.sin(), z], -1)


@lru_cache(maxsize=4)
def _band_pinv(degree: int) -> Tensor:
    basis = sh_basis(_sample_directions(), degree)[:, degree**2 : (degree + 1) ** 2]
    return torch.linalg.pinv(basis)


def sh_rotation_matrices(rotation: Tensor, degree: int) -> list[Tensor]:
    """Per band l = 1..degree the [2l+1, 2l+1] matrix D with sh' = D sh, exact to rounding and differentiable.

    Convention: if f'(d) = f(R^T d) is the rotated function, its coefficients are D times those of f.
    """
    directions = _sample_directions().to(rotation.device) @ rotation.double()  # rows are R^T d
    full = sh_basis(directions, degree)
    return [_band_pinv(l).to(rotation.device) @ full[:, l * l : (l + 1) ** 2] for l in range(1, degree + 1)]


def rotate_sh(sh: Tensor, rotation: Tensor) -> Tensor:
    """Rotate [N, K, 3] coefficients together with the object they belong to.

    Args:
        sh: coefficients, DC first.
        rotation: [3, 3], applied to the object's points on the left.
    """
    degree = int(round(sh.shape[1] ** 0.5)) - 1
    if degree == 0:
        return sh
    bands = [sh[:, :1]]
    for l, matrix in enumerate(sh_rotation_matrices(rotation, degree), start=1):
        bands.append(torch.einsum("ij,njc->nic", matrix.to(sh.dtype), sh[:, l * l : (l + 1) ** 2]))
    return torch.cat(bands, 1)
