"""Rotations, rigid motions and similarity alignment. Quaternions are wxyz, Hamilton; transforms act on column vectors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def quat_normalize(quats: Tensor) -> Tensor:
    """[..., 4] to unit norm; a zero quaternion becomes NaN-free by an epsilon of 1e-12."""
    return quats / quats.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def quat_to_matrix(quats: Tensor) -> Tensor:
    """[..., 4] wxyz (any non-zero norm) -> [..., 3, 3] rotation, differentiable."""
    w, x, y, z = quat_normalize(quats).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]
    return torch.stack(rows, -1).reshape(*quats.shape[:-1], 3, 3)


def matrix_to_quat(matrix: Tensor) -> Tensor:
    """[..., 3, 3] rotation -> [..., 4] unit wxyz with w >= 0.

    Uses the largest of the four squared components as pivot (Shepperd 1978), so it is stable and differentiable everywhere.
    """
    m = matrix
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    a = m[..., 2, 1] - m[..., 1, 2]
    b = m[..., 0, 2] - m[..., 2, 0]
    c = m[..., 1, 0] - m[..., 0, 1]
    d = m[..., 1, 0] + m[..., 0, 1]
    e = m[..., 0, 2] + m[..., 2, 0]
    f = m[..., 2, 1] + m[..., 1, 2]
    squares = [1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22]
    rows = [(squares[0], a, b, c), (a, squares[1], d, e), (b, d, squares[2], f), (c, e, f, squares[3])]
    table = torch.stack([torch.stack(r, -1) for r in rows], -2)
    pivot = torch.stack(squares, -1).argmax(-1)
    q = torch.gather(table, -2, pivot[..., None, None].expand(*pivot.shape, 1, 4)).squeeze(-2)
    q = quat_normalize(q)
    return torch.where(q[..., :1] < 0, -q, q)


def quat_multiply(left: Tensor, right: Tensor) -> Tensor:
    """Hamilton product [..., 4] x [..., 4]; rotates by `right` first, then by `left`."""
    lw, lx, ly, lz = left.unbind(-1)
    rw, rx, ry, rz = right.unbind(-1)
    return torch.stack([
        lw * rw - lx * rx - ly * ry - lz * rz,
        lw * rx + lx * rw + ly * rz - lz * ry,
        lw * ry - lx * rz + ly * rw + lz * rx,
        lw * rz + lx * ry - ly * rx + lz * rw,
    ], -1)


def hat(vector: Tensor) -> Tensor:
    """[..., 3] -> [..., 3, 3] skew-symmetric matrix with hat(v) x = v cross x."""
    x, y, z = vector.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*vector.shape[:-1], 3, 3)


def so3_exp(omega: Tensor) -> Tensor:
    """[..., 3] rotation vector (radians) -> [..., 3, 3]; smooth at zero."""
    square = (omega * omega).sum(-1)[..., None, None]
    small = square < 1e-8
    theta = square.clamp_min(1e-12).sqrt()
    s = torch.where(small, 1 - square / 6, torch.sin(theta) / theta)
    c = torch.where(small, 0.5 - square / 24, (1 - torch.cos(theta)) / theta.square())
    w = hat(omega)
    return torch.eye(3, dtype=omega.dtype, device=omega.device) + s * w + c * (w @ w)


def se3_exp(xi: Tensor) -> Tensor:
    """[..., 6] (translation, rotation vector) -> [..., 4, 4] as (t, so3_exp(w)): SO(3) x R^3, not the coupled exponential.

    Reference: the pose residual of LTGS (arXiv 2510.09881) uses the same parametrisation.
    """
    top = torch.cat([so3_exp(xi[..., 3:]), xi[..., :3, None]], -1)
    bottom = torch.zeros(*xi.shape[:-1], 1, 4, dtype=xi.dtype, device=xi.device)
    bottom[..., 0, 3] = 1
    return torch.cat([top, bottom], -2)


def so3_log(rotation: Array) -> Array:
    """[3, 3] -> [3] rotation vector, radians."""
    q = matrix_to_quat(torch.as_tensor(np.asarray(rotation, dtype=np.float64))).numpy()
    norm = np.linalg.norm(q[1:])
    if norm < 1e-12:
        return 2 * q[1:]
    return q[1:] / norm * 2 * np.arctan2(norm, q[0])


def rotation_angle_deg(rotation: Array) -> float:
    """Angle of a [3, 3] rotation in degrees, 0..180."""
    return float(np.degrees(np.linalg.norm(so3_log(rotation))))


def axis_rotations(axis: Array, count: int) -> Array:
    """[count, 3, 3] rotations about a unit axis [3], evenly spaced."""
    angles = torch.arange(count, dtype=torch.float64) * (2 * np.pi / count)
    return so3_exp(angles[:, None] * torch.as_tensor(axis)).numpy()


def invert_rigid(b_from_a: Array) -> Array:
    """Inverse of [..., 4, 4] rigid transforms (numpy)."""
    m = np.asarray(b_from_a, dtype=np.float64)
    out = np.zeros_like(m)
    rt = np.swapaxes(m[..., :3, :3], -1, -2)
    out[..., :3, :3] = rt
    out[..., :3, 3] = -(rt @ m[..., :3, 3:4])[..., 0]
    out[..., 3, 3] = 1
    return out


def make_rigid(rotation: Array, translation: Array) -> Array:
    """[3, 3], [3] -> [4, 4]."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, translation
    return out


def umeyama(source: Array, target: Array, *, with_scale: bool = True) -> tuple[float, Array, Array]:
    """Least-squares similarity with target = s R source + t.

    Args:
        source, target: [M, 3], M >= 3 and not collinear.

    Returns:
        s, R [3, 3], t [3].

    Reference: Umeyama, PAMI 1991.
    """
    source, target = np.asarray(source, float), np.asarray(target, float)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3 or len(source) < 3:
        raise ValueError(f"umeyama needs two [M, 3] arrays with M >= 3, got {source.shape} and {target.shape}.")
    mean_s, mean_t = source.mean(0), target.mean(0)
    s0, t0 = source - mean_s, target - mean_t
    u, sigma, vt = np.linalg.svd(t0.T @ s0 / len(source))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    rotation = (u * sign) @ vt
    variance = (s0**2).sum() / len(source)
    scale = float((sigma * sign).sum() / variance) if with_scale and variance > 0 else 1.0
    return scale, rotation, mean_t - scale * rotation @ mean_s


def random_rotations(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """[count, 3, 3] uniform rotations."""
    q = rng.normal(size=(count, 4))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    w, x, y, z = q.T
    return np.stack([
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ], -1).reshape(count, 3, 3)
