"""The timeline's controls: slider with the visits' names, previous and next, play with speed and loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import viser

from ltgs.core.scene import Scene
from viewer.words import light_text, slider_marks, visit_summary

SPEEDS = {"0.5 visits/s": 0.5, "1 visit/s": 1.0, "2 visits/s": 2.0, "4 visits/s": 4.0}


class Player:
    """Steps through 0..num_times-1 on its own thread until the end, for ever when looping, or until stopped."""

    def __init__(self, num_times: int, get_time: Callable[[], int], set_time: Callable[[int], None]) -> None:
        self._num_times, self._get, self._set = num_times, get_time, set_time
        self.seconds_per_visit = 1.0
        self.loop = True
        self.on_end: Callable[[], None] = lambda: None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def playing(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and not self._stop.is_set()

    def start(self) -> None:
        """Start playing; from the beginning when the last visit is shown."""
        if self.playing or self._num_times < 2:
            return
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stop,), daemon=True, name="ltgs-player")
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current step; safe from any thread, the player's own included."""
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2.0)

    def _run(self, stop: threading.Event) -> None:
        if self._get() >= self._num_times - 1:
            self._set(0)
        while not stop.wait(self.seconds_per_visit):
            step = self._get() + 1
            if step >= self._num_times:
                if not self.loop:
                    break
                step = 0
            self._set(step)
        stop.set()
        self.on_end()


class Timeline:
    """The controls that are always on screen. `set_time` is the application's; it calls `show` back."""

    def __init__(self, server: viser.ViserServer, scene: Scene, set_time: Callable[[int], None]) -> None:
        self._scene, self._set_time = scene, set_time
        self.time = 0
        many = len(scene.visits) > 1
        self.player = Player(len(scene.visits), lambda: self.time, set_time)
        gui = server.gui
        self._label = gui.add_markdown(self._summary(0))
        # viser adds a number box to every slider; marks carry the visits' dates below it.
        self._slider = gui.add_slider(
            "Visit", 0, max(len(scene.visits) - 1, 1), 1, 0, marks=slider_marks(scene.visits), disabled=not many,
            hint="One step per visit to the place.",
        )
        self._slider.on_update(self._on_slider)
        self._step = gui.add_button_group("Step", ("◀ Previous", "Next ▶"), disabled=not many)
        self._step.on_click(self._on_step)
        self._play = gui.add_button("Play", visible=many)
        self._play.on_click(self._on_play)
        with gui.add_folder("Speed and repeat", expand_by_default=False, visible=many):
            self._speed = gui.add_dropdown("Speed", tuple(SPEEDS), initial_value="1 visit/s")
            self._speed.on_update(self._on_speed)
            self._loop = gui.add_checkbox("Repeat", True)
            self._loop.on_update(self._on_loop)
        self.player.on_end = self._show_play_state

    def show(self, time: int) -> None:
        """Bring the controls to `time` without setting it again."""
        self.time = time
        self._slider.value = time  # type: ignore[misc]
        self._label.content = self._summary(time)

    def close(self) -> None:
        """Stop playing."""
        self.player.stop()

    def _summary(self, time: int) -> str:
        light = self._scene.chronology.appearance[time]
        events = sum(e.time == time for e in self._scene.chronology.events)
        return visit_summary(self._scene.visits[time], events, light_text(light.exposure_ev, light.changed))

    def _on_slider(self, event: Any) -> None:
        # Values come from a browser: only whole numbers in range are times. Setting the slider from here also lands
        # in this callback, then without a client and with the time already shown.
        time = int(self._slider.value)
        if event.client is not None and time != self.time and 0 <= time < len(self._scene.visits):
            self._set_time(time)

    def _on_step(self, event: Any) -> None:
        step = -1 if str(event.target.value).startswith("◀") else 1
        self._set_time((self.time + step) % len(self._scene.visits))

    def _on_play(self, _: Any) -> None:
        if self.player.playing:
            self.player.stop()
        else:
            self.player.start()
        self._show_play_state()

    def _on_speed(self, _: Any) -> None:
        self.player.seconds_per_visit = 1.0 / SPEEDS.get(self._speed.value, 1.0)

    def _on_loop(self, _: Any) -> None:
        self.player.loop = bool(self._loop.value)

    def _show_play_state(self) -> None:
        self._play.label = "Pause" if self.player.playing else "Play"
