"""Training state on disk: one safetensors file and a JSON note that names it, each written in one visible step."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltgs.depth.training.config import TrainConfig, to_plain
from ltgs.errors import FormatError, InputError
from ltgs.io.atomic import explained, remove_file, sha256_file, write_file
from ltgs.io.json_files import need, need_int, read_json
from ltgs.io.weights import read_weights, write_weights

NOTE = "checkpoint.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Place:
    """Where a run stands."""

    stage: int
    """Index of the stage."""
    step: int
    """Steps of that stage that are done."""


def run_key(config: TrainConfig) -> str:
    """What must be equal for a checkpoint to be continued: all settings that decide the result."""
    plain = to_plain(config)
    for name in ("checkpoint_every", "log_every", "validate_every", "validation_pairs", "device"):
        del plain[name]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]


def save_checkpoint(folder: Path, key: str, place: Place, net: nn.Module, optimiser: torch.optim.AdamW) -> None:
    """Write the state, then the note that makes it the newest, then drop older files.

    Raises:
        InputError: the disk is full or not writable.
    """
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    names = {id(p): name for name, p in net.named_parameters()}
    for parameter, state in optimiser.state.items():
        for moment in _MOMENTS:
            tensors[f"{moment}.{names[id(parameter)]}"] = state[moment]
        tensors[f"step.{names[id(parameter)]}"] = torch.as_tensor(state["step"]).reshape(())
    path = folder / f"state_{place.stage}_{place.step:07d}.safetensors"
    write_weights(path, tensors)
    note = {"file": path.name, "stage": place.stage, "step": place.step, "key": key, "sha256": sha256_file(path)}
    with explained("write", folder / NOTE):
        write_file(folder / NOTE, json.dumps(note).encode())
        for old in folder.glob("state_*.safetensors"):
            if old.name != path.name:
                remove_file(old)


def read_place(folder: Path, key: str) -> tuple[Place, dict[str, Tensor]] | None:
    """The newest state of this run, or None if the folder has no checkpoint.

    Raises:
        InputError: it belongs to other settings.
        FormatError: it is damaged.
    """
    path = folder / NOTE
    if not path.is_file():
        return None
    note = read_json(path)
    if need(note, "key", str, str(path)) != key:
        raise InputError(f"{path}: this checkpoint was made with other settings. Use the same ones, or another output folder.")
    # Only the last part of the name counts, so that an edited note cannot lead out of the folder.
    file = folder / Path(need(note, "file", str, str(path))).name
    with explained("read", file):
        whole = sha256_file(file) == need(note, "sha256", str, str(path))
    if not whole:
        raise FormatError(f"{file}: damaged (its SHA-256 is not the noted one). Remove {path} to start anew.")
    tensors, _ = read_weights(file)
    return Place(need_int(note, "stage", str(path), 0, 1000), need_int(note, "step", str(path), 0, 1 << 31)), tensors


def restore(tensors: dict[str, Tensor], net: nn.Module, optimiser: torch.optim.AdamW) -> None:
    """Put a checkpoint's tensors into the network and, for the parameters it trains, into the optimiser.

    Raises:
        FormatError: a value is missing or has another shape.
    """
    own = net.state_dict()
    stored = {name.removeprefix("net."): value for name, value in tensors.items() if name.startswith("net.")}
    if stored.keys() != own.keys() or any(stored[name].shape != value.shape for name, value in own.items()):
        raise FormatError("The checkpoint does not fit the network. Use another output folder.")
    net.load_state_dict(stored)
    trained = {id(p) for group in optimiser.param_groups for p in group["params"]}
    for name, parameter in net.named_parameters():
        if id(parameter) in trained and f"step.{name}" in tensors:
            moments = {m: tensors[f"{m}.{name}"].to(parameter.device) for m in _MOMENTS}
            optimiser.state[parameter] = {"step": tensors[f"step.{name}"].to(torch.float32), **moments}


def write_record(path: Path, values: dict[str, Any]) -> None:
    """A JSON file in one visible step.

    Raises:
        InputError: the disk is full or not writable.
    """
    data = json.dumps(values, indent=1).encode()
    with explained("write", path, len(data)):
        write_file(path, data)
