"""The page about one visit as one HTML text: no scripts, nothing from elsewhere, every text of the user's escaped."""

from __future__ import annotations

from collections import Counter

from ltgs.pipeline.explain.cards import css_colour, object_cards, other_cards, refused_cards
from ltgs.pipeline.explain.facts import ObjectFacts
from ltgs.pipeline.explain.style import STYLE
from ltgs.pipeline.explain.visit_parts import light_section, photos_table, timing_section
from ltgs.pipeline.explain.words import Explanation, Figure, PhotoRow, shown_as_other, signed, text
from ltgs.pipeline.info import visit_title
from ltgs.pipeline.update_haze import hazes

GENERATOR = '<meta name="generator" content="ltgs explain">'
"""Marks the pages of this command."""


def page(e: Explanation) -> str:
    """The whole page."""
    visit = e.scene.visits[e.time]
    title = text(visit_title(visit), limit=80)
    sections = [("photos", "Photos", _photos(e)), ("objects", "Objects", _objects(e)), ("other", "Not taken", _other(e)),
                ("light", "Light and poses", f"{light_section(e)}{photos_table(e)}"), ("time", "Time", timing_section(e))]
    shown = [(key, name, body) for key, name, body in sections if body]
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name, _ in shown)
    bodies = "".join(f'<section id="{key}"><h2>{name}</h2>{body}</section>' for key, name, body in shown)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{GENERATOR}'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src 'self' data: file:; "
        "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">"
        f"<title>{title} explained</title><style>{STYLE}</style></head><body>"
        f'<header><div><b>{title}</b><span>visit {e.time} of {text(e.scene_name, limit=60)}</span><nav>{links}</nav></div></header>'
        f'<main id="top">{_summary(e, title)}{bodies}'
        "<footer>Written by <code>ltgs explain</code>. Pictures are the stored working photos and renders of the stored scene; the "
        "comparison was repeated with the configuration the scene was made with.</footer></main>"
        f"{''.join(_zooms(n, row) for n, row in enumerate(e.rows, 1))}</body></html>"
    )


def _summary(e: Explanation, title: str) -> str:
    visit, light = e.scene.visits[e.time], e.scene.chronology.appearance[e.time]
    placed = sum(p.localised for p in visit.photos)
    if not placed:
        lead = "No photo of this visit could be placed, so nothing was decided; every object keeps its last known place as unknown."
    elif not e.objects:
        lead = "No object changed." + (" Only the light did." if light.changed else "")
    else:
        lead = "; ".join(_deed(facts, first=n == 0) for n, facts in enumerate(e.objects)) + "."
    chips = [f"<b>{placed} of {len(visit.photos)}</b> photos placed"]
    quality = visit.quality
    if {"changed_share_before", "changed_share_after"} <= quality.keys():
        chips.append(f"changed pixels <b>{_share(quality['changed_share_before'])} → {_share(quality['changed_share_after'])}</b>")
    if {"psnr_before", "psnr_after"} <= quality.keys():
        chips.append(f"PSNR of its photos <b>{quality['psnr_before']:.1f} → {quality['psnr_after']:.1f} dB</b>")
    chips.append(f"light <b>{signed(light.exposure_ev)} EV</b>{', changed' if light.changed else ''}")
    if visit.timing:
        chips.append(f"<b>{sum(visit.timing.values()):.0f} s</b>")
    banner = ""
    if placed and visit.decisions is None:
        banner = (
            '<div class="banner">Scores were not recorded: the version that added this visit did not store what it considered. '
            "The pictures and results below are complete; candidates and scores are missing.</div>"
        )
    undecided = "".join(
        f"<li>{text(words)}{f' ({count} times)' if count > 1 else ''}</li>" for words, count in Counter(visit.undecided).items()
    )
    if undecided:
        undecided = f"<h4>Undecided</h4><ul class=\"why\">{undecided}</ul>"
    return (
        f'<h1>{title}: what was decided, and why</h1><p class="lead">{lead}</p>'
        f'<div class="chips">{"".join(f"<span>{c}</span>" for c in chips)}</div>{banner}{undecided}'
    )


def _deed(facts: ObjectFacts, *, first: bool) -> str:
    deeds = [text(deed) + (" (uncertain)" if e.uncertain else "") for deed, e in zip(facts.deeds, facts.events, strict=True)]
    if not deeds:
        deeds = ["changed place" if facts.left and facts.came else "left" if facts.left else "came"]
    return f'<a href="#object-{facts.object_id}">{"O" if first else "o"}bject {facts.object_id}</a> {" and ".join(deeds)}'


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


# -- photos -----------------------------------------------------------------------------------------------------------

