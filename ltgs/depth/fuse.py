"""Two rectified photos, and a prior if there is one, to dense disparity with confidence, occlusion and source per pixel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from ltgs.depth.arbitrate import ArbitrateConfig, Verdict, correlation, judge
from ltgs.depth.checks import MIN_MATCHES, require_rectified
from ltgs.depth.fill import background_fill, fill_gaps, vote
from ltgs.depth.matches import find_matches
from ltgs.depth.pictures import Photo, as_array, check_pair, grey8, rgb8
from ltgs.depth.register import RegisterConfig, Registration, register_prior
from ltgs.depth.sgm import SgmConfig, TwoWay, at_match, estimate_range, match_both_ways
from ltgs.depth.subpixel import refine_matches
from ltgs.depth.types import DisparityRange, Map, Mask, Source, StereoResult
from ltgs.errors import InputError

STRIP_PIXELS = 3_000_000
"""Photos are worked on in strips of about this size; bounds the memory."""
STRIP_MARGIN = 64
"""Rows of context above and below a strip."""
MIN_CONSISTENT = 0.01
"""Smallest share of pixels that match in both directions."""
MIN_ALIKE = 0.12
"""Smallest share that also look alike, asked of pairs without enough point matches. Measured: 0.01 to 0.10 for photos of different
places, 0.68 to 0.87 for real pairs."""
GRID_SIDE = 400
"""The prior is registered on a grid of about this many columns, at most every second pixel: its fields are smooth."""


@dataclass(frozen=True)
class StereoConfig:
    """All settings of the weight-free path; one set serves every pair."""

    sgm: SgmConfig = field(default_factory=SgmConfig)
    register: RegisterConfig = field(default_factory=RegisterConfig)
    arbitrate: ArbitrateConfig = field(default_factory=ArbitrateConfig)
    straighten: bool = True
    """Without a prior, let pixels near disparity steps vote too: the windows of semi-global matching fatten outlines."""


Matcher = Callable[[tuple[Photo, Photo], DisparityRange], TwoWay]
"""Grey photos and the disparities to search, to disparities of both views."""


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.process_time() - start


def match_stereo(
    left: Any, right: Any, *, prior: Any = None, prior_valid: Any = None,
    disparity_range: DisparityRange | tuple[int, int] | None = None, check: bool = True, config: StereoConfig | None = None,
    matcher: Matcher | None = None,
) -> StereoResult:
    """Disparity of the left photo of a rectified pair.

    Args:
        left, right: [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] arrays or tensors; uint8, uint16 or floats in [0, 1].
        prior: [H, W] inverse depth of the left view up to an unknown scale and offset, larger = nearer: a rendered inverse depth, a
            disparity map, a monocular network's output. None = photos only.
        prior_valid: [H, W] bool, where the prior may be used. Pass False where the place is known to have changed.
        disparity_range: disparities to search, pixels, (low, high); None = estimated from the photos.
        check: refuse pairs that are not rectified or exchanged; the order is not checked when a range is given.
        config: settings.
        matcher: matches in the place of semi-global matching, e.g. a trained network.

    Returns:
        A value for every pixel.

    Raises:
        InputError: the photos differ in size, are not rectified, are exchanged, or share nothing; or the prior has another size or
            meets the matches in too few pixels.
    """
    config, clock = config or StereoConfig(), _Clock()
    with clock("prepare"):
        photos = photos_of(left, right)
        greys = grey8(photos[0]), grey8(photos[1])
        known = None if prior is None else check_prior(prior, prior_valid, greys[0].shape)
    with clock("range"):
        search, confirmed = _search(greys, disparity_range, check)
    with clock("match"):
        both = semi_global(greys, search, config.sgm) if matcher is None else matcher(greys, search)
    _require_common_place(greys, both, confirmed)
    fields = None
    if known is not None:
        with clock("register"):
            fields = _register(both, *known, config.register)
    whole: dict[str, Any] = {}
    for rows, core in strips(*greys[0].shape):
        top = rows.start + core.start
        for name, part in _finish(photos, greys, both, rows, core, known, fields, config, clock).items():
            whole.setdefault(name, np.empty(greys[0].shape, part.dtype))[top : top + len(part)] = part
    return StereoResult(**whole, search=search, timings=clock.seconds)


def photos_of(left: Any, right: Any) -> tuple[Photo, Photo]:
    """Both photos as [H, W, 3] uint8.

    Raises:
        InputError: an unusable form, or different sizes.
    """
    photos = rgb8(left, "left photo"), rgb8(right, "right photo")
    check_pair(*photos)
    return photos


def strips(height: int, width: int, pixels: int | None = None, margin: int = STRIP_MARGIN) -> list[tuple[slice, slice]]:
    """Rows of each strip with its context, and the rows within them that are kept.

    Args:
        height, width: of the photo. pixels: of a strip; default STRIP_PIXELS. margin: rows of context.
    """
    count = max(1, -(-height * width // (pixels or STRIP_PIXELS)))
    bounds = np.linspace(0, height, count + 1).astype(int)
    out = []
    for top, bottom in pairwise(bounds):
        first, last = max(0, top - margin), min(height, bottom + margin)
        out.append((slice(int(first), int(last)), slice(int(top - first), int(bottom - first))))
    return out


def check_prior(prior: Any, prior_valid: Any, shape: tuple[int, ...]) -> tuple[Map, Mask]:
    """A prior as float32 with zeros where it is not known, and where it is known.

    Raises:
        InputError: another shape than the photos'.
    """
    values = as_array(prior).astype(np.float32)
    valid = np.isfinite(values) if prior_valid is None else np.isfinite(values) & as_array(prior_valid).astype(bool)
    if values.shape != shape:
        raise InputError(f"The prior has shape {list(values.shape)}, but the photos have {list(shape)}. Resample it to the left photo.")
    return np.where(valid, values, np.float32(0)), valid


def _search(
    greys: tuple[Photo, Photo], given: DisparityRange | tuple[int, int] | None, check: bool
) -> tuple[DisparityRange, bool]:
    """Disparities to look at, and whether the pair needs no further proof that both photos show one place."""
    if given is not None and not isinstance(given, DisparityRange):
        given = DisparityRange(int(given[0]), int(given[1]))
    if not check and given is not None:
        return given, True
    matches = find_matches(*greys)
    if check:
        require_rectified(matches, greys[0].shape[1], order=given is None)
    return given or estimate_range(*greys, matches), not check or len(matches) >= MIN_MATCHES


def semi_global(greys: tuple[Photo, Photo], search: DisparityRange, config: SgmConfig | None = None) -> TwoWay:
    """Semi-global matching both ways with fractions of a pixel, strip by strip.

    Args:
        greys: two [H, W] uint8. search: disparities to look at. config: settings.
    """
    pieces = []
    for rows, core in strips(*greys[0].shape):
        left, right = (np.ascontiguousarray(g[rows]) for g in greys)
        found = match_both_ways(left, right, search, config)
        exact = found.left
        if found.consistent.any():
            moved = refine_matches(left, right, background_fill(found.left, found.consistent), found.consistent)
            exact = np.where(found.consistent, moved, found.left)
        pieces.append((exact[core], found.right[core], found.consistent[core]))
    return TwoWay(*(np.concatenate(p) for p in zip(*pieces, strict=True)))


@dataclass(frozen=True)
class _Fields:
    """Scale and offset of a registered prior, known on a coarse grid."""

    grid: Registration
    step: int
    """Pixels from one grid point to the next."""

    def at(self, rows: slice, width: int) -> tuple[Map, Map]:
        """Scale and offset in a strip."""
        lines = np.arange(rows.start, rows.stop), np.arange(width)
        y, x = (((line - self.step // 2) / self.step).astype(np.float32) for line in lines)
        x, y = np.meshgrid(x, y)
        a, b = (
            np.asarray(cv2.remap(f.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
            for f in (self.grid.a, self.grid.b)
        )
        return a, b


def _register(both: TwoWay, prior: Map, prior_valid: Mask, config: RegisterConfig) -> _Fields:
    """Register on a coarser grid: the fields are smooth."""
    step = max(2, round(max(prior.shape) / GRID_SIDE))
    grid = (slice(step // 2, None, step), slice(step // 2, None, step))
    try:
        return _Fields(register_prior(both.left[grid], both.consistent[grid], prior[grid], prior_valid[grid], config=config), step)
    except ValueError as error:
        raise InputError(f"The prior does not help: {error}. Pass a prior that overlaps the matched pixels, or none.") from error


def _require_common_place(greys: tuple[Photo, Photo], both: TwoWay, confirmed: bool) -> None:
    """Refuse photos that share nothing: smoothness alone lets a fifth of the pixels of unrelated photos agree in both directions."""
    share, needed = float(both.consistent.mean()), MIN_CONSISTENT
    if share >= needed and not confirmed:
        dense = background_fill(both.left, both.consistent)
        share, needed = float((both.consistent & (correlation(*greys, dense) > 0.5)).mean()), MIN_ALIKE
    if share < needed:
        raise InputError(
            f"Only {100 * share:.1f} % of the pixels match (at least {100 * needed:.0f} % are needed). Check that both photos show the "
            "same place, rectified and in focus."
        )


def _finish(
    photos: tuple[Photo, Photo], greys: tuple[Photo, Photo], both: TwoWay, rows: slice, core: slice, known: tuple[Map, Mask] | None,
    fields: _Fields | None, config: StereoConfig, clock: _Clock,
) -> dict[str, Any]:
    """One strip: fill, arbitrate, and say where each value comes from."""
    left, right = np.ascontiguousarray(greys[0][rows]), np.ascontiguousarray(greys[1][rows])
    rgb, matched, valid = photos[0][rows], both.left[rows], both.consistent[rows]
    if not valid.any():
        # A strip without any match (sky, a bare wall) takes the median of the whole image.
        matched, valid = np.full_like(matched, np.median(both.left[both.consistent])), np.zeros_like(valid)
        dense = matched
    else:
        with clock("fill"):
            dense = background_fill(matched, valid) if known is not None else fill_gaps(matched, valid, rgb, edges=config.straighten)
    source = np.where(valid, Source.STEREO, Source.FILLED).astype(np.uint8)
    disparity = dense
    out: dict[str, Any] = {}
    if known is not None and fields is not None:
        prior, prior_valid = known[0][rows], known[1][rows]
        a, b = fields.at(rows, left.shape[1])
        with clock("arbitrate"):
            registered = a * prior + b
            verdict = judge(left, right, dense, valid, registered, prior_valid, config.arbitrate)
        with clock("fill"):
            disparity, source = _blend(matched, dense, valid, registered, prior_valid, verdict, rgb)
        out = {"a": a[core], "b": b[core]}
    with clock("confidence"):
        occlusion = _occlusion(disparity, both.right[rows])
        confidence = _confidence(left, right, disparity, both.right[rows], source, occlusion)
    out |= {
        "disparity": disparity[core], "valid": np.isfinite(disparity)[core], "confidence": confidence[core],
        "occlusion": occlusion[core], "source": source[core],
    }
    return out


def _blend(
    matched: Map, dense: Map, valid: Mask, registered: Map, prior_valid: Mask, verdict: Verdict, rgb: Photo
) -> tuple[Map, np.ndarray]:
    """Weighted mean where there is a match; elsewhere the prior, or interpolation where the prior is stale or absent."""
    usable = prior_valid & ~verdict.overruled
    gaps = ~valid & ~usable
    if gaps.any() and valid.any():
        # What the photos refuted is no neighbour to learn from either.
        believed = valid & (verdict.share > 0.5) | valid & ~prior_valid
        known = np.where(valid, matched, registered)
        if believed.any():
            dense = vote(background_fill(known, believed | (usable & ~valid)), rgb, gaps)
    mixed = verdict.share * np.where(valid, matched, 0) + (1 - verdict.share) * registered
    disparity = np.where(valid, mixed, np.where(usable, registered, dense)).astype(np.float32)
    source = np.where(
        valid & (verdict.share >= 0.5), Source.STEREO, np.where(valid | usable, Source.PRIOR, Source.FILLED)
    ).astype(np.uint8)
    return disparity, source


def _occlusion(disparity: Map, right: Map) -> Mask:
    """[H, W] pixels that the right camera does not see: their match lies outside of its photo or behind a nearer surface."""
    width = disparity.shape[1]
    dense = background_fill(right, np.isfinite(right)) if np.isfinite(right).any() else right
    target = np.arange(width, dtype=np.float32)[None] - disparity
    outside = (target < -0.5) | (target > width - 0.5)
    with np.errstate(invalid="ignore"):
        return outside | (at_match(dense, disparity) > disparity + 1.5)


def _confidence(left: Photo, right: Photo, disparity: Map, backward: Map, source: np.ndarray, occlusion: Mask) -> Map:
    """A rank of trust in [0, 1]: correlation and the two directions' agreement for matches, fixed low values for the others."""
    likeness = np.clip(correlation(left, right, disparity), 0, 1)
    with np.errstate(invalid="ignore"):
        difference = np.abs(at_match(backward, disparity) - disparity)
    close = np.exp(-np.where(np.isfinite(difference), difference, 9.0))
    stereo = 0.4 + 0.6 * likeness * close
    prior = np.where(occlusion, 0.3, 0.1 + 0.3 * likeness)
    return np.where(source == Source.STEREO, stereo, np.where(source == Source.PRIOR, prior, 0.1)).astype(np.float32)
