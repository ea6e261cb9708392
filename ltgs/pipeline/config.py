"""The configuration of a run: frozen dataclasses, YAML presets that hold overrides only, and a strict loader."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from ltgs.errors import FormatError, InputError, UsageError
from ltgs.optim.trainer import TrainConfig
from ltgs.pipeline.first_stereo import FirstStereoConfig
from ltgs.pipeline.update import UpdateConfig
from ltgs.poses.localize import LocalizeConfig
from ltgs.poses.photometric import PhotometricConfig
from ltgs.poses.sfm import SfmConfig

MAX_CONFIG_BYTES = 1 << 20
"""A preset is a few kilobytes; larger input is refused unread."""
T = TypeVar("T")


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the result of a run besides the photos; saved in the scene as it was resolved."""

    preset: str = "cpu_full"
    """Name of the preset the values came from; for reports only."""
    seed: int = 0
    """Start of every random number generator."""
    backend: str = "auto"
    """Rasteriser: auto, cpu (native kernels), reference (plain torch, slow) or gsplat."""
    max_size: int = 800
    """Long side of the undistorted working photos, pixels; smaller photos are not enlarged."""
    holdout_every: int = 0
    """Every how manieth photo of a visit is kept for evaluation and never trained on; 0 = none."""
    checkpoint_every: int = 250
    """Training steps between two checkpoints on disk; a killed run loses at most this many."""
    sfm: SfmConfig = field(default_factory=SfmConfig)
    localize: LocalizeConfig = field(default_factory=LocalizeConfig)
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)
    first_stereo: FirstStereoConfig = field(default_factory=FirstStereoConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)

    def __post_init__(self) -> None:
        if self.max_size < 16:
            raise UsageError(f"max_size must be at least 16 pixels, got {self.max_size}.")
        if self.holdout_every < 0 or self.holdout_every == 1:
            raise UsageError(
                f"holdout_every must be 0 (none) or at least 2, got {self.holdout_every}; 1 would leave nothing to train on."
            )
        if self.checkpoint_every < 1:
            raise UsageError(f"checkpoint_every must be at least 1 step, got {self.checkpoint_every}.")


def presets() -> list[str]:
    """Names of the shipped presets."""
    return sorted(p.stem for p in _preset_folder().glob("*.yaml"))


def load_config(preset: str, *, overrides: Mapping[str, Any] | None = None, file: Path | None = None) -> RunConfig:
    """A preset, then a user's YAML file, then single overrides.

    Args:
        preset: name of a shipped preset.
        overrides: dotted path to value, e.g. {"train.steps": 500}.
        file: YAML file of overrides in the same layout as the presets.

    Raises:
        UsageError: unknown preset, unknown key, or a value of the wrong type; with the path and the allowed names.
        InputError: the file cannot be read; FormatError: it is no YAML mapping.
    """
    path = _preset_folder() / f"{preset}.yaml"
    if preset not in presets():
        raise UsageError(f"There is no preset {preset!r}. Choose one of {', '.join(presets())}, or pass --config FILE.yaml.")
    config = apply_overrides(RunConfig(), read_overrides(path), where=f"preset {preset}")
    config = dataclasses.replace(config, preset=preset)
    if file is not None:
        config = apply_overrides(config, read_overrides(file), where=str(file))
    return override(config, overrides or {})


def override(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """A copy with single settings replaced, dotted path to value, e.g. {"train.steps": 500}.

    Raises:
        UsageError: unknown key or wrong type.
    """
    for key, value in settings.items():
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        config = apply_overrides(config, nested, where="command line")
    return config


def parse_setting(text: str) -> tuple[str, Any]:
    """Split "train.steps=500" into its path and its value (read as YAML).

    Raises:
        UsageError: no "=" or not a plain value.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text!r}: write it as path=value, for example --set train.steps=500.")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {text!r}: {value!r} is not a plain value ({error}).") from error


def read_overrides(path: Path) -> dict[str, Any]:
    """Read a YAML file of overrides.

    Raises:
        InputError: the file cannot be read.
        FormatError: not YAML, or not a mapping.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise FormatError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, this is no configuration file.")
    try:
        body = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path}: not valid YAML ({error}). Compare it with the presets in configs/.") from error
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise FormatError(f"{path}: must hold `name: value` lines, got a {type(body).__name__}.")
    return body


