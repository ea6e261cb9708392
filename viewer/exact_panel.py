"""The "Exact" tab: pictures of the visitor's view made by the rasteriser, single or two times compared."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import torch
import viser
from numpy.typing import NDArray

from ltgs.core.scene import Scene
from ltgs.core.se3 import make_rigid, quat_to_matrix
from viewer.compare import COMPARE_STYLES, compose
from viewer.rendered import RENDER_MODES, LatestOnly, RenderedView, render_view
from viewer.view_frame import ViewFrame
from viewer.words import escape_markdown, plain, short_label

SIZES = {"480 px": 480, "720 px": 720, "960 px": 960, "1440 px": 1440}
LIVE_SIDE = 480
STILL_SECONDS = 0.35
"""A camera that has not moved for this long counts as still."""


def view_of(client: viser.ClientHandle) -> RenderedView:
    """Copy a visitor's camera."""
    camera = client.camera
    rotation = quat_to_matrix(torch.as_tensor(np.array(camera.wxyz, dtype=np.float64))).numpy()
    return RenderedView(make_rigid(rotation, np.array(camera.position)), float(camera.fov), float(camera.aspect))


class ExactPanel:
    """Controls and picture. Pictures are made on one thread; a newer request replaces a waiting one."""

    def __init__(self, server: viser.ViserServer, scene: Scene, frame: ViewFrame) -> None:
        self._scene, self._frame = scene, frame
        self._time = 0
        self._pair: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None
        self._moved: dict[int, threading.Timer] = {}
        self._closed = False
        gui = server.gui
        several = len(scene.visits) > 1
        self._button = gui.add_button("Render this view")
        self._image = gui.add_image(np.zeros((8, 12, 3), np.uint8), format="jpeg", jpeg_quality=90, visible=False)
        self._status = gui.add_markdown("Exact colours, shine and the light of the visit, made on this computer.")
        self._mode = gui.add_dropdown("Show", RENDER_MODES)
        self._size = gui.add_dropdown("Longer side", tuple(SIZES), initial_value="720 px")
        self._live = gui.add_checkbox("Live when still", False, hint="Renders anew whenever the camera rests.")
        names = tuple(f"{v.timestep}: {short_label(v)}" for v in scene.visits)
        self._compare = gui.add_checkbox("Compare with another visit", False, visible=several)
        self._other = gui.add_dropdown("Other visit", names, visible=False)
        self._style = gui.add_dropdown("How", COMPARE_STYLES, visible=False)
        self._wipe = gui.add_slider("Wipe", 0.0, 1.0, 0.01, 0.5, visible=False)
        self._names = names
        self._jobs = LatestOnly(self._show_problem)
        self._button.on_click(self._on_render)
        self._compare.on_update(self._on_compare)
        self._style.on_update(self._on_wipe)
        self._wipe.on_update(self._on_wipe)
        server.on_client_connect(self._watch)

    def set_time(self, time: int) -> None:
        """The visit to render from now on."""
        self._time = time

    def close(self) -> None:
        """Stop rendering."""
        self._closed = True
        for timer in list(self._moved.values()):
            timer.cancel()
        self._jobs.close()

    def request(self, view: RenderedView, long_side: int) -> None:
        """Make a picture with the panel's settings as they are now."""
        mode, at = self._mode.value, self._time
        other = self._names.index(self._other.value) if self._compare.value else None

        def job() -> None:
            start = time.perf_counter()
            self._status.content = "Rendering…"
            cameras = view.cameras(self._frame, long_side, self._scene.fitted_focal)
            picture = render_view(self._scene.chronology, at, cameras, mode)
            if other is None:
                self._pair = None
                what = f"{mode}, {plain(self._names[at])}"
            else:
                self._pair = (render_view(self._scene.chronology, other, cameras, mode), picture)
                picture = compose(*self._pair, self._style.value, self._wipe.value)
                what = f"{mode}, left {plain(self._names[other])}, right {plain(self._names[at])}"
            if self._closed:
                return
            self._image.image = picture
            self._image.visible = True
            self._image.label = what
            took = f"{cameras.width} x {cameras.height} in {time.perf_counter() - start:.2f} s"
            self._status.content = f"{took}. Hover over the picture to enlarge it."

        self._jobs.submit(job)

    def _show_problem(self, reason: str) -> None:
        self._status.content = f"The picture could not be made: {escape_markdown(reason, limit=200)}"

    def _on_render(self, event: Any) -> None:
        if event.client is not None:
            self.request(view_of(event.client), SIZES.get(self._size.value, 720))

    def _on_compare(self, _: Any) -> None:
        on = bool(self._compare.value)
        self._other.visible = self._style.visible = on
        self._wipe.visible = on and self._style.value == "wipe"

    def _on_wipe(self, _: Any) -> None:
        self._wipe.visible = bool(self._compare.value) and self._style.value == "wipe"
        if self._pair is not None:
            self._image.image = compose(*self._pair, self._style.value, self._wipe.value)

    def _watch(self, client: viser.ClientHandle) -> None:
        def still() -> None:
            if self._live.value and not self._closed:
                self.request(view_of(client), LIVE_SIDE)

        def moved(_: Any) -> None:
            if self._closed or not self._live.value:
                return
            old = self._moved.pop(client.client_id, None)
            if old is not None:
                old.cancel()
            timer = threading.Timer(STILL_SECONDS, still)
            timer.daemon = True
            self._moved[client.client_id] = timer
            timer.start()

        client.camera.on_update(moved)
