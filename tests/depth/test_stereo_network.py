"""Trained networks in the place of semi-global matching: which network a file is for, both directions, priors, the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stereo_scenes import box_scene, pair_from_disparity
from torch import Tensor, nn

from ltgs import cli_depth
from ltgs.depth import network
from ltgs.depth.net.config import raft_stereo_config, small_config
from ltgs.depth.net.heads import FusionHeads
from ltgs.depth.net.model import NetOutput, StereoFusionNet
from ltgs.depth.network import StereoNetwork, load_network, match_network, mono_prior, weights_file
from ltgs.depth.types import Source
from ltgs.errors import FormatError, InputError, UsageError
from ltgs.io.images import write_png
from ltgs.io.weights import write_weights

TRUTH, BOX = box_scene()
LEFT, RIGHT = pair_from_disparity(TRUTH)


class Oracle(nn.Module):
    """Knows the answer for the pair and for the mirrored one; everything else is 3 pixels."""

    def __init__(self) -> None:
        super().__init__()
        backward = np.full_like(TRUTH, 8.0)
        rows, columns = np.nonzero(BOX)
        backward[rows, columns - 20] = 20.0
        self.answers = {LEFT.tobytes(): TRUTH, np.ascontiguousarray(RIGHT[:, ::-1]).tobytes(): backward[:, ::-1]}
        self.priors: list[Any] = []

    def forward(self, left: Tensor, right: Tensor, prior: Any = None) -> NetOutput:
        del right
        self.priors.append(prior)
        photo = np.ascontiguousarray(left[0].permute(1, 2, 0).numpy().astype(np.uint8))
        answer = self.answers.get(photo.tobytes(), np.full(photo.shape[:2], 3.0, np.float32))
        return NetOutput(torch.from_numpy(np.ascontiguousarray(answer))[None, None].float())


def test_both_directions_decide_what_counts_as_matched() -> None:
    result = match_network(StereoNetwork("oracle", Oracle()), LEFT, RIGHT, disparity_range=(0, 40))
    matched = result.source == Source.STEREO
    assert matched.mean() > 0.75 and np.abs(result.disparity - TRUTH)[matched].max() < 1e-3
    # The box covers twelve columns to the left of it in the right photo, and eight columns leave its frame.
    start = int(np.flatnonzero(BOX[60])[0])
    hidden = slice(start - 10, start - 2)
    assert not matched[60, hidden].any() and result.occlusion[60, hidden].all() and not matched[60, :6].any()
    assert np.isfinite(result.disparity).all()


def test_prior_is_registered_where_the_network_does_not_fuse() -> None:
    oracle = Oracle()
    result = match_network(StereoNetwork("oracle", oracle), LEFT, RIGHT, prior=0.01 * TRUTH + 5, disparity_range=(0, 40))
    assert oracle.priors == [None, None] and result.a is not None
    filled = result.source == Source.PRIOR
    assert filled.any() and np.median(np.abs(result.disparity - TRUTH)[filled]) < 0.5


def test_a_network_with_fusion_gets_the_prior_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle, net = Oracle(), StereoFusionNet(small_config())
    monkeypatch.setattr(StereoFusionNet, "forward", lambda _self, *arguments: oracle(*arguments))
    result = match_network(StereoNetwork("small", net), LEFT, RIGHT, prior=TRUTH, prior_valid=TRUTH > 10, disparity_range=(0, 40))
    given = oracle.priors[0]
    assert torch.equal(given.valid[0, 0], torch.from_numpy(TRUTH > 10)) and oracle.priors[1] is None
    assert np.array_equal(result.disparity, TRUTH) and set(np.unique(result.source[~BOX])) <= {Source.STEREO, Source.FILLED}


def test_heads_fuse_semi_global_matches() -> None:
    heads = StereoNetwork("heads", FusionHeads().eval())
    result = match_network(heads, LEFT, RIGHT, prior=TRUTH, disparity_range=(0, 40))
    # Untrained heads trust the match and the robust global fit equally; here the fit is exact.
    assert np.median(np.abs(result.disparity - TRUTH)) < 0.3 and (result.source == Source.STEREO).mean() > 0.6
    with pytest.raises(UsageError, match="--prior"):
        match_network(heads, LEFT, RIGHT, disparity_range=(0, 40))


def test_untrained_networks_are_refused_like_unrelated_photos() -> None:
    torch.manual_seed(0)
    net = StereoNetwork("small", StereoFusionNet(small_config()).eval())
    with pytest.raises(InputError, match="pixels match"):
        match_network(net, LEFT, np.random.default_rng(0).integers(0, 256, RIGHT.shape).astype(np.uint8), disparity_range=(0, 40))


def test_strips_bound_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Sizes(nn.Module):
        def forward(self, left: Tensor, _right: Tensor, _prior: Any) -> NetOutput:
            sizes.append(left.shape[-2:])
            return NetOutput(left.mean(1, keepdim=True) * 0 + 5)

    monkeypatch.setattr(network, "STRIP_PIXELS", 160_000)
    photo = np.random.default_rng(0).integers(0, 256, (1200, 400, 3)).astype(np.uint8)
    moved = np.roll(photo, -5, axis=1)
    result = match_network(StereoNetwork("five", Sizes()), photo, moved, disparity_range=(0, 16))
    assert result.disparity.shape == (1200, 400) and (result.disparity == 5).mean() > 0.9
    assert len(sizes) == 6 and max(h for h, _ in sizes) <= 400 + 256


def test_files_say_which_network_they_are_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = StereoFusionNet(small_config())
    write_weights(tmp_path / "small.safetensors", small.state_dict(), {"network": "small"})
    made = load_network(tmp_path / "small.safetensors")
    assert made.takes_prior and not made.needs_encoder and "small" in made.name and not made.module.training
    assert all(torch.equal(v, small.state_dict()[k]) for k, v in made.module.state_dict().items())
    write_weights(tmp_path / "mute.safetensors", small.state_dict())
    with pytest.raises(FormatError, match="--config"):
        load_network(tmp_path / "mute.safetensors")
    assert load_network(tmp_path / "mute.safetensors", preset="small").takes_prior
    with pytest.raises(FormatError, match="another network"):
        load_network(tmp_path / "mute.safetensors", preset="heads")
    with pytest.raises(UsageError, match="are for the network small"):
        load_network(tmp_path / "small.safetensors", preset="heads")
    with pytest.raises(UsageError, match="Choose one of"):
        load_network(tmp_path / "small.safetensors", preset="huge")
    write_weights(tmp_path / "new.safetensors", small.state_dict(), {"network": "vast"})
    with pytest.raises(FormatError, match="vast"):
        load_network(tmp_path / "new.safetensors")


def test_published_files_are_told_by_their_layers(tmp_path: Path) -> None:
    """RAFT-Stereo's layers: a two-channel flow where ours has one channel."""
    own = StereoFusionNet(raft_stereo_config()).state_dict()
    theirs = {}
    for name, value in own.items():
        new = name.replace("disp_head", "flow_head")
        if "disp_head.conv2" in name:
            value = torch.cat([value, value])
        elif "encoder.convf1.weight" in name:
            value = torch.cat([value, value], 1)
        elif "update_block.encoder.conv." in name:
            value = value[:-1]
        theirs["module." + new] = value
    write_weights(tmp_path / "raft.safetensors", theirs)
    made = load_network(tmp_path / "raft.safetensors")
    assert made.name.startswith("RAFT-Stereo") and not made.takes_prior
    del theirs["module.fnet.conv1.weight"]
    write_weights(tmp_path / "raft.safetensors", theirs)
    with pytest.raises(FormatError, match=r"1 missing: fnet\.conv1\.weight"):
        load_network(tmp_path / "raft.safetensors")


