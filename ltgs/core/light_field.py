"""Light of a visit that differs from place to place: gains on a coarse grid in space for the six directions a surface may face.

An affine of the whole picture cannot show a window that lights one wall and leaves the other in the shade. The field belongs to
space, not to Gaussians: an object that moves takes the light of the place it moves to.

Reference: ambient cubes on an irradiance volume (Greger et al. 1998; McTaggart 2004), here for the ratio of two lights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ltgs.core.checks import check_finite, check_shape
from ltgs.core.gaussians import Gaussians
from ltgs.core.light_detail import LightDetail
from ltgs.core.se3 import quat_to_matrix
from ltgs.core.sh import dc_to_rgb, rgb_to_dc

FACES = 6
"""Directions -x +x -y +y -z +z, in this order."""


@dataclass(frozen=True)
class LightField:
    """log(colour in a visit's light / colour in the first visit's light) over space and direction."""

    origin: Tensor
    """[3] place of the first grid point, scene units."""
    cell: float
    """Distance of neighbouring grid points, scene units."""
    log_gain: Tensor
    """[X, Y, Z, 6, 3] natural logarithm of the gain per grid point, direction and colour channel."""
    viewpoint: Tensor
    """[3] where the first visit's cameras stood, on average: the background's surfaces face it."""
    detail: LightDetail | None = None
    """What differs within less than a cell, on top; None = nothing is known of it."""

    def __post_init__(self) -> None:
        check_shape("origin", self.origin, "3")
        check_shape("log_gain", self.log_gain, f"X Y Z {FACES} 3")
        check_shape("viewpoint", self.viewpoint, "3")
        check_finite("log_gain", self.log_gain)
        if min(self.log_gain.shape[:3]) < 2 or not self.cell > 0:
            raise ValueError(f"a light field needs two grid points per axis and a positive cell, got {tuple(self.log_gain.shape)}.")

    def gains(self, means: Tensor, normals: Tensor) -> Tensor:
        """[N, 3] colour gains at points [N, 3] of surfaces that face `normals` [N, 3]; outside of the grid its border holds."""
        index, weight = stencil(self.origin, self.cell, self.log_gain.shape[:3], means, normals)
        flat = self.log_gain.reshape(-1, 3).to(means.dtype)
        coarse = (flat[index] * weight[..., None]).sum(1).exp()
        return coarse if self.detail is None else coarse * self.detail.gains(means)

    def lit(self, gaussians: Gaussians, normals: Tensor) -> Gaussians:
        """The same Gaussians with their colours in this light."""
        return brightened(gaussians, self.gains(gaussians.means, normals))


def brightened(gaussians: Gaussians, gain: Tensor) -> Gaussians:
    """The same Gaussians with their colours times a gain [N, 3]."""
    dc = rgb_to_dc(dc_to_rgb(gaussians.sh[:, 0]) * gain)
    return replace(gaussians, sh=torch.cat([dc[:, None], gaussians.sh[:, 1:] * gain[:, None]], 1))


def face_weights(normals: Tensor) -> Tensor:
    """[N, 6] how much a surface that faces `normals` [N, 3] looks at each face of an ambient cube; they sum to 1."""
    weight = _axis_weights(normals)
    return torch.stack([weight * (normals <= 0), weight * (normals > 0)], 2).flatten(1)


def _axis_weights(normals: Tensor) -> Tensor:
    """[N, 3] the squared normal [N, 3], 1 in all."""
    return normals.square() / normals.square().sum(1, keepdim=True).clamp_min(1e-12)


def stencil(
    origin: Tensor, cell: float, shape: tuple[int, int, int] | torch.Size, means: Tensor, normals: Tensor
) -> tuple[Tensor, Tensor]:
    """Trilinear weights in space times the squared normal over the three faces it looks at.

    Returns:
        flat indices [N, 24] into a grid [X, Y, Z, 6] and weights [N, 24] that sum to 1.
    """
    size = torch.tensor(shape, device=means.device)
    place = ((means - origin.to(means)) / cell).clamp_min(0)
    place = torch.minimum(place, (size - 1).to(place) - 1e-4)
    low = place.floor().long()
    part = place - low
    axis_weight = _axis_weights(normals)
    face = 2 * torch.arange(3, device=means.device) + (normals > 0).long()
    index, weight = [], []
    for corner in range(8):
        bits = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1], device=means.device)
        at = low + bits
        share = torch.where(bits.bool(), part, 1 - part).prod(1)
        flat = (at[:, 0] * size[1] + at[:, 1]) * size[2] + at[:, 2]
        index.append(flat[:, None] * FACES + face)
        weight.append(share[:, None] * axis_weight)
    return torch.cat(index, 1), torch.cat(weight, 1)


def facing(gaussians: Gaussians, toward: Tensor) -> Tensor:
    """[N, 3] unit normals: each Gaussian's shortest axis, turned to the side of the vectors `toward` [N, 3]."""
    rotation = quat_to_matrix(gaussians.quats)
    shortest = gaussians.log_scales.argmin(1)
    normal = rotation.gather(2, shortest[:, None, None].expand(-1, 3, 1))[..., 0]
    return torch.where((normal * toward).sum(1, keepdim=True) < 0, -normal, normal)
