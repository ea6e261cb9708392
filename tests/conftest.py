"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One thread makes timings and rounding the same everywhere; must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from helpers import REPOSITORY, TinyCapture, call_ltgs, make_tiny_capture, settings


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photos and rooms for development; never part of the product, so tests that use them skip where they are absent."""
    folder = Path(os.environ.get("LTGS_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"development data is absent ({folder}); set LTGS_SHARED_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def tiny_capture(tmp_path_factory: pytest.TempPathFactory) -> TinyCapture:
    """Three visits of a small rendered place with given cameras."""
    return make_tiny_capture(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_scene(tiny_capture: TinyCapture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny capture reconstructed with given cameras and every fifth photo of the first visit held out. Read-only."""
    scene = tmp_path_factory.mktemp("scene") / "tiny"
    done = call_ltgs(
        "reconstruct", tiny_capture.photos, "-o", scene, "--preset", "cpu_small", "--cameras", tiny_capture.cameras,
        "--holdout-every", "5", *settings(), "--debug",
    )
    assert done.returncode == 0, done.stderr
    return scene
