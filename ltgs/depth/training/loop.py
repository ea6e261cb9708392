"""The training loop: stages, one-cycle schedule, gradient clipping, a guard against NaN, checkpoints, validation, log."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.depth.net.fusion import resize_map
from ltgs.depth.net.heads import FusionHeads
from ltgs.depth.net.loaders import load_own
from ltgs.depth.net.model import MonoEncoder, MonoPrior, NetOutput, StereoFusionNet
from ltgs.depth.priors import load_depth_anything
from ltgs.depth.synth.generator import SynthConfig, make_sample
from ltgs.depth.training.batches import Batch, BatchSource, make_source, semi_global_matches, stack_samples
from ltgs.depth.training.checkpoint import Place, read_place, restore, run_key, save_checkpoint, write_record
from ltgs.depth.training.config import Stage, TrainConfig, to_plain
from ltgs.depth.training.losses import one_cycle, sequence_loss
from ltgs.errors import ConvergenceError, InputError
from ltgs.io.atomic import explained
from ltgs.io.weights import write_weights

MAX_BAD_STEPS = 20
"""Steps in a row without a finite loss and gradient after which training stops."""
_VALIDATION_SEED = 0x5EED


Network = StereoFusionNet | FusionHeads


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind."""

    weights: Path
    """safetensors file whose header holds the training record."""
    figures: dict[str, float] = field(default_factory=dict)
    """Of the last validation, or of the last logged step."""


@dataclass
class _Run:
    """What all stages share."""

    config: TrainConfig
    folder: Path
    net: Network
    device: torch.device
    source: BatchSource
    encoder: MonoEncoder | None
    progress: Progress
    figures: dict[str, float] = field(default_factory=dict)
    bad_steps: int = 0
    validation: list[Batch] | None = None


