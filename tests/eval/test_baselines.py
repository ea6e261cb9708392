"""Baselines on a tiny place with a known change: what each may touch, what it forgets, and that all share one budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.chronology import Appearance
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import make_rigid
from ltgs.errors import UsageError
from ltgs.eval.baselines import BASELINES, BaselineConfig, BaselineStates, Visits, run_baseline
from ltgs.optim.initialize import TrainingPhoto
from ltgs.render import render

CONFIG = BaselineConfig(steps=40, growth_rounds=3)
DIM = np.diag([0.7, 0.65, 0.6])
WALL, BALL, NEW_BALL = 0, 1, 2


def place() -> tuple[Gaussians, np.ndarray]:
    """A patterned wall, a ball in front of its left part and one in front of its right part; which Gaussian is what."""
    x, y = np.meshgrid(np.linspace(-1.5, 1.5, 30), np.linspace(-1.1, 1.1, 22))
    wall = np.stack([x.ravel(), y.ravel(), np.full(x.size, 3.0)], 1)
    rng = np.random.default_rng(4)
    ball = rng.normal(0, 0.12, (40, 3)) + [-0.6, 0, 2.4]
    other = rng.normal(0, 0.12, (40, 3)) + [0.6, 0, 2.4]
    points = np.concatenate([wall, ball, other])
    owner = np.repeat([WALL, BALL, NEW_BALL], [len(wall), 40, 40])
    checks = (np.floor(points[:, 0] / 0.4) + np.floor(points[:, 1] / 0.4)) % 2
    colours = np.where(checks[:, None] > 0, [[0.5, 0.5, 0.45]], [[0.3, 0.32, 0.35]])
    colours[owner == BALL], colours[owner == NEW_BALL] = [0.8, 0.2, 0.2], [0.1, 0.3, 0.9]
    n = len(points)
    return Gaussians(
        torch.as_tensor(points, dtype=torch.float32), torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1), torch.full((n, 3), float(np.log(0.06))),
        torch.full((n,), 3.0), torch.as_tensor((colours[:, None] - 0.5) / 0.28209479, dtype=torch.float32),
    ), owner


def photo(gaussians: Gaussians, name: str, time: int, x: float, y: float, light: np.ndarray) -> TrainingPhoto:
    K = np.array([[70.0, 0, 40], [0, 70.0, 30], [0, 0, 1]])
    camera = Camera(name, time, 80, 60, K, make_rigid(np.eye(3), -np.array([x, y, 0])))
    with torch.no_grad():
        rgb = render(gaussians, stack_cameras([camera])).rgb[0].clamp(0, 1).numpy() @ light.T
    return TrainingPhoto(camera, (rgb * 255 + 0.5).astype(np.uint8))


@pytest.fixture(scope="module")
def visits() -> Visits:
    """First the red ball; then it has gone, a blue one has come and it is darker; then nobody could place a photo."""
    everything, owner = place()
    before, after = everything[torch.as_tensor(owner != NEW_BALL)], everything[torch.as_tensor(owner != BALL)]
    first = tuple(photo(before, f"0/{i}.png", 0, 0.4 * (i % 3 - 1), 0.3 * (i // 3 - 0.5), np.eye(3)) for i in range(6))
    second = tuple(photo(after, f"1/{i}.png", 1, 0.35 * (i - 1), 0.1, DIM) for i in range(3))
    return Visits(before, (first, second, ()), np.tile(np.eye(3, 4), (6, 1, 1)), before.means.double().numpy(), 0.6)


@pytest.fixture(scope="module")
def followed(visits: Visits) -> dict[str, BaselineStates]:
    return {name: run_baseline(name, visits, config=CONFIG) for name in BASELINES}


def error(gaussians: Gaussians, light: Appearance, seen: TrainingPhoto, columns: slice = slice(None)) -> float:
    """Mean absolute difference to a photo."""
    with torch.no_grad():
        shown = light.apply(render(gaussians, stack_cameras([seen.camera])).rgb[0]).clamp(0, 1).numpy()
    return float(np.abs(shown - seen.rgb / 255.0)[:, columns].mean())


def test_all_show_every_time_and_start_alike(visits: Visits, followed: dict[str, BaselineStates]) -> None:
    for name, states in followed.items():
        assert states.num_times == 3 and states.name == name
        assert states.state_at(0).gaussians is not None and len(states.state_at(0).gaussians) == len(visits.first)
        assert torch.equal(states.state_at(0).gaussians.means, visits.first.means)
        assert states.state_at(2) is states.state_at(1), "a visit without photos changes nothing"
        assert all(len(s.gaussians) <= CONFIG.room_to_grow * len(visits.first) for s in states.states)
        assert states.cpu_seconds[0] == 0 and (name == "frozen" or states.cpu_seconds[1] > 0)


def test_frozen_stays_as_it_was(visits: Visits, followed: dict[str, BaselineStates]) -> None:
    state = followed["frozen"].state_at(1)
    assert torch.equal(state.gaussians.means, visits.first.means)
    np.testing.assert_array_equal(state.appearance.colour, np.eye(3, 4))


@pytest.mark.parametrize("name", ["finetune", "replay", "local", "scratch"])
def test_trained_ones_explain_the_visit_better_than_frozen(visits: Visits, followed: dict[str, BaselineStates], name: str) -> None:
    seen = visits.photos[1][1]
    idle, state = followed["frozen"].state_at(1), followed[name].state_at(1)
    assert error(state.gaussians, state.appearance, seen) < 0.7 * error(idle.gaussians, idle.appearance, seen)


def test_fine_tuning_forgets_and_replay_remembers(visits: Visits, followed: dict[str, BaselineStates]) -> None:
    seen = visits.photos[0][1]
    lost, kept = (
        error(followed[n].first_again.gaussians, followed[n].first_again.appearance, seen) for n in ("finetune", "replay")
    )
    assert kept < 0.8 * lost


def test_local_changes_only_what_changed_and_keeps_the_light_apart(visits: Visits, followed: dict[str, BaselineStates]) -> None:
    _, owner = place()
    state = followed["local"].state_at(1)
    now = {tuple(row) for row in state.gaussians.means.tolist()}
    kept = np.array([tuple(row) in now for row in visits.first.means.tolist()])
    first_owner = owner[owner != NEW_BALL]
    assert kept[first_owner == WALL].mean() > 0.6 and kept[first_owner == BALL].mean() < 0.2
    brightness = np.diag(state.appearance.colour[:, :3]) + state.appearance.colour[:, 3]
    np.testing.assert_allclose(brightness, np.diag(DIM), atol=0.08)


def test_replay_finds_the_light_of_the_visit(followed: dict[str, BaselineStates]) -> None:
    grey = np.append(np.full(3, 0.4), 1.0)
    now, first = (a.colour @ grey for a in (followed["replay"].state_at(1).appearance, followed["replay"].first_again.appearance))
    np.testing.assert_allclose(now / first, np.diag(DIM), atol=0.1)


def test_same_seed_gives_the_same_scene(visits: Visits, followed: dict[str, BaselineStates]) -> None:
    again = run_baseline("local", visits, config=CONFIG)
    for name, tensor in again.state_at(1).gaussians.tensors().items():
        assert torch.equal(tensor, followed["local"].state_at(1).gaussians.tensors()[name]), name


def test_wrong_names_and_budgets_are_refused(visits: Visits) -> None:
    with pytest.raises(UsageError, match="frozen, finetune, replay, local, scratch"):
        run_baseline("best", visits)
    with pytest.raises(UsageError, match="at least 1 step"):
        replace(CONFIG, steps=0)
