"""The viewer in a real browser: it draws, steps, renders exactly, asks nobody else, and names never run as code.

Software WebGL draws one frame in seconds, hence the small picture, the few splats and the long waits.
"""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image
from viewer_scenes import make_scene, read_image

from viewer.app import ViewerApp
from viewer.static_export import export_html

pytestmark = pytest.mark.browser
SIZE = {"width": 640, "height": 400}


class Watch:
    """What a page did that it should not do."""

    def __init__(self, page, origin: str) -> None:
        self.foreign, self.dialogs, self.blocked = [], [], []
        page.on("request", lambda r: None if r.url.startswith(("blob:", "data:", origin)) else self.foreign.append(r.url))
        page.on("dialog", lambda d: (self.dialogs.append(d.message), d.dismiss()))
        page.on("console", lambda m: self.blocked.append(m.text) if "Content Security Policy" in m.text else None)

    def assert_clean(self) -> None:
        assert not self.foreign and not self.dialogs and not self.blocked


def canvas(page) -> np.ndarray:
    """[H, W, 3] of the 3-D view's lower left part, where no panel and no notice is."""
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
    return picture[200:, :260]


def wait_for(page, condition, seconds: float = 60.0) -> np.ndarray:
    """Poll until the 3-D view fulfils a condition; never trust the first frame, splats fade in."""
    deadline = time.monotonic() + seconds
    while True:
        picture = canvas(page)
        if condition(picture) or time.monotonic() > deadline:
            return picture
        time.sleep(0.5)



def test_nasty_scene_draws_steps_and_renders(browser):
    app = ViewerApp(make_scene(3000, nasty=True), read_image, require_token=True)
    url = app.start()
    page = browser.new_page(viewport=SIZE)
    watch = Watch(page, url.split("?")[0])
    try:
        page.goto(url)
        page.get_by_text("LTGS timeline").wait_for(timeout=60000)
        first = wait_for(page, lambda p: p.std() > 25)
        assert first.std() > 25, "the room is drawn"
        app.set_time(2)
        second = wait_for(page, lambda p: np.abs(p - first).mean() > 3)
        assert np.abs(second - first).mean() > 3, "objects moved"
        page.get_by_text("](javascript:alert(1))").first.wait_for(timeout=30000)
        page.get_by_text("Next ▶").click()
        deadline = time.monotonic() + 20
        while app.time != 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert app.time == 0, "next after the last visit is the first"
        for tab in ("Objects", "Photos", "About", "Exact"):
            page.get_by_role("tab", name=tab).click()
        page.get_by_text("Render this view").click()
        page.get_by_text("enlarge it").wait_for(timeout=60000)
        image = page.locator("img[src^=blob]").first
        image.wait_for(timeout=30000)
        assert image.evaluate("e => e.naturalWidth") > 300
        watch.assert_clean()
        assert page.evaluate("document.querySelectorAll('script[src],iframe,a[href^=javascript]').length") == 0
    finally:
        page.close()
        app.stop()


def test_foreign_page_gets_nothing(browser):
    app = ViewerApp(make_scene(300), read_image)
    url = app.start()
    page = browser.new_page(viewport=SIZE)
    try:
        page.goto("about:blank")
        socket = url.replace("http", "ws")
        script = f"""() => new Promise(done => {{
            const s = new WebSocket('{socket}', ['viser-v1.1.1']);
            s.onopen = () => done('open'); s.onerror = () => done('refused'); }})"""
        assert page.evaluate(script) == "refused"
        response = page.goto(url + "?websocket=ws://evil.example")
        assert response.status == 403
    finally:
        page.close()
        app.stop()


def test_offline_page_plays(browser, tmp_path):
    target = tmp_path / "timeline.html"
    export_html(make_scene(2000), target, seconds_per_visit=1.0)
    page = browser.new_page(viewport=SIZE)
    watch = Watch(page, "file://")
    try:
        page.goto(target.as_uri())
        picture = wait_for(page, lambda p: p.std() > 25)
        assert picture.std() > 25
        watch.assert_clean()
    finally:
        page.close()
