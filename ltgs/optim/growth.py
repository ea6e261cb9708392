"""Growth under a hard cap: relocation of dead Gaussians and addition of new ones that leave the rendered image unchanged.

Reference: Kheradmand et al., "3D Gaussian Splatting as Markov Chain Monte Carlo" (NeurIPS 2024), equation 9 for the
opacity and scale of k copies. What differs: parents are drawn by opacity times accumulated photometric error, so that few
steps suffice to put Gaussians where the picture is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ltgs.core.gaussians import FIELDS, Gaussians
from ltgs.core.se3 import quat_to_matrix

MAX_COPIES = 32


@dataclass(frozen=True)
class GrowthConfig:
    """When and how Gaussians are added and moved."""

    every: int = 100
    """Steps between two growth rounds."""
    start: int = 100
    """First step of growth."""
    stop_share: float = 0.6
    """Growth ends at this share of all steps; the rest settles."""
    dead_opacity: float = 0.005
    """Gaussians below this opacity are relocated (3DGS-MCMC)."""
    max_factor: float = 1.25
    """At most this many times more Gaussians per round."""
    error_power: float = 1.0
    """Exponent of the accumulated error in the parent's probability; 0 = opacity alone as in 3DGS-MCMC."""


def copied_opacity_and_scale(opacity: Tensor, scale: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity and scale that let `copies` coincident Gaussians render like the one before.

    Args:
        opacity: [M] in (0, 1).   scale: [M, 3].   copies: [M] int, >= 1, clamped to 32.
    """
    copies = copies.clamp(1, MAX_COPIES)
    new_opacity = 1 - (1 - opacity.double()).pow(1 / copies)
    i = torch.arange(1, MAX_COPIES + 1, dtype=torch.float64, device=opacity.device)
    k = torch.arange(MAX_COPIES, dtype=torch.float64, device=opacity.device)
    log_binomial = torch.lgamma(i)[:, None] - torch.lgamma(k + 1)[None] - torch.lgamma((i[:, None] - k).clamp_min(1e-9))
    table = torch.where(k[None] < i[:, None], log_binomial.exp(), torch.zeros_like(log_binomial)) * (-1.0) ** k / (k + 1).sqrt()
    cumulative = table.cumsum(0)[copies.long() - 1]  # [M, K]: sum over i of the coefficient of o^(k+1)
    powers = new_opacity[:, None] ** (k + 1)
    denominator = (cumulative * powers).sum(1)
    factor = (opacity.double() / denominator).clamp(0.05, 1.0)
    return new_opacity.to(opacity.dtype), scale * factor[:, None].to(scale.dtype)


class GaussianOptimizer:
    """Gaussian parameters with one fused Adam; edits parameters and moments together."""

    def __init__(self, gaussians: Gaussians, learning_rates: dict[str, float]) -> None:
        """`learning_rates` has the keys means, quats, log_scales, opacity_logits, sh_dc, sh_rest."""
        tensors = gaussians.tensors()
        split = {**{k: tensors[k] for k in FIELDS if k != "sh"}, "sh_dc": gaussians.sh[:, :1], "sh_rest": gaussians.sh[:, 1:]}
        self.params = {k: v.detach().clone().contiguous().requires_grad_(True) for k, v in split.items()}
        groups = [{"params": [p], "lr": learning_rates[k], "name": k} for k, p in self.params.items()]
        self.adam = torch.optim.Adam(groups, eps=1e-15, fused=True)

    def gaussians(self) -> Gaussians:
        """The current parameters, attached to the graph."""
        p = self.params
        return Gaussians(
            p["means"], p["quats"], p["log_scales"], p["opacity_logits"], torch.cat([p["sh_dc"], p["sh_rest"]], 1)
        )

    def __len__(self) -> int:
        return len(self.params["means"])

    def set_learning_rate(self, name: str, value: float) -> None:
        for group in self.adam.param_groups:
            if group["name"] == name:
                group["lr"] = value

    def _replace(self, edit) -> None:  # type: ignore[no-untyped-def]
        """Apply `edit(name, tensor, is_moment) -> tensor` to every parameter and its two moments."""
        for group in self.adam.param_groups:
            old = group["params"][0]
            name = group["name"]
            state = self.adam.state.pop(old, {})
            new = edit(name, old.detach(), False).contiguous().requires_grad_(True)
            if state:
                for key in ("exp_avg", "exp_avg_sq"):
                    state[key] = edit(name, state[key], True).contiguous()
                self.adam.state[new] = state
            group["params"][0] = new
            self.params[name] = new

    def overwrite(self, rows: Tensor, values: dict[str, Tensor]) -> None:
        """Replace rows [M] by `values` (by parameter name) and clear their moments."""
        def edit(name: str, tensor: Tensor, is_moment: bool) -> Tensor:
            tensor = tensor.clone()
            tensor[rows] = 0 if is_moment else values[name]
            return tensor

        self._replace(edit)

    def append(self, values: dict[str, Tensor]) -> None:
        """Add rows with zero moments."""
        def edit(name: str, tensor: Tensor, is_moment: bool) -> Tensor:
            return torch.cat([tensor, torch.zeros_like(values[name]) if is_moment else values[name]])

        self._replace(edit)

    def keep(self, mask: Tensor) -> None:
        """Drop rows where `mask` [N] is False."""
        self._replace(lambda name, tensor, is_moment: tensor[mask])

    def reorder(self, order: Tensor) -> None:
        """Put row `order[i]` at place i; the parameters of every Gaussian stay as they are."""
        self._replace(lambda name, tensor, is_moment: tensor[order])

    def state_tensors(self) -> dict[str, Tensor]:
        """All parameters and moments, for a checkpoint."""
        out = {f"param.{k}": v.detach() for k, v in self.params.items()}
        for group in self.adam.param_groups:
            state = self.adam.state.get(group["params"][0], {})
            for key, value in state.items():
                out[f"adam.{group['name']}.{key}"] = torch.as_tensor(value)
        return out

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `state_tensors`."""
        for group in self.adam.param_groups:
            name = group["name"]
            self.adam.state.pop(group["params"][0], None)
            device = self.params[name].device
            new = tensors[f"param.{name}"].to(device, copy=True).requires_grad_(True)
            group["params"][0] = new
            self.params[name] = new
            state = {key: tensors[f"adam.{name}.{key}"].to(device, copy=True) for key in ("step", "exp_avg", "exp_avg_sq")
                     if f"adam.{name}.{key}" in tensors}
            if state:
                self.adam.state[new] = state


def grow(
    optimizer: GaussianOptimizer,
    error: Tensor,  # [N] accumulated photometric error per Gaussian
    *,
    target_count: int,
    config: GrowthConfig,
    generator: torch.Generator,
) -> tuple[int, int]:
    """One growth round.

    Returns:
        number of relocated and of added Gaussians.
    """
    opacity = torch.sigmoid(optimizer.params["opacity_logits"].detach())
    dead = opacity <= config.dead_opacity
    alive = ~dead
    if int(alive.sum()) == 0:
        return 0, 0
    weight = opacity * (error.clamp_min(0) + 1e-12).pow(config.error_power) * alive
    num_dead = int(dead.sum())
    if num_dead:
        parents = _draw(weight, num_dead, generator)
        optimizer.overwrite(*_copy_rows(optimizer, parents, dead.nonzero()[:, 0]))
    num_new = max(0, min(target_count, int(len(optimizer) * config.max_factor)) - len(optimizer))
    if num_new:
        parents = _draw(weight, num_new, generator)
        rows, values = _copy_rows(optimizer, parents, None)
        optimizer.overwrite(rows, {k: v[: len(rows)] for k, v in values.items()})
        optimizer.append({k: v[len(rows):] for k, v in values.items()})
    return num_dead, num_new


def _draw(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[count] rows drawn by weight; on the host, where the generator is, so that a seed means the same on every device."""
    return torch.multinomial(weight.cpu(), count, replacement=True, generator=generator).to(weight.device)


def _copy_rows(
    optimizer: GaussianOptimizer, parents: Tensor, destinations: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Rows to overwrite and their values. Unique parents come first, then one copy per entry of `parents`.

    With destinations the copies go to those rows; without, the caller appends the values beyond the parents' rows.
    """
    unique, inverse, counts = parents.unique(return_inverse=True, return_counts=True)
    p = {k: v.detach() for k, v in optimizer.params.items()}
    opacity, scale = copied_opacity_and_scale(
        torch.sigmoid(p["opacity_logits"][unique]), p["log_scales"][unique].exp(), counts + 1
    )
    values = {k: v[unique].clone() for k, v in p.items()}
    values["opacity_logits"] = torch.logit(opacity.clamp(0.005, 1 - 1e-6))
    values["log_scales"] = scale.clamp_min(1e-12).log()
    copies = {k: v[inverse] for k, v in values.items()}
    joined = {k: torch.cat([values[k], copies[k]]) for k in values}
    return (unique if destinations is None else torch.cat([unique, destinations])), joined


def add_position_noise(
    params: dict[str, Tensor], learning_rate: float, *, strength: float, generator: torch.Generator
) -> None:
    """Langevin noise on the means, shaped by each Gaussian's covariance and switched off for opaque ones (3DGS-MCMC, eq. 7)."""
    with torch.no_grad():
        opacity = torch.sigmoid(params["opacity_logits"])
        gate = torch.sigmoid(100 * ((1 - opacity) - 0.995))
        noise = torch.randn(params["means"].shape, generator=generator).to(opacity.device, non_blocking=True)
        noise = noise * (gate * strength * learning_rate)[:, None]
        rotation = quat_to_matrix(params["quats"])
        scale = params["log_scales"].exp()
        local = (rotation.transpose(1, 2) @ noise[..., None])[..., 0] * scale.square()
        params["means"] += (rotation @ local[..., None])[..., 0]
