"""Image and context encoders.

`RaftEncoder` and `ImageContext` have the layer shapes of RAFT-Stereo (Lipson et al., 3DV 2021), `MonoContext` those of the
adaptor after the frozen monocular encoder (Yao et al., ICCV 2025); `SharedTrunk` and `SharedContext` are the small variant.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltgs.depth.net.config import NetConfig
from ltgs.depth.net.layers import Conv3x3, ResidualBlock, initialise, make_norm, residual_pair

Contexts = list[tuple[Tensor, Tensor]]
"""Per recurrent scale, finest first: initial hidden state before tanh and context before relu."""


class RaftEncoder(nn.Module):
    """Instance-normalised features for matching, 7x7 stem and three residual layers."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        d = config.downsample
        self.conv1 = nn.Conv2d(3, 64, 7, 1 + (d > 2), 3)
        self.norm1 = make_norm("instance", 64)
        self.layer1 = residual_pair(64, 64, "instance")
        self.layer2 = residual_pair(64, 96, "instance", 1 + (d > 1))
        self.layer3 = residual_pair(96, 128, "instance", 1 + (d > 0))
        self.conv2 = nn.Conv2d(128, config.feature_dim, 1)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, feature_dim, H / factor, W / factor]."""
        x = F.relu(self.norm1(self.conv1(images)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class _ScaleHeads(nn.Module):
    """Hidden state and context of every recurrent scale from one feature pyramid."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        n, c = config.gru_layers, config.hidden

        def residual_head() -> nn.Sequential:
            return nn.Sequential(ResidualBlock(128, 128, "batch"), Conv3x3(128, c))

        self.outputs08 = nn.ModuleList(residual_head() for _ in range(2))
        self.outputs16 = nn.ModuleList(residual_head() for _ in range(2)) if n > 1 else None
        self.outputs32 = nn.ModuleList(Conv3x3(128, c) for _ in range(2)) if n > 2 else None

    def _outputs(self, x: Tensor, down: list[nn.Module]) -> Contexts:
        out: Contexts = []
        for index, heads in enumerate(h for h in (self.outputs08, self.outputs16, self.outputs32) if h is not None):
            if index:
                x = down[index - 1](x)
            out.append((heads[0](x), heads[1](x)))
        return out


class MonoContext(_ScaleHeads):
    """Adaptor that turns the monocular encoder's features into contexts."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__(config)
        d = config.mono_dim
        self.layer1 = nn.Sequential(Conv3x3(d, 256), nn.ReLU(), Conv3x3(256, 128), nn.ReLU())
        self.layer2 = residual_pair(128, 128, "batch", 2) if config.gru_layers > 1 else nn.Identity()
        self.layer3 = residual_pair(128, 128, "batch", 2) if config.gru_layers > 2 else nn.Identity()
        initialise(self)

    def forward(self, features: Tensor) -> Contexts:
        """[B, mono_dim, H / factor, W / factor] -> contexts."""
        return self._outputs(self.layer1(features), [self.layer2, self.layer3])


class ImageContext(_ScaleHeads):
    """RAFT-Stereo's context network on the left image; takes the place of the adaptor where there are no monocular features."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__(config)
        d = config.downsample
        self.conv1 = nn.Conv2d(3, 64, 7, 1 + (d > 2), 3)
        self.norm1 = make_norm("batch", 64)
        self.layer1 = residual_pair(64, 64, "batch")
        self.layer2 = residual_pair(64, 96, "batch", 1 + (d > 1))
        self.layer3 = residual_pair(96, 128, "batch", 1 + (d > 0))
        self.layer4 = residual_pair(128, 128, "batch", 2) if config.gru_layers > 1 else nn.Identity()
        self.layer5 = residual_pair(128, 128, "batch", 2) if config.gru_layers > 2 else nn.Identity()
        initialise(self)

    def forward(self, image: Tensor) -> Contexts:
        """[B, 3, H, W] in [-1, 1] -> contexts."""
        x = F.relu(self.norm1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self._outputs(x, [self.layer4, self.layer5])


class SharedTrunk(nn.Module):
    """Light features at 1/8 for both views: 7x7 stem with stride 2, widths 32, 48, 64, 96."""

    widths = (32, 48, 64, 96)

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        a, b, c, d = self.widths
        self.stem = nn.Conv2d(3, a, 7, 2, 3)
        self.norm = make_norm("instance", a)
        self.layer1 = ResidualBlock(a, b, "instance", 2)
        self.layer2 = residual_pair(b, c, "instance", 2)
        self.layer3 = ResidualBlock(c, d, "instance")
        self.match = nn.Conv2d(d, config.feature_dim, 1)
        initialise(self)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] in [-1, 1] -> (matching features, trunk features [B, 96, H / 8, W / 8])."""
        x = F.relu(self.norm(self.stem(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.match(x), x


class SharedContext(nn.Module):
    """Contexts from the trunk's features of the left view and the prior map."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        d, c = SharedTrunk.widths[-1], config.hidden
        self.merge = Conv3x3(d + 2, c)
        self.levels = nn.ModuleList(ResidualBlock(c, c, "none", 1 if i == 0 else 2) for i in range(config.gru_layers))
        self.heads = nn.ModuleList(nn.Conv2d(c, 2 * c, 1) for _ in range(config.gru_layers))
        initialise(self)

    def forward(self, features: Tensor, prior: Tensor, prior_valid: Tensor) -> Contexts:
        """Features [B, 96, h, w], normalised prior and its validity [B, 1, h, w] -> contexts."""
        x = F.relu(self.merge(torch.cat([features, prior, prior_valid], 1)))
        out: Contexts = []
        for level, head in zip(self.levels, self.heads, strict=True):
            x = level(x)
            state, context = head(x).chunk(2, 1)
            out.append((state, context))
        return out
