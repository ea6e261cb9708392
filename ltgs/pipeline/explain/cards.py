"""Cards of the page: an object with its facts, crops and candidates; content and removals that became no object."""

from __future__ import annotations

from collections.abc import Sequence

from ltgs.core.chronology import Presence
from ltgs.core.decisions import InstanceVerdict, PairTest, RemovalTest
from ltgs.core.palette import object_colour
from ltgs.pipeline.explain.facts import ObjectFacts, percent
from ltgs.pipeline.explain.words import Crop, Explanation, distance_words, length, score_words, text, turn_words
from ltgs.pipeline.info import visit_title

_LIFE = {Presence.PRESENT: ("■", "present"), Presence.ABSENT: ("·", "absent"), Presence.UNKNOWN: ("?", "unknown")}
_VERDICTS = {
    "leftover": "error of an object next to it", "newly seen": "seen for the first time, perhaps not new",
    "light": "another light on a known surface", "dropped": "not counted",
    "open": "what a departed object had hidden",
}


def css_colour(rgb: tuple[int, int, int]) -> str:
    """8-bit sRGB for a style sheet."""
    return f"rgb({rgb[0]},{rgb[1]},{rgb[2]})"


def object_cards(e: Explanation) -> str:
    """One card per object that the visit touched."""
    return "".join(_object_card(e, facts) for facts in e.objects)


def _object_card(e: Explanation, facts: ObjectFacts) -> str:
    kinds = " and ".join(text(deed) for deed in facts.deeds) or ("moved" if facts.left and facts.came else "changed")
    badges = ['<span class="badge warn">uncertain</span>'] if any(event.uncertain for event in facts.events) else []
    if facts.ambiguous:
        badges.append('<span class="badge warn">rotation ambiguous</span>')
    why = "".join(f"<li>{text(sentence)}</li>" for sentence in facts.why)
    reasons = f'<h4>Why</h4><ul class="why">{why}</ul>' if why else ""
    return (
        f'<article class="card obj" id="object-{facts.object_id}" style="--own:{css_colour(object_colour(facts.object_id))}">'
        f'<div class="top"><h3>Object {facts.object_id} {kinds}</h3>{"".join(badges)}</div>'
        f'<div class="split"><div>{_facts(e, facts)}</div><div>{reasons}</div></div>'
        f"<div>{_crops(e.crops.get(facts.object_id, ()))}{_candidates(e, facts)}</div></article>"
    )


def _facts(e: Explanation, facts: ObjectFacts) -> str:
    metres = e.scene.chronology.metres_per_unit
    rows = []
    if facts.motion is not None:
        rows.append(("Moved", distance_words(facts.motion, facts.diameter, metres)))
        rows.append(("Turned", turn_words(facts.motion)))
        rows.append(("Ambiguity", _ambiguity(facts)))
    rows += [("Note", text(event.note)) for event in facts.events if event.note]
    rows.append(("Diameter", length(facts.diameter, metres)))
    born = e.scene.visits[facts.created_at] if facts.created_at < len(e.scene.visits) else None
    origin = f", built from {text(visit_title(born), limit=60)}" if born is not None else ""
    rows.append(("Template", f"{facts.num_gaussians:,} Gaussians{origin}"))
    rows.append(("Visits", _life(facts.presence, e.time)))
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in rows)}</dl>"


def _ambiguity(facts: ObjectFacts) -> str:
    if facts.ambiguous:
        return "a clearly different rotation explains the photos as well"
    if any(p.chosen and p.object_id == facts.object_id for p in facts.pairs):
        return "none found: no clearly different rotation explains the photos as well"
    return "not recorded"


def _life(presence: Sequence[Presence], time: int) -> str:
    signs = "".join(f"<u>{_LIFE[p][0]}</u>" if t == time else _LIFE[p][0] for t, p in enumerate(presence))
    words = ", ".join(_LIFE[p][1] for p in presence)
    return f'<span class="life" title="{words}">{signs}</span>'


def _crops(crops: Sequence[Crop]) -> str:
    if not crops:
        return '<p class="soft">No shown photo looks at it.</p>'
    out = []
    for where in dict.fromkeys(c.where for c in crops):
        own = "".join(f"<figure>{_triple(c)}</figure>" for c in crops if c.where == where)
        out.append(f'<h4>{where[:1].upper()}{where[1:]}</h4><div class="crops">{own}</div>')
    return "".join(out)


def _triple(crop: Crop) -> str:
    names = (("before", crop.before), ("photo", crop.photo), ("after", crop.after))
    images = "".join(f'<a href="{file}"><img src="{file}" alt="{name}" loading="lazy"></a>' for name, file in names)
    words = "".join(f"<span>{name}</span>" for name, _ in names)
    return f'<div class="trip">{images}{words}</div><figcaption><span>{text(crop.photo_name, limit=80)}</span></figcaption>'


# -- candidates -------------------------------------------------------------------------------------------------------

