"""Where the monocular prior meets disparity: modulation of every update, and registration after the last one.

Iterative local fusion draws one weight per pixel from a Beta distribution whose parameters come from comparing ordering maps;
global fusion brings the prior to disparity by per-pixel scale and shift and mixes both by a learned confidence (Yao et al., ICCV 2025).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltgs.depth.net.config import NetConfig
from ltgs.depth.net.layers import Conv3x3, ResidualBlock, convex_upsample
from ltgs.depth.net.update import upsampling_mask

MAX_CONCENTRATION = 1e3
"""Bound of alpha and beta; beyond it a Beta distribution is a point for every practical purpose and its sampler loses digits."""


class BetaField(NamedTuple):
    """A Beta distribution per pixel, [B, 1, H, W] each; alpha and beta are at least 1, so it has one mode."""

    alpha: Tensor
    beta: Tensor

    @property
    def mean(self) -> Tensor:
        """alpha / (alpha + beta)."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def variance(self) -> Tensor:
        """alpha beta / ((alpha + beta)^2 (alpha + beta + 1))."""
        total = self.alpha + self.beta
        return self.alpha * self.beta / (total * total * (total + 1))

    def draw(self, random: bool) -> Tensor:
        """A reparameterised sample in (0, 1) with gradient to both parameters, or the mean."""
        if not random:
            return self.mean
        return torch.distributions.Beta(self.alpha, self.beta, validate_args=False).rsample()


