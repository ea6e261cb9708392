"""Published state dicts, made up in their names and shapes, find their places; what does not fit is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ltgs.depth.net.config import paper_config, raft_stereo_config, small_config
from ltgs.depth.net.loaders import MONO_PREFIX, load_authors, load_own, load_raft_stereo, load_tensors
from ltgs.depth.net.model import StereoFusionNet
from ltgs.depth.net.update import MotionEncoder
from ltgs.errors import FormatError
from ltgs.io.weights import read_weights, write_weights


def authors_layout() -> dict[str, list[int]]:
    """Names and shapes of the published checkpoint without its monocular encoder, written out from the description of its layers."""
    shapes: dict[str, list[int]] = {}

    def conv(name: str, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = [outputs, inputs, kernel, kernel]
        if bias:
            shapes[f"{name}.bias"] = [outputs]

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.{k}": [channels] for k in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = []

    def block(name: str, inputs: int, outputs: int, batch: bool, down: bool) -> None:
        conv(f"{name}.conv1", inputs, outputs, 3)
        conv(f"{name}.conv2", outputs, outputs, 3)
        if down:
            conv(f"{name}.downsample.0", inputs, outputs, 1)
        if batch:
            for part in ("norm1", "norm2", *(("norm3", "downsample.1") if down else ())):
                norm(f"{name}.{part}", outputs)

    conv("fnet.conv1", 3, 64, 7)
    for layer, (inputs, outputs) in enumerate(((64, 64), (64, 96), (96, 128)), 1):
        block(f"fnet.layer{layer}.0", inputs, outputs, False, layer > 1)
        block(f"fnet.layer{layer}.1", outputs, outputs, False, False)
    conv("fnet.conv2", 128, 256, 1)
    conv("cnet.layer1.0", 128, 256, 3)
    conv("cnet.layer1.2", 256, 128, 3)
    for layer in (2, 3):
        block(f"cnet.layer{layer}.0", 128, 128, True, True)
        block(f"cnet.layer{layer}.1", 128, 128, True, False)
    for i in (0, 1):
        for scale in ("08", "16"):
            block(f"cnet.outputs{scale}.{i}.0", 128, 128, True, False)
            conv(f"cnet.outputs{scale}.{i}.1", 128, 128, 3)
        conv(f"cnet.outputs32.{i}", 128, 128, 3)
    for i in range(3):
        conv(f"context_zqr_convs.{i}", 128, 384, 3)
    for name, inputs, outputs, kernel in (("convc1", 36, 64, 1), ("convc2", 64, 64, 3), ("convf1", 1, 64, 7), ("convf2", 64, 64, 3),
                                          ("conv", 128, 127, 3)):
        conv(f"update_block.encoder.{name}", inputs, outputs, kernel)
    for gru, inputs in (("gru08", 384), ("gru16", 384), ("gru32", 256)):
        for gate in "zrq":
            conv(f"update_block.{gru}.conv{gate}", inputs, 128, 3)
    conv("update_block.disp_head.conv1", 128, 256, 3)
    conv("update_block.disp_head.conv2", 256, 1, 3)
    conv("update_block.mask.0", 128, 256, 3)
    conv("update_block.mask.2", 256, 144, 1)
    conv("lbp_encoder.lbp_conv", 1, 8, 11, bias=False)
    conv("modulater.conv1.0", 16, 16, 3)
    conv("modulater.conv1.2", 16, 16, 3)
    block("modulater.down.0", 16, 64, True, True)
    block("modulater.down.1", 64, 128, True, True)
    shapes |= {"modulater.up.weight": [128, 16, 2, 2], "modulater.up.bias": [16]}
    conv("modulater.conv2.0", 32, 8, 3, bias=False)
    conv("modulater.conv2.2", 8, 2, 1, bias=False)
    for name, inputs, width, outputs in (("conf_estimate", 166, 128, 1), ("mono_params_estimate", 2, 32, 2)):
        conv(f"refinement.{name}.0", inputs, width, 3)
        conv(f"refinement.{name}.2", width, width, 3)
        conv(f"refinement.{name}.4", width, outputs, 1)
    conv("refinement.mask.0", 129, 256, 3)
    conv("refinement.mask.2", 256, 144, 1)
    return shapes


def made_up(shapes: dict[str, list[int]], prefix: str = "module.") -> dict[str, torch.Tensor]:
    """Random values; both names of a shared norm hold the same ones, as in the real files."""
    generator = torch.Generator().manual_seed(0)
    out = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    for name in shapes:
        if ".norm3." in name:
            out[name] = out[name.replace(".norm3.", ".downsample.1.")].clone()
    return {prefix + name: value for name, value in out.items()}


def test_authors_checkpoint_fits_exactly_and_its_encoder_is_handed_over() -> None:
    net = StereoFusionNet(paper_config(published_sign=True))
    tensors = made_up(authors_layout()) | {f"module.{MONO_PREFIX}pretrained.cls_token": torch.ones(1, 1, 1024)}
    report, mono = load_authors(net, tensors)
    assert report.complete, report.summary()
    assert list(mono) == ["pretrained.cls_token"]
    assert "lbp_encoder.lbp_conv.weight" in report.dropped and "cnet.layer2.0.norm3.weight" in report.dropped
    own = net.state_dict()
    assert len(report.loaded) + sum(n.endswith("num_batches_tracked") and n not in report.loaded for n in own) == len(own)
    for name, value in own.items():
        if value.is_floating_point():
            assert torch.equal(value, tensors[f"module.{name}"]), name


def test_every_deviation_is_reported() -> None:
    net = StereoFusionNet(paper_config(published_sign=True))
    tensors = made_up(authors_layout())
    del tensors["module.refinement.mask.2.bias"]
    tensors["module.surprise"] = torch.ones(1)
    tensors["module.modulater.up.bias"] = torch.ones(17)
    tensors["module.cnet.layer2.0.norm3.weight"] += 1
    report, _ = load_authors(net, tensors)
    assert report.missing == ["refinement.mask.2.bias"]
    assert sorted(report.unexpected) == ["cnet.layer2.0.norm3.weight", "surprise"]
    assert report.mismatched == ["modulater.up.bias [17] instead of [16]"]
    with pytest.raises(FormatError, match=r"published\.safetensors.*1 missing: refinement.mask.2.bias.*2 unexpected"):
        report.require_complete("published.safetensors")
    with pytest.raises(ValueError, match="published_sign"):
        load_authors(StereoFusionNet(paper_config()), tensors)


def raft_layout() -> dict[str, list[int]]:
    """RAFT-Stereo: a context network on the image and two flow channels instead of the adaptor, one channel and fusion."""
    own = {n: list(v.shape) for n, v in StereoFusionNet(raft_stereo_config()).state_dict().items()}
    assert own["cnet.layer5.0.downsample.0.weight"] == [128, 128, 1, 1] and own["cnet.outputs16.1.0.conv2.weight"] == [128, 128, 3, 3]
    own |= {n.replace(".downsample.1.", ".norm3."): s for n, s in own.items() if ".downsample.1." in n}
    head = {n: own.pop(n) for n in list(own) if "disp_head" in n}
    own |= {n.replace("disp_head", "flow_head"): s for n, s in head.items()}
    own |= {"update_block.flow_head.conv2.weight": [2, 256, 3, 3], "update_block.flow_head.conv2.bias": [2]}
    own |= {"update_block.encoder.convf1.weight": [64, 2, 7, 7], "update_block.encoder.conv.weight": [126, 128, 3, 3]}
    return own | {"update_block.encoder.conv.bias": [126]}


def test_raft_stereo_weights_give_the_same_motion_gates_and_head() -> None:
    """Against a two-channel reference written out here, with a flow whose vertical part is zero."""
    tensors = made_up(raft_layout())
    net = StereoFusionNet(raft_stereo_config()).eval()
    assert load_raft_stereo(net, tensors).complete
    w = {n.removeprefix("module.update_block."): v for n, v in tensors.items()}
    generator = torch.Generator().manual_seed(1)
    corr, flow_x, h, coarse = (torch.rand(1, c, 6, 8, generator=generator) for c in (36, 1, 128, 128))
    flow = torch.cat([flow_x, torch.zeros_like(flow_x)], 1)

    def conv(x: torch.Tensor, name: str, padding: int = 1) -> torch.Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding)

    c = conv(conv(corr, "encoder.convc1", 0).relu(), "encoder.convc2").relu()
    f = conv(conv(flow, "encoder.convf1", 3).relu(), "encoder.convf2").relu()
    motion = torch.cat([conv(torch.cat([c, f], 1), "encoder.conv").relu(), flow], 1)
    encoder = net.update_block.encoder
    assert isinstance(encoder, MotionEncoder)
    ours = encoder(flow_x, corr)
    torch.testing.assert_close(ours[:, :126], motion[:, :126], rtol=1e-4, atol=1e-2)
    assert ours[:, 126].abs().max() == 0 and torch.equal(ours[:, 127:], flow_x)
    for gate in "zrq":
        expected = conv(torch.cat([h, motion, coarse], 1), f"gru08.conv{gate}")
        got = getattr(net.update_block.gru08, f"conv{gate}")(torch.cat([h, ours, coarse], 1))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-2)
    expected = conv(conv(h, "flow_head.conv1").relu(), "flow_head.conv2")[:, :1]
    torch.testing.assert_close(net.update_block.disp_head(h), expected, rtol=1e-4, atol=1e-2)


def test_raft_stereo_weights_need_flow_layers() -> None:
    with pytest.raises(FormatError, match="not RAFT-Stereo's"):
        load_raft_stereo(StereoFusionNet(raft_stereo_config()), made_up(authors_layout()))


def test_own_weights_make_a_round_trip_with_their_header(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first, second = StereoFusionNet(small_config()), StereoFusionNet(small_config())
    write_weights(tmp_path / "w.safetensors", first.state_dict(), {"preset": "small"})
    report, header = load_own(second, tmp_path / "w.safetensors")
    assert report.complete and header == {"preset": "small"}
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    half = {n: v.half() for n, v in first.state_dict().items()}
    write_weights(tmp_path / "half.safetensors", half)
    load_own(second, tmp_path / "half.safetensors")
    assert second.cnet.merge.weight.dtype == torch.float32
    with pytest.raises(FormatError, match="another network"):
        load_own(StereoFusionNet(paper_config()), tmp_path / "w.safetensors")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{\"a\":1}x")
    (tmp_path / "b.safetensors").write_bytes(b"PK\x03\x04")
    for name, reason in (("a", "not a safetensors file"), ("b", "Convert it first")):
        with pytest.raises(FormatError, match=f"{name}.safetensors.*{reason}"):
            read_weights(tmp_path / f"{name}.safetensors")


def test_missing_batch_counters_are_no_gap() -> None:
    net = torch.nn.BatchNorm2d(3)
    report = load_tensors(net, {n: v + 1 for n, v in net.state_dict().items() if n != "num_batches_tracked"})
    assert report.complete and len(report.loaded) == 4
