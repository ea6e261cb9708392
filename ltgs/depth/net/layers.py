"""Building blocks: residual blocks, resampling between the recurrent scales, convex upsampling, padding."""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["batch", "instance", "none"]


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """Batch norm has parameters; instance norm has none, as in RAFT."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels) if kind == "instance" else nn.Identity()


@cache
def _has_nnpack() -> bool:
    """Whether this build of torch brings NNPACK and it runs on this processor; asking also prepares it."""
    return hasattr(torch, "_nnpack_spatial_convolution") and bool(torch._nnpack_available())


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with zeros around; where no gradient is wanted on a processor, half the time by Winograd's method.

    torch's own choice multiplies out. NNPACK transforms tiles instead (Lavin & Gray, CVPR 2016); in float32 the results differ by
    about 1e-5 of the largest value. It pays from some width on.
    """

    MIN_CHANNELS = 32

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, stride, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        if not self._by_tiles(x):
            return super().forward(x)
        # NNPACK's transforms are for single images.
        done = [torch._nnpack_spatial_convolution(image, self.weight, self.bias, 1) for image in x.split(1)]
        return done[0] if len(done) == 1 else torch.cat(done)

    def _by_tiles(self, x: Tensor) -> bool:
        wide = min(self.in_channels, self.out_channels) >= self.MIN_CHANNELS and self.stride == (1, 1)
        plain = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return wide and plain and not torch.is_grad_enabled() and _has_nnpack()


class ResidualBlock(nn.Module):
    """relu(skip(x) + two 3x3 convolutions); `skip` is a strided 1x1 convolution where shape changes (RAFT, ECCV 2020)."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = Conv3x3(inputs, outputs, stride)
        self.conv2 = Conv3x3(outputs, outputs)
        self.norm1 = make_norm(norm, outputs)
        self.norm2 = make_norm(norm, outputs)
        same = stride == 1 and inputs == outputs
        self.downsample = None if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), make_norm(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu((x if self.downsample is None else self.downsample(x)) + y)


def residual_pair(inputs: int, outputs: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    """Two residual blocks, the first with the stride."""
    return nn.Sequential(ResidualBlock(inputs, outputs, norm, stride), ResidualBlock(outputs, outputs, norm))


def initialise(module: nn.Module) -> None:
    """Kaiming weights (fan out) for convolutions, as in RAFT; biases keep their default."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def pool2x(x: Tensor) -> Tensor:
    """Halve [B, C, H, W] by a 3x3 average with stride 2."""
    return F.avg_pool2d(x, 3, stride=2, padding=1)


def resize_like(x: Tensor, other: Tensor) -> Tensor:
    """Bilinear resize to the other's height and width, corners aligned (between recurrent scales)."""
    return F.interpolate(x, other.shape[-2:], mode="bilinear", align_corners=True)


def convex_upsample(values: Tensor, mask: Tensor, factor: int) -> Tensor:
    """Upsample by convex combinations of the 3x3 neighbours (RAFT), values times `factor`.

    Args:
        values: [B, N, H, W] disparities in working pixels; all are given the same weights.
        mask: [B, 9 * factor^2, H, W] logits, softmax over the nine neighbours.

    Returns:
        [B, N, factor H, factor W] image pixels. Outside of the image the neighbours repeat the border.
    """
    b, n, h, w = values.shape
    weights = mask.float().view(b, 9, 1, factor * factor, h * w).softmax(1)
    padded = F.pad(factor * values.float(), (1, 1, 1, 1), mode="replicate")
    neighbours = F.unfold(padded, 3).view(b, n, 9, 1, h * w).transpose(1, 2)
    # One neighbour at a time: all nine products at once would not fit a processor's cache.
    total = weights[:, 0] * neighbours[:, 0]
    for k in range(1, 9):
        total = torch.addcmul(total, weights[:, k], neighbours[:, k])
    return F.pixel_shuffle(total.reshape(b, n * factor * factor, h, w), factor)


class Padding(NamedTuple):
    """Pixels added at the four sides."""

    left: int
    right: int
    top: int
    bottom: int

    def add(self, x: Tensor) -> Tensor:
        """[B, C, H, W] with the border repeated."""
        return F.pad(x, tuple(self), mode="replicate") if any(self) else x

    def remove(self, x: Tensor) -> Tensor:
        """Undo `add` at image resolution."""
        return x[..., self.top : x.shape[-2] - self.bottom, self.left : x.shape[-1] - self.right]


def padding_to(height: int, width: int, multiple: int) -> Padding:
    """Padding to multiples, half on each side (RAFT's "sintel" mode)."""
    extra_h, extra_w = -height % multiple, -width % multiple
    return Padding(extra_w // 2, extra_w - extra_w // 2, extra_h // 2, extra_h - extra_h // 2)


def count_parameters(module: nn.Module, *, trainable_only: bool = True) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


def freeze_batch_norm(module: nn.Module) -> None:
    """Use stored statistics also in training, as RAFT-Stereo does; the scale and shift stay trainable."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()


def robust_spread(x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Median and mean absolute deviation from it, per image.

    Args:
        x: [B, 1, H, W].
        valid: [B, 1, H, W] bool; an image without valid pixels uses them all.

    Returns:
        median and spread, [B, 1, 1, 1] each; the spread is at least 1e-6 of the largest magnitude.
    """
    flat = x.detach().float().flatten(1)
    mask = torch.ones_like(flat, dtype=torch.bool) if valid is None else valid.flatten(1) & torch.isfinite(flat)
    mask = mask | ~mask.any(1, keepdim=True)
    median = torch.where(mask, flat, flat.new_tensor(float("nan"))).nanmedian(1, keepdim=True).values
    deviation = torch.where(mask, (flat - median).abs(), flat.new_zeros(()))
    spread = deviation.sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    spread = torch.maximum(spread, 1e-6 * torch.where(mask, flat.abs(), flat.new_zeros(())).amax(1, keepdim=True) + 1e-12)
    return median[..., None, None], spread[..., None, None]
