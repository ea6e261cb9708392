"""New content that occlusion has cut in pieces: things of like colours side by side are one thing, of unlike colours several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ltgs.core.views import ComparedView
from ltgs.objects.hull import HullInstance, seen_empty
from ltgs.objects.palette import content_palette, likeness, pixels_like
from ltgs.objects.split import SplitConfig, partings, stand_level

Array = NDArray[np.float64]


@dataclass(frozen=True)
class JoinConfig:
    """Pieces of one thing."""

    gap: float = 1.0
    """Largest distance of two pieces, relative to the radius of the smaller one."""
    alike: float = 0.82
    """Least likeness of their colours (see `objects.palette`): pieces of one box had 0.88, neighbours up to 0.76."""
    between: tuple[float, float] = (0.3, 0.7)
    """Part of the line between their middles that must not lie open."""
    open: float = 0.6
    """Share of it that a photo must look through at something known behind it to tell that they are two things, in `open_photos`."""
    open_photos: int = 2
    unlike: float = 0.3
    """What hangs together but falls apart in parts that stand on one level, with colours less alike than this where only one part
    shows, is as many things: a blue can and an orange box had .15. At .57 (two boxes; cut apart, each was built so badly that what
    stood behind it was lost at the next visit) pixels that both may cover are not told by their colours."""


@dataclass(frozen=True)
class PieceConfig:
    """Content that is a piece which the template of an object just found lacks."""

    reach: float = 0.35
    """Width, relative to the root of the area where the object is drawn, within which its piece lies."""
    beside: float = 0.8
    """Share of the content that must lie there."""
    smaller: float = 0.6
    """Largest content, in units of that area."""
    alike: float = 0.68
    """Least likeness of the colours of the content and the object; the end of a bottle whose middle is known had .72."""


def join_pieces(
    instances: Sequence[HullInstance], views: Sequence[ComparedView], *, config: JoinConfig | None = None
) -> list[HullInstance]:
    """Instances of new content, those joined that are pieces of one thing."""
    config = config or JoinConfig()
    out: list[HullInstance] = []
    for instance in instances:
        partner = next((i for i, other in enumerate(out) if _are_one(other, instance, views, config)), None)
        if partner is None:
            out.append(instance)
        else:
            out[partner] = _joined(out[partner], instance)
    return out


def separate_things(
    instances: Sequence[HullInstance], views: Sequence[ComparedView], *, up: Array, config: JoinConfig | None = None,
    split: SplitConfig | None = None,
) -> list[HullInstance]:
    """Instances of new content, those cut apart that are several things of unlike colours side by side.

    Args:
        up: [3] unit, the vertical.
    """
    config = config or JoinConfig()
    out: list[HullInstance] = []
    for instance in instances:
        found = (_unlike_parts(parts, views, config) for parts in partings(instance, views, split) if stand_level(parts, up, split))
        out += next((things for things in found if things), [instance])
    return out


def _unlike_parts(parts: Sequence[HullInstance], views: Sequence[ComparedView], config: JoinConfig) -> list[HullInstance]:
    """The parts with the pixels of their own, if the colours of all are unlike where only one part shows; else none."""
    alone = [_alone(i, parts) for i in range(len(parts))]
    palettes = [content_palette(replace(p, pixels=own), views) for p, own in zip(parts, alone, strict=True)]
    for one, other in combinations(palettes, 2):
        like = likeness(one, other)
        if like is None or like >= config.unlike:
            return []
    things = []
    for part, own, colours in zip(parts, alone, palettes, strict=True):
        assert colours is not None
        # Where the hulls of several parts cover a pixel its colour tells whose it is.
        whole = replace(part, pixels=tuple(np.logical_or.reduce([p.pixels[v] for p in parts]) for v in range(len(views))))
        like_it = pixels_like(colours, whole, views)
        pixels = tuple(a | (m & c) for a, m, c in zip(own, part.pixels, like_it, strict=True))
        things.append(replace(part, pixels=pixels, num_views=sum(bool(m.any()) for m in pixels), is_part=False))
    return things


def _alone(index: int, parts: Sequence[HullInstance]) -> tuple[NDArray[np.bool_], ...]:
    """Per view [H, W] the pixels of one of the parts that no other one has."""
    rest = [p.pixels for i, p in enumerate(parts) if i != index]
    return tuple(m & ~np.logical_or.reduce([r[v] for r in rest]) for v, m in enumerate(parts[index].pixels))


def _are_one(one: HullInstance, other: HullInstance, views: Sequence[ComparedView], config: JoinConfig) -> bool:
    smaller = min(float(np.quantile(np.linalg.norm(i.points - i.centroid, axis=1), 0.9)) for i in (one, other))
    if cKDTree(one.points).query(other.points)[0].min() > config.gap * smaller:
        return False
    palettes = content_palette(one, views), content_palette(other, views)
    like = likeness(*palettes)
    return like is not None and like >= config.alike and not _apart(one, other, views, config)


def _apart(one: HullInstance, other: HullInstance, views: Sequence[ComparedView], config: JoinConfig) -> bool:
    """Whether photos look through between two pieces: then nothing has cut them, they are two things."""
    share = np.linspace(*config.between, 9)[:, None]
    points = (1 - share) * one.centroid + share * other.centroid
    known = [np.where(v.agreed & ~v.mask & (v.alpha > 0.5), v.depth, 0) for v in views]
    through = [seen_empty(points, [v.camera], [d.astype(np.float32)]).mean() for v, d in zip(views, known, strict=True)]
    return sum(t >= config.open for t in through) >= config.open_photos


def _joined(one: HullInstance, other: HullInstance) -> HullInstance:
    pixels = tuple(a | b for a, b in zip(one.pixels, other.pixels, strict=True))
    return HullInstance(np.concatenate([one.points, other.points]), pixels, sum(bool(m.any()) for m in pixels), ground=one.ground)
