"""V6: names from disk are text, whatever they contain."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace

import pytest
from viewer_scenes import NASTY_NAMES, make_scene

from ltgs.core.chronology import Event
from ltgs.core.scene import VisitRecord
from viewer.words import (
    describe_event,
    escape_markdown,
    event_words,
    light_text,
    object_title,
    plain,
    slider_marks,
    visit_label,
)


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_escaped_names_hold_no_markup(name):
    escaped = escape_markdown(name)
    rest = re.sub(r"&#\d+;", "", escaped)
    assert not [c for c in rest if ord(c) < 128 and not c.isalnum() and c != " "]
    # What the browser shows after decoding is the plain name, apart from the word joiners that break up links.
    decoded = re.sub(r"&#(\d+);", lambda m: chr(int(m[1])), escaped).replace("\u2060", "")
    assert decoded == plain(name)
    assert not re.search(r"(https?://|www\.|\w@\w)", re.sub(r"&#(\d+);", lambda m: chr(int(m[1])), escaped))


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_plain_names_are_one_harmless_line(name):
    text = plain(name)
    assert "\n" not in text and "\x1b" not in text and "\u202e" not in text and len(text) <= 80


def test_plain_shortens_and_keeps_other_scripts():
    assert plain("x" * 100, limit=10) == "xxxxxxxxx…"
    assert plain("Küche 厨房 ☕") == "Küche 厨房 ☕"


def test_events_in_words():
    assert describe_event(Event(1, "moved", 3, 0.42, 47.0)) == "object 3 moved 0.42 units, turned 47°"
    assert describe_event(Event(1, "moved", 3, 0.42, 0.1), 2.0) == "object 3 moved 84 cm"
    assert describe_event(Event(1, "moved", 3, 0.0, 30.0)) == "object 3 moved, turned 30°"
    assert describe_event(Event(2, "removed", 1)) == "object 1 removed"
    assert describe_event(Event(2, "replaced", 5, 0.4), former="object 1") == "object 5 replaced object 1, 0.4 units away"
    assert describe_event(Event(2, "returned", 1, 1.5, 0.0, uncertain=True)) == "object 1 returned, 1.5 units (uncertain)"


def test_visit_labels_and_marks():
    dated = VisitRecord(0, "2024-03-01", datetime.datetime(2024, 3, 1), ())
    named = VisitRecord(1, "after the party", datetime.datetime(2024, 3, 9), ())
    assert visit_label(dated) == "2024-03-01" and visit_label(named) == "2024-03-09 (after the party)"
    assert visit_label(VisitRecord(2, "", None, ())) == "visit 2"
    assert slider_marks([dated, named]) == ((0, "03-01"), (1, "03-09"))
    many = slider_marks([VisitRecord(t, f"2024-01-{t:02d}", None, ()) for t in range(30)])
    labels = [text for _, text in many if text]
    assert len(many) == 30 and many[0][1] and many[-1][1] and sum(map(len, labels)) <= 50
    assert slider_marks([]) == ()


def test_light_in_words():
    assert light_text(0.0, False) == "" and "darker" in light_text(-0.8, True) and "differs" in light_text(0.0, True)


def test_named_objects_are_called_by_their_names():
    old = make_scene(200).chronology
    names = {1: "red box", 2: "\u202e".join(NASTY_NAMES[:2])}
    templates = {k: replace(t, name=names.get(k, "")) for k, t in old.templates.items()}
    chronology = replace(old, templates=templates)
    assert event_words(old.events[0], chronology).startswith("object 1 (red box) moved 1.46 units")
    title = object_title(chronology, 2)
    assert title.startswith("object 2 (<script") and "\u202e" not in title and len(title) < 40
    assert object_title(chronology, 3) == "object 3" and object_title(chronology, 99) == "object 99"
