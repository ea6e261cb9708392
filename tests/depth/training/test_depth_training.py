"""The loop: losses, schedule, stages, exact resume, the NaN guard, settings files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from helpers import REPOSITORY

from ltgs.commands.depth import DepthTrain
from ltgs.depth.net.config import small_config
from ltgs.depth.net.heads import FusionHeads
from ltgs.depth.net.loaders import load_own
from ltgs.depth.net.model import StereoFusionNet
from ltgs.depth.training import loop
from ltgs.depth.training.checkpoint import NOTE
from ltgs.depth.training.command import convert_command, train_command
from ltgs.depth.training.config import Data, Stage, TrainConfig, load_train_config
from ltgs.depth.training.loop import train, trainable_parameters
from ltgs.depth.training.losses import one_cycle, sequence_loss
from ltgs.errors import ConvergenceError, FormatError, InputError, UsageError
from ltgs.io.weights import read_weights

TINY = TrainConfig(
    stages=(Stage("joint", 4, batch=1, learning_rate=1e-3), Stage("registration", 2, batch=1), Stage("fusion", 2, batch=1)),
    data=Data(crop=(64, 64), pool=2), iterations=2, checkpoint_every=2, log_every=1, validate_every=4, validation_pairs=1, device="cpu",
)


def test_sequence_loss_weighs_later_predictions_more_and_ignores_unknown_truth() -> None:
    truth = torch.tensor([2.0, math.inf, 900.0, 4.0]).view(1, 1, 1, 4)
    valid = torch.tensor([True, False, True, True]).view(1, 1, 1, 4)
    predictions = [torch.zeros(1, 1, 1, 4, requires_grad=True), torch.full((1, 1, 1, 4), 3.0, requires_grad=True)]
    loss = sequence_loss(predictions, truth, valid)
    assert loss.item() == pytest.approx(0.9**15 * 3.0 + 1.0)
    loss.backward()
    for p in predictions:
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad[..., 1:3].abs().max() == 0
    assert sequence_loss(predictions, truth, torch.zeros_like(valid)).item() == 0
    assert sequence_loss([predictions[1]], truth, valid).item() == pytest.approx(1.0)


@pytest.mark.parametrize("steps", [100, 1000])
def test_schedule_is_the_linear_one_cycle_of_torch(steps: int) -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-4, steps, pct_start=0.05, cycle_momentum=False, anneal_strategy="linear")
    for step in range(steps):
        assert one_cycle(step, steps, 2e-4, warm_up=0.05) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-6, abs=1e-12)
        optimiser.step()
        if step < steps - 1:
            reference.step()


def test_stages_train_their_part_only() -> None:
    net = StereoFusionNet(small_config())
    assert net.refinement is not None
    parts = ("matching", "registration", "fusion", "joint")
    sizes = {part: sum(p.numel() for p in trainable_parameters(net, Stage(part))) for part in parts}
    assert sizes["fusion"] == sum(p.numel() for p in net.refinement.parameters())
    assert sizes["matching"] + sizes["fusion"] == sizes["joint"] == sum(p.numel() for p in net.parameters())
    assert 0 < sizes["registration"] < sizes["fusion"]


def test_interrupted_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(TINY, tmp_path / "whole")
    real, calls = loop._step, []

    def killed(*arguments: object) -> tuple[float, float]:
        calls.append(arguments)
        if len(calls) in (4, 8):
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_step", killed)
    for attempt in range(3):
        if attempt < 2:
            with pytest.raises(KeyboardInterrupt):
                train(TINY, tmp_path / "parts", resume=True)
        else:
            parts = train(TINY, tmp_path / "parts", resume=True)
    # Killed in the first stage's last step (2 of 4 stored), then in the second stage's last step (none of it stored).
    assert len(calls) == 4 + (2 + 2) + (2 + 2)
    (a, header), (b, _) = read_weights(whole.weights), read_weights(parts.weights)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert json.loads(header["record"])["config"]["stages"][1]["part"] == "registration"
    load_own(StereoFusionNet(small_config()), whole.weights)
    lines = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {0, 1, 2} and any("val_bad2" in line for line in lines)
    assert sorted(p.name for p in (tmp_path / "whole").iterdir()) == [
        "checkpoint.json", "log.jsonl", "state_2_0000002.safetensors", "training.json", "weights.safetensors"
    ]


def test_stages_leave_other_weights_alone(tmp_path: Path) -> None:
    first = train(dataclasses.replace(TINY, stages=TINY.stages[:1]), tmp_path / "a")
    initial = dataclasses.replace(TINY, stages=TINY.stages[1:2], initial=str(first.weights), validation_pairs=0)
    second = train(initial, tmp_path / "b")
    (a, _), (b, _) = read_weights(first.weights), read_weights(second.weights)
    changed = {name.split(".")[1] for name in a if not torch.equal(a[name], b[name])}
    assert changed == {"mono_params_estimate"}


def test_existing_runs_are_neither_overwritten_nor_continued_with_other_settings(tmp_path: Path) -> None:
    short = dataclasses.replace(TINY, stages=(Stage("matching", 2, batch=1),), validation_pairs=0)
    train(short, tmp_path)
    with pytest.raises(InputError, match="--resume"):
        train(short, tmp_path)
    with pytest.raises(InputError, match="other settings"):
        train(dataclasses.replace(short, seed=1), tmp_path, resume=True)
    state = next(tmp_path.glob("state_*.safetensors"))
    state.write_bytes(state.read_bytes()[:-1] + b"\x01")
    with pytest.raises(FormatError, match="damaged"):
        train(short, tmp_path, resume=True)
    note = json.loads((tmp_path / NOTE).read_text())
    (tmp_path / NOTE).write_text(json.dumps(note | {"file": "../../elsewhere"}))
    with pytest.raises(InputError, match="elsewhere"):
        train(short, tmp_path, resume=True)


def test_non_finite_steps_are_left_out_and_end_training_if_they_persist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, broken = loop.sequence_loss, [2]

    def faulty(predictions, truth, valid, **options):
        loss = real(predictions, truth, valid, **options)
        if len(predictions) > 1 and broken[0] > 0:
            broken[0] -= 1
            return loss * float("nan")
        return loss

    monkeypatch.setattr(loop, "sequence_loss", faulty)
    events = []
    config = dataclasses.replace(TINY, stages=(Stage("joint", 3, batch=1),), validation_pairs=0)
    result = train(config, tmp_path / "a", progress=events.append)
    assert sum(e.level == "warning" for e in events) == 2
    assert all(torch.isfinite(v).all() for v in read_weights(result.weights)[0].values())
    broken[0], loop_limit = 10**6, 3
    monkeypatch.setattr(loop, "MAX_BAD_STEPS", loop_limit)
    with pytest.raises(ConvergenceError, match="3 steps in a row"):
        train(dataclasses.replace(config, stages=(Stage("joint", 9, batch=1),)), tmp_path / "b")


def test_training_on_one_generated_pair_lowers_its_error(tmp_path: Path) -> None:
    stages, data = (Stage("joint", 30, batch=1, learning_rate=1e-3),), Data(crop=(64, 64), pool=1)
    config = dataclasses.replace(TINY, stages=stages, data=data, validation_pairs=0, checkpoint_every=100)
    errors: list[float] = []
    train(config, tmp_path, progress=lambda e: errors.append(e.figures.get("epe", math.nan)))
    assert min(errors[-5:]) < 0.5 * errors[0], errors[::8]


def test_heads_on_semi_global_matches_are_trained_and_compared_with_them(tmp_path: Path) -> None:
    data = Data(crop=(64, 96), pool=1)
    stages = (Stage("joint", 3, batch=1, learning_rate=1e-3),)
    result = train(dataclasses.replace(TINY, net="heads", stages=stages, data=data), tmp_path)
    assert {"val_epe", "val_bad2", "val_matches_epe", "val_matches_bad2"} <= result.figures.keys()
    load_own(FusionHeads(), result.weights)
    for change in ({"stages": (Stage("fusion"),)}, {"data": Data(prior="none")}):
        with pytest.raises(UsageError, match="the heads are trained at once"):
            dataclasses.replace(TINY, net="heads", **({"stages": stages} | change))


def test_mixed_precision_trains(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, stages=(Stage("joint", 1, batch=1),), precision="bfloat16", validation_pairs=0)
    assert math.isfinite(train(config, tmp_path).figures["loss"])


def test_shipped_settings_are_valid_and_follow_the_published_schedule() -> None:
    small, paper = (load_train_config(REPOSITORY / "configs" / "depth" / f"{name}.yaml") for name in ("small", "paper"))
    assert small.net == "small" and small.data.kind == "synthetic"
    assert [s.part for s in paper.stages] == ["matching", "registration", "fusion"]
    assert paper.stages[0] == Stage("matching", 80000, 100000, 8, 2e-4) and paper.iterations == 22 and paper.data.crop == (320, 720)


@pytest.mark.parametrize(("text", "reason"), [
    ("stages: [{part: dance}]", r"stages\[0\]: part must be one of matching"), ("lr: 3", "no setting lr"),
    ("iterations: two", "must be a int"),
    ("data: {crop: [256]}", "list of 2"), ("data: {crop: [32, 448]}", "at least 64"), ("stages: []", "at least one stage"),
    ("data: {kind: eth3d}", "data.root"), ("net: paper", "Depth Anything V2"),
    ("stages: [{steps: 5, schedule_steps: 4}]", "schedule_steps"),
    ("net: raft_stereo\nstages: [{part: fusion}]", "no global fusion"), ("clip: true", "must be a float"), ("data: 3", "group of settings"),
])
def test_settings_are_checked(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UsageError, match=reason):
        load_train_config(tmp_path / "a.yaml")


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(
        "net: small\niterations: 1\nvalidation_pairs: 0\nstages: [{part: matching, steps: 1, batch: 1}]\ndata: {crop: [64, 64]}\n"
    )
    result = train_command(tmp_path / "a.yaml", tmp_path / "out", device="cpu", seed=5)
    assert json.loads((tmp_path / "out/training.json").read_text())["config"]["seed"] == 5
    assert DepthTrain(tmp_path / "a.yaml", tmp_path / "again", device="cpu").run() == 0
    shown = capsys.readouterr().out
    assert f"weights in {tmp_path / 'again'}" in shown and "loss " in shown
    torch.save({"w": torch.ones(3), "n": 1}, tmp_path / "b.pth")
    assert convert_command(tmp_path / "b.pth", tmp_path / "b.safetensors") == ["n"]
    assert torch.equal(read_weights(tmp_path / "b.safetensors")[0]["w"], torch.ones(3)) and result.weights.is_file()
    with pytest.raises(FormatError, match="not valid YAML"):
        (tmp_path / "a.yaml").write_text("{")
        load_train_config(tmp_path / "a.yaml")
