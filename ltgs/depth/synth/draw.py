"""Reproducible random numbers for scenes: the same seed gives the same scene on every device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Draw:
    """Random numbers from one seed, made on the processor."""

    def __init__(self, *seed: int) -> None:
        """Seeds are combined, e.g. (run, sample)."""
        mixed = 0
        for part in seed:
            mixed = (mixed * 6364136223846793005 + part + 1442695040888963407) % (1 << 63)
        self.generator = torch.Generator().manual_seed(mixed)

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def log_uniform(self, low: float, high: float) -> float:
        """A number whose logarithm is uniform."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high)."""
        return int(torch.randint(low, high, (), generator=self.generator))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform(0, 1) < probability

    def choice(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of the options."""
        chosen = torch.multinomial(torch.tensor(weights or [1.0] * len(options)), 1, generator=self.generator)
        return options[int(chosen)]

    def tensor(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return torch.rand(shape, generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator)

    def rotation(self) -> Tensor:
        """[3, 3] rotation, uniform over all (QR of a Gaussian matrix)."""
        q, r = torch.linalg.qr(self.normal(3, 3))
        q = q * r.diagonal().sign()
        return q if torch.linalg.det(q) > 0 else q * torch.tensor([1.0, 1.0, -1.0])