def _candidates(e: Explanation, facts: ObjectFacts) -> str:
    if e.scene.visits[e.time].decisions is None:
        return '<p class="soft">Scores were not recorded for this visit.</p>'
    removals, pairs = _removal_table(facts.removals), _pair_table(facts)
    return f"<h4>Candidates considered</h4>{pairs}" + (f"<h4>Removal tests</h4>{removals}" if removals else "")


def _pair_table(facts: ObjectFacts) -> str:
    if not facts.pairs:
        return '<p class="soft">No known object was missing when its content was looked at, and no content was there for it.</p>'
    order = sorted(facts.pairs, key=lambda p: (not p.chosen, -(p.gain if p.gain is not None else -9), -(p.sweep_gain or -99)))
    rows = "".join(_pair_row(p) for p in order)
    head = "<tr><th>Object</th><th>Content</th><th>When</th><th>Sweep</th><th>Refined</th><th>Outcome</th></tr>"
    return f'<div class="wide"><table>{head}{rows}</table></div>'


def _pair_row(pair: PairTest) -> str:
    outcome = "chosen" if pair.chosen else text(pair.reason)
    if pair.ambiguous:
        outcome += " · rotation ambiguous"
    return (
        f'<tr class="{"yes" if pair.chosen else "no"}"><td class="n">object {pair.object_id}</td><td class="n">#{pair.instance}</td>'
        f'<td class="n">{text(pair.stage)}</td><td class="n">{_gain(pair.sweep_gain)}</td><td class="n">{_gain(pair.gain)}</td>'
        f'<td class="what">{outcome}</td></tr>'
    )


def _gain(value: float | None) -> str:
    if value is None:
        return "–"
    return f'<span class="bar"><i style="--v:{100 * min(max(value, 0), 1):.0f}%"></i></span>{percent(value)}'


def _removal_table(tests: Sequence[RemovalTest]) -> str:
    if not tests:
        return ""
    rows = "".join(
        f'<tr class="{"yes" if t.taken else "no"}"><td class="n">{text(t.stage)}</td><td class="n">{t.num_gaussians:,}</td>'
        f'<td>{_scores(t)}</td><td class="what">{_outcome(t)}</td></tr>'
        for t in tests
    )
    head = "<tr><th>When</th><th>Gaussians</th><th>Without them</th><th>Outcome</th></tr>"
    return f'<div class="wide"><table>{head}{rows}</table></div>'


def _outcome(test: RemovalTest) -> str:
    return ("left" + (f": {text(test.reason)}" if test.reason else "")) if test.taken else text(test.reason)


def _scores(test: RemovalTest) -> str:
    return " · ".join(f'<span class="soft">{words}</span> {value}' for words, value in score_words(test.scores))


# -- not taken --------------------------------------------------------------------------------------------------------

def other_cards(e: Explanation) -> str:
    """Content that became no object."""
    out = []
    for other in e.others:
        i = other.instance
        if i is None:
            continue
        crop = _triple(other.crop) if other.crop is not None else ""
        facts = f"{i.area_px:,} changed pixels in {i.num_views} photo{'s' if i.num_views != 1 else ''} · {text(i.stage)}"
        out.append(
            f'<article class="card" id="content-{i.number}"><h3>#{i.number}<span>{_verdict(i)}</span></h3>{crop}'
            f'<p>{_sentence(i.reason)}</p><p class="soft">{facts}</p>{_tried(e, i)}</article>'
        )
    return "".join(out)


def _sentence(reason: str) -> str:
    return f"{text(reason[:1].upper() + reason[1:])}." if reason else ""


def _verdict(instance: InstanceVerdict) -> str:
    words = _VERDICTS.get(instance.verdict, text(instance.verdict))
    return f"{words.replace('an object', f'object {instance.object_id}')}" if instance.object_id else words


def _tried(e: Explanation, instance: InstanceVerdict) -> str:
    record = e.scene.visits[e.time].decisions
    pairs = [p for p in (record.pairs if record is not None else ()) if p.instance == instance.number]
    if not pairs:
        return ""
    best = max(pairs, key=lambda p: (p.gain is not None, p.gain or 0, p.sweep_gain if p.sweep_gain is not None else -99))
    if best.gain is not None:
        words = f"object {best.object_id} explains {percent(best.gain)}"
    elif best.sweep_gain is not None and best.sweep_gain > 0:
        words = f"object {best.object_id} explains {percent(best.sweep_gain)} in the sweep"
    else:
        words = "none comes close"
    return f'<p class="soft">{len(pairs)} known object{"s" if len(pairs) != 1 else ""} tried: {words}.</p>'


def refused_cards(e: Explanation) -> str:
    """Removals that were tried and refused."""
    out = []
    for other in e.refused:
        t = other.removal
        if t is None:
            continue
        crop = _triple(other.crop) if other.crop is not None else ""
        owner = f"part of object {t.object_id}" if t.object_id else "part of the place"
        out.append(
            f'<article class="card"><h3>{t.num_gaussians:,} Gaussians<span>{owner} · {text(t.stage)}</span></h3>{crop}'
            f"<p>{_sentence(t.reason)}</p><p>{_scores(t)}</p></article>"
        )
    return "".join(out)
