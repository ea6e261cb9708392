"""The viewer application: a guarded server, the scene's nodes, the panels, and a scene folder that may grow meanwhile."""

from __future__ import annotations

import logging
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import viser
from numpy.typing import NDArray

from ltgs.core.scene import PhotoRecord, Scene
from ltgs.errors import InputError, LtgsError
from viewer.camera_moves import fly_to, fly_to_object
from viewer.exact_panel import ExactPanel
from viewer.guard import AccessPolicy, GuardedServer
from viewer.panels import (
    Actions,
    add_about,
    add_event_list,
    add_object_list,
    add_photo_panel,
    photo_choices,
)
from viewer.photo_nodes import PhotoNodes
from viewer.scene_nodes import SceneNodes, SplatBudget
from viewer.timeline import Timeline
from viewer.view_frame import ViewPose, first_view, make_view_frame, pose_of_camera, sample_points

log = logging.getLogger("ltgs.viewer")
ImageReader = Callable[[str], NDArray[Any]]
PANEL_WIDTH_PX = 360
POLL_SECONDS = 3.0
"""How often the scene folder is asked for a newer generation; reading one small file."""
BRAND_COLOUR = (41, 98, 168)


class ViewerApp:
    """Shows one scene to every browser that connects; the time shown is shared by all of them.

    Args:
        scene: what to show.
        images: reads a stored working image, [H, W, 3] uint8 or float in [0, 1], by its blob name.
        host: address to listen on; anything but loopback gets a random token that the address carries.
        port: first port tried, 0 = any.
        require_token: ask for the token on loopback as well (machines shared with other people).
        budget: how many Gaussians go to the browser.
        dark: dark or light page.
    """

    def __init__(
        self, scene: Scene, images: ImageReader, *, host: str = "127.0.0.1", port: int = 0, require_token: bool = False,
        budget: SplatBudget | None = None, dark: bool = True,
    ) -> None:
        self.scene = scene
        self.time = 0
        self._images, self._budget, self._dark = images, budget or SplatBudget(), dark
        self._policy, self._port = AccessPolicy.for_host(host, require_token=require_token), port
        self._lock = threading.RLock()
        self._server: GuardedServer | None = None
        self._load: Callable[[], Scene] | None = None
        self._generation: Callable[[], int] | None = None
        self._shown_generation = -1
        self._stopping = threading.Event()

    def watch(self, load: Callable[[], Scene], generation: Callable[[], int], shown: int) -> None:
        """Offer a reload, and announce newer generations of the stored scene. Call before `start`.

        Args:
            load: reads one whole generation.
            generation: number of the newest committed generation.
            shown: number of the generation given to the constructor.
        """
        self._load, self._generation, self._shown_generation = load, generation, shown

    @property
    def server(self) -> GuardedServer:
        """The running server.

        Raises:
            RuntimeError: `start` was not called.
        """
        if self._server is None:
            raise RuntimeError("the viewer is not running; call start() first.")
        return self._server

    def start(self) -> str:
        """Start serving.

        Returns:
            The address to open, with the token where one is needed.

        Raises:
            InputError: the address does not belong to this machine or no port is free.
        """
        if self._server is not None:
            return self._server.url
        self._stopping.clear()
        self._server = GuardedServer(self._policy, self._port, label="LTGS timeline")
        try:
            self._build()
        except BaseException:
            self.stop()
            raise
        if self._generation is not None:
            threading.Thread(target=self._poll, daemon=True, name="ltgs-generation").start()
        actual = self._server.get_port()
        if self._port not in (0, actual):
            log.warning("Port %d is busy, serving on port %d instead.", self._port, actual)
        return self._server.url

    def stop(self) -> None:
        """Stop serving and every thread of the viewer; safe to call twice."""
        self._stopping.set()
        server, self._server = self._server, None
        if server is not None:
            self._close_parts()
            server.stop()

    def wait(self, seconds: float) -> bool:
        """Sleep until `stop` was called, at most `seconds`; returns whether it was."""
        return self._stopping.wait(seconds)

    def set_time(self, time: int) -> None:
        """Show the visit `time` to everybody.

        Raises:
            IndexError: no such visit.
        """
        with self._lock:
            if not 0 <= time < len(self.scene.visits):
                raise IndexError(f"time {time} is not stored; the scene has times 0..{len(self.scene.visits) - 1}.")
            self.time = time
            with self.server.atomic():
                self._nodes.set_time(time)
                self._photos.show(time=time)
            self._timeline.show(time)
            self._exact.set_time(time)
            if self._picker is not None:
                choices = photo_choices(self.scene, time)
                if self._picker.options != choices:
                    self._picker.options = choices
                    self._picker.value = choices[0]  # type: ignore[misc]

    def reload(self) -> None:
        """Read the newest generation and show it, at the same visit if it still exists; the old one stays on failure."""
        if self._load is None or self._generation is None:
            return
        try:
            number = self._generation()
            scene = self._load()
        except (LtgsError, OSError) as error:
            log.warning("The scene could not be read again: %s", error)
            self._notify("The scene could not be read", "The version shown stays. See the terminal for the reason.")
            return
        with self._lock:
            if self._server is None:
                return
            self._close_parts()
            self.scene, self._shown_generation = scene, number
            self.server.scene.reset()
            self.server.gui.reset()
            self._build()
            self.set_time(min(self.time, len(scene.visits) - 1))

    def _build(self) -> None:
        server, scene = self.server, self.scene
        self._frame = make_view_frame(scene)
        self._points = sample_points(scene)
        self._first = first_view(scene, self._frame)
        self._dress(server)
        self._nodes = SceneNodes(server, scene.chronology, self._frame, self._budget)
        self._photos = PhotoNodes(server, scene, self._frame, self._images, self._click_photo)
        actions = Actions(
            go_to_event=self._go_to_event, look_at_object=self._look_at_object,
            set_object_visible=self._nodes.set_object_visible, set_background_visible=self._nodes.set_background_visible,
            highlight=self._nodes.highlight,
            show_photos=lambda visible, every: self._photos.show(visible=visible, all_visits=every),
            go_to_photo=self._go_to_photo, reset_view=self._reset_view,
            reload=self.reload if self._load is not None else None,
        )
        self._timeline = Timeline(server, scene, self.set_time)
        tabs = server.gui.add_tab_group()
        with tabs.add_tab("Events"):
            add_event_list(server, scene, actions)
        with tabs.add_tab("Objects"):
            add_object_list(server, scene, actions)
        with tabs.add_tab("Photos"):
            self._picker = add_photo_panel(server, scene, actions)
        with tabs.add_tab("Exact"):
            self._exact = ExactPanel(server, scene, self._frame)
        with tabs.add_tab("About"):
            add_about(server, scene, self._nodes.report.text(), actions)

    def _dress(self, server: viser.ViserServer) -> None:
        server.gui.configure_theme(
            dark_mode=self._dark, show_logo=False, show_share_button=False, control_width="large", brand_color=BRAND_COLOUR,
        )
        server.gui.main_panel.dock_right()
        server.gui.main_panel.set_width(PANEL_WIDTH_PX)
        server.scene.set_up_direction(self._frame.up)
        server.scene.world_axes.visible = False
        apply_initial_camera(server, self._first, self._frame.up)

    def _close_parts(self) -> None:
        for name in ("_timeline", "_photos", "_exact"):
            part = getattr(self, name, None)
            if part is not None:
                part.close()

    def _go_to_event(self, event: Any, time: int, object_id: int) -> None:
        self.set_time(time)
        self._look_at_object(event, object_id)
        self._nodes.highlight(object_id, True)

    def _look_at_object(self, event: Any, object_id: int) -> None:
        place = self._nodes.object_centre(object_id, self.time)
        if event.client is not None and place is not None:
            fly_to_object(event.client, place[0], place[1], self._frame.up)

    def _click_photo(self, event: Any, photo: PhotoRecord, pose: ViewPose) -> None:
        if photo.timestep != self.time:
            self.set_time(photo.timestep)
        fly_to(event.client, pose, self._frame.up)

    def _go_to_photo(self, event: Any, choice: str) -> None:
        choices = photo_choices(self.scene, self.time)
        photos = [p for p in self.scene.photos(time=self.time) if p.camera is not None]
        if event.client is not None and choice in choices and photos:
            camera = photos[choices.index(choice)].camera
            assert camera is not None
            fly_to(event.client, pose_of_camera(camera, self._frame, self._points), self._frame.up)

    def _reset_view(self, event: Any) -> None:
        if event.client is not None:
            fly_to(event.client, self._first, self._frame.up)

    def _notify(self, title: str, body: str) -> None:
        for client in self.server.get_clients().values():
            client.add_notification(title, body, auto_close_seconds=10.0)

    def _poll(self) -> None:
        announced = self._shown_generation
        while not self._stopping.wait(POLL_SECONDS):
            try:
                assert self._generation is not None
                newest = self._generation()
            except (LtgsError, OSError) as error:
                log.debug("The scene folder could not be asked for its generation: %s", error)
                continue
            if newest > max(announced, self._shown_generation) and self._server is not None:
                announced = newest
                log.info("The scene has a newer version (%d).", newest)
                self._notify("The scene has grown", 'A newer version was saved. Press "Reload the scene" in the About tab.')


