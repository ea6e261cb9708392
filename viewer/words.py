"""What the viewer says about a scene, and the one place where untrusted names become harmless text.

Folder, photo and object names come from the user's disk, hence from anybody who sent them photos. Two helpers cover
every way a name reaches the browser: `plain` for fields the browser shows as text (buttons, sliders, folders, scene
labels) and `escape_markdown` for markdown, where viser renders raw HTML unsanitised.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from ltgs.core.chronology import Chronology, Event, ObjectTrack, Presence
from ltgs.core.scene import VisitRecord

MAX_NAME_LENGTH = 80
_WORD_JOINER = "\u2060"
_STRIP = {"present": "■", "absent": "·", "unknown": "?"}


def plain(text: object, *, limit: int = MAX_NAME_LENGTH) -> str:
    """One line of text without control or direction-changing characters, at most `limit` characters.

    Right-to-left overrides and zero-width characters are dropped because they let a name pretend to be another one.
    """
    kept = []
    for char in str(text):
        category = unicodedata.category(char)
        if char.isspace():
            kept.append(" ")
        elif category not in ("Cc", "Cf", "Cs", "Co", "Cn"):
            kept.append(char)
    line = " ".join("".join(kept).split())
    return line if len(line) <= limit else line[: max(limit - 1, 0)] + "…"


def escape_markdown(text: object, *, limit: int = MAX_NAME_LENGTH) -> str:
    """`plain` text that markdown shows letter by letter, whatever it contains.

    Every ASCII character that is not a letter, a digit or a blank becomes a numeric character reference: CommonMark
    never lets a reference act as markup, and the HTML stage behind it writes it back as text. A word joiner breaks
    up what GitHub-flavoured markdown would turn into a link on its own (``www.``, ``://``, ``@``).
    """
    line = plain(text, limit=limit)
    line = line.replace("://", f":{_WORD_JOINER}//").replace("@", f"@{_WORD_JOINER}")
    for www in ("www.", "WWW.", "Www."):
        line = line.replace(www, www[:3] + _WORD_JOINER + ".")
    return "".join(c if c.isalnum() or c == " " or ord(c) > 127 else f"&#{ord(c)};" for c in line)


def visit_label(visit: VisitRecord, *, limit: int = 40) -> str:
    """Date and folder name of a visit as plain text, without saying the same twice."""
    name = plain(visit.name, limit=limit) or f"visit {visit.timestep}"
    if visit.captured_at is None:
        return name
    date = visit.captured_at.date().isoformat()
    return date if name == date else f"{date} ({name})"


def short_label(visit: VisitRecord) -> str:
    """The date if known, else the folder name, short enough for a slider mark."""
    if visit.captured_at is not None:
        return visit.captured_at.date().isoformat()
    return plain(visit.name, limit=12) or f"t{visit.timestep}"


def slider_marks(visits: Sequence[VisitRecord], *, room: int = 44) -> tuple[tuple[int, str], ...]:
    """(timestep, label) per visit; labels that would overlap are left empty, the first and the last always speak.

    Args:
        room: characters that fit under the slider at its usual width (measured in the browser at panel width "large").
    """
    labels = [short_label(v) for v in visits]
    years = {v.captured_at.year if v.captured_at else None for v in visits}
    if len(visits) > 1 and len(years) == 1 and None not in years:
        labels = [text[5:] for text in labels]  # The full date stands above the slider.
    if not labels:
        return ()
    widest = max(len(text) for text in labels) + 1
    every = max(1, -(-len(labels) * widest // room))
    last = len(labels) - 1
    shown = {i for i in range(0, last + 1, every) if i == 0 or last - i >= every} | {last}
    return tuple((i, text if i in shown else "") for i, text in enumerate(labels))


def length_text(value: float, metres_per_unit: float | None) -> str:
    """A length in metres if the scene's scale is known, else in scene units."""
    if metres_per_unit is None:
        return f"{value:.3g} units"
    metres = value * metres_per_unit
    return f"{metres * 100:.3g} cm" if metres < 1 else f"{metres:.3g} m"


def object_title(chronology: Chronology, object_id: int) -> str:
    """"object 3", or "object 3 (red box)" if the user has named it; plain text."""
    template = chronology.templates.get(object_id)
    name = plain(template.name, limit=24) if template is not None else ""
    kind = template.kind if template is not None else "object"
    return f"{kind} {object_id} ({name})" if name else f"{kind} {object_id}"


def event_words(event: Event, chronology: Chronology) -> str:
    """`describe_event` with the object's name and the scene's scale."""
    former = object_title(chronology, chronology.templates[event.object_id].replaces) if event.kind == "replaced" else ""
    return describe_event(event, chronology.metres_per_unit, title=object_title(chronology, event.object_id), former=former)


def describe_event(event: Event, metres_per_unit: float | None = None, *, title: str = "", former: str = "") -> str:
    """One event in words, without the date: "object 3 moved 0.42 units, turned 47°".

    Args:
        former: title of the object that a new form replaced.
    """
    words = f"{title or f'object {event.object_id}'} {event.kind}{f' {former}' if former else ''}"
    if event.kind == "replaced" and event.translation > 0:
        words += f", {length_text(event.translation, metres_per_unit)} away"
    if event.kind in ("moved", "returned"):
        facts = []
        if event.translation > 0:
            facts.append(length_text(event.translation, metres_per_unit))
        if event.rotation_deg >= 0.5:
            facts.append(f"turned {event.rotation_deg:.0f}°")
        if facts:
            words += (" " if event.kind == "moved" and event.translation > 0 else ", ") + ", ".join(facts)
    if event.uncertain:
        words += " (uncertain)"
    if event.note:
        words += f" – {plain(event.note, limit=60)}"
    return words


def presence_strip(track: ObjectTrack) -> str:
    """One character per visit: ■ present, · absent, ? unknown."""
    return "".join(_STRIP[Presence(int(p)).name.lower()] for p in track.presence)


def visit_summary(visit: VisitRecord, num_events: int, light: str) -> str:
    """Markdown lines about one visit for the timeline panel; every name in it is escaped."""
    posed = sum(p.localised for p in visit.photos)
    photos = f"{posed} photo{'s' if posed != 1 else ''}"
    if posed < len(visit.photos):
        photos += f" ({len(visit.photos) - posed} more could not be placed)"
    changes = "no change seen" if num_events == 0 else f"{num_events} change{'s' if num_events != 1 else ''}"
    first = "first visit" if visit.timestep == 0 else changes
    return f"**{escape_markdown(visit_label(visit))}**\n\n{photos}, {first}{light}"


def light_text(exposure_ev: float, changed: bool) -> str:
    """Words about a visit's light for the visit summary; empty if it is like the first visit's."""
    if not changed and abs(exposure_ev) < 0.05:
        return ""
    direction = "brighter" if exposure_ev > 0 else "darker"
    if abs(exposure_ev) < 0.05:
        return ", light differs from the first visit"
    return f", light {abs(exposure_ev):.1f} stops {direction} than the first visit"
