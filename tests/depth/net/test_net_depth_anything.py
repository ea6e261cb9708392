"""Depth Anything V2: names of its state dict, and the frozen encoder where transformers is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from ltgs.depth.net.config import paper_config
from ltgs.depth.net.depth_anything import SIZES, DepthAnythingSize, depth_anything_names, guess_size, spell_like
from ltgs.depth.net.model import StereoFusionNet
from ltgs.depth.priors import DepthAnything, encoder_input_size, load_depth_anything
from ltgs.errors import FormatError, MissingDependency
from ltgs.io.weights import write_weights

HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
needs_transformers = pytest.mark.skipif(not HAS_TRANSFORMERS, reason="the optional package transformers is not installed")
TINY = DepthAnythingSize(24, 4, 2, (0, 1, 2, 3), 256, (8, 12, 16, 24))
"""Random weights of a tiny backbone; its head has the width that the stereo network expects."""


def published_layout(size: DepthAnythingSize) -> dict[str, list[int]]:
    """Names and shapes of a published file."""
    w, f = size.width, size.features
    shapes = {"pretrained.cls_token": [1, 1, w], "pretrained.mask_token": [1, w], "pretrained.pos_embed": [1, 37 * 37 + 1, w],
              "pretrained.patch_embed.proj.weight": [w, 3, 14, 14], "pretrained.patch_embed.proj.bias": [w],
              "pretrained.norm.weight": [w], "pretrained.norm.bias": [w]}
    for i in range(size.depth):
        block = f"pretrained.blocks.{i}"
        shapes |= {f"{block}.{n}.{k}": [w] for n in ("norm1", "norm2") for k in ("weight", "bias")}
        shapes |= {f"{block}.ls1.gamma": [w], f"{block}.ls2.gamma": [w]}
        for name, (outputs, inputs) in {"attn.qkv": (3 * w, w), "attn.proj": (w, w), "mlp.fc1": (4 * w, w), "mlp.fc2": (w, 4 * w)}.items():
            shapes |= {f"{block}.{name}.weight": [outputs, inputs], f"{block}.{name}.bias": [outputs]}
    head = "depth_head"
    for i, c in enumerate(size.out_channels):
        shapes |= {f"{head}.projects.{i}.weight": [c, w, 1, 1], f"{head}.projects.{i}.bias": [c]}
        shapes |= {f"{head}.scratch.layer{i + 1}_rn.weight": [f, c, 3, 3]}
        if i != 2:
            k = {0: 4, 1: 2, 3: 3}[i]
            shapes |= {f"{head}.resize_layers.{i}.weight": [c, c, k, k], f"{head}.resize_layers.{i}.bias": [c]}
        fusion = f"{head}.scratch.refinenet{i + 1}"
        shapes |= {f"{fusion}.out_conv.weight": [f, f, 1, 1], f"{fusion}.out_conv.bias": [f]}
        for unit in (1, 2):
            for conv in (1, 2):
                name = f"{fusion}.resConfUnit{unit}.conv{conv}"
                shapes |= {f"{name}.weight": [f, f, 3, 3], f"{name}.bias": [f]}
    for name, shape in {"output_conv1": [f // 2, f, 3, 3], "output_conv2.0": [32, f // 2, 3, 3], "output_conv2.2": [1, 32, 1, 1]}.items():
        shapes |= {f"{head}.scratch.{name}.weight": shape, f"{head}.scratch.{name}.bias": shape[:1]}
    return shapes


def made_up(size: DepthAnythingSize) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in published_layout(size).items()}


def test_every_published_name_is_known() -> None:
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in published_layout(SIZES["vits"]).items()}
    # 24.8 million parameters are the published count of this size.
    assert sum(t.numel() for t in tensors.values()) == pytest.approx(24.8e6, rel=0.01)
    translated, unknown = depth_anything_names(tensors)
    assert unknown == [] and len(translated) == len(tensors) + 2 * 2 * 12
    assert guess_size(tensors) == guess_size(translated) == "vits"
    assert depth_anything_names(translated)[0].keys() == translated.keys()
    assert depth_anything_names({"pretrained.blocks.0.attn.odd.weight": tensors["pretrained.norm.bias"]})[1] != []


def test_joint_attention_is_split_in_order_and_spelt_either_way() -> None:
    translated, _ = depth_anything_names({"pretrained.blocks.7.attn.qkv.bias": torch.arange(6.0)})
    layer = "backbone.encoder.layer.7.attention.attention"
    old = {f"{layer}.{n}.bias": [2.0 * i, 2.0 * i + 1] for i, n in enumerate(("query", "key", "value"))}
    assert {n: v.tolist() for n, v in translated.items()} == old
    new = spell_like(translated, ["backbone.encoder.layer.0.attention.q_proj.bias", "x.attention.k_proj.y", "x.attention.v_proj.y"])
    assert [n.split(".")[-2] for n in new] == ["q_proj", "k_proj", "v_proj"]
    assert spell_like(new, list(old)).keys() == old.keys()


def test_input_size_is_whole_patches() -> None:
    assert encoder_input_size(480, 640) == (392, 518)
    assert encoder_input_size(518, 518) == (518, 518)
    assert encoder_input_size(1000, 200) == (518, 112)


def test_absent_package_or_foreign_file_is_named(tmp_path: Path) -> None:
    write_weights(tmp_path / "a.safetensors", {"x": torch.ones(2)})
    with pytest.raises(FormatError, match="vits, vitb, vitl"):
        load_depth_anything(tmp_path / "a.safetensors")
    if not HAS_TRANSFORMERS:
        with pytest.raises(MissingDependency, match="pip install transformers"):
            DepthAnything(TINY)


@needs_transformers
def test_encoder_loads_published_names_and_feeds_the_stereo_network() -> None:
    encoder = DepthAnything(TINY, long_side=84)
    tensors = made_up(TINY)
    report = encoder.load(tensors)
    assert report.complete, report.summary()
    own = dict(encoder.model.state_dict())
    assert torch.equal(own["neck.fusion_stage.layers.0.projection.weight"], tensors["depth_head.scratch.refinenet4.out_conv.weight"])
    assert sum(p.requires_grad for p in encoder.parameters()) == 0 and not encoder.train().training
    left, right = 255 * torch.rand(2, 1, 3, 60, 90)
    prior = encoder(torch.nn.functional.pad(left, (3, 3, 2, 2)))
    assert prior.inverse_depth.shape == (1, 1, 56, 84) and prior.features is not None and prior.features.shape == (1, 128, 32, 48)
    with torch.inference_mode():
        out = StereoFusionNet(paper_config()).eval()(left, right, encoder, iterations=1)
    assert out.disparity.shape == (1, 1, 60, 90) and torch.isfinite(out.disparity).all()


@needs_transformers
def test_published_file_is_loaded_whole_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "vits", TINY)
    tensors = made_up(TINY)
    write_weights(tmp_path / "a.safetensors", tensors)
    assert load_depth_anything(tmp_path / "a.safetensors").size == TINY
    del tensors["pretrained.norm.bias"]
    write_weights(tmp_path / "a.safetensors", tensors)
    with pytest.raises(FormatError, match=r"1 missing: backbone\.layernorm\.bias"):
        load_depth_anything(tmp_path / "a.safetensors")
