"""Choosing one kernel module, and loading no other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ltgs import native

SCRIPT = """
import sys
from ltgs.native import kernels
print(kernels().isa, *sorted(m.rsplit('.')[-1] for m in sys.modules if m.startswith('ltgs.native._')))
"""


def _run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=True)


@pytest.mark.parametrize("isa", ["", *native.available_isas()])
def test_start_up_loads_one_kernel_module(isa: str) -> None:
    done = _run(SCRIPT, LTGS_ISA=isa)
    chosen, *modules = done.stdout.split()
    assert chosen == (isa or native.available_isas()[-1])
    assert [m for m in modules if m != "_cpu"] == [f"_kernels_{chosen}"]
    assert done.stderr == ""


def test_all_modules_side_by_side_without_a_warning() -> None:
    done = _run("from ltgs.native import *; import ltgs.native as n; print([n.load(i).isa for i in n.available_isas()])")
    assert "baseline" in done.stdout and done.stderr == ""


def test_unknown_and_unrunnable_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown instruction set 'sse9'"):
        native.load("sse9")
    monkeypatch.setattr(native, "best_isa", lambda: "baseline")
    with pytest.raises(native.KernelsUnavailable, match="cannot run the avx512"):
        native.load.__wrapped__("avx512")
    assert native.available_isas() == ("baseline",)


def test_missing_build_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ltgs.native._kernels_baseline", None)
    with pytest.raises(native.KernelsUnavailable, match="pip install"):
        native.load.__wrapped__("baseline")
