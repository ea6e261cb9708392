"""Monocular depth as a prior for stereo: Depth Anything V2 through the optional transformers package, frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltgs.depth.net.depth_anything import SIZES, DepthAnythingSize, depth_anything_names, guess_size, spell_like
from ltgs.depth.net.loaders import LoadReport, load_tensors
from ltgs.depth.net.model import MonoPrior
from ltgs.errors import FormatError, MissingDependency
from ltgs.io.weights import read_weights

PATCH = 14
LONG_SIDE = 518
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def encoder_input_size(height: int, width: int, long_side: int = LONG_SIDE) -> tuple[int, int]:
    """Height and width given to the encoder: the longer side becomes `long_side`, both are rounded up to whole patches."""
    scale = long_side / max(height, width)
    # The small subtraction keeps 518.0000001 from becoming another patch.
    return tuple(PATCH * math.ceil(round(side * scale) / PATCH - 1e-6) for side in (height, width))  # type: ignore[return-value]


class DepthAnything(nn.Module):
    """Frozen Depth Anything V2: relative inverse depth and the features before its last upsampling."""

    def __init__(self, size: DepthAnythingSize, *, long_side: int = LONG_SIDE) -> None:
        """Build with random weights; `load_depth_anything` fills them.

        Raises:
            MissingDependency: transformers is not installed.
        """
        super().__init__()
        self.size, self.long_side = size, long_side
        self.model = _build(size)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> DepthAnything:
        """Stays in evaluation mode: the encoder is frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, left: Tensor) -> MonoPrior:
        """Prior of images [B, 3, H, W] in 0..255; maps come at the encoder's resolutions and cover the whole image."""
        size = encoder_input_size(left.shape[-2], left.shape[-1], self.long_side)
        x = F.interpolate(left.float() / 255, size, mode="bicubic", align_corners=False).clamp(0, 1)
        mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
        taken: list[Tensor] = []
        hook = self.model.head.conv1.register_forward_hook(lambda _m, _i, out: taken.append(out))
        try:
            depth = self.model(pixel_values=(x - mean) / std).predicted_depth
        finally:
            hook.remove()
        return MonoPrior(depth[:, None].float(), features=taken[0].float())

    def load(self, tensors: Mapping[str, Tensor]) -> LoadReport:
        """Fill in a state dict with the authors' or with transformers' names."""
        translated, unknown = depth_anything_names(tensors)
        report = load_tensors(self.model, spell_like(translated, self.model.state_dict()))
        report.unexpected += unknown
        return report


def load_depth_anything(path: Path | str) -> DepthAnything:
    """Depth Anything V2 of any published size from one safetensors file, with the authors' or with transformers' names.

    Raises:
        MissingDependency: transformers is not installed.
        InputError, FormatError: the file cannot be read, or does not hold exactly these weights.
    """
    tensors, _ = read_weights(path)
    name = guess_size(tensors)
    if name is None:
        raise FormatError(f"{path}: not Depth Anything V2 of the sizes {', '.join(SIZES)}. Check the file.")
    model = DepthAnything(SIZES[name])
    model.load(tensors).require_complete(str(path))
    return model


def _build(size: DepthAnythingSize) -> Any:
    try:
        from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
    except ImportError as error:
        raise MissingDependency("Depth Anything V2 needs the transformers package. Run: pip install transformers") from error
    backbone = Dinov2Config(  # type: ignore[call-arg]
        hidden_size=size.width, num_hidden_layers=size.depth, num_attention_heads=size.heads, image_size=LONG_SIDE, patch_size=PATCH,
        out_indices=[tap + 1 for tap in size.taps], apply_layernorm=True, reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=size.width, patch_size=PATCH, neck_hidden_sizes=list(size.out_channels),
        fusion_hidden_size=size.features, head_hidden_size=32,
    )
    return DepthAnythingForDepthEstimation(config)
