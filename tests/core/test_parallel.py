"""Independent pieces of work: their order, their threads, and what is left as it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import helpers
import pytest
import torch

from ltgs.core.parallel import in_parallel


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many threads torch may use in a test, and whether it may use as many afterwards."""
    with helpers.threads(request.param):
        yield request.param
        assert torch.get_num_threads() == request.param


def test_results_come_in_order_whatever_the_number_of_threads() -> None:
    def work(k: int) -> tuple[int, float, bool]:
        x = torch.full((64, 64), float(k), requires_grad=True)
        (x @ x).sum().backward()
        assert x.grad is not None
        return torch.get_num_threads(), float(x.grad[0, 0]), torch.is_grad_enabled()

    assert in_parallel(work, []) == []
    with torch.no_grad():
        assert in_parallel(work, range(1, 7)) == [(1, 128.0 * k, True) for k in range(1, 7)]


def test_pieces_run_at_the_same_time(threads: int) -> None:
    if threads < 2:
        pytest.skip("needs two threads")
    both = threading.Barrier(2, timeout=30)
    assert sorted(in_parallel(lambda _: both.wait(), range(2))) == [0, 1], "both arrived"


def test_a_failure_is_raised_and_the_rest_is_left_out(threads: int) -> None:
    begun = []

    def work(k: int) -> None:
        begun.append(k)
        if k == 0:
            raise ValueError("no")
        time.sleep(0.002)

    with pytest.raises(ValueError, match="no"):
        in_parallel(work, range(1000))
    assert len(begun) < 1000
