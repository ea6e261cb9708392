"""What the captures say about a removal: whether some Gaussians that were drawn before are still there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.core.views import ComparedView

TOO_FEW = "too few pixels"


@dataclass(frozen=True)
class CarveConfig:
    """Vacated sets of Gaussians."""

    mean_evidence: float = 0.55
    """Share of a Gaussian's decided pixels, over all views, that must have changed."""
    min_evidence: float = 0.25
    """The same in each single view that decides anything about it."""
    seen_px: float = 0.2
    """Alpha-weighted decided pixels above which a view says something about a Gaussian."""
    link_px: float = 5.0
    """Candidates closer than this many pixels' footprint belong together."""
    max_sets: int = 24
    """Most candidate sets tried per pass, those with most changed pixels first."""
    min_footprint: float = 8e-4
    """Smallest set that counts as an object: altered pixels of all views together relative to the image area."""
    piece_factor: float = 0.3
    """A piece of an object that stood there may be this much smaller."""
    single_view_factor: float = 4.0
    """A set that only one photo shows must be this much larger."""
    single_view_clear: tuple[float, float] = (0.8, 0.08)
    """Shares of its pixels that must speak of change, and may agree, for `single_view_factor` not to apply to a set that also explains
    `explained_alone` and has the outline of the change: the photo leaves no doubt."""
    single_view_least: int = 40
    """Gaussians of a set that only one photo shows: a few blurred ones of a sparse capture err as much."""
    least: int = 60
    """Gaussians of the first visit that a thing is made of, without what it stands on: those of twenty rooms had 70 and more (with 75
    two of them were lost); what else the photos contradict is refused by what it is (see `Judges`)."""
    explained: float = 0.22
    """Share of a set's pixels that must match the captures once it is gone, for that alone to prove that it left."""
    explained_outline: float = 0.08
    """The same for a set whose outline is that of the change: what it hid may never have been seen and match nothing."""
    outline: float = 0.75
    """Share of the touched change regions that the set covers, from which its outline is that of the change. A patch that a
    new object hides covers less: each view hides another part of it."""
    min_outline: float = 0.5
    """The least such share of a set that left; its regions may have merged with those of others."""
    explained_alone: float = 0.45
    """`explained` from which the outline does not matter."""
    contradicted: float = 0.5
    """Share of the pixels of a whole stored object that must speak of change, in every photo that shows it well, for it to have left
    although the captures fit no better without it: something else stands there now."""
    confirmed: float = 0.15
    """Share of its pixels, over all photos, that may agree: of what only stands behind something new a part is still seen."""
    silent: tuple[float, float] = (0.35, 0.05)
    """The same two shares where hardly a pixel agrees: what stands there now may hide as much and be as bright. Of a whole thing that was
    no object yet they are enough if the photos fit better without it as well (`explained`)."""
    replaced: tuple[float, float, float] = (0.6, 0.12, 0.5)
    """The same two shares for a whole thing that was no object yet, and the largest share of holes behind one of several things side by
    side (of a lone one `max_holes_outline`). In eight rooms all six that had been replaced had .69 to .90, up to .10 and up to .14."""
    replaced_least: int = 120
    """Fewest Gaussians of such a thing: the photos only contradict it, and what came hides patches as well. In twenty rooms right ones
    had 151 and more, a patch 84. What has fewer must be a whole thing, however well the photos fit without it."""
    stands: tuple[float, float] = (0.2, 2.0)
    """A whole stored object stands still if at least this share of its pixels agrees, and so many times more than speak of change:
    then no part of it has left either, its template is only inaccurate."""
    doubtful: float = 0.2
    """It stands still as well if the photos fit no better without it and less than this share of its pixels speaks of change."""
    max_holes_outline: float = 0.6
    """`max_holes` for a set that its outline proves; it must be seen in two photos as well."""
    max_holes: float = 0.8
    """A set whose removal leaves more than this share of its pixels empty proves nothing."""
    peels: int = 4
    """Layers taken off one set: each exposes Gaussians behind that contradict the captures too."""
    reach: float = 1.35
    """A peeled layer may lie outside the set's box by this factor."""
    rounds: int = 3
    """Passes over all sets; a set may become visible only when another is gone."""


