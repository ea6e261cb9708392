"""Names of Depth Anything V2's state dict (Yang et al., NeurIPS 2024), translated to those of the transformers package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

_BLOCK = re.compile(r"pretrained\.blocks\.(?:\d+\.)?(\d+)\.(.+)")
_RULES: tuple[tuple[str, str], ...] = (
    (r"pretrained\.cls_token", "backbone.embeddings.cls_token"),
    (r"pretrained\.mask_token", "backbone.embeddings.mask_token"),
    (r"pretrained\.pos_embed", "backbone.embeddings.position_embeddings"),
    (r"pretrained\.patch_embed\.proj\.(\w+)", r"backbone.embeddings.patch_embeddings.projection.\1"),
    (r"pretrained\.norm\.(\w+)", r"backbone.layernorm.\1"),
    (r"depth_head\.projects\.(\d)\.(\w+)", r"neck.reassemble_stage.layers.\1.projection.\2"),
    (r"depth_head\.resize_layers\.(\d)\.(\w+)", r"neck.reassemble_stage.layers.\1.resize.\2"),
    (r"depth_head\.scratch\.output_conv1\.(\w+)", r"head.conv1.\1"),
    (r"depth_head\.scratch\.output_conv2\.0\.(\w+)", r"head.conv2.\1"),
    (r"depth_head\.scratch\.output_conv2\.2\.(\w+)", r"head.conv3.\1"),
)
_IN_BLOCK: tuple[tuple[str, str], ...] = (
    (r"attn\.proj\.(\w+)", r"attention.output.dense.\1"),
    (r"ls([12])\.gamma", r"layer_scale\1.lambda1"),
    (r"(norm[12]|mlp\.fc[12])\.(\w+)", r"\1.\2"),
)
_SPELLINGS = (
    (".attention.attention.query.", ".attention.q_proj."), (".attention.attention.key.", ".attention.k_proj."),
    (".attention.attention.value.", ".attention.v_proj."), (".attention.output.dense.", ".attention.o_proj."),
)
"""Names of the attention layers in transformers 4 and in published files, and in transformers 5."""
_FUSION = re.compile(r"depth_head\.scratch\.refinenet([1-4])\.(out_conv|resConfUnit([12])\.conv([12]))\.(\w+)")
_NARROW = re.compile(r"depth_head\.scratch\.layer([1-4])_rn\.(\w+)")


@dataclass(frozen=True)
class DepthAnythingSize:
    """Shape of one published size."""

    width: int
    depth: int
    heads: int
    taps: tuple[int, ...]
    """Transformer blocks, counted from 0, whose output the head reads."""
    features: int
    """Channels of the head; its features for the stereo network are half of them."""
    out_channels: tuple[int, int, int, int]


SIZES = {
    "vits": DepthAnythingSize(384, 12, 6, (2, 5, 8, 11), 64, (48, 96, 192, 384)),
    "vitb": DepthAnythingSize(768, 12, 12, (2, 5, 8, 11), 128, (96, 192, 384, 768)),
    "vitl": DepthAnythingSize(1024, 24, 16, (4, 11, 17, 23), 256, (256, 512, 1024, 1024)),
}
"""Only vits is under a licence for every use (Apache-2.0); vitb and vitl are CC-BY-NC."""


def guess_size(tensors: Mapping[str, Tensor]) -> str | None:
    """Published size with the state dict's token width, None if there is none; either naming."""
    for name in ("pretrained.cls_token", "backbone.embeddings.cls_token"):
        if name in tensors:
            return next((key for key, size in SIZES.items() if size.width == tensors[name].shape[-1]), None)
    return None


def depth_anything_names(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """State dict with the authors' names -> with transformers' names; joint query, key and value layers are split.

    Returns:
        translated tensors, and the names that no rule knows. Names that are translated already are passed through.
    """
    out: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, value in tensors.items():
        if name.startswith(("backbone.", "neck.", "head.")):
            out[name] = value
        elif (block := _BLOCK.fullmatch(name)) and (joint := re.fullmatch(r"attn\.qkv\.(\w+)", block[2])):
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[f"backbone.encoder.layer.{block[1]}.attention.attention.{part}.{joint[1]}"] = piece
        elif (new := _translate(name)) is not None:
            out[new] = value
        else:
            unknown.append(name)
    return out, unknown


def spell_like(tensors: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Names of the attention layers as the installed transformers spells them.

    Args:
        tensors: state dict with names of transformers 4 or 5.
        own: names of the model that is to be filled.
    """
    names = list(own)
    pairs = [(a, b) if any(b in n for n in names) else (b, a) for a, b in _SPELLINGS]
    out: dict[str, Tensor] = {}
    for name, value in tensors.items():
        for old, new in pairs:
            name = name.replace(old, new)
        out[name] = value
    return out


def _translate(name: str) -> str | None:
    if block := _BLOCK.fullmatch(name):
        inside = _first(_IN_BLOCK, block[2])
        return None if inside is None else f"backbone.encoder.layer.{block[1]}.{inside}"
    if fusion := _FUSION.fullmatch(name):
        # The head fuses from the coarsest level on: refinenet4 comes first.
        part = "projection" if fusion[2] == "out_conv" else f"residual_layer{fusion[3]}.convolution{fusion[4]}"
        return f"neck.fusion_stage.layers.{4 - int(fusion[1])}.{part}.{fusion[5]}"
    if narrow := _NARROW.fullmatch(name):
        return f"neck.convs.{int(narrow[1]) - 1}.{narrow[2]}"
    return _first(_RULES, name)


def _first(rules: tuple[tuple[str, str], ...], name: str) -> str | None:
    for pattern, new in rules:
        if match := re.fullmatch(pattern, name):
            return match.expand(new)
    return None
