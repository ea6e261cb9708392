"""The machine that a benchmark ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from ltgs.native import available_isas, kernels


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = {k: [line.split(":", 1)[1].strip() for line in lines if line.startswith(k)] for k in ("model name", "cpu family", "model\t")}
    names = found["model name"]
    return {
        "cpu": names[0] if names else platform.processor(), "family_model": [v[0] for v in list(found.values())[1:] if v],
        "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version(), "torch": torch.__version__,
        "isa": kernels().isa, "built": available_isas(), "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }  # fmt: skip
