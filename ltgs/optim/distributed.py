"""Several processes that train one scene: each renders its share of a step's photos, and gradients are added up.

Every process holds all Gaussians and makes the same random choices, so that only gradients, growth statistics and losses are
exchanged. `ltgs.optim.together` has the part that starts such processes and hands them their work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of a training run, seen from one of them."""

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that this process works on: every `size`-th one."""
        return items[self.rank :: self.size]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, which all pass the same shapes; the same bits in each of them."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)


ALONE = Group()


def current_group() -> Group:
    """The processes of torch's default process group; ALONE without one."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    return Group(dist.get_rank(), dist.get_world_size())
