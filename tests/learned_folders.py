"""Folders of tiny DINOv2 and SAM 2 models of the real architecture with random weights, as `save_pretrained` writes them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="the optional package transformers is not installed"
)
_VISION = {
    "backbone_config": {
        "model_type": "sam2_hiera_det_model", "hidden_size": 12, "num_attention_heads": 1, "image_size": [64, 64],
        "blocks_per_stage": [1, 2, 2, 2], "embed_dim_per_stage": [12, 24, 48, 96], "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 14, 7], "global_attention_blocks": [4],
    },
    "backbone_channel_list": [96, 48, 24, 12], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 32,
}
_PROMPTS = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 8}
_DECODER = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32}


def dino_folder(path: Path, *, registers: int = 0, shard: str = "1GB", **changes: object) -> Path:
    """DINOv2 with two blocks, 32 channels and patches of 14 pixels."""
    import transformers

    torch.manual_seed(1)
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14, **changes}
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**settings, num_register_tokens=registers)
        model = transformers.Dinov2WithRegistersModel(config)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**settings))
    model.save_pretrained(path, max_shard_size=shard)
    return path


def sam_folder(path: Path, *, video: bool = False) -> Path:
    """SAM 2 for images of 64 pixels; `video` makes the kind of folder that is published, with the memory's weights too."""
    import transformers

    torch.manual_seed(2)
    groups = {"vision_config": _VISION, "prompt_encoder_config": _PROMPTS, "mask_decoder_config": _DECODER}
    if video:
        config = transformers.Sam2VideoConfig(
            **groups, image_size=64, memory_attention_hidden_size=32, memory_attention_num_layers=1,
            memory_attention_feed_forward_hidden_size=32, memory_encoder_hidden_size=32, memory_encoder_output_channels=16,
            mask_downsampler_embed_dim=32, memory_fuser_embed_dim=32, memory_fuser_intermediate_dim=32,
            memory_attention_rope_feat_sizes=[4, 4],
        )
        model = transformers.Sam2VideoModel(config)
    else:
        model = transformers.Sam2Model(transformers.Sam2Config(**groups))
    with torch.no_grad():
        # Freshly made weights are so small that every mask would be flat.
        for name, p in model.named_parameters():
            if "mask_decoder" in name and p.ndim > 1:
                p.mul_(5)
    model.save_pretrained(path)
    return path