class BetaModulator(nn.Module):
    """Beta parameters from the ordering maps of disparity and prior; always computed in float32."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        n = len(config.offsets)
        first, second = config.modulation_widths
        self.conv1 = nn.Sequential(Conv3x3(2 * n, 2 * n), nn.ReLU(), Conv3x3(2 * n, 2 * n))
        self.down = nn.Sequential(ResidualBlock(2 * n, first, "batch", 2), ResidualBlock(first, second, "batch"))
        self.up = nn.ConvTranspose2d(second, 2 * n, 2, 2)
        self.conv2 = nn.Sequential(
            Conv3x3(4 * n, n, bias=False), nn.Softplus(), nn.Conv2d(n, 2, 1, bias=False), nn.Softplus()
        )

    def forward(self, disparity_codes: Tensor, prior_codes: Tensor) -> BetaField:
        """Ordering maps [B, N, H, W] (even H and W) -> Beta parameters."""
        with torch.autocast(disparity_codes.device.type, enabled=False):
            x = self.conv1(torch.cat([disparity_codes, prior_codes], 1).float())
            x = torch.cat([x, self.up(self.down(x))], 1)
            alpha, beta = (1 + self.conv2(x)).clamp(max=MAX_CONCENTRATION).chunk(2, 1)
        return BetaField(alpha, beta)


def modulation_weight(config: NetConfig, iteration: int, iterations: int) -> float:
    """w_t of the modulated update delta * (1 + G w_t): 0 at the start, `strength` at the end.

    Args:
        iteration: counted from 0.
        iterations: their number in this pass.
    """
    if config.schedule == "linear":
        return config.strength * iteration / iterations
    return config.strength * float(torch.sigmoid(torch.tensor(2.0 * (iteration - 5))))


@torch.no_grad()
def global_fit(prior: Tensor, disparity: Tensor, valid: Tensor, *, rounds: int = 10) -> tuple[Tensor, Tensor]:
    """Scale and shift per image that bring the prior to disparity: least squares with Cauchy weights, re-weighted `rounds` times.

    Args:
        prior, disparity: [B, 1, H, W].
        valid: [B, 1, H, W] bool.

    Returns:
        a, b [B, 1, 1, 1]; a prior without spread gets a = 0 and the mean disparity. No gradient.
    """
    m, d, mask = (x.detach().double().flatten(1) for x in (prior, disparity, valid))
    weight = mask
    for _ in range(rounds):
        total = weight.sum(1, keepdim=True).clamp_min(1e-12)
        mean_m, mean_d = (weight * m).sum(1, keepdim=True) / total, (weight * d).sum(1, keepdim=True) / total
        variance = (weight * (m - mean_m) ** 2).sum(1, keepdim=True)
        covariance = (weight * (m - mean_m) * (d - mean_d)).sum(1, keepdim=True)
        usable = variance > 1e-9 * total * (1 + mean_m**2)
        a = torch.where(usable, covariance / variance.clamp_min(1e-30), torch.zeros_like(variance))
        b = mean_d - a * mean_m
        residual = d - a * m - b
        # 1.48 median is the standard deviation of Gaussian residuals; a hundredth of a pixel keeps exact data from dividing by 0.
        middle = torch.where(mask > 0, residual.abs(), torch.nan).nanmedian(1, keepdim=True).values.nan_to_num(0.0)
        weight = mask / (1 + (residual / (1.48 * middle).clamp_min(0.01)) ** 2)
    return a.to(prior.dtype)[..., None, None], b.to(prior.dtype)[..., None, None]


class Registered(NamedTuple):
    """Result of global fusion; maps at working resolution are in working pixels."""

    a: Tensor
    """[B, 1, H, W] scale of the prior."""
    b: Tensor
    """[B, 1, H, W] shift, working pixels."""
    prior: Tensor
    """[B, 1, H, W] a * prior + b."""
    confidence: Tensor
    """[B, 1, H, W] weight of the stereo disparity, in (0, 1); 1 where the prior is not valid."""
    fused: Tensor
    """[B, 1, H, W]."""


def _chain(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        Conv3x3(inputs, width), nn.ReLU(), Conv3x3(width, width), nn.ReLU(), nn.Conv2d(width, outputs, 1)
    )


class GlobalFusion(nn.Module):
    """Per-pixel linear registration of the prior, hybrid confidence, fusion and convex upsampling."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.relative = config.registration_base == "global"
        self.factor = config.factor
        self.mono_params_estimate = _chain(2, config.registration_width, 2)
        self.conf_estimate = _chain(config.corr_channels + config.hidden + 2, config.confidence_width, 1)
        self.mask = upsampling_mask(config.hidden + 1, config.head_width, config.factor)
        if self.relative:
            for parameter in self.mono_params_estimate[4].parameters():
                nn.init.zeros_(parameter)

    def parameters_of_registration(self) -> list[nn.Parameter]:
        """The part that the second training stage trains."""
        return list(self.mono_params_estimate.parameters())

    def register(self, disparity: Tensor, prior: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift fields [B, 1, H, W].

        Args:
            disparity: positive, working pixels.
            prior: relative inverse depth.
            valid: bool; where the prior is known.
        """
        if not self.relative:
            a, b = self.mono_params_estimate(torch.cat([disparity, prior], 1)).chunk(2, 1)
            return a, b
        a0, b0 = global_fit(prior, disparity, valid)
        start = torch.where(valid, a0 * prior + b0, disparity)
        # Differences in pixels keep the head's input in one range, however large disparity is.
        middle = disparity.mean((-2, -1), keepdim=True)
        da, db = self.mono_params_estimate(torch.cat([disparity - middle, start - middle], 1) / 16).chunk(2, 1)
        return (1 + da) * a0, (1 + da) * b0 + db

    def forward(
        self, disparity: Tensor, prior: Tensor, valid: Tensor, correlation: Tensor, hidden: Tensor, beta: BetaField
    ) -> Registered:
        """All inputs at working resolution; `hidden` is the finest recurrent state."""
        with torch.autocast(disparity.device.type, enabled=False):
            a, b = self.register(disparity.float(), prior.float(), valid)
            registered = a * prior + b
        evidence = torch.cat([correlation.to(hidden.dtype), hidden, beta.mean.to(hidden.dtype), beta.variance.to(hidden.dtype)], 1)
        confidence = torch.sigmoid(self.conf_estimate(evidence).float())
        confidence = torch.where(valid, confidence, torch.ones_like(confidence))
        registered = torch.where(valid, registered, disparity)
        return Registered(a, b, registered, confidence, confidence * disparity + (1 - confidence) * registered)

    def upsample(self, hidden: Tensor, result: Registered) -> tuple[Tensor, Tensor]:
        """Fused disparity and registered prior at image resolution, image pixels."""
        logits = self.mask(torch.cat([hidden, result.fused.to(hidden.dtype)], 1))
        fused, prior = convex_upsample(torch.cat([result.fused, result.prior], 1), logits, self.factor).split(1, 1)
        return fused, prior


def resize_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize without aligned corners, antialiased by area where the map shrinks by more than 2."""
    if tuple(x.shape[-2:]) == size:
        return x
    if x.shape[-2] >= 2 * size[0] and x.shape[-1] >= 2 * size[1]:
        return F.interpolate(x, size, mode="area")
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
