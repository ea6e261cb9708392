"""Settings of a training run, read strictly from YAML."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ltgs.depth.net.config import NET_PRESETS, NetConfig
from ltgs.depth.synth.faulty_prior import PriorFaults
from ltgs.errors import FormatError, UsageError
from ltgs.io.atomic import explained, read_capped

_MAX_BYTES = 1 << 20
Part = Literal["matching", "registration", "fusion", "joint"]


@dataclass(frozen=True)
class Stage:
    """One stage; the published order is matching, registration, fusion."""

    part: Part = "matching"
    """What is trained: everything before global fusion; only the registration of the prior; all of global fusion; or everything
    at once, with every prediction in the loss."""
    steps: int = 1000
    schedule_steps: int = 0
    """Length of the learning-rate schedule; 0 = `steps`. The published first stage stops at 80,000 of 100,000."""
    batch: int = 4
    learning_rate: float = 2e-4
    """Peak of the one-cycle schedule."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.learning_rate <= 0 or 0 < self.schedule_steps < self.steps:
            raise UsageError(
                f"stage {self.part}: steps, batch and learning_rate must be positive and schedule_steps at least steps, "
                f"got {self.steps}, {self.batch}, {self.learning_rate:g}, {self.schedule_steps}."
            )


@dataclass(frozen=True)
class Augmentation:
    """Random changes of photographs; generated pairs bring their own."""

    scale: tuple[float, float] = (-0.2, 0.4)
    """Range of log2 of the scale."""
    saturation: tuple[float, float] = (0.0, 1.4)
    asymmetric: float = 0.2
    """Chance that the two views get different brightness and gamma."""
    row_jitter: int = 2
    """Largest vertical shift of the right image, pixels."""
    erase: float = 0.5
    """Chance that rectangles of the right image are filled with its mean colour."""


@dataclass(frozen=True)
class Data:
    """Where pairs come from."""

    kind: Literal["synthetic", "sceneflow", "kitti2012", "kitti2015", "eth3d", "middlebury", "booster"] = "synthetic"
    root: str = ""
    """Folder of the data set; not used by synthetic."""
    variant: str = ""
    """sceneflow: clean, final or both; middlebury: F, H or Q; booster: the factor by which images shrink."""
    crop: tuple[int, int] = (256, 448)
    """Height and width of training images."""
    prior: Literal["none", "simulated", "depth_anything"] = "simulated"
    """simulated: distorted truth, for generated pairs only."""
    prior_weights: str = ""
    """safetensors file of Depth Anything V2."""
    supersample: int = 1
    """Rays per pixel side of generated pairs."""
    pool: int = 0
    """Distinct generated pairs, kept in memory and reused; 0 = every pair is new."""
    faults: PriorFaults = field(default_factory=PriorFaults)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.kind != "synthetic" and not self.root:
            raise UsageError(f"data.root must name the folder of {self.kind}.")
        if self.kind != "synthetic" and self.prior == "simulated":
            raise UsageError("data.prior simulated is made from generated scenes; choose none or depth_anything.")
        if self.prior == "depth_anything" and not self.prior_weights:
            raise UsageError("data.prior_weights must name the file of Depth Anything V2.")
        if min(self.crop) < 64:
            raise UsageError(f"data.crop must be at least 64 pixels on each side, got {self.crop}.")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the result of a training run."""

    net: Literal["paper", "small", "raft_stereo", "heads"] = "small"
    """heads: registration and confidence on top of semi-global matching, without a matcher of its own."""
    published_sign: bool = False
    """Recurrent state is negative disparity, as published weights expect."""
    initial: str = ""
    """safetensors file of this project's weights to start from."""
    stages: tuple[Stage, ...] = (Stage(),)
    data: Data = field(default_factory=Data)
    iterations: int = 8
    """Updates in training."""
    max_disparity: float = 700.0
    """Truth beyond this many pixels is left out of the loss."""
    weight_decay: float = 1e-5
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"
    seed: int = 0
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 50
    validate_every: int = 1000
    validation_pairs: int = 8
    """Generated pairs that are never trained on."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise UsageError("a training run needs at least one stage.")
        if min(self.iterations, self.checkpoint_every, self.log_every, self.validate_every) < 1:
            raise UsageError("iterations, checkpoint_every, log_every and validate_every must be at least 1.")
        if self.net == "heads":
            self._check_heads()
            return
        fuses = self.net_config().global_fusion
        if not fuses and any(s.part in ("registration", "fusion") for s in self.stages):
            raise UsageError(f"the {self.net} network has no global fusion to train; use the matching stage only.")
        if self.data.prior == "none" and any(s.part in ("registration", "fusion") for s in self.stages):
            raise UsageError("registration and fusion need a prior: set data.prior.")
        if self.net_config().context == "mono" and self.data.prior != "depth_anything":
            raise UsageError(f"the {self.net} network takes its context from Depth Anything V2: set data.prior: depth_anything.")

    def _check_heads(self) -> None:
        if self.data.prior == "none" or any(s.part != "joint" for s in self.stages):
            raise UsageError("the heads are trained at once and need a prior: use stages of part joint and set data.prior.")

    def net_config(self) -> NetConfig:
        """Shape of the stereo network; the heads have none."""
        make: Any = NET_PRESETS[self.net]
        return make() if self.net == "small" else make(published_sign=self.published_sign)


def load_train_config(path: Path | str) -> TrainConfig:
    """Read a YAML file of settings; what it leaves out takes the default.

    Raises:
        InputError: the file cannot be read.
        FormatError: no YAML mapping.
        UsageError: an unknown name or an unsuitable value, with its place.
    """
    path = Path(path)
    with explained("read", path):
        data = read_capped(path, _MAX_BYTES)
    try:
        body = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path}: not valid YAML ({error}). Compare it with the presets in configs/depth/.") from error
    if not isinstance(body, dict):
        raise FormatError(f"{path}: must hold `name: value` lines, got a {type(body).__name__}.")
    return _build(TrainConfig, body, str(path))


def to_plain(value: Any) -> Any:
    """Settings as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [to_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def _build(kind: Any, body: Any, where: str) -> Any:
    """A dataclass from a mapping."""
    hints = typing.get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}
    if not isinstance(body, dict):
        raise UsageError(f"{where}: must be a group of settings ({', '.join(sorted(names))}), got {body!r}.")
    if unknown := sorted(str(k) for k in body if k not in names):
        raise UsageError(f"{where}: there is no setting {', '.join(unknown)}. Allowed here: {', '.join(sorted(names))}.")
    return kind(**{name: _convert(hints[name], value, f"{where}: {name}") for name, value in body.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if origin is Literal:
        if value not in arguments:
            raise UsageError(f"{where} must be one of {', '.join(map(str, arguments))}, got {value!r}.")
        return value
    if origin is tuple:
        if not isinstance(value, list) or (arguments[-1] is not Ellipsis and len(value) != len(arguments)):
            raise UsageError(f"{where} must be a list{'' if arguments[-1] is Ellipsis else f' of {len(arguments)}'}, got {value!r}.")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
        raise UsageError(f"{where} must be a {hint.__name__}, got {value!r}.")
    return value