@dataclass(frozen=True)
class RemovalBenefit:
    """What the captures say about a removal."""

    explained: float
    """Share of the altered pixels, holes left out, that now match their capture; pixels that matched before and no longer do
    count against it."""
    altered_px: int
    """Pixels of all views that the removal alters and that speak of change before or after."""
    holes: float
    """Share of them with nothing known behind."""
    outline: float
    """Share of the touched change regions that the removal alters."""
    num_views: int
    """Photos that take part, with at least a tenth of the pixels of the one with most."""
    contradicted: float = 0.0
    """Share of all pixels the set shows in that speak of change, least of the photos that take part."""
    confirmed: float = 0.0
    """Share of them, over all photos, that agree."""

    def contradicts(self, config: CarveConfig, image_px: int) -> bool:
        """Whether nothing of the set is where it was, whatever is there now."""
        enough = self.num_views > 1 and self.altered_px >= config.min_footprint * image_px
        limits = (config.contradicted, config.confirmed), config.silent
        return enough and any(self.contradicted >= least and self.confirmed <= most for least, most in limits)

    def replaced(self, config: CarveConfig, image_px: int, *, lone: bool) -> bool:
        """Whether something else is seen where the set was, provided that it was a thing of its own.

        Args:
            lone: it did not stand beside another thing that was suspected together with it.
        """
        least, most, holes = config.replaced
        holes = config.max_holes_outline if lone else holes
        enough = self.num_views > 1 and self.altered_px >= config.min_footprint * image_px
        # Its outline may be lost among other changes.
        clear = self.explained >= config.explained and self.contradicted >= config.silent[0] and self.confirmed <= config.silent[1]
        return enough and self.holes <= holes and (clear or (self.contradicted >= least and self.confirmed <= most))

    def stands(self, config: CarveConfig) -> bool:
        """Whether the set is still seen where it was, or the photos fit worse without it and speak little against it."""
        share, factor = config.stands
        doubtful = self.explained <= 0 and self.contradicted < config.doubtful
        return doubtful or self.confirmed >= max(share, factor * self.contradicted)

    def _is_clear(self, config: CarveConfig) -> bool:
        """Whether a single photo is enough: it shows something else all over the set and what is behind it, with its outline."""
        least, most = config.single_view_clear
        shown = self.contradicted >= least and self.confirmed <= most
        return shown and self.explained >= config.explained_alone and self.outline >= config.outline

    def refusal(self, config: CarveConfig, image_px: int) -> str:
        """Why the captures do not prove that the set has left; empty if they do."""
        sure = self.num_views > 1 or self._is_clear(config)
        smallest = config.min_footprint * (1.0 if sure else config.single_view_factor)
        if self.altered_px < smallest * image_px:
            return TOO_FEW
        if self.holes > (config.max_holes if sure else config.max_holes_outline):
            return "leaves mostly holes, which prove nothing"
        if self.outline >= config.outline and self.num_views > 1 and self.holes <= config.max_holes_outline:
            return "" if self.explained >= config.explained_outline else "the photos fit no better without it"
        if self.explained < config.explained:
            return "the photos fit hardly better without it"
        proven = self.outline >= config.min_outline or (self.explained >= config.explained_alone and self.num_views > 1)
        return "" if proven else "its outline is not that of the change"


def altered_pixels(one: ComparedView, other: ComparedView) -> NDArray[np.bool_]:
    """[H, W] where two states of the scene, seen by the same photo, look different."""
    return (np.abs(one.shown - other.shown).max(-1) > 0.03) | (np.abs(one.alpha - other.alpha) > 0.1)


def removal_benefit(before: Sequence[ComparedView], after: Sequence[ComparedView]) -> RemovalBenefit:
    """Compare the captures with the state with and without a set."""
    explained, holes, covered, regions = 0.0, 0, 0, 0
    pixels: list[int] = []
    shows, wrong, right = [], [], 0
    for b, a in zip(before, after, strict=True):
        altered = altered_pixels(b, a)
        shown = altered & (b.alpha > 0.5)
        shows.append(int(shown.sum()))
        wrong.append(int((shown & (b.score > 0.6)).sum()))
        right += int((shown & b.agreed & (b.score <= 0.6)).sum())
        count, labels = cv2.connectedComponents(b.mask.astype(np.uint8), connectivity=8)
        overlap = np.bincount(labels[altered & b.mask], minlength=count)
        touched = overlap >= max(1.0, 0.2 * overlap.sum())
        covered += int(overlap[touched].sum())
        regions += int(np.bincount(labels.ravel(), minlength=count)[touched].sum())
        altered &= (b.alpha > 0.5) & ((b.score > 0.3) | (a.score > 0.3))
        hole = altered & (a.alpha < 0.6)
        gain = np.clip(b.score, 0, 1) - np.clip(a.score, 0, 1)
        explained += float(gain[altered & ~hole].sum())
        pixels.append(int(altered.sum()))
        holes += int(hole.sum())
    total, most = sum(pixels), max(pixels, default=0)
    return RemovalBenefit(
        explained / max(total - holes, 1), total, holes / max(total, 1), covered / max(regions, 1),
        sum(p >= max(1.0, 0.1 * most) for p in pixels),
        min((w / s for w, s in zip(wrong, shows, strict=True) if s >= max(1.0, 0.1 * max(shows))), default=0.0),
        right / max(sum(shows), 1),
    )


def hole_masks(before: Sequence[ComparedView], after: Sequence[ComparedView]) -> list[NDArray[np.bool_]]:
    """Per view the pixels that a removal opened: nothing known there any more, or something far behind shows through.

    With a rim of 0.6 % of the image: the outline of what left is never exact.
    """
    kernel = np.ones((3, 3), np.uint8)
    out = []
    for b, a in zip(before, after, strict=True):
        altered = (np.abs(b.alpha - a.alpha) > 0.1) | (np.abs(b.shown - a.shown).max(-1) > 0.05)
        opened = altered & ((a.alpha < 0.75) | a.mask)
        closed = cv2.morphologyEx(opened.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
        rim = max(1, round(0.006 * max(b.mask.shape)))
        out.append(cv2.dilate(closed, np.ones((2 * rim + 1,) * 2, np.uint8)) > 0)
    return out