def train(config: TrainConfig, out_dir: Path | str, *, resume: bool = False, progress: Progress = silent) -> TrainResult:
    """Train a network.

    Args:
        out_dir: gets `weights.safetensors`, `training.json`, `log.jsonl` and, while training, one checkpoint.
        resume: continue from the checkpoint there; without one, training starts anew.

    Raises:
        InputError: the folder already holds a run (without `resume`), the data are missing, or the disk fails.
        ConvergenceError: the loss stays non-finite.
    """
    folder = Path(out_dir)
    with explained("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not resume and any((folder / name).exists() for name in ("checkpoint.json", "weights.safetensors")):
        raise InputError(f"{folder}: holds a training run already. Continue it with --resume, or choose another folder.")
    run = _prepare(config, folder, progress)
    found = read_place(folder, run_key(config)) if resume else None
    place, state = found or (Place(0, 0), None)
    for index in range(place.stage, len(config.stages)):
        _train_stage(run, index, place.step if index == place.stage else 0, state)
        state = None
    return _finish(run)


def _prepare(config: TrainConfig, folder: Path, progress: Progress) -> _Run:
    device = torch.device(config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    encoder: MonoEncoder | None = None
    if config.data.prior == "depth_anything":
        encoder = load_depth_anything(config.data.prior_weights).to(device)
    with _seeded(config.seed, device):
        net: Network = FusionHeads() if config.net == "heads" else StereoFusionNet(config.net_config())
    if config.initial:
        load_own(net, config.initial)
    source = make_source(config.data, config.seed, device, with_matches=config.net == "heads")
    return _Run(config, folder, net.to(device), device, source, encoder, progress)


def trainable_parameters(net: Network, stage: Stage) -> list[nn.Parameter]:
    """Set `requires_grad` for a stage and list what it trains."""
    refinement = net.refinement if isinstance(net, StereoFusionNet) else None
    fusion = {id(p) for p in refinement.parameters()} if refinement is not None else set()
    registration = {id(p) for p in refinement.parameters_of_registration()} if refinement is not None else set()
    everything = {id(p) for p in net.parameters()}
    chosen = {"matching": everything - fusion, "registration": registration, "fusion": fusion, "joint": everything}[stage.part]
    for parameter in net.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    return [p for p in net.parameters() if p.requires_grad]


def stage_predictions(output: NetOutput, stage: Stage) -> list[Tensor]:
    """What the loss of a stage sees."""
    if stage.part == "matching":
        return output.iterations
    if stage.part == "joint":
        return output.predictions
    wanted = output.registered if stage.part == "registration" else output.fused
    assert wanted is not None
    return [wanted]


def run_network(net: Network, batch: Batch, encoder: MonoEncoder | None, *, iterations: int | None, fuse: bool) -> NetOutput:
    """The network's answer for a batch; the heads take the batch's semi-global matches."""
    prior = encoder or batch.prior
    if isinstance(net, StereoFusionNet):
        return net(batch.left, batch.right, prior, iterations=iterations, fuse=fuse)
    assert batch.matches is not None and prior is not None
    maps = prior if isinstance(prior, MonoPrior) else prior(batch.left)
    depth = resize_map(maps.inverse_depth, (batch.left.shape[-2], batch.left.shape[-1]))
    out = net(batch.left, batch.right, *batch.matches, depth, torch.isfinite(depth))
    return NetOutput(out.fused, [], out.registered, out.fused, out.confidence)


def _train_stage(run: _Run, index: int, done: int, state: dict[str, Tensor] | None) -> None:
    config, stage = run.config, run.config.stages[index]
    optimiser = torch.optim.AdamW(trainable_parameters(run.net, stage), stage.learning_rate, weight_decay=config.weight_decay, eps=1e-8)
    if state is not None:
        restore(state, run.net, optimiser)
    run.net.train()
    first = sum(s.steps for s in config.stages[:index])
    clock, count = time.monotonic(), 0
    for step in range(done, stage.steps):
        loss, error = _step(run, stage, optimiser, first + step, step)
        count += 1
        last = step + 1 == stage.steps
        if (step + 1) % config.log_every == 0 or last:
            rate = count * stage.batch / max(time.monotonic() - clock, 1e-9)
            _log(run, index, step + 1, {"loss": loss, "epe": error, "lr": optimiser.param_groups[0]["lr"], "samples_per_s": rate})
            clock, count = time.monotonic(), 0
        if config.validation_pairs and ((step + 1) % config.validate_every == 0 or last):
            _log(run, index, step + 1, validate(run.net, _validation(run), run.encoder, fuse=stage.part != "matching"))
        if (step + 1) % config.checkpoint_every == 0 or last:
            save_checkpoint(run.folder, run_key(config), Place(index, step + 1), run.net, optimiser)


def _step(run: _Run, stage: Stage, optimiser: torch.optim.AdamW, number: int, step: int) -> tuple[float, float]:
    """One update; returns the loss and the mean error of the last prediction, pixels."""
    config = run.config
    for group in optimiser.param_groups:
        group["lr"] = one_cycle(step, stage.schedule_steps or stage.steps, stage.learning_rate)
    batch = run.source(number, stage.batch).to(run.device)
    autocast = torch.autocast(run.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
    with _seeded(config.seed * 1_000_003 + number, run.device), autocast:
        output = run_network(run.net, batch, run.encoder, iterations=config.iterations, fuse=stage.part != "matching")
        predictions = [p.float() for p in stage_predictions(output, stage)]
        loss = sequence_loss(predictions, batch.disparity, batch.valid, max_disparity=config.max_disparity)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_([p for p in run.net.parameters() if p.requires_grad], config.clip)
    if math.isfinite(loss.item()) and math.isfinite(norm.item()):
        optimiser.step()
        run.bad_steps = 0
    else:
        _count_bad_step(run, number)
    known = batch.valid & (batch.disparity < config.max_disparity)
    return loss.item(), sequence_loss(predictions[-1:], batch.disparity, known).item()


def _count_bad_step(run: _Run, number: int) -> None:
    """A single bad batch is left out; many in a row mean that the network is lost."""
    run.bad_steps += 1
    run.progress(ProgressEvent("train", message=f"step {number}: loss or gradient not finite, step left out", level="warning"))
    if run.bad_steps >= MAX_BAD_STEPS:
        raise ConvergenceError(
            f"Training stopped: {MAX_BAD_STEPS} steps in a row had no finite loss or gradient. "
            "Lower the learning rate or use precision float32, and start from an earlier checkpoint."
        )


@torch.inference_mode()
def validate(net: Network, batches: list[Batch], encoder: MonoEncoder | None, *, fuse: bool) -> dict[str, float]:
    """Mean error and share of pixels off by more than 1, 2 and 3 px, over all known pixels, occluded ones included.

    Where batches hold semi-global matches, the same figures of those stand beside as "val_matches_...".
    """
    was_training = net.training
    net.eval()
    errors: dict[str, list[Tensor]] = {}
    for batch in batches:
        output = run_network(net, batch, encoder, iterations=None, fuse=fuse)
        maps = {"val": output.disparity} | ({} if batch.matches is None else {"val_matches": batch.matches[0]})
        for name, value in maps.items():
            errors.setdefault(name, []).append((value - batch.disparity).abs()[batch.valid])
    net.train(was_training)
    figures = {}
    for name, parts in errors.items():
        error = torch.cat(parts)
        figures[f"{name}_epe"] = float(error.mean())
        figures |= {f"{name}_bad{t}": float(100 * (error > t).float().mean()) for t in (1, 2, 3)}
    return figures


def _validation(run: _Run) -> list[Batch]:
    if run.validation is None:
        data = run.config.data
        config = SynthConfig(data.crop[1], data.crop[0], supersample=data.supersample, faults=data.faults)
        samples = [make_sample(config, _VALIDATION_SEED, i, device=run.device) for i in range(run.config.validation_pairs)]
        batches = [stack_samples([s], with_prior=data.prior == "simulated") for s in samples]
        if run.config.net == "heads":
            batches = [semi_global_matches(b) for b in batches]
        run.validation = [b.to(run.device) for b in batches]
    return run.validation


def _log(run: _Run, index: int, step: int, figures: dict[str, float]) -> None:
    stage = run.config.stages[index]
    run.figures |= figures
    run.progress(ProgressEvent("train", step, stage.steps, f"stage {index + 1} of {len(run.config.stages)}: {stage.part}", figures))
    line = json.dumps({"stage": index, "step": step, **{k: round(v, 6) if math.isfinite(v) else str(v) for k, v in figures.items()}})
    path = run.folder / "log.jsonl"
    with explained("write", path), path.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


def _finish(run: _Run) -> TrainResult:
    path = run.folder / "weights.safetensors"
    record = {"config": to_plain(run.config), "figures": {k: v for k, v in run.figures.items() if math.isfinite(v)}}
    write_weights(path, run.net.state_dict(), {"network": run.config.net, "record": json.dumps(record, sort_keys=True)})
    write_record(run.folder / "training.json", record)
    return TrainResult(path, run.figures)


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers that depend on the seed alone; the process's own generators are left as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
