"""The tabs below the timeline: what happened, which objects there are, the photos, and where the scene came from.

Names reach the browser through `viewer.words` only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import viser

from ltgs.core.scene import Scene
from viewer.words import escape_markdown, event_words, object_title, plain, presence_strip, visit_label

MAX_EVENTS = 200
MAX_OBJECTS = 100
"""Controls beyond these numbers are left out with a sentence; a browser page with thousands of buttons does not respond."""


@dataclass(frozen=True)
class Actions:
    """What the panels ask of the application. `event` is viser's, with the visitor who clicked."""

    go_to_event: Callable[[Any, int, int], None]
    """(event, time, object_id)"""
    look_at_object: Callable[[Any, int], None]
    set_object_visible: Callable[[int, bool], None]
    set_background_visible: Callable[[bool], None]
    highlight: Callable[[int, bool], None]
    show_photos: Callable[[bool, bool], None]
    """(visible, all visits)"""
    go_to_photo: Callable[[Any, str], None]
    reset_view: Callable[[Any], None]
    reload: Callable[[], None] | None = None


def _call(action: Callable[..., None], *arguments_and_event: Any) -> None:
    *arguments, event = arguments_and_event  # viser passes its event last.
    action(event, *arguments)


def _switch(action: Callable[[int, bool], None], object_id: int, event: Any) -> None:
    action(object_id, bool(event.target.value))


def add_event_list(server: viser.ViserServer, scene: Scene, actions: Actions) -> None:
    """One folder per later visit, one button per event."""
    gui, chronology = server.gui, scene.chronology
    if len(scene.visits) == 1:
        gui.add_markdown("This scene has one visit so far. Add photos of a later visit to see what changed.")
        return
    shown = sorted(chronology.events, key=lambda e: (e.time, e.object_id))[:MAX_EVENTS]
    for visit in scene.visits[1:]:
        events = [e for e in shown if e.time == visit.timestep]
        with gui.add_folder(visit_label(visit)):
            if not events:
                gui.add_markdown("No change seen.")
            for event in events:
                words = plain(event_words(event, chronology), limit=120)
                button = gui.add_button(words[:1].upper() + words[1:], color="gray", hint="Go there and look at it")
                button.on_click(partial(_call, actions.go_to_event, event.time, event.object_id))
            for line in visit.undecided[:5]:
                gui.add_markdown(f"*Undecided:* {escape_markdown(line, limit=160)}")
    if len(chronology.events) > len(shown):
        gui.add_markdown(f"{len(chronology.events) - len(shown)} more events are not listed here; `ltgs info` lists all.")


def add_object_list(server: viser.ViserServer, scene: Scene, actions: Actions) -> None:
    """Presence table, then switches per object."""
    gui, chronology = server.gui, scene.chronology
    background = gui.add_checkbox("Show the background", True)
    background.on_update(lambda _: actions.set_background_visible(background.value))
    if not chronology.tracks:
        gui.add_markdown("No object has changed so far, so everything is background.")
        return
    everything = gui.add_checkbox("Mark all objects", False)
    marks: dict[int, viser.GuiCheckboxHandle] = {}
    gui.add_markdown("One sign per visit: ■ present · absent ? unknown")
    for object_id in sorted(chronology.tracks)[:MAX_OBJECTS]:
        track, template = chronology.tracks[object_id], chronology.templates[object_id]
        title = object_title(chronology, object_id)
        with gui.add_folder(f"{title}   {presence_strip(track)[:60]}", expand_by_default=False):
            gui.add_markdown(f"{len(template.gaussians):,} Gaussians, built from visit {template.created_at}.")
            visible = gui.add_checkbox("Visible", True)
            visible.on_update(partial(_switch, actions.set_object_visible, object_id))
            marks[object_id] = gui.add_checkbox("Mark", False)
            marks[object_id].on_update(partial(_switch, actions.highlight, object_id))
            look = gui.add_button("Look at it", color="gray")
            look.on_click(partial(_call, actions.look_at_object, object_id))

    def mark_all(_: Any) -> None:
        for box in marks.values():
            box.value = everything.value  # type: ignore[misc]

    everything.on_update(mark_all)
    if len(chronology.tracks) > MAX_OBJECTS:
        gui.add_markdown(f"{len(chronology.tracks) - MAX_OBJECTS} more objects are not listed here.")


def add_photo_panel(server: viser.ViserServer, scene: Scene, actions: Actions) -> viser.GuiDropdownHandle[str] | None:
    """Switches for the photos in the scene and a list to fly to; returns the list, whose entries follow the visit."""
    gui = server.gui
    placed = scene.photos()
    failed = [p for v in scene.visits for p in v.photos if not p.localised]
    picker = None
    if placed:
        visible = gui.add_checkbox("Show photos in the scene", False, hint="Click one to fly there.")
        every = gui.add_checkbox("Of all visits", False)
        visible.on_update(lambda _: actions.show_photos(visible.value, every.value))
        every.on_update(lambda _: actions.show_photos(visible.value, every.value))
        picker = gui.add_dropdown("Stand where", photo_choices(scene, 0))
        go = gui.add_button("Fly there")
        go.on_click(lambda e: actions.go_to_photo(e, picker.value))
    else:
        gui.add_markdown("No photo of this scene has a known position.")
    if failed:
        with gui.add_folder(f"{len(failed)} photos without a position", expand_by_default=False):
            lines = [f"- {escape_markdown(p.name)}: {escape_markdown(p.reason or 'no reason given')}" for p in failed[:50]]
            if len(failed) > 50:
                lines.append(f"- and {len(failed) - 50} more")
            gui.add_markdown("\n".join(lines))
    return picker


def photo_choices(scene: Scene, time: int) -> tuple[str, ...]:
    """Names of the placed photos of one visit as shown in the list; numbered, so that every entry is unique."""
    names = [p.name for p in scene.photos(time=time) if p.camera is not None]
    return tuple(f"{i + 1}. {plain(n, limit=48)}" for i, n in enumerate(names[:200])) or ("no placed photo",)


def add_about(server: viser.ViserServer, scene: Scene, upload_report: str, actions: Actions) -> None:
    """What is shown, what is approximate, which method made it, and the buttons that concern the whole scene."""
    gui, chronology = server.gui, scene.chronology
    unit = chronology.metres_per_unit
    scale = "scale unknown (lengths in scene units)" if unit is None else f"1 scene unit = {unit:.3g} m"
    gui.add_markdown(
        f"{len(scene.visits)} visits, {len(chronology.tracks)} objects, {scale}.\n\n{upload_report}\n\n"
        "The 3-D view shows approximate colours (no shine, light of the first visit). "
        "The *Exact* tab makes the true picture of your view."
    )
    methods = {k: v for visit in scene.visits for k, v in visit.method.items()}
    if methods:
        with gui.add_folder("How it was made", expand_by_default=False):
            rows = (f"- {escape_markdown(k)}: {escape_markdown(v, limit=160)}" for k, v in sorted(methods.items()))
            gui.add_markdown("\n".join(rows))
    reset = gui.add_button("Back to the first view", color="gray")
    reset.on_click(actions.reset_view)
    if actions.reload is not None:
        again = gui.add_button("Reload the scene", color="gray", hint="Reads the newest generation from disk.")
        again.on_click(lambda _: actions.reload() if actions.reload is not None else None)
