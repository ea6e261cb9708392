"""Descriptor matching and the choice of photo pairs worth matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.progress import Progress, ProgressEvent, silent
from ltgs.poses.features import PhotoFeatures, load_arrays, save_arrays

Matches = NDArray[np.uint32]


@dataclass(frozen=True)
class MatchConfig:
    """Which photos are compared, and when two keypoints are the same."""

    max_ratio: float = 0.8
    """Nearest over second-nearest descriptor distance (Lowe 2004; COLMAP's default)."""
    max_angle_rad: float = 0.7
    """Angle between matched descriptors, radians; COLMAP's default."""
    exhaustive_up_to: int = 20
    """Photos up to which every pair is matched; above it only the neighbours that a quick comparison finds."""
    neighbours: int = 16
    """Neighbours matched per photo above that number. Measured: 50 photos register alike with 8, 16 and all 49."""
    sequence_neighbours: int = 2
    """Photos before and after in the list that are always matched, because captures are walks."""
    preview_keypoints: int = 256
    """Largest keypoints used in the quick comparison (preemptive matching, Wu, 3DV 2013)."""


def unit_descriptors(descriptors: NDArray[np.uint8]) -> Tensor:
    """[N, 128] bytes -> float32 rows of unit length."""
    rows = torch.from_numpy(np.ascontiguousarray(descriptors)).float()
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-6)


def match_descriptors(first: Tensor, second: Tensor, *, max_ratio: float, max_angle_rad: float) -> Matches:
    """Mutual nearest neighbours that pass the ratio test.

    Args:
        first, second: [N, 128] and [M, 128] rows of unit length.
        max_ratio, max_angle_rad: see MatchConfig.

    Returns:
        [K, 2] indices into both, in order of the first.
    """
    if len(first) < 1 or len(second) < 2:
        return np.zeros((0, 2), np.uint32)
    similarity = first @ second.T
    best, nearest = similarity.max(dim=1)
    rows = torch.arange(len(first))
    similarity[rows, nearest] = -2.0
    runner_up = similarity.max(dim=1).values
    similarity[rows, nearest] = best
    # For unit vectors the squared distance is 2 - 2 s.
    good = (1 - best) < max_ratio**2 * (1 - runner_up)
    good &= best >= np.cos(max_angle_rad)
    candidates = good.nonzero()[:, 0]
    columns = nearest[candidates]
    mutual = similarity.index_select(1, columns).max(dim=0).values <= best[candidates]
    return torch.stack([candidates[mutual], columns[mutual]], 1).numpy().astype(np.uint32)


def preview_indices(size: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The `count` largest keypoints, which are the most repeatable ones across viewpoints."""
    return np.argsort(-size, kind="stable")[:count]


def preview_scores(query: Tensor, stack: Tensor, *, max_ratio: float = 0.85) -> NDArray[np.int64]:
    """Ratio-test survivors of a few query descriptors in every photo of a stack.

    Args:
        query: [Q, 128] unit rows. stack: [C, P, 128] unit rows, zero-padded.

    Returns:
        [C] counts; more means more overlap.
    """
    c, p, d = stack.shape
    if c == 0 or len(query) == 0:
        return np.zeros(c, np.int64)
    if p < 2:
        return np.zeros(c, np.int64)
    similarity = (query @ stack.reshape(c * p, d).T).reshape(len(query), c, p)
    best, runner_up = similarity.topk(2, dim=2).values.unbind(2)
    good = ((1 - best) < max_ratio**2 * (1 - runner_up)) & (best > 0.8)
    return good.sum(0).numpy()


def nearest_photos(query: Tensor, stack: Tensor, count: int, *, shortlist: int, coarse: int = 64) -> NDArray[np.int64]:
    """Photos of a stack that look most like a query, best first.

    Of stacks longer than `shortlist` a comparison of the `coarse` largest keypoints, which costs a sixteenth, chooses the photos
    that are compared in full, so that the cost per query hardly grows with the stack.

    Args:
        query: [Q, 128] unit rows, largest keypoints first. stack: [C, P, 128] as from `preview_stack`.

    Returns:
        at most `count` indices into the stack.
    """
    kept = np.arange(len(stack))
    if len(stack) > shortlist:
        # Their first rows are the largest keypoints; more of them must agree by chance, so the ratio test is left as it is.
        first = preview_scores(query[:coarse], stack[:, :coarse].contiguous())
        kept = np.sort(np.argsort(-first, kind="stable")[:shortlist])
    scores = preview_scores(query, stack[torch.from_numpy(kept)] if len(kept) < len(stack) else stack)
    return kept[np.argsort(-scores, kind="stable")[:count]]


def preview_stack(features: Sequence[tuple[NDArray[np.uint8], NDArray[np.float32]]], count: int) -> Tensor:
    """Stack the `count` largest keypoints' descriptors of each (descriptors, size) as [C, count, 128], zero-padded."""
    out = torch.zeros(len(features), count, 128)
    for i, (descriptors, size) in enumerate(features):
        rows = unit_descriptors(descriptors[preview_indices(size, count)])
        out[i, : len(rows)] = rows
    return out


def choose_pairs(names: Sequence[str], features: Mapping[str, PhotoFeatures], config: MatchConfig) -> list[tuple[int, int]]:
    """Pairs (i < j) of positions in `names` to match, sorted."""
    n = len(names)
    if n <= config.exhaustive_up_to:
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    stack = preview_stack([(features[x].descriptors, features[x].size) for x in names], config.preview_keypoints)
    scores = np.stack([preview_scores(stack[i], stack) for i in range(n)])
    scores = scores + scores.T
    np.fill_diagonal(scores, -1)
    pairs: set[tuple[int, int]] = set()
    for i in range(n):
        close = np.argsort(-scores[i], kind="stable")[: config.neighbours]
        walk = range(max(0, i - config.sequence_neighbours), min(n, i + config.sequence_neighbours + 1))
        pairs.update((min(i, int(j)), max(i, int(j))) for j in [*close, *walk] if j != i)
    return sorted(pairs)


def match_pairs(
    names: Sequence[str], features: Mapping[str, PhotoFeatures], pairs: Sequence[tuple[int, int]], cache: Path,
    config: MatchConfig, *, progress: Progress = silent,
) -> dict[tuple[int, int], Matches]:
    """Match every pair; rows of pairs with the same first photo are cached as one file, so a killed run continues."""
    by_first: dict[int, list[int]] = {}
    for i, j in pairs:
        by_first.setdefault(i, []).append(j)
    rows = {k: unit_descriptors(features[names[k]].descriptors) for k in {k for pair in pairs for k in pair}}
    matches: dict[tuple[int, int], Matches] = {}
    for i, others in by_first.items():
        path = cache / f"row_{i:05d}.npz"
        stored = load_arrays(path)
        if stored is None or set(stored) != {f"to_{j}" for j in others}:
            stored = {
                f"to_{j}": match_descriptors(
                    rows[i], rows[j], max_ratio=config.max_ratio, max_angle_rad=config.max_angle_rad
                )
                for j in others
            }
            save_arrays(path, stored)
        matches.update({(i, j): stored[f"to_{j}"] for j in others})
        progress(ProgressEvent("poses", len(matches), len(pairs), f"matching {names[i]}"))
    return matches
