"""Checkpoints of PyTorch become safetensors without unpickling, and everything that is not plain tensors is refused."""

from __future__ import annotations

import collections
import os
import zipfile
from pathlib import Path

import pytest
import torch

from ltgs.depth.net.pth import convert_pth, read_pth
from ltgs.errors import FormatError, InputError
from ltgs.io.weights import read_weights


class Evil:
    """Creates a file when unpickled by an ordinary reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def state() -> collections.OrderedDict[str, torch.Tensor]:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    values = collections.OrderedDict(net.state_dict())
    base = torch.arange(24.0).view(4, 6)
    values |= {"slice": base[1:3, ::2], "transposed": base.T, "half": base.half(), "brain": base.bfloat16(), "empty": torch.empty(0, 3)}
    return values


def wrapped(values: dict) -> dict:
    return {"model": values, "step": 3, "note": ["a", 1.5, None, True, 10**12]}


@pytest.mark.parametrize("wrap", [dict, wrapped])
def test_values_survive(tmp_path: Path, wrap) -> None:
    values = state()
    torch.save(wrap(values), tmp_path / "a.pth")
    tensors, left_out = read_pth(tmp_path / "a.pth")
    assert left_out == [] and list(tensors) == list(values)
    assert all(torch.equal(tensors[n], v) and tensors[n].dtype == v.dtype for n, v in values.items())
    assert convert_pth(tmp_path / "a.pth", tmp_path / "a.safetensors") == []
    again, header = read_weights(tmp_path / "a.safetensors")
    assert header == {"source": "a.pth"} and all(torch.equal(again[n], v) for n, v in values.items())


def test_parameters_and_plain_numbers(tmp_path: Path) -> None:
    torch.save({"w": torch.nn.Parameter(torch.ones(2)), "epoch": 5}, tmp_path / "a.pth")
    tensors, left_out = read_pth(tmp_path / "a.pth")
    assert torch.equal(tensors["w"], torch.ones(2)) and left_out == ["epoch"]


def test_code_is_refused_and_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"w": torch.ones(2), "x": Evil(trap)}, tmp_path / "a.pth")
    with pytest.raises(FormatError, match=r"a\.pth: holds more than tensors \(the name posix.mkdir\)"):
        read_pth(tmp_path / "a.pth")
    assert not trap.exists()
    torch.save({"w": torch.nn.Linear(2, 2)}, tmp_path / "b.pth")
    with pytest.raises(FormatError, match="Linear"):
        read_pth(tmp_path / "b.pth")


def rewrite(path: Path, change) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    compression = change(members) or zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_damage_is_named(tmp_path: Path) -> None:
    def shorten(members: dict[str, bytes]) -> None:
        members["a/data/0"] = members["a/data/0"][:-4]

    def cut_program(members: dict[str, bytes]) -> None:
        members["a/data.pkl"] = members["a/data.pkl"][:-20]

    def other_order(members: dict[str, bytes]) -> None:
        members["a/byteorder"] = b"big"

    def compress(members: dict[str, bytes]) -> int:
        return zipfile.ZIP_DEFLATED

    torn = "damaged or truncated"
    for change, reason in [(shorten, torn), (cut_program, torn), (other_order, "byte order"), (compress, "compressed")]:
        torch.save({"w": torch.arange(8.0)}, tmp_path / "a.pth")
        rewrite(tmp_path / "a.pth", change)
        with pytest.raises(FormatError, match=reason):
            read_pth(tmp_path / "a.pth")


def test_views_cannot_reach_beyond_their_storage(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(8.0)}, tmp_path / "a.pth")

    def enlarge(members: dict[str, bytes]) -> None:
        program = members["a/data.pkl"]
        # The size tuple (8,) follows the offset 0: K\x00 K\x08 \x85.
        assert program.count(b"K\x00K\x08\x85") == 1
        members["a/data.pkl"] = program.replace(b"K\x00K\x08\x85", b"K\x00K\x09\x85")

    rewrite(tmp_path / "a.pth", enlarge)
    with pytest.raises(FormatError, match="beyond its storage"):
        read_pth(tmp_path / "a.pth")


def test_foreign_and_old_files(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for path in (tmp_path / "old.pth", Path(__file__)):
        with pytest.raises(FormatError, match="zip format"):
            read_pth(path)
    with pytest.raises(InputError):
        read_pth(tmp_path / "absent.pth")
