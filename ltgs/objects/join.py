"""New content that occlusion has cut in pieces: things of like colours side by side are one thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ltgs.core.views import ComparedView
from ltgs.objects.hull import HullInstance, seen_empty
from ltgs.objects.palette import content_palette, likeness


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
