"""Learned registration and confidence on top of a finished stereo match, semi-global matching for instance.

The two ideas of the fusion network without its matcher: ordering maps of disparity and prior give a Beta distribution per pixel, and
the prior is brought to disparity by per-pixel scale and shift before both are mixed by a learned confidence. The fields are smooth and
live at 1/4 resolution; disparity and prior keep every pixel of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltgs.core.checks import check_shape
from ltgs.depth.net.config import PUBLISHED_OFFSETS, NetConfig
from ltgs.depth.net.fusion import BetaModulator, global_fit, resize_map
from ltgs.depth.net.layers import Conv3x3, ResidualBlock, initialise, padding_to, robust_spread
from ltgs.depth.net.ordering import relative_ordering_map

FACTOR = 4
_MULTIPLE = 16
_EVIDENCE = 11
"""Maps that the trunk sees beside the image, see `FusionHeads._evidence`."""


@dataclass(frozen=True)
class HeadsOutput:
    """[B, 1, H, W] each, image pixels of the left view."""

    fused: Tensor
    """confidence * disparity + (1 - confidence) * registered."""
    registered: Tensor
    """The prior brought to disparity; the disparity itself where the prior is not known."""
    confidence: Tensor
    a: Tensor
    """Scale of the prior as given."""
    b: Tensor
    """Shift, pixels."""

    @property
    def predictions(self) -> list[Tensor]:
        """What the loss weighs."""
        return [self.registered, self.fused]


class FusionHeads(nn.Module):
    """About 0.65 M parameters; starts as the robust global fit with equal trust in both."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.modulater = BetaModulator(NetConfig(offsets=PUBLISHED_OFFSETS, modulation_widths=(32, 64)))
        self.image = nn.Sequential(nn.Conv2d(3, 24, 5, 2, 2), nn.ReLU(), nn.Conv2d(24, 24, 3, 2, 1), nn.ReLU())
        self.fine = ResidualBlock(24 + _EVIDENCE, width, "none")
        self.middle = ResidualBlock(width, 64, "none", 2)
        self.coarse = nn.Sequential(ResidualBlock(64, 96, "none", 2), ResidualBlock(96, 96, "none"))
        self.up_middle = Conv3x3(96 + 64, 64)
        self.up_fine = Conv3x3(64 + width, width)
        self.fields, self.trust = _output(width, 2), _output(width, 1)
        # The modulation's softplus layers keep their own start.
        for part in (self.image, self.fine, self.middle, self.coarse, self.up_middle, self.up_fine):
            initialise(part)
        for last in (self.fields[2], self.trust[2]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, left: Tensor, right: Tensor, disparity: Tensor, matched: Tensor, prior: Tensor, prior_valid: Tensor) -> HeadsOutput:
        """Register and fuse.

        Args:
            left, right: [B, 3, H, W] in 0..255, any size.
            disparity: [B, 1, H, W] pixels, positive, with a value everywhere (filled where not matched).
            matched: [B, 1, H, W] bool; measured rather than filled.
            prior: [B, 1, H, W] relative inverse depth, large = near.
            prior_valid: [B, 1, H, W] bool.
        """
        h, w = left.shape[-2:]
        for name, value in (("disparity", disparity), ("matched", matched), ("prior", prior), ("prior_valid", prior_valid)):
            check_shape(name, value, f"{left.shape[0]} 1 {h} {w}")
        pad = padding_to(h, w, _MULTIPLE)
        left, right, disparity, prior = (pad.add(x.float()) for x in (left, right, disparity, torch.where(prior_valid, prior, 0)))
        matched, prior_valid = (pad.add(x.float()) > 0.5 for x in (matched, prior_valid))
        trusted = matched & prior_valid
        # Without any pixel that has both, the fit sees whatever has a prior.
        trusted = torch.where(trusted.flatten(1).any(1)[:, None, None, None], trusted, prior_valid)
        a0, b0 = global_fit(prior, disparity, trusted)
        start = torch.where(prior_valid, a0 * prior + b0, disparity)
        _, unit = robust_spread(disparity)
        unit = unit.clamp_min(1.0)
        fields = self._trunk(left, self._evidence(left, right, disparity, start, matched, prior_valid, unit))
        fields = F.interpolate(fields, left.shape[-2:], mode="bilinear", align_corners=False)
        da, db, logit = fields.float().chunk(3, 1)
        a, b = (1 + da) * a0, (1 + da) * b0 + unit * db
        registered = torch.where(prior_valid, a * prior + b, disparity)
        confidence = torch.where(prior_valid, torch.sigmoid(logit), 1.0)
        fused = confidence * disparity + (1 - confidence) * registered
        return HeadsOutput(*(pad.remove(x) for x in (fused, registered, confidence, a, b)))

    def _trunk(self, left: Tensor, evidence: Tensor) -> Tensor:
        x = self.fine(torch.cat([self.image(left / 127.5 - 1), evidence], 1))
        y = self.middle(x)
        z = self.coarse(y)
        y = F.leaky_relu(self.up_middle(torch.cat([F.interpolate(z, scale_factor=2, mode="bilinear"), y], 1)), 0.1)
        x = F.leaky_relu(self.up_fine(torch.cat([F.interpolate(y, scale_factor=2, mode="bilinear"), x], 1)), 0.1)
        return torch.cat([self.fields(x), self.trust(x)], 1)

    def _evidence(
        self, left: Tensor, right: Tensor, disparity: Tensor, start: Tensor, matched: Tensor, prior_valid: Tensor, unit: Tensor
    ) -> Tensor:
        """[B, 11, H / 4, W / 4]: both photometric scores and their difference, validity, disagreement, edges, Beta statistics."""
        size = (left.shape[-2] // FACTOR, left.shape[-1] // FACTOR)
        scores = [local_correlation(left, warp_right(right, d)) for d in (disparity, start)]
        gap = disparity - start
        full = torch.cat([
            *scores, scores[0] - scores[1], matched.float(), prior_valid.float(), torch.tanh(gap / unit), torch.tanh(gap.abs() / 4),
        ], 1)
        small_d, small_s = (resize_map(x, size) for x in (disparity, start))
        edges = torch.tanh((F.max_pool2d(small_d, 3, 1, 1) + F.max_pool2d(-small_d, 3, 1, 1)) / 4)
        small_valid = resize_map(prior_valid.float(), size) > 0.5
        beta = self.modulater(
            relative_ordering_map(small_d, PUBLISHED_OFFSETS), relative_ordering_map(small_s, PUBLISHED_OFFSETS, small_valid)
        )
        relative = torch.tanh((small_d - small_d.mean((-2, -1), keepdim=True)) / unit / 2)
        return torch.cat([resize_map(full, size), edges, relative, beta.mean, 12 * beta.variance], 1)


def _output(width: int, channels: int) -> nn.Sequential:
    # Leaky: a plain rectifier dies where one of the two outputs has nothing left to learn.
    return nn.Sequential(Conv3x3(width, width // 2), nn.LeakyReLU(0.1), nn.Conv2d(width // 2, channels, 1))


def warp_right(right: Tensor, disparity: Tensor) -> Tensor:
    """[B, C, H, W] right image at the pixels that the left ones match; outside of it the border repeats."""
    _, _, h, w = right.shape
    x = torch.arange(w, device=right.device) + 0.5 - disparity[:, 0]
    y = (torch.arange(h, device=right.device) + 0.5)[:, None].expand_as(x)
    grid = torch.stack([2 * x / w - 1, 2 * y / h - 1], -1)
    return F.grid_sample(right, grid, align_corners=False, padding_mode="border")


def local_correlation(first: Tensor, second: Tensor, window: int = 9) -> Tensor:
    """[B, 1, H, W] zero-mean normalised correlation of grey values in a window, -1..1; near 0 where there is no texture."""
    grey = [x.mean(1, keepdim=True) for x in (first, second)]

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, 1, window // 2, count_include_pad=False)

    means = [mean(x) for x in grey]
    centred = [x - m for x, m in zip(grey, means, strict=True)]
    variances = [mean(c * c) for c in centred]
    # Four grey levels squared: below that, noise decides.
    return mean(centred[0] * centred[1]) / ((variances[0] + 4) * (variances[1] + 4)).sqrt()
