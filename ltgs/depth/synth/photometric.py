"""What a real camera does to colours: exposure, gamma, vignette, blur and noise, different for the two views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ltgs.depth.synth.draw import Draw


@dataclass(frozen=True)
class CameraLook:
    """Imperfections of one camera."""

    exposure: float = 1.0
    gamma: float = 1 / 2.2
    vignette: float = 0.0
    """Darkening at the corners, fraction."""
    blur: float = 0.0
    """Standard deviation, pixels."""
    noise: float = 0.0
    """Standard deviation of the 8-bit values."""


def random_looks(draw: Draw) -> tuple[CameraLook, CameraLook]:
    """Two similar cameras: one look, slightly changed for the right view."""
    exposure, gamma = draw.log_uniform(0.6, 1.6), draw.uniform(0.38, 0.55)
    vignette, blur, noise = draw.uniform(0, 0.3), draw.uniform(0, 0.8), draw.log_uniform(0.3, 5)

    def one(change: float) -> CameraLook:
        light = exposure * draw.log_uniform(1 / change, change)
        return CameraLook(light, gamma * draw.uniform(0.95, 1.05), vignette, blur * draw.uniform(0.7, 1.3), noise)

    return one(1.0001), one(1.25)


def develop(linear: Tensor, look: CameraLook, draw: Draw) -> Tensor:
    """8-bit values from linear light.

    Args:
        linear: [H, W, 3] >= 0.

    Returns:
        [3, H, W] whole numbers 0..255, float32.
    """
    h, w, _ = linear.shape
    y, x = (torch.linspace(-1, 1, n, device=linear.device) for n in (h, w))
    shade = 1 - look.vignette * (y[:, None] ** 2 + x[None, :] ** 2) / 2
    image = (linear * look.exposure * shade[..., None]).clamp(0, 1).permute(2, 0, 1)
    if look.blur > 0.15:
        image = gaussian_blur(image[None], look.blur)[0]
    image = 255 * image.clamp_min(1e-6) ** look.gamma
    if look.noise > 0:
        image = image + look.noise * draw.normal(3, h, w).to(image.device)
    return image.round().clamp(0, 255)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of [B, C, H, W], borders repeated."""
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), kernel[:, :, None, :], groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), kernel[:, :, :, None], groups=x.shape[1])