def test_networks_that_need_an_encoder_ask_for_it(tmp_path: Path) -> None:
    from ltgs.depth.net.config import paper_config

    net = StereoFusionNet(paper_config())
    write_weights(tmp_path / "paper.safetensors", net.state_dict(), {"network": "paper", "record": "{}"})
    with pytest.raises(UsageError, match="--mono"):
        load_network(tmp_path / "paper.safetensors")
    with pytest.raises(UsageError, match=r"0 \.safetensors"):
        weights_file(tmp_path.joinpath("sub").mkdir() or tmp_path / "sub")
    assert weights_file(tmp_path) == tmp_path / "paper.safetensors"
    write_weights(tmp_path / "paper.safetensors", net.state_dict(), {"network": "paper", "record": "["})
    with pytest.raises(FormatError, match="record is damaged"):
        load_network(tmp_path / "paper.safetensors")


def test_encoder_as_prior_has_the_photos_size() -> None:
    from ltgs.depth.net.model import MonoPrior

    def encoder(left: Tensor) -> MonoPrior:
        assert left.shape == (1, 3, *TRUTH.shape) and float(left.max()) > 1
        return MonoPrior(left.mean(1, keepdim=True)[..., ::2, ::2])

    values = mono_prior(encoder, LEFT)  # type: ignore[arg-type]
    assert values.shape == TRUTH.shape and values.dtype == np.float32
    assert np.corrcoef(values.ravel(), LEFT.mean(-1).ravel())[0, 1] > 0.8


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    write_png(tmp_path / "left.png", LEFT)
    write_png(tmp_path / "right.png", RIGHT)
    return tmp_path / "left.png", tmp_path / "right.png"


def test_the_command_says_what_was_used(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "w.safetensors"
    monkeypatch.setattr(cli_depth, "load_network", lambda path, **_: StereoNetwork(f"oracle, {path.name}", Oracle()))
    done = cli_depth.match(*pair, tmp_path / "out", method=cli_depth.Method("auto", weights))
    assert "method: oracle, w.safetensors, no prior" in done.notes and len(done.files) == 6
    done = cli_depth.match(*pair, tmp_path / "out")
    assert "method: semi-global matching, no prior" in done.notes
    monkeypatch.setattr(cli_depth, "load_depth_anything", lambda path: path)
    monkeypatch.setattr(cli_depth, "mono_prior", lambda _encoder, _left: TRUTH)
    done = cli_depth.match(*pair, tmp_path / "out", method=cli_depth.Method(mono=tmp_path / "da.safetensors"))
    assert "method: semi-global matching, prior from Depth Anything V2" in done.notes
    (tmp_path / "train.yaml").write_text("net: small\n")
    seen: dict[str, Any] = {}
    monkeypatch.setattr(cli_depth, "load_network", lambda _path, **given: seen.update(given) or StereoNetwork("oracle", Oracle()))
    cli_depth.match(*pair, tmp_path / "out", method=cli_depth.Method("network", weights, tmp_path / "train.yaml"))
    assert seen["preset"] == "small" and seen["published_sign"] is False


@pytest.mark.parametrize("method, reason", [
    (cli_depth.Method("network"), "--weights FILE"), (cli_depth.Method("sgm", Path("w")), "Leave them out"),
    (cli_depth.Method("auto", config=Path("c")), "which is missing"),
])
def test_options_that_do_not_go_together(pair: tuple[Path, Path], tmp_path: Path, method: cli_depth.Method, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        cli_depth.match(*pair, tmp_path / "out", method=method)
