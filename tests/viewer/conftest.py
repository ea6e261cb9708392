from __future__ import annotations

from collections.abc import Iterator

import pytest
from viewer_scenes import make_scene, read_image

from ltgs.core.scene import Scene
from viewer.app import ViewerApp


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(2000)


@pytest.fixture
def app(scene: Scene) -> Iterator[ViewerApp]:
    viewer = ViewerApp(scene, read_image, port=0)
    viewer.start()
    yield viewer
    viewer.stop()
