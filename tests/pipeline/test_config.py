"""Strict configuration: presets, YAML files, single overrides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from ltgs.errors import FormatError, InputError, UsageError
from ltgs.pipeline.config import (
    RunConfig,
    apply_overrides,
    differences,
    from_plain,
    load_config,
    parse_setting,
    presets,
    to_plain,
)


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ()
    size: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class Outer:
    count: int = 3
    on: bool = False
    mode: Literal["a", "b"] = "a"
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)


def test_presets_load_and_differ() -> None:
    assert presets() == ["cpu_full", "cpu_small", "gpu_full", "paper"]
    sizes = {name: load_config(name).max_size for name in presets()}
    assert sizes["cpu_small"] == 480 and sizes["cpu_full"] == 800 and sizes["gpu_full"] == 1600
    assert all(load_config(name).preset == name for name in presets())


def test_layers_are_applied_in_order(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  steps: 7\n  cap: 8\n")
    config = load_config("cpu_small", file=file, overrides={"train.cap": 9, "seed": 4})
    assert (config.train.steps, config.train.cap, config.seed, config.max_size) == (7, 9, 4, 480)


@pytest.mark.parametrize(("overrides", "words"), [
    ({"inner": {"rat": 1}}, ["inner.rat", "names, rate, size"]),
    ({"cuont": 1}, ["cuont", "count"]),
    ({"count": 1.5}, ["count must be a int"]),
    ({"count": True}, ["count must be a int"]),
    ({"on": 1}, ["on must be a bool"]),
    ({"mode": "c"}, ["mode must be one of a, b"]),
    ({"inner": 5}, ["inner is a group of settings"]),
    ({"inner": {"names": "ab"}}, ["inner.names must be a list"]),
    ({"inner": {"size": [1]}}, ["a list of 2"]),
    ({"inner": {"rate": float("nan")}}, ["finite"]),
    ({"inner": {"rate": "fast"}}, ["inner.rate must be a number"]),
    ({"limit": "x"}, ["limit must be a number"]),
])
def test_mistakes_are_named(overrides: dict, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        apply_overrides(Outer(), overrides, where="file.yaml")
    assert all(w in str(caught.value) for w in [*words, "file.yaml"])


def test_good_values_are_converted() -> None:
    changed = apply_overrides(
        Outer(), {"limit": 2, "on": True, "mode": "b", "inner": {"rate": "1e-3", "names": ["x", "y"], "size": [3, 4]}}, where="t"
    )
    assert changed == Outer(3, True, "b", 2.0, Inner(0.001, ("x", "y"), (3, 4)))
    assert apply_overrides(changed, {"limit": None}, where="t").limit is None


def test_plain_round_trip() -> None:
    config = load_config("cpu_small", overrides={"train.growth.every": 7})
    plain = to_plain(config)
    assert from_plain(plain) == (config, [])
    assert differences(plain, to_plain(config)) == []
    other = to_plain(load_config("cpu_small", overrides={"train.growth.every": 8, "seed": 1}))
    assert differences(plain, other) == ["seed: 0 -> 1", "train.growth.every: 7 -> 8"]


def test_a_configuration_of_another_version_keeps_what_is_known() -> None:
    plain = to_plain(load_config("cpu_small"))
    del plain["train"]["steps"]
    plain["train"]["gone"] = 1
    plain["from_the_future"] = {"a": 1}
    config, dropped = from_plain(plain)
    assert dropped == ["from_the_future", "train.gone"]
    assert config.train.steps == RunConfig().train.steps and config.train.cap == load_config("cpu_small").train.cap
    plain["train"]["cap"] = "many"
    with pytest.raises(UsageError, match=r"train\.cap"):
        from_plain(plain)


def test_files_are_read_safely(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = tmp_path / "evil.yaml"
    evil.write_text(f"seed: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{canary}']]\n")
    with pytest.raises(FormatError, match="not valid YAML"):
        load_config("cpu_small", file=evil)
    assert not canary.exists()
    with pytest.raises(InputError, match="cannot be read"):
        load_config("cpu_small", file=tmp_path / "none.yaml")
    listing = tmp_path / "list.yaml"
    listing.write_text("- 1\n")
    with pytest.raises(FormatError, match="list"):
        load_config("cpu_small", file=listing)


def test_single_settings() -> None:
    assert parse_setting("train.steps=500") == ("train.steps", 500)
    assert parse_setting("backend=cpu") == ("backend", "cpu")
    with pytest.raises(UsageError, match="path=value"):
        parse_setting("train.steps")
    with pytest.raises(UsageError):
        parse_setting("seed=[1")


@pytest.mark.parametrize("overrides", [{"max_size": 8}, {"holdout_every": 1}, {"holdout_every": -3}, {"checkpoint_every": 0}])
def test_senseless_values_are_refused(overrides: dict) -> None:
    with pytest.raises(UsageError):
        load_config("cpu_small", overrides=overrides)


def test_defaults_are_frozen() -> None:
    with pytest.raises(AttributeError):
        RunConfig().seed = 3  # type: ignore[misc]


def test_numbers_of_gaussians_follow_how_densely_the_scene_was_trained() -> None:
    config = RunConfig().update
    assert config.for_scene(config.in_frame) == config
    sparse, dense = config.for_scene(config.in_frame / 2), config.for_scene(8 * config.in_frame)
    assert (sparse.carve.least, dense.carve.least) == (config.carve.least // 2, 8 * config.carve.least)
    assert (sparse.split.least, dense.carve.replaced_least) == (config.split.least // 2, 8 * config.carve.replaced_least)
    assert config.for_scene(0).carve.least == config.fewest
