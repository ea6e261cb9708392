"""Conversion of PyTorch `.pth` checkpoints to safetensors without unpickling.

A checkpoint is a zip archive: one small program in the pickle language that describes the tensors, and their raw numbers. A pickle
may call any function; this reader interprets the program itself and knows nothing but containers, numbers, text and the three names
with which PyTorch describes tensors. Everything else is refused by name, and nothing is ever imported or called.
"""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltgs.errors import FormatError
from ltgs.io.atomic import explained
from ltgs.io.weights import MAX_WEIGHT_BYTES, write_weights

_MAX_PROGRAM_BYTES = 64 << 20
_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16, "CharStorage": torch.int8,
    "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}
_CALLS = {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"}
_WRAPPERS = ("state_dict", "model", "network", "net")
_PUSHES = frozenset({
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING",
})
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Name:
    """A dotted name the program refers to; never looked up."""

    dotted: str


@dataclass(frozen=True)
class _Storage:
    """Raw numbers in the archive."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class _View:
    """A tensor as a strided view of a storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Refused(Exception):
    """What the program asks for is outside of the accepted language."""


class _Program:
    """Interpreter of the accepted part of the pickle language."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise _Refused("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _PUSHES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            values = [self.stack.pop() for _ in range(_TUPLES[name])]
            self.stack.append(tuple(reversed(values)))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif (method := getattr(self, f"_op_{name.lower()}", None)) is not None:
            method(argument)
        elif name not in ("PROTO", "FRAME"):
            raise _Refused(f"the instruction {name}")

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        values, self.stack[start:] = self.stack[start:], []
        return values

    def _op_mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _op_empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _op_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _op_empty_tuple(self, _: Any) -> None:
        self.stack.append(())

    def _op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _op_append(self, _: Any) -> None:
        value = self.stack.pop()
        self._container(list).append(value)

    def _op_appends(self, _: Any) -> None:
        values = self._since_mark()
        self._container(list).extend(values)

    def _op_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._container(dict)[key] = value

    def _op_setitems(self, _: Any) -> None:
        values = self._since_mark()
        self._container(dict).update(zip(values[::2], values[1::2], strict=True))

    def _container(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise _Refused(f"a {type(self.stack[-1]).__name__} used as {kind.__name__}")
        return self.stack[-1]

    def _op_global(self, argument: str) -> None:
        self._refer(argument.replace(" ", "."))

    def _op_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._refer(f"{module}.{name}")

    def _refer(self, dotted: str) -> None:
        if dotted not in _CALLS and dotted.removeprefix("torch.") not in _STORAGES:
            raise _Refused(f"the name {dotted}")
        self.stack.append(_Name(dotted))

    def _op_binpersid(self, _: Any) -> None:
        match self.stack.pop():
            case ("storage", _Name(dotted), str(key), str(_), int(count)) if dotted.removeprefix("torch.") in _STORAGES:
                self.stack.append(_Storage(_STORAGES[dotted.removeprefix("torch.")], key, count))
            case _:
                raise _Refused("an unknown kind of storage")

    def _op_reduce(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        match name, arguments:
            case _Name("collections.OrderedDict"), ():
                self.stack.append({})
            case _Name("torch._utils._rebuild_tensor_v2"), (_Storage() as storage, int(offset), tuple(size), tuple(stride), *_):
                if not all(isinstance(v, int) and v >= 0 for v in (offset, *size, *stride)) or len(size) != len(stride):
                    raise _Refused("a tensor with an impossible shape")
                self.stack.append(_View(storage, offset, size, stride))
            case _Name("torch._utils._rebuild_parameter"), (_View() as view, *_):
                self.stack.append(view)
            case _:
                raise _Refused(f"a call of {name.dotted if isinstance(name, _Name) else type(name).__name__}")

    def _op_build(self, _: Any) -> None:
        self.stack.pop()
        # An OrderedDict carries the modules' version numbers as an attribute; nothing else has attributes here.
        self._container(dict)


def read_pth(path: Path | str) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of a `.pth` state dict, without executing anything in it.

    A dict inside of an entry named state_dict, model, network or net is taken for the state dict.

    Returns:
        tensors by name, and the names of entries that are no tensors (step counters and the like).

    Raises:
        InputError: the file cannot be read.
        FormatError: not PyTorch's zip format, or it holds anything but containers, numbers, text and tensors.
    """
    path = Path(path)
    remedy = "Convert it where it was made: load it with weights_only=True there and save it with safetensors.torch.save_file."
    with explained("read", path):
        try:
            with zipfile.ZipFile(path) as archive:
                return _read_archive(archive)
        except zipfile.BadZipFile as error:
            raise FormatError(f"{path}: not a checkpoint in PyTorch's zip format of version 1.6 or newer. {remedy}") from error
        except _Refused as error:
            raise FormatError(f"{path}: holds more than tensors ({error}), so it is not read. {remedy}") from error
        except (ValueError, IndexError, KeyError, TypeError, RuntimeError, UnicodeDecodeError, EOFError) as error:
            raise FormatError(f"{path}: damaged or truncated ({error}). Download it again.") from error


def convert_pth(source: Path | str, target: Path | str) -> list[str]:
    """Write the tensors of a `.pth` state dict as safetensors; returns the names of entries that were left out (no tensors).

    Raises:
        InputError, FormatError: see `read_pth`.
    """
    tensors, left_out = read_pth(source)
    write_weights(target, tensors, {"source": Path(source).name})
    return left_out


def _read_archive(archive: zipfile.ZipFile) -> tuple[dict[str, Tensor], list[str]]:
    members = {info.filename: info for info in archive.infolist()}
    programs = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(programs) != 1:
        raise zipfile.BadZipFile("no data.pkl")
    folder = programs[0].removesuffix("data.pkl")
    packed = any(i.compress_type != zipfile.ZIP_STORED for i in members.values())
    if packed or sum(i.file_size for i in members.values()) > MAX_WEIGHT_BYTES:
        raise _Refused("compressed or oversized members")
    if members[programs[0]].file_size > _MAX_PROGRAM_BYTES:
        raise _Refused("an oversized description")
    if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
        raise _Refused("numbers in another byte order")
    top = _Program().run(archive.read(programs[0]))
    if not isinstance(top, dict):
        raise _Refused(f"a {type(top).__name__} instead of a dict")
    inner = [top[key] for key in _WRAPPERS if isinstance(top.get(key), dict)]
    table = inner[0] if inner else top
    storages: dict[str, Tensor] = {}
    out = {str(name): _materialise(value, archive, folder, storages) for name, value in table.items() if isinstance(value, _View)}
    return out, [str(name) for name, value in table.items() if not isinstance(value, _View)]


def _materialise(view: _View, archive: zipfile.ZipFile, folder: str, storages: dict[str, Tensor]) -> Tensor:
    """A tensor of its own from a view, its bounds proven."""
    storage = view.storage
    if storage.key not in storages:
        data = archive.read(f"{folder}data/{storage.key}")
        if len(data) != storage.count * storage.dtype.itemsize:
            raise ValueError(f"storage {storage.key} has {len(data)} bytes instead of {storage.count * storage.dtype.itemsize}")
        storages[storage.key] = torch.frombuffer(bytearray(data), dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
    flat = storages[storage.key]
    if flat.dtype != storage.dtype:
        raise ValueError(f"storage {storage.key} is used with two types")
    if prod(view.size) == 0:
        return torch.empty(view.size, dtype=storage.dtype)
    last = view.offset + sum((n - 1) * s for n, s in zip(view.size, view.stride, strict=True))
    if last >= storage.count or prod(view.size) > storage.count:
        raise ValueError(f"a tensor of shape {list(view.size)} reaches beyond its storage")
    return flat.as_strided(view.size, view.stride, view.offset).contiguous().clone()