def apply_overrides(config: T, overrides: Mapping[str, Any], *, where: str, path: str = "") -> T:
    """A copy of a dataclass with the named fields replaced, nested dataclasses included.

    Raises:
        UsageError: unknown key or wrong type, with its dotted path and the allowed names.
    """
    hints = _hints(type(config))
    changes: dict[str, Any] = {}
    for key, value in overrides.items():
        here = f"{path}{key}"
        if key not in hints:
            raise UsageError(f"{where}: there is no setting {here!r}. Allowed here: {', '.join(sorted(hints))}.")
        current = getattr(config, str(key))
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                names = ", ".join(sorted(_hints(type(current))))
                raise UsageError(f"{where}: {here} is a group of settings ({names}), got {value!r}.")
            changes[key] = apply_overrides(current, value, where=where, path=f"{here}.")
        else:
            changes[key] = _convert(value, hints[key], f"{where}: {here}")
    try:
        return dataclasses.replace(config, **changes)  # type: ignore[type-var]
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def to_plain(config: Any) -> Any:
    """Dataclasses as plain JSON values: tuples become lists."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(k): to_plain(v) for k, v in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_plain(v) for v in config]
    return config


def from_plain(values: Mapping[str, Any], *, where: str = "the scene's configuration") -> tuple[RunConfig, list[str]]:
    """Inverse of `to_plain` for a whole RunConfig that another version of this program may have stored.

    Returns:
        the configuration, in which settings that are new take their defaults, and the dotted paths of settings that this
        version does not have any more.

    Raises:
        UsageError: a value has the wrong type.
    """
    default = RunConfig()
    known, dropped = _known_part(values, default, "")
    return apply_overrides(default, known, where=where), dropped


def _known_part(values: Mapping[str, Any], default: Any, path: str) -> tuple[dict[str, Any], list[str]]:
    names = _hints(type(default))
    known: dict[str, Any] = {}
    dropped = [f"{path}{key}" for key in values if key not in names]
    for key in (k for k in values if k in names):
        current = getattr(default, key)
        known[key] = values[key]
        if dataclasses.is_dataclass(current) and isinstance(values[key], Mapping):
            known[key], more = _known_part(values[key], current, f"{path}{key}.")
            dropped += more
    return known, dropped


def differences(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> list[str]:
    """Dotted paths at which two plain configurations differ, with both values."""
    lines = []
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differences(left, right, f"{path}{key}.")
        elif left != right:
            lines.append(f"{path}{key}: {left!r} -> {right!r}")
    return lines


def share_folder(name: str) -> Path:
    """A folder of files that ship with the package: beside `ltgs/` in a checkout, under `ltgs/_share/` in a wheel.

    Raises:
        InputError: neither place has it, so the installation is incomplete.
    """
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "_share" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise InputError(f"The folder {name!r} that ships with ltgs is missing. Install the package again.")


def _preset_folder() -> Path:
    return share_folder("configs")


def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Check `value` against a type hint; integers become floats, lists become tuples, and nothing else is converted."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        problem: UsageError | None = None
        for option in (a for a in args if a is not type(None)):
            try:
                return _convert(value, option, where)
            except UsageError as error:
                problem = error
        raise problem or UsageError(f"{where}: {value!r} is not allowed.")
    if origin is Literal:
        if value in args:
            return value
        raise UsageError(f"{where} must be one of {', '.join(map(str, args))}, got {value!r}.")
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or (args[-1] is not Ellipsis and len(value) != len(args)):
            raise UsageError(f"{where} must be a list{'' if args[-1] is Ellipsis else f' of {len(args)}'}, got {value!r}.")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_convert(v, k, where) for v, k in zip(value, kinds, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 (without a dot) as text.
        try:
            value = float(value)
        except ValueError:
            raise UsageError(f"{where} must be a number, got {value!r}.") from None
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UsageError(f"{where} must be a {hint.__name__}, got {value!r}.")
    if hint is float and not abs(value) < float("inf"):
        raise UsageError(f"{where} must be a finite number, got {value!r}.")
    return value
