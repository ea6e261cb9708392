"""Measure disparity against the truth: end-point error, bad pixels and density over all pixels with a known truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.depth.fill import background_fill
from ltgs.depth.fuse import StereoConfig, match_stereo
from ltgs.depth.matches import find_matches
from ltgs.depth.pictures import grey8
from ltgs.depth.sgm import SgmConfig, estimate_range, match_one_way
from ltgs.depth.simulate import distorted_truth, stale_box
from ltgs.depth.types import DisparityRange, Map, Mask, StereoResult
from ltgs.errors import InputError
from ltgs.io.stereo_pairs import StereoPair, find_pairs, read_pair

BASELINE, BASELINE_3WAY = "OpenCV SGBM + background fill", "OpenCV SGBM 3-way grey + background fill"
NO_PRIOR, WITH_PRIOR = "ours, no prior", "ours, prior made from the truth (distorted)"
STALE = "ours, that prior stale in a box"
METHODS = (BASELINE, BASELINE_3WAY, NO_PRIOR, WITH_PRIOR, STALE)
MISSING_ERROR = 1000.0
"""Error in pixels that counts for a pixel without a value, so that leaving pixels out never pays."""


@dataclass(frozen=True)
class Score:
    """Errors of one disparity map."""

    epe: float
    """Mean absolute error, pixels."""
    bad1: float
    """Percent of pixels with an error above 1 pixel; bad2 and bad3 alike."""
    bad2: float
    bad3: float
    density: float
    """Percent of the true pixels that had a value."""
    seconds: float = 0.0
    """Processor time."""


def score(disparity: Map, truth: Map, *, where: Mask | None = None, seconds: float = 0.0) -> Score:
    """Compare with the truth on all pixels that have one.

    Args:
        disparity: [H, W] pixels, NaN = no value (counts as bad).
        truth: [H, W] pixels, NaN = unknown.
        where: [H, W] restrict to these pixels.
        seconds: stored along.

    Raises:
        ValueError: the shapes differ or no pixel has a truth.
    """
    if disparity.shape != truth.shape:
        raise ValueError(f"disparity and truth must have one shape, got {disparity.shape} and {truth.shape}.")
    known = np.isfinite(truth) if where is None else np.isfinite(truth) & where
    if not known.any():
        raise ValueError("no pixel has a true disparity.")
    given = np.isfinite(disparity[known])
    error = np.where(given, np.abs(np.where(given, disparity[known], 0) - truth[known]), MISSING_ERROR)
    bad1, bad2, bad3 = (100 * float((error > t).mean()) for t in (1, 2, 3))
    return Score(float(error.mean()), bad1, bad2, bad3, 100 * float(given.mean()), seconds)


def baseline(left: Any, right: Any, search: DisparityRange) -> Map:
    """OpenCV's SGBM with eight directions on colour, its own uniqueness test, and background fill: what most scripts do.

    Args:
        left, right: [H, W, 3] uint8. search: disparities to look at.
    """
    found = match_one_way(left, right, search, SgmConfig(full=True, uniqueness=10, left_right=1))
    return background_fill(found, np.isfinite(found))


def baseline_3way(left: Any, right: Any, search: DisparityRange) -> Map:
    """The same with three directions on grey, which is faster and often better."""
    found = match_one_way(grey8(left), grey8(right), search, SgmConfig(uniqueness=10, left_right=1))
    return background_fill(found, np.isfinite(found))


@dataclass(frozen=True)
class PairScores:
    """All methods on one pair."""

    name: str
    width: int
    height: int
    search: tuple[int, int]
    """Estimated range of disparities, the same for every method; the truth does not enter."""
    scores: dict[str, Score]
    """Over all pixels with a truth."""
    box: dict[str, Score]
    """Inside the box of the stale prior."""
    occlusion: dict[str, float]
    """Precision and recall of the occlusion mask without a prior, where the right view's truth is known."""


