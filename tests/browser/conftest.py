from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "viewer"))  # The rooms of the viewer's tests.

FLAGS = [
    "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-background-networking", "--no-first-run", "--mute-audio",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium with software WebGL."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium on the PATH (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as session:
        running = session.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()
