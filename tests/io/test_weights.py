"""Weights on disk."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from ltgs.io.weights import read_weights, write_weights


@pytest.mark.parametrize("start", [b"\x80\x02", b"PK"])
def test_a_header_as_long_as_a_checkpoints_first_bytes_say(start: bytes, tmp_path: Path) -> None:
    """The first two bytes of a safetensors file are the length of its header; here they are those of a pickle or zip file."""
    length = struct.unpack("<H", start)[0]
    path = tmp_path / "a.safetensors"
    write_weights(path, {"x": torch.ones(2)}, {"note": ""})
    note = "n" * (length - struct.unpack("<Q", path.read_bytes()[:8])[0])
    write_weights(path, {"x": torch.ones(2)}, {"note": note})
    tensors, header = read_weights(path)
    assert path.read_bytes()[:2] == start and tensors["x"].tolist() == [1, 1] and header == {"note": note}
