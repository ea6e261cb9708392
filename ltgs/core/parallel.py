"""Independent pieces of work on all cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The result of every piece, in order; as many at once as torch may use threads, and each on one of them.

    Small images keep two cores busy in this way only: split among threads, each operation on them takes as long as on one.
    A piece has torch's defaults (gradients are on), and must not change what another one reads.

    Raises:
        Exception: what the first failing piece raised; pieces that had not begun are left out.
    """
    threads = torch.get_num_threads()
    if min(threads, len(items)) <= 1:
        with torch.enable_grad():
            return [work(item) for item in items]
    pool = ThreadPoolExecutor(min(threads, len(items)), initializer=torch.set_num_threads, initargs=(1,))
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what a worker sets holds for it, and for threads that begin later
