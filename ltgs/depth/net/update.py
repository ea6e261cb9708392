"""The recurrent update of RAFT-Stereo with a one-channel state."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltgs.depth.net.config import NetConfig
from ltgs.depth.net.layers import Conv3x3, pool2x, resize_like

GateBiases = tuple[Tensor, Tensor, Tensor]


class ConvGRU(nn.Module):
    """Convolutional gated recurrent unit whose gate biases come from the context."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        self.convz = Conv3x3(hidden + inputs, hidden)
        self.convr = Conv3x3(hidden + inputs, hidden)
        self.convq = Conv3x3(hidden + inputs, hidden)
        for conv in (self.convz, self.convr, self.convq):
            nn.init.kaiming_normal_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, h: Tensor, biases: GateBiases, *inputs: Tensor) -> Tensor:
        """New hidden state [B, hidden, H, W]."""
        x = torch.cat(inputs, 1)
        hx = torch.cat([h, x], 1)
        z = torch.sigmoid(self.convz(hx) + biases[0])
        r = torch.sigmoid(self.convr(hx) + biases[1])
        q = torch.tanh(self.convq(torch.cat([r * h, x], 1)) + biases[2])
        return (1 - z) * h + z * q


class MotionEncoder(nn.Module):
    """Features of the current state and its correlation; the last channel is the state itself."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        c = config.motion_width
        self.convc1 = nn.Conv2d(config.corr_channels, c, 1)
        self.convc2 = Conv3x3(c, c)
        self.convf1 = nn.Conv2d(1, c, 7, 1, 3)
        self.convf2 = Conv3x3(c, c)
        self.conv = Conv3x3(2 * c, config.motion_dim - 1)

    def forward(self, state: Tensor, correlation: Tensor) -> Tensor:
        """State [B, 1, H, W] and correlation [B, corr_channels, H, W] -> [B, motion_dim, H, W]."""
        c = F.relu(self.convc2(F.relu(self.convc1(correlation))))
        f = F.relu(self.convf2(F.relu(self.convf1(state))))
        return torch.cat([F.relu(self.conv(torch.cat([c, f], 1))), state.to(c.dtype)], 1)


class DisparityHead(nn.Module):
    """Change of the state from the finest hidden state."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(hidden, width)
        self.conv2 = Conv3x3(width, 1)

    def forward(self, h: Tensor) -> Tensor:
        """[B, hidden, H, W] -> [B, 1, H, W]."""
        return self.conv2(F.relu(self.conv1(h)))


def upsampling_mask(inputs: int, width: int, factor: int) -> nn.Sequential:
    """Logits of the convex upsampling, 9 * factor^2 channels."""
    return nn.Sequential(Conv3x3(inputs, width), nn.ReLU(), nn.Conv2d(width, 9 * factor * factor, 1))


class UpdateBlock(nn.Module):
    """One update of up to three recurrent scales, coarse to fine."""

    MASK_SCALE = 0.25
    """Slows the gradient of the upsampling mask, as in RAFT."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        n, c = config.gru_layers, config.hidden
        self.encoder = MotionEncoder(config)
        self.gru08 = ConvGRU(c, config.motion_dim + c * (n > 1))
        self.gru16 = ConvGRU(c, c + c * (n > 2)) if n > 1 else None
        self.gru32 = ConvGRU(c, c) if n > 2 else None
        self.disp_head = DisparityHead(c, config.head_width)
        self.mask = upsampling_mask(c, config.head_width, config.factor)

    def forward(
        self, hidden: list[Tensor], biases: list[GateBiases], correlation: Tensor, state: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """New hidden states, finest first, and the change of the state [B, 1, H, W]."""
        hidden = list(hidden)
        if self.gru32 is not None:
            hidden[2] = self.gru32(hidden[2], biases[2], pool2x(hidden[1]))
        if self.gru16 is not None:
            coarser = [resize_like(hidden[2], hidden[1])] if self.gru32 is not None else []
            hidden[1] = self.gru16(hidden[1], biases[1], pool2x(hidden[0]), *coarser)
        motion = self.encoder(state, correlation)
        coarser = [resize_like(hidden[1], hidden[0])] if self.gru16 is not None else []
        hidden[0] = self.gru08(hidden[0], biases[0], motion, *coarser)
        return hidden, self.disp_head(hidden[0])

    def mask_logits(self, hidden: list[Tensor]) -> Tensor:
        """[B, 9 * factor^2, H, W]."""
        return self.MASK_SCALE * self.mask(hidden[0])
