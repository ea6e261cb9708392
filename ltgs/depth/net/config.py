"""Shape of the stereo network: one frozen dataclass and two presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ltgs.errors import UsageError

Offsets = tuple[tuple[int, int], ...]
"""(dy, dx) of neighbours, pixels of the working resolution."""
PUBLISHED_OFFSETS: Offsets = ((-5, -5), (5, 5), (5, -5), (-5, 5), (-3, 0), (3, 0), (0, -3), (0, 3))
"""The eight neighbours of the published model, at 1/4 resolution."""
EIGHTH_OFFSETS: Offsets = ((-3, -3), (3, 3), (3, -3), (-3, 3), (-2, 0), (2, 0), (0, -2), (0, 2))
"""About the same angles at 1/8 resolution."""


@dataclass(frozen=True)
class NetConfig:
    """Everything that decides the network's parameters and its arithmetic; the defaults are the published model."""

    preset: str = "paper"
    """Name for reports."""
    encoder: Literal["raft", "shared"] = "raft"
    """Image features: RAFT-Stereo's encoder (stem at full resolution) or one light trunk for matching and context."""
    context: Literal["mono", "image", "shared"] = "mono"
    """Initial hidden states: from the features of a monocular encoder, from RAFT-Stereo's context network on the left image, or
    from the shared trunk and the prior map."""
    downsample: int = 2
    """log2 of the working resolution: 2 works at 1/4, 3 at 1/8."""
    feature_dim: int = 256
    """Channels that are correlated."""
    mono_dim: int = 128
    """Channels of the monocular encoder's features; used by context "mono" only."""
    hidden: int = 128
    """Channels of each recurrent state and of its context."""
    gru_layers: int = 3
    """Recurrent scales, each half of the one before."""
    motion_width: int = 64
    """Channels inside of the motion encoder."""
    head_width: int = 256
    """Channels inside of the disparity head and of the upsampling masks."""
    corr_levels: int = 4
    corr_radius: int = 4
    correlation: Literal["auto", "volume", "on_the_fly"] = "auto"
    """Keep the all-pairs volume, or compute samples when they are looked up; auto decides by the volume's size."""
    iterations: int = 32
    """Updates at inference."""
    disparity_sign: Literal[-1, 1] = 1
    """Sign of the recurrent state: +1 is disparity, -1 the horizontal flow in which published weights were trained."""
    modulation: bool = True
    """Iterative local fusion: ordering maps of disparity and prior modulate every update."""
    offsets: Offsets = PUBLISHED_OFFSETS
    """Neighbours of the ordering map."""
    ordering_scale: Literal["raw", "spread"] = "raw"
    """Unit of differences inside of the ordering map's logistic: map units as published, or a fraction of the map's spread."""
    modulation_widths: tuple[int, int] = (64, 128)
    """Channels of the modulation's half-resolution branch."""
    schedule: Literal["linear", "sigmoid"] = "linear"
    """How the modulation's weight grows with the iterations."""
    strength: float = 1.0
    """Largest weight of the modulation."""
    global_fusion: bool = True
    """Registration of the prior to disparity after the last update, and confidence-weighted fusion."""
    registration_width: int = 32
    confidence_width: int = 128
    registration_base: Literal["none", "global"] = "none"
    """Per-pixel scale and shift predicted as such (published), or as a change of the least-squares fit over the whole image."""
    pad_multiple: int = 32
    """Images are padded to multiples of this."""

    def __post_init__(self) -> None:
        needed = 2 ** (self.downsample + max(self.gru_layers - 1, 1))
        if self.pad_multiple % needed:
            raise UsageError(f"pad_multiple must be a multiple of {needed} for this network, got {self.pad_multiple}.")
        if not 1 <= self.gru_layers <= 3 or not 1 <= self.downsample <= 4:
            raise UsageError(f"gru_layers must be 1 to 3 and downsample 1 to 4, got {self.gru_layers} and {self.downsample}.")
        if (self.encoder == "shared") != (self.context == "shared"):
            raise UsageError(f"The shared trunk serves matching and context together; got {self.encoder!r} and {self.context!r}.")
        if self.encoder == "shared" and self.downsample != 3:
            raise UsageError(f"The shared trunk works at 1/8 resolution (downsample 3), got {self.downsample}.")
        if self.context == "image" and self.downsample > 3:
            raise UsageError(f"RAFT-Stereo's context network works at 1/2 to 1/8 resolution, got downsample {self.downsample}.")
        if self.modulation and not self.offsets:
            raise UsageError("The ordering map needs at least one neighbour in `offsets`.")

    @property
    def factor(self) -> int:
        """Image pixels per working pixel, along each side."""
        return int(2**self.downsample)

    @property
    def corr_channels(self) -> int:
        """Channels of one correlation lookup."""
        return self.corr_levels * (2 * self.corr_radius + 1)

    @property
    def motion_dim(self) -> int:
        """Channels of the encoded motion, disparity included."""
        return self.hidden


def paper_config(*, published_sign: bool = False) -> NetConfig:
    """The published model: 11.64 M trainable parameters beside the frozen monocular encoder.

    Args:
        published_sign: recurrent state is horizontal flow (negative disparity), as the authors' weights expect.
    """
    return NetConfig(disparity_sign=-1 if published_sign else 1)


def raft_stereo_config(*, published_sign: bool = True) -> NetConfig:
    """RAFT-Stereo with a one-channel head and without fusion: the shape that its published weights fit."""
    return NetConfig(
        preset="raft_stereo", context="image", disparity_sign=-1 if published_sign else 1, modulation=False, global_fusion=False,
    )


def small_config() -> NetConfig:
    """About 1.9 M parameters at 1/8 resolution and 8 updates, for training and running on modest machines."""
    return NetConfig(
        preset="small", encoder="shared", context="shared", downsample=3, feature_dim=96, hidden=64, gru_layers=2, motion_width=40,
        head_width=96, iterations=8, offsets=EIGHTH_OFFSETS, ordering_scale="spread", modulation_widths=(32, 64),
        confidence_width=48, registration_base="global",
    )


NET_PRESETS = {"paper": paper_config, "small": small_config, "raft_stereo": raft_stereo_config}
"""Constructors by name."""