def _photos(e: Explanation) -> str:
    if not e.rows:
        return ""
    placed = sum(p.localised and not p.holdout for p in e.scene.visits[e.time].photos)
    more = f" {len(e.rows)} of {placed} photos are shown." if len(e.rows) < placed else ""
    hint = (
        "Left to right: the photo; the scene as it was at the visit before, drawn in this photo's light; what differs; what counts as "
        f"changed; what left and what came; the scene as it is now. A click enlarges and switches between them in place.{more}"
    )
    legend = (
        '<div class="legend"><span>change score<i></i>0 … 2 (decision level 1)</span>'
        '<span><em class="hatch"></em>never seen well enough to judge</span>'
        "<span>hatched, dashed outline: left · tinted, solid outline: came · dotted box: content that became no object</span></div>"
    )
    return f'<p class="hint">{hint}</p>{legend}{"".join(_row(n, row) for n, row in enumerate(e.rows, 1))}'


def _row(number: int, row: PhotoRow) -> str:
    figures = "".join(
        f'<figure><a class="pic" href="#z-{number}-{k}">{_image(figure)}</a>'
        f"<figcaption><b>{figure.title}</b><span>{figure.note}</span></figcaption></figure>"
        for k, figure in enumerate(row.figures, 1)
    )
    facts = f"{_share(row.changed_before)} changed before, {_share(row.changed_after)} after · noise {100 * row.noise:.1f}% of white"
    return (
        f'<article class="card row" id="photo-{number}"><h3>{text(row.name, limit=120)}<span>{facts}</span></h3>'
        f'<div class="strip">{figures}</div></article>'
    )


_TAG_WORDS = {"left": "<i> left</i>", "came": "<i> came</i>", "other": ""}


def _image(figure: Figure) -> str:
    tags = "".join(
        f'<span class="tag {label.kind}" style="left:{100 * label.x:.1f}%;top:{100 * label.y:.1f}%;'
        f'border-color:{css_colour(label.colour)}">{text(label.text, limit=20)}{_TAG_WORDS[label.kind]}</span>'
        for label in figure.labels
    )
    return (
        f'<img src="{figure.file}" width="{figure.width}" height="{figure.height}" alt="{figure.title}" loading="lazy">{tags}'
    )


def _zooms(number: int, row: PhotoRow) -> str:
    """Full-size views of a row's pictures that switch in place; shown by their address alone, without a script."""
    out = []
    for k, figure in enumerate(row.figures, 1):
        tabs = "".join(
            f'<a href="#z-{number}-{j}"{" class=on" if j == k else ""}>{other.title}</a>' for j, other in enumerate(row.figures, 1)
        )
        out.append(
            f'<div class="zoom" id="z-{number}-{k}"><nav>{tabs}<a href="#photo-{number}">✕ close</a></nav>'
            f'<div class="fit"><div class="hold" style="--w:{figure.width};--h:{figure.height}">{_image(figure)}</div></div></div>'
        )
    return "".join(out)


# -- objects ----------------------------------------------------------------------------------------------------------

def _objects(e: Explanation) -> str:
    surfaces = [
        k for k, t in sorted(e.scene.chronology.templates.items()) if t.kind == "surface" and t.created_at == e.time
    ]
    note = "".join(
        f'<p class="soft">Surface {k} is new ({len(e.scene.chronology.templates[k].gaussians):,} Gaussians): it was hidden or hardly '
        "seen before. It belongs to the place, not to an object.</p>" for k in surfaces
    )
    haze = sum(len(e.scene.chronology.templates[k].gaussians) for k in hazes(e.scene.chronology, e.time))
    if haze:
        note += (
            f'<p class="soft">{haze:,} Gaussians of the first visit were haze before these photos: no earlier photo had seen them from '
            "near, and without them the photos show what was known behind. They are drawn at earlier times only.</p>"
        )
    if not e.objects:
        return f'<p class="soft">No object left, came or moved.</p>{note}' if e.rows else ""
    return f'<div class="objects">{object_cards(e)}</div>{note}'


def _other(e: Explanation) -> str:
    body = ""
    record = e.scene.visits[e.time].decisions
    fragments = sum(i.verdict == "covered" for i in record.instances) if record is not None else 0
    if e.others:
        listed = sum(shown_as_other(i) for i in record.instances) if record is not None else 0
        most = f" The {len(e.others)} largest of {listed} are shown." if len(e.others) < listed else ""
        body += (
            '<h4>Content that became no object</h4><p class="hint">Places where the photos differ from the scene and that were looked '
            f'at, but neither matched a known object nor counted as a new one.{most}</p><div class="others">{other_cards(e)}</div>'
        )
    if fragments:
        words = "fragments lie" if fragments != 1 else "fragment lies"
        body += f'<p class="soft">{fragments} more {words} on pixels that other content explains.</p>'
    if e.refused:
        body += (
            '<h4>Removals that were refused</h4><p class="hint">Parts of the scene that were taken away for a try and put back, '
            f'because the photos did not fit better without them.</p><div class="others">{refused_cards(e)}</div>'
        )
    return body

