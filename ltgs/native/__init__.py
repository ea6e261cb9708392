"""Loader of the compiled kernels: one module per instruction set, the widest that this machine can run.

Only the module in use is loaded; the tiny module ``_cpu`` answers which one that is.

``LTGS_ISA`` (``baseline``, ``avx2`` or ``avx512``) forces one, for tests and for reproducing a result of another machine.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import lru_cache
from types import ModuleType

ISAS = ("baseline", "avx2", "avx512")
"""Instruction sets from narrow to wide; machines other than x86-64 have the first only."""


class KernelsUnavailable(ImportError):
    """The compiled kernels cannot be used; the message says why and what to do."""


@lru_cache(maxsize=8)
def load(isa: str) -> ModuleType:
    """Import the kernels built for one instruction set.

    Raises:
        KernelsUnavailable: not built, or this machine cannot run them.
        ValueError: unknown name.
    """
    if isa not in ISAS:
        raise ValueError(f"unknown instruction set {isa!r}; choose one of {', '.join(ISAS)}.")
    if isa != "baseline" and ISAS.index(isa) > ISAS.index(best_isa()):
        raise KernelsUnavailable(f"this machine cannot run the {isa} kernels (it has {best_isa()}).")
    return _import(f"_kernels_{isa}")


@lru_cache(maxsize=1)
def best_isa() -> str:
    """The widest instruction set of this machine.

    Raises:
        KernelsUnavailable: the extension is not built.
    """
    return str(_import("_cpu").best_isa())


def available_isas() -> tuple[str, ...]:
    """Instruction sets that are built and that this machine can run, found without loading them; empty when none is."""
    try:
        runnable = ISAS[: ISAS.index(best_isa()) + 1]
    except KernelsUnavailable:
        return ()
    return tuple(isa for isa in runnable if importlib.util.find_spec(f"ltgs.native._kernels_{isa}") is not None)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"ltgs.native.{name}")
    except ImportError as error:
        raise KernelsUnavailable(
            f"the compiled kernels are missing ({error}); install with a C++17 compiler present: pip install ."
        ) from error


def kernels() -> ModuleType:
    """The kernels to use: those of ``LTGS_ISA`` if set, otherwise the widest available.

    Raises:
        KernelsUnavailable: none can be loaded, or the forced one cannot.
    """
    forced = os.environ.get("LTGS_ISA", "").strip().lower()
    if forced:
        return load(forced)
    return _widest()


@lru_cache(maxsize=1)
def _widest() -> ModuleType:
    usable = available_isas()
    return load(usable[-1] if usable else "baseline")  # loading says why there is none
