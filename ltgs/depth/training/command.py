"""What the command line calls: train from a file of settings, and convert checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ltgs.core.progress import Progress, silent
from ltgs.depth.net.pth import convert_pth
from ltgs.depth.training.config import load_train_config
from ltgs.depth.training.loop import TrainResult, train


def train_command(
    config: Path, out_dir: Path, *, resume: bool = False, device: str | None = None, seed: int | None = None, progress: Progress = silent
) -> TrainResult:
    """Train the stereo network.

    Args:
        config: YAML file of settings, see `configs/depth/small.yaml`.
        out_dir: gets the weights, the record, the log and the checkpoint.
        resume: continue a run that was stopped.
        device, seed: override the file's.

    Raises:
        UsageError, InputError, FormatError, MissingDependency, ConvergenceError: see `train` and `load_train_config`.
    """
    settings = load_train_config(config)
    changes = {name: value for name, value in (("device", device), ("seed", seed)) if value is not None}
    return train(dataclasses.replace(settings, **changes), out_dir, resume=resume, progress=progress)  # type: ignore[arg-type]


def convert_command(source: Path, target: Path) -> list[str]:
    """Turn a `.pth` checkpoint into safetensors without executing anything in it; returns the entries that were left out.

    Raises:
        InputError, FormatError: the file cannot be read, or holds more than tensors.
    """
    return convert_pth(source, target)
