"""Network weights on disk: safetensors files with a flat text header. Nothing in them can execute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ltgs.errors import FormatError
from ltgs.io.atomic import explained, write_file

MAX_WEIGHT_BYTES = 8 << 30
"""More than any network of this kind; larger files are refused unread."""


def read_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors of a safetensors file, to memory of their own.

    Returns:
        tensors by name, and the text header (empty if the file has none).

    Raises:
        InputError: the file cannot be read.
        FormatError: another format (a `.pth` file must be converted first), truncated, or too large.
    """
    path = Path(path)
    with explained("read", path):
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(4)
    if size > MAX_WEIGHT_BYTES:
        raise FormatError(f"{path}: {size} bytes are more than weights of this kind have. Check that this is the right file.")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as stream:
            return {name: stream.get_tensor(name).clone() for name in stream.keys()}, dict(stream.metadata() or {})  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        # Only now: a safetensors file may begin with the same two bytes, they are the length of its header.
        if head[:2] in (b"PK", b"\x80\x02"):
            raise FormatError(f"{path}: a PyTorch checkpoint, not a safetensors file. Convert it first (`convert_pth`).") from None
        raise FormatError(f"{path}: not a safetensors file ({error}). Download or write it again.") from error


def write_weights(path: Path | str, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors in one visible step; equal values and headers give equal bytes.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    plain = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    data = save(plain, dict(header) if header else None)
    with explained("write", path, len(data)):
        write_file(path, data)
