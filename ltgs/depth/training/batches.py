"""Batches for training: generated pairs, or crops of photographs. Every batch is a function of the seed and its number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from ltgs.depth.fill import background_fill
from ltgs.depth.net.model import MonoPrior
from ltgs.depth.sgm import match_both_ways
from ltgs.depth.synth.generator import SynthConfig, SynthSample, make_sample
from ltgs.depth.training.augment import augmented_crop
from ltgs.depth.training.config import Data
from ltgs.depth.training.datasets import PairFiles, find_pairs, read_pair
from ltgs.depth.types import DisparityRange


@dataclass(frozen=True)
class Batch:
    """Pairs of equal size."""

    left: Tensor
    """[B, 3, H, W] 0..255."""
    right: Tensor
    disparity: Tensor
    """[B, 1, H, W] pixels; 0 where not valid."""
    valid: Tensor
    """[B, 1, H, W] bool."""
    prior: MonoPrior | None = None
    matches: tuple[Tensor, Tensor] | None = None
    """Filled disparity of semi-global matching [B, 1, H, W], and [B, 1, H, W] bool where it was measured."""

    def to(self, device: torch.device) -> Batch:
        """On another device."""
        prior = self.prior
        if prior is not None:
            prior = replace(prior, inverse_depth=prior.inverse_depth.to(device))
        matches = None if self.matches is None else (self.matches[0].to(device), self.matches[1].to(device))
        return Batch(self.left.to(device), self.right.to(device), self.disparity.to(device), self.valid.to(device), prior, matches)


BatchSource = Callable[[int, int], Batch]
"""Batch of a size with a number."""


def stack_samples(samples: list[SynthSample], *, with_prior: bool) -> Batch:
    """A batch of generated pairs; truth is known everywhere."""
    disparity = torch.stack([s.disparity for s in samples])
    prior = MonoPrior(torch.stack([s.prior for s in samples])) if with_prior else None
    return Batch(
        torch.stack([s.left for s in samples]), torch.stack([s.right for s in samples]), disparity,
        torch.ones_like(disparity, dtype=torch.bool), prior,
    )


def semi_global_matches(batch: Batch) -> Batch:
    """The batch with semi-global matches of its images, searched over the first third of the width."""
    search = DisparityRange(0, max(16, batch.left.shape[-1] // 3))
    maps, measured = [], []
    for left, right in zip(batch.left, batch.right, strict=True):
        views = [cv2.cvtColor(x.permute(1, 2, 0).cpu().numpy().astype(np.uint8), cv2.COLOR_RGB2GRAY) for x in (left, right)]
        both = match_both_ways(views[0], views[1], search)
        filled = background_fill(both.left, both.consistent) if both.consistent.any() else np.zeros_like(both.left)
        maps.append(torch.from_numpy(filled.astype(np.float32)))
        measured.append(torch.from_numpy(both.consistent))
    return replace(batch, matches=(torch.stack(maps)[:, None], torch.stack(measured)[:, None]))


class SyntheticBatches:
    """Generated pairs, new ones for every number or a pool that is used again."""

    def __init__(self, data: Data, seed: int, device: torch.device) -> None:
        self._with_prior, self._pool = data.prior == "simulated", data.pool
        height, width = data.crop
        self._config = SynthConfig(width, height, supersample=data.supersample, faults=data.faults)
        self._seed, self._device = seed, device
        self._kept: dict[int, SynthSample] = {}

    def __call__(self, number: int, size: int) -> Batch:
        first = number * size
        return stack_samples([self._sample(first + i) for i in range(size)], with_prior=self._with_prior)

    def _sample(self, number: int) -> SynthSample:
        if not self._pool:
            return make_sample(self._config, self._seed, number, device=self._device)
        number %= self._pool
        if number not in self._kept:
            self._kept[number] = make_sample(self._config, self._seed, number, device=self._device)
        return self._kept[number]


class PhotoBatches:
    """Augmented crops of a data set on disk, every pair once per round in a shuffled order."""

    def __init__(self, data: Data, seed: int) -> None:
        self._data, self._seed = data, seed
        self._pairs: list[PairFiles] = find_pairs(data.kind, data.root, data.variant)

    def __call__(self, number: int, size: int) -> Batch:
        crops = [self._crop(number * size + i) for i in range(size)]
        left, right, disparity, valid = (torch.stack([c[i] for c in crops]) for i in range(4))
        return Batch(left, right, disparity, valid)

    def _crop(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        turn, place = divmod(number, len(self._pairs))
        order = torch.randperm(len(self._pairs), generator=torch.Generator().manual_seed(self._seed * 1_000_003 + turn))
        pair = read_pair(self._pairs[int(order[place])])
        return augmented_crop(pair, self._data.crop, self._data.augmentation, self._seed, number)


def make_source(data: Data, seed: int, device: torch.device, *, with_matches: bool = False) -> BatchSource:
    """The configured source; `with_matches` adds semi-global matches to every batch.

    Raises:
        InputError: the folder holds no pairs of the data set's layout.
    """
    source: BatchSource = SyntheticBatches(data, seed, device) if data.kind == "synthetic" else PhotoBatches(data, seed)
    return (lambda number, size: semi_global_matches(source(number, size))) if with_matches else source