def evaluate_pair(pair: StereoPair, *, seed: int = 0, config: StereoConfig | None = None) -> PairScores:
    """Run every method on one pair.

    Args:
        pair: photos and truth.
        seed: of the distortion of the prior.
        config: settings of our methods.
    """
    greys = grey8(pair.left), grey8(pair.right)
    search = estimate_range(*greys, find_matches(*greys))
    prior = distorted_truth(pair.truth, seed=seed)
    stale, box = stale_box(prior)
    scores: dict[str, Score] = {}
    inside: dict[str, Score] = {}
    maps: dict[str, StereoResult] = {}

    def ours(**given: Any) -> Callable[[], Map]:
        def work() -> Map:
            result = match_stereo(pair.left, pair.right, config=config, **given)
            maps.setdefault("first", result)
            return result.disparity

        return work

    runs: dict[str, Callable[[], Map]] = {
        BASELINE: lambda: baseline(pair.left, pair.right, search), BASELINE_3WAY: lambda: baseline_3way(pair.left, pair.right, search),
        NO_PRIOR: ours(), WITH_PRIOR: ours(prior=prior), STALE: ours(prior=stale),
    }
    for name, work in runs.items():
        start = time.process_time()
        disparity = work()
        seconds = time.process_time() - start
        scores[name] = score(disparity, pair.truth, seconds=seconds)
        if (box & np.isfinite(pair.truth)).any():
            inside[name] = score(disparity, pair.truth, where=box)
    occlusion = _occlusion_scores(maps["first"].occlusion, pair)
    height, width = pair.truth.shape
    return PairScores(pair.name, width, height, (search.low, search.high), scores, inside, occlusion)


def true_occlusion(truth: Map, truth_right: Map) -> tuple[Mask, Mask]:
    """Occluded pixels of the left view and where that is known, from the truth of both views.

    Args:
        truth, truth_right: [H, W] pixels, NaN where unknown.
    """
    width = truth.shape[1]
    known = np.isfinite(truth)
    column = np.rint(np.arange(width)[None] - np.where(known, truth, 0)).astype(int)
    outside = column < 0
    there = np.take_along_axis(truth_right, column.clip(0, width - 1), axis=1)
    with np.errstate(invalid="ignore"):
        hidden = there > truth + 1.5
    return known & (outside | hidden), known & (outside | np.isfinite(there))


def _occlusion_scores(mask: Mask, pair: StereoPair) -> dict[str, float]:
    if pair.truth_right is None:
        return {}
    truth, known = true_occlusion(pair.truth, pair.truth_right)
    hits = float((mask & truth & known).sum())
    return {"precision": hits / max(1.0, float((mask & known).sum())), "recall": hits / max(1.0, float((truth & known).sum()))}


@dataclass(frozen=True)
class Evaluation:
    """All pairs."""

    pairs: tuple[PairScores, ...]

    def mean(self, method: str, *, box: bool = False) -> Score:
        """Mean over the pairs of a method's scores."""
        rows = [asdict((p.box if box else p.scores)[method]) for p in self.pairs if method in (p.box if box else p.scores)]
        return Score(**{k: float(np.mean([r[k] for r in rows])) for k in rows[0]})

    def to_json(self) -> dict[str, Any]:
        """Plain numbers for a JSON file."""
        means = {m: asdict(self.mean(m)) for m in METHODS}
        boxes = {m: asdict(self.mean(m, box=True)) for m in METHODS if any(m in p.box for p in self.pairs)}
        return {"pairs": [asdict(p) for p in self.pairs], "mean": means, "mean_in_box": boxes}

    def rows(self) -> list[tuple[str, ...]]:
        """A table: header first, then each pair and method, then the means, then the means inside of the box."""
        table: list[tuple[str, ...]] = [("pair", "method", "EPE", "bad1 %", "bad2 %", "bad3 %", "density %", "CPU s")]
        for pair in self.pairs:
            table += [_row(f"{pair.name} {pair.width}x{pair.height}", m, s) for m, s in pair.scores.items()]
        table += [_row("mean", m, self.mean(m)) for m in METHODS]
        if any(p.box for p in self.pairs):
            table += [_row("mean inside the stale box", m, self.mean(m, box=True)) for m in METHODS]
        return table


def _row(name: str, method: str, s: Score) -> tuple[str, ...]:
    return (name, method, f"{s.epe:.2f}", f"{s.bad1:.1f}", f"{s.bad2:.2f}", f"{s.bad3:.2f}", f"{s.density:.1f}", f"{s.seconds:.2f}")


def evaluate_folders(
    root: Path | str, *, names: Sequence[str] = (), config: StereoConfig | None = None, progress: Progress = silent
) -> Evaluation:
    """Evaluate every pair below a folder.

    Args:
        root: see `find_pairs`. names: only these folders. config: settings of our methods. progress: reports.

    Raises:
        InputError, FormatError: see `find_pairs` and `read_pair`.
    """
    folders = [p for p in find_pairs(root) if not names or p.name in names]
    if not folders:
        raise InputError(f"{root}: holds no pair called {', '.join(names)}. Check the names.")
    done = []
    for index, folder in enumerate(folders):
        done.append(evaluate_pair(read_pair(folder), seed=index, config=config))
        progress(ProgressEvent("depth", index + 1, len(folders), f"measured {folder.name}"))
    return Evaluation(tuple(done))
