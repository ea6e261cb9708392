"""The Gaussian scene representation: stored, unconstrained parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ltgs.core.checks import check_shape
from ltgs.core.se3 import matrix_to_quat, quat_multiply, quat_to_matrix
from ltgs.core.sh import dc_to_rgb, rotate_sh

FIELDS = ("means", "quats", "log_scales", "opacity_logits", "sh")


@dataclass(frozen=True)
class Gaussians:
    """N anisotropic Gaussians in stored (unconstrained) form; tensors may require gradients.

    The colour seen along a unit direction is ``max(0, 0.5 + SH(direction))`` in sRGB.
    """

    means: Tensor
    """[N, 3] centres, scene units."""
    quats: Tensor
    """[N, 4] wxyz, any non-zero norm."""
    log_scales: Tensor
    """[N, 3] natural logarithm of the standard deviations in scene units."""
    opacity_logits: Tensor
    """[N] logit of the opacity."""
    sh: Tensor
    """[N, K, 3] spherical-harmonic coefficients, K = (degree + 1)^2, DC first."""

    def __post_init__(self) -> None:
        check_shape("means", self.means, "N 3")
        n = self.means.shape[0]
        check_shape("quats", self.quats, f"{n} 4")
        check_shape("log_scales", self.log_scales, f"{n} 3")
        check_shape("opacity_logits", self.opacity_logits, f"{n}")
        check_shape("sh", self.sh, f"{n} K 3")
        if self.sh.shape[1] not in (1, 4, 9, 16):
            raise ValueError(f"sh must have 1, 4, 9 or 16 bases, got {self.sh.shape[1]}.")

    def __len__(self) -> int:
        return int(self.means.shape[0])

    @property
    def sh_degree(self) -> int:
        """Highest spherical-harmonic band stored, 0..3."""
        return {1: 0, 4: 1, 9: 2, 16: 3}[int(self.sh.shape[1])]

    @property
    def scales(self) -> Tensor:
        """[N, 3] standard deviations, scene units."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """[N] in (0, 1)."""
        return torch.sigmoid(self.opacity_logits)

    @property
    def base_rgb(self) -> Tensor:
        """[N, 3] view-independent colour, not clamped."""
        return dc_to_rgb(self.sh[:, 0])

    @property
    def covariances(self) -> Tensor:
        """[N, 3, 3] world-space covariances, scene units squared."""
        m = quat_to_matrix(self.quats) * self.scales[:, None, :]
        return m @ m.transpose(1, 2)

    @property
    def device(self) -> torch.device:
        return self.means.device

    def tensors(self) -> dict[str, Tensor]:
        """The five parameter tensors by field name."""
        return {name: getattr(self, name) for name in FIELDS}

    def detach(self) -> Gaussians:
        """The same values without gradient history."""
        return Gaussians(**{k: v.detach() for k, v in self.tensors().items()})

    def in_half_precision(self, *, means: bool) -> Gaussians:
        """The same with values that float16 holds exactly, where it can: 11 significant bits.

        Args:
            means: the centres as well: they are coordinates of one object, in its own frame.
        """
        def rounded(name: str, value: Tensor) -> Tensor:
            half = value.detach().half().to(value.dtype)
            return torch.where(half.isfinite(), half, value) if means or name != "means" else value

        return Gaussians(**{k: rounded(k, v) for k, v in self.tensors().items()})

    def to(self, device: torch.device | str) -> Gaussians:
        """A copy on another device (no copy if already there)."""
        return Gaussians(**{k: v.to(device) for k, v in self.tensors().items()})

    def __getitem__(self, index: Tensor | slice) -> Gaussians:
        """Select Gaussians by boolean mask [N], integer indices or slice."""
        return Gaussians(**{k: v[index] for k, v in self.tensors().items()})

    def transformed(self, b_from_a: Tensor) -> Gaussians:
        """Move rigidly: means, orientations and SH bands rotate; scales and opacities stay.

        Args:
            b_from_a: [4, 4] rigid transform applied on the left of column vectors; differentiable.
        """
        rotation, translation = b_from_a[:3, :3].to(self.means.dtype), b_from_a[:3, 3].to(self.means.dtype)
        return replace(
            self,
            means=self.means @ rotation.T + translation,
            quats=quat_multiply(matrix_to_quat(rotation[None]), self.quats),
            sh=rotate_sh(self.sh, rotation),
        )

    def with_sh_degree(self, degree: int) -> Gaussians:
        """Pad with zeros or truncate the SH bands to `degree`."""
        bases = (degree + 1) ** 2
        have = self.sh.shape[1]
        if bases <= have:
            return replace(self, sh=self.sh[:, :bases])
        padding = self.sh.new_zeros(len(self), bases - have, 3)
        return replace(self, sh=torch.cat([self.sh, padding], dim=1))

    @staticmethod
    def empty(sh_degree: int = 0, device: torch.device | str = "cpu") -> Gaussians:
        """No Gaussians at all."""
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, device=device)

        return Gaussians(zeros(0, 3), zeros(0, 4), zeros(0, 3), zeros(0), zeros(0, (sh_degree + 1) ** 2, 3))

    @staticmethod
    def concatenate(parts: Sequence[Gaussians]) -> Gaussians:
        """Join several sets in order; SH degrees are padded to the highest."""
        if not parts:
            return Gaussians.empty()
        degree = max(p.sh_degree for p in parts)
        padded = [p.with_sh_degree(degree) for p in parts]
        return Gaussians(**{k: torch.cat([getattr(p, k) for p in padded]) for k in FIELDS})


def template_radius(template: Gaussians) -> float:
    """Radius of the sphere around the template's origin that holds 98 % of its centres, scene units."""
    return float(torch.quantile(template.means.norm(dim=1), 0.98)) if len(template) else 0.0
