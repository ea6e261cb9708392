"""Is this machine fit? Facts about Python, torch, kernels, packages and disk, each with a verdict."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ltgs.optim.device import training_device
from ltgs.render import choose_backend

REQUIRED = (
    "torch", "numpy", "scipy", "opencv-python-headless", "pillow", "safetensors", "pycolmap", "tyro", "rich", "PyYAML",
    "plyfile",
)
OPTIONAL = {
    "viser": "ltgs view", "pillow-heif": "HEIC photos", "gsplat": "rendering on CUDA",
    "transformers": "DINOv2, SAM 2, Depth Anything V2; only with weights of your own",
    "open3d-cpu": "mesh tools", "open3d": "mesh tools",
}
LOW_DISK_GB = 2.0
"""A scene of 50 photos takes a few hundred megabytes, the working files of a run as much again."""


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    verdict: Literal["ok", "note", "problem"]
    text: str


def examine(folder: Path) -> list[Check]:
    """All checks; `folder` is where the disk space is looked at."""
    return [_python(), *_packages(), _torch(), _backend(), _training(), _threads(), _disk(folder)]


def _python() -> Check:
    version = platform.python_version()
    fit = sys.version_info >= (3, 11)
    text = f"{version} on {platform.system()} {platform.machine()}"
    return Check("python", "ok" if fit else "problem", text if fit else f"{text}; 3.11 or newer is needed")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> list[Check]:
    versions = {p: _version(p) for p in REQUIRED}
    missing = [p for p, v in versions.items() if v is None]
    text = ", ".join(f"{p} {v}" for p, v in versions.items() if v)
    checks = [Check("packages", "problem" if missing else "ok", text)]
    if missing:
        checks.append(Check("packages", "problem", f"missing: {', '.join(missing)}. Run: pip install {' '.join(missing)}"))
    have_open3d = any(_version(p) for p in ("open3d", "open3d-cpu"))
    for package, use in OPTIONAL.items():
        version = _version(package)
        if version:
            checks.append(Check("optional", "ok", f"{package} {version} ({use})"))
        elif not (package.startswith("open3d") and have_open3d):
            checks.append(Check("optional", "note", f"{package} is not installed ({use})"))
    return checks


def _torch() -> Check:
    import torch

    cuda = f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "no CUDA device"
    return Check("torch", "ok", f"{torch.__version__}, {cuda}")


def _backend() -> Check:
    name, reason = choose_backend("cpu")
    # The reference works everywhere but takes hours for what takes minutes.
    verdict: Literal["ok", "problem"] = "ok" if name == "cpu" else "problem"
    return Check("rasteriser", verdict, f"{name}: {reason}")


def _training() -> Check:
    device, reason = training_device()
    return Check("training", "ok", f"on {device.type}: {reason}")


def _threads() -> Check:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS")
    text = f"{usable} processor cores usable, torch uses {torch.get_num_threads()}"
    return Check("threads", "ok", text + (f" (OMP_NUM_THREADS={limit})" if limit else ""))


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / 2**30
    text = f"{free:.1f} GiB free in {folder}"
    return Check("disk", "ok", text) if free >= LOW_DISK_GB else Check("disk", "problem", f"{text}; free some space")