def apply_initial_camera(server: viser.ViserServer, pose: ViewPose, up: NDArray[np.float64]) -> None:
    """Let every new visitor, and a written page, start at `pose`."""
    camera = server.initial_camera
    camera.position, camera.look_at = pose.position, pose.look_at
    camera.up = pose.orbit_up(up)
    camera.fov = pose.fov_rad
    camera.near, camera.far = 0.02, 5000.0


def view_scene(
    scene_path: str | Path, *, host: str = "127.0.0.1", port: int = 8080, open_browser: bool = True, block: bool = True,
    require_token: bool = False, dark: bool = True, max_splats: int = 500_000,
    announce: Callable[[str], None] | None = None,
) -> ViewerApp:
    """Serve a scene folder to a browser.

    Args:
        scene_path: the scene folder.
        host: address to listen on. Anything but loopback makes the scene reachable by others, so the printed address
            then carries a random token without which nothing is answered.
        port: first port tried; the next free one is used when it is busy.
        open_browser: open the address in the default browser.
        block: serve until Ctrl-C; otherwise return at once, and the caller stops the returned app.
        announce: told the address and what to know about it; default: a line on standard output.

    Returns:
        The app, stopped if `block`.

    Raises:
        InputError: no scene there, or the address cannot be used.
    """
    from ltgs.io.scene_store import SceneStore

    path = Path(scene_path)
    store = SceneStore.open(path)
    number = store.generation
    scene = store.load()
    if not scene.visits:
        raise InputError(f"{path}: the scene has no visits yet. Run ltgs reconstruct first.")
    app = ViewerApp(
        scene, store.read_image, host=host, port=port, require_token=require_token, dark=dark,
        budget=SplatBudget(max_splats),
    )
    app.watch(lambda: SceneStore.open(path).load(), lambda: SceneStore.open(path).generation, number)
    try:
        url = app.start()
        _announce(url, app.server.policy.token is not None, announce or _write_line)
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        while block and not app.wait(3600):
            pass  # A wait without a limit cannot be interrupted by Ctrl-C on every system.
    except KeyboardInterrupt:
        # Ctrl-C is the normal way to end a viewer, so it is no error here; a caller who does not block gets it.
        app.stop()
        if not block:
            raise
    return app


def _announce(url: str, shared: bool, tell: Callable[[str], None]) -> None:
    if shared:
        tell(f"Viewer running at {url} (whoever has this address, token included, can see the scene; Ctrl-C stops it).")
    else:
        tell(f"Viewer running at {url} (this computer only; press Ctrl-C to stop).")


def _write_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
