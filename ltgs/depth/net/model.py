"""The stereo network: features, recurrent updates modulated by the prior's ordering, fusion with the registered prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ltgs.core.checks import check_shape
from ltgs.depth.net.config import NetConfig
from ltgs.depth.net.correlation import Correlation, make_correlation
from ltgs.depth.net.encoders import Contexts, ImageContext, MonoContext, RaftEncoder, SharedContext, SharedTrunk
from ltgs.depth.net.fusion import BetaField, BetaModulator, GlobalFusion, Registered, modulation_weight, resize_map
from ltgs.depth.net.layers import Conv3x3, Padding, convex_upsample, freeze_batch_norm, padding_to, robust_spread
from ltgs.depth.net.ordering import mask_codes, ordering_map, relative_ordering_map
from ltgs.depth.net.update import GateBiases, UpdateBlock


@dataclass(frozen=True)
class MonoPrior:
    """What is known about depth from the left image alone."""

    inverse_depth: Tensor
    """[B, 1, h, w] relative inverse depth (large = near), unknown scale and shift; any resolution that covers the image."""
    valid: Tensor | None = None
    """[B, 1, h, w] bool; None = everywhere."""
    features: Tensor | None = None
    """[B, mono_dim, h', w'] of a monocular encoder; only for contexts of kind "mono"."""


MonoEncoder = Callable[[Tensor], MonoPrior]
"""Called with the padded left image [B, 3, H, W] in 0..255; what it returns covers that image."""


@dataclass(frozen=True)
class NetOutput:
    """Disparities of the left view: the left pixel (x, y) matches the right pixel (x - disparity, y); [B, 1, H, W], image pixels."""

    disparity: Tensor
    """The final answer: `fused` if there is one, else the last update."""
    iterations: list[Tensor] = field(default_factory=list)
    """After every update in training; at inference only the last, and none where `fused` is the answer."""
    registered: Tensor | None = None
    """The prior brought to disparity."""
    fused: Tensor | None = None
    confidence: Tensor | None = None
    """[B, 1, h, w] at working resolution: weight of stereo against the registered prior."""
    a: Tensor | None = None
    """[B, 1, h, w] scale of the prior, to working pixels."""
    b: Tensor | None = None
    """[B, 1, h, w] shift, working pixels."""
    beta: BetaField | None = None
    """Modulation of the last update, working resolution."""

    @property
    def predictions(self) -> list[Tensor]:
        """What the sequence loss weighs, in order: updates, registered prior, fusion."""
        return [*self.iterations, *(x for x in (self.registered, self.fused) if x is not None)]


@dataclass
class _Prior:
    """The prior at working resolution."""

    depth: Tensor
    valid: Tensor
    codes: Tensor | None
    features: Tensor | None


class StereoFusionNet(nn.Module):
    """RAFT-Stereo with a one-channel state, iterative local fusion and global fusion; see `NetConfig` for the variants."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        shared = config.encoder == "shared"
        self.fnet: nn.Module = SharedTrunk(config) if shared else RaftEncoder(config)
        contexts = {"mono": MonoContext, "image": ImageContext, "shared": SharedContext}
        self.cnet: nn.Module = contexts[config.context](config)
        self.context_zqr_convs = nn.ModuleList(Conv3x3(config.hidden, 3 * config.hidden) for _ in range(config.gru_layers))
        self.update_block = UpdateBlock(config)
        self.modulater = BetaModulator(config) if config.modulation else None
        self.refinement = GlobalFusion(config) if config.global_fusion else None

    def train(self, mode: bool = True) -> StereoFusionNet:
        """Batch norms keep their stored statistics in training too, as in RAFT-Stereo."""
        super().train(mode)
        freeze_batch_norm(self)
        return self

    def forward(
        self, left: Tensor, right: Tensor, prior: MonoPrior | MonoEncoder | None = None, *, iterations: int | None = None,
        fuse: bool = True, keep_all: bool | None = None,
    ) -> NetOutput:
        """Match two rectified images.

        Args:
            left, right: [B, 3, H, W], values 0..255, any size; padded inside.
            prior: maps that cover the left image, or an encoder that is called on the padded left image. Without one the network
                matches only; contexts of kind "mono" cannot do without its features.
            iterations: updates; default of the configuration.
            fuse: run global fusion if the network has it and there is a prior.
            keep_all: upsample and return every update, not only the one that is the answer; default in training only.

        Raises:
            ValueError: shapes that do not fit, or a missing prior.
        """
        check_shape("left", left, "B 3 H W")
        check_shape("right", right, " ".join(map(str, left.shape)))
        count = iterations or self.config.iterations
        keep_all = self.training if keep_all is None else keep_all
        pad = padding_to(left.shape[-2], left.shape[-1], self.config.pad_multiple)
        left, right = pad.add(left), pad.add(right)
        known = self._prepare_prior(prior, left, pad)
        pair = torch.cat([left, right]) / 127.5 - 1
        correlation, contexts = self._encode(pair, known)
        hidden = [torch.tanh(state) for state, _ in contexts]
        biases = self._gate_biases(contexts)
        fuse = fuse and self.refinement is not None and known is not None
        kept = range(0 if keep_all else count if fuse else count - 1, count)
        state, hidden, beta, outputs = self._iterate(correlation, hidden, biases, known, count, kept)
        iterates = [pad.remove(x) for x in outputs]
        if not fuse:
            return NetOutput(iterates[-1], iterates, beta=beta)
        assert self.refinement is not None and known is not None
        result = self._fuse(state, hidden[0], correlation, known, beta)
        fused, registered = (pad.remove(x) for x in self.refinement.upsample(hidden[0], result))
        return NetOutput(fused, iterates, registered, fused, result.confidence, result.a, result.b, beta)

    def _fuse(self, state: Tensor, hidden: Tensor, correlation: Correlation, known: _Prior, beta: BetaField | None) -> Registered:
        assert self.refinement is not None
        if beta is None:
            # Without modulation the confidence sees the uniform distribution.
            ones = torch.ones_like(state)
            beta = BetaField(ones, ones)
        looked_up = correlation(_columns(state) - self.config.disparity_sign * state)
        disparity = self.config.disparity_sign * state
        return self.refinement(disparity, known.depth, known.valid, looked_up, hidden, beta)

    def _iterate(
        self, correlation: Correlation, hidden: list[Tensor], biases: list[GateBiases], known: _Prior | None, count: int, kept: range
    ) -> tuple[Tensor, list[Tensor], BetaField | None, list[Tensor]]:
        """The last state, hidden states and modulation, and the updates in `kept` at image resolution."""
        sign = self.config.disparity_sign
        b, _, h, w = hidden[0].shape
        state = torch.zeros(b, 1, h, w, device=hidden[0].device)
        columns, outputs, beta = _columns(state), [], None
        for iteration in range(count):
            # The gradient of an update does not flow into the ones before (RAFT).
            state = state.detach()
            hidden, delta = self.update_block(hidden, biases, correlation(columns - sign * state), state)
            delta = delta.float()
            weight = modulation_weight(self.config, iteration, count)
            # The last field is an answer of its own, whatever its weight.
            if self.modulater is not None and known is not None and (weight > 0 or iteration == count - 1):
                beta = self.modulater(self._codes(state), known.codes)
                delta = delta * (1 + beta.draw(self.training) * weight)
            state = state + delta
            if iteration in kept:
                logits = self.update_block.mask_logits(hidden)
                outputs.append(sign * convex_upsample(state, logits, self.config.factor))
        return state, hidden, beta, outputs

    def _encode(self, pair: Tensor, known: _Prior | None) -> tuple[Correlation, Contexts]:
        c = self.config
        features, trunk = self.fnet(pair) if c.encoder == "shared" else (self.fnet(pair), pair)
        first, second = features.chunk(2)
        correlation = make_correlation(first, second, c.corr_levels, c.corr_radius, c.correlation)
        if c.context == "image":
            return correlation, self.cnet(pair.chunk(2)[0])
        if c.context == "mono":
            if known is None or known.features is None:
                raise ValueError("this network takes its context from a monocular encoder; pass one as `prior`.")
            return correlation, self.cnet(known.features)
        left_trunk = trunk.chunk(2)[0]
        empty = left_trunk.new_zeros(left_trunk.shape[0], 1, *left_trunk.shape[-2:])
        maps = (empty, empty) if known is None else (torch.where(known.valid, known.depth, 0), known.valid.to(empty.dtype))
        return correlation, self.cnet(left_trunk, *maps)

    def _gate_biases(self, contexts: Contexts) -> list[GateBiases]:
        out: list[GateBiases] = []
        for conv, (_, context) in zip(self.context_zqr_convs, contexts, strict=True):
            z, r, q = conv(torch.relu(context)).chunk(3, 1)
            out.append((z, r, q))
        return out

    def _codes(self, values: Tensor, valid: Tensor | None = None) -> Tensor:
        if self.config.ordering_scale == "spread":
            return relative_ordering_map(values, self.config.offsets, valid)
        codes = ordering_map(values, self.config.offsets)
        return codes if valid is None else mask_codes(codes, valid, self.config.offsets)

    def _prepare_prior(self, prior: MonoPrior | MonoEncoder | None, left: Tensor, pad: Padding) -> _Prior | None:
        """Bring the prior to working resolution; `left` is padded already."""
        if prior is None:
            return None
        covers_padded = not isinstance(prior, MonoPrior)
        maps = prior if isinstance(prior, MonoPrior) else prior(left)
        depth = maps.inverse_depth.float()
        valid = torch.isfinite(depth) if maps.valid is None else maps.valid & torch.isfinite(depth)
        check_shape("inverse_depth", depth, f"{left.shape[0]} 1 h w")
        check_shape("valid", valid, " ".join(map(str, depth.shape)))
        if not covers_padded and any(pad):
            if maps.features is not None:
                raise ValueError("features cannot follow the padding of an odd image size; pass the encoder instead of its result.")
            size = (left.shape[-2] - pad.top - pad.bottom, left.shape[-1] - pad.left - pad.right)
            depth, valid = _resize_known(depth, valid, size)
            depth, valid = pad.add(depth), pad.add(valid.float()) > 0.5
        size = (left.shape[-2] // self.config.factor, left.shape[-1] // self.config.factor)
        depth, valid = _resize_known(depth, valid, size)
        if self.config.ordering_scale == "spread":
            middle, spread = robust_spread(depth, valid)
            depth = torch.where(valid, (depth - middle) / spread, 0)
        codes = None if self.modulater is None else self._codes(depth, valid)
        features = None if maps.features is None else resize_map(maps.features, size)
        return _Prior(depth, valid, codes, features)


def _columns(state: Tensor) -> Tensor:
    """[1, 1, 1, W] column of every working pixel."""
    return torch.arange(state.shape[-1], device=state.device, dtype=torch.float32).view(1, 1, 1, -1)


def _resize_known(depth: Tensor, valid: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize a map with holes: known values are averaged, a pixel is known if at least half of its sources are."""
    weight = resize_map(valid.float(), size)
    value = resize_map(torch.where(valid, depth, 0), size) / weight.clamp_min(1e-6)
    known = weight >= 0.5
    return torch.where(known, value, 0), known
