"""The whole timeline as one HTML file that works offline: 3-D view, a scrubber through the visits, a label per date."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ltgs.core.scene import Scene
from ltgs.io.atomic import explained, write_file
from viewer.app import apply_initial_camera
from viewer.guard import AccessPolicy, GuardedServer
from viewer.scene_nodes import SceneNodes, SplatBudget, UploadReport
from viewer.view_frame import VIEW_RADIUS, first_view, make_view_frame
from viewer.words import event_words, plain, visit_label

MAX_LABEL_EVENTS = 4


def export_html(
    scene: Scene, path: str | Path, *, seconds_per_visit: float = 2.0, dark: bool = True, budget: SplatBudget | None = None,
    title: str = "LTGS timeline",
) -> UploadReport:
    """Write a page that needs nothing but a browser and loads nothing from anywhere.

    Args:
        path: the file to write, replaced as a whole once complete.
        seconds_per_visit: length of each visit on the page's scrubber.
        budget: how many Gaussians to put in; about 20 bytes each in the file.
        title: of the page.

    Returns:
        What was put in and what was left out.

    Raises:
        InputError: the file cannot be written.
    """
    # viser can record only what a server would send; this one answers nobody.
    server = GuardedServer(AccessPolicy(closed=True), port=0)
    try:
        page, report = _record(server, scene, seconds_per_visit, dark, budget)
    finally:
        server.stop()
    head = f"<title>{_html_text(title)}</title>"
    start, end = page.find("<title>"), page.find("</title>")
    if 0 <= start < end:
        page = page[:start] + head + page[end + len("</title>") :]
    target = Path(path)
    data = page.encode("utf-8")
    with explained("write the page", target, len(data)):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, data)
    return report


def _record(
    server: GuardedServer, scene: Scene, seconds: float, dark: bool, budget: SplatBudget | None,
) -> tuple[str, UploadReport]:
    frame = make_view_frame(scene)
    view = first_view(scene, frame)
    server.scene.set_up_direction(frame.up)
    server.scene.world_axes.visible = False
    apply_initial_camera(server, view, frame.up)
    nodes = SceneNodes(server, scene.chronology, frame, budget)
    # Inside the first view, a little above its middle, wherever the visitor's window ends.
    lift = 0.5 * np.tan(view.fov_rad / 2) * min(view.distance, 3 * VIEW_RADIUS)
    above = view.look_at + frame.up * lift
    labels = [
        server.scene.add_label(f"/visit_{v.timestep}", visit_caption(scene, v.timestep), position=above,
                               visible=v.timestep == 0, anchor="bottom-center", font_screen_scale=1.4)
        for v in scene.visits
    ]
    recording = server.get_scene_serializer()
    for time in range(len(scene.visits)):
        with server.atomic():
            nodes.set_time(time)
            for t, label in enumerate(labels):
                if label.visible != (t == time):
                    label.visible = t == time
        recording.insert_sleep(seconds)
    return recording.as_html(dark_mode=dark), nodes.report


def visit_caption(scene: Scene, time: int) -> str:
    """The label of one visit in the page: its date and the first few events, plain text."""
    caption = visit_label(scene.visits[time])
    events = [e for e in scene.chronology.events if e.time == time]
    words = [event_words(e, scene.chronology) for e in events[:MAX_LABEL_EVENTS]]
    if len(events) > MAX_LABEL_EVENTS:
        words.append(f"{len(events) - MAX_LABEL_EVENTS} more")
    return "\n".join([caption, *(plain(w) for w in words)])


def _html_text(text: str) -> str:
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in plain(text))
