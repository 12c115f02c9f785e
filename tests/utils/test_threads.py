"""How many threads a process takes that was not told."""

from __future__ import annotations

import os

import pytest

from fedmm.utils import parallel


@pytest.mark.parametrize(
    ("said", "taken"),
    [("", 8), ("1", 1), ("3", 3), (" 2 ", 2), ("64", 8), ("4,2", 4), ("0", 8), ("-1", 8), ("many", 8)],
)
def test_as_many_as_the_environment_allows(said: str, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    asked: list[int] = []
    monkeypatch.setattr(parallel.torch, "set_num_threads", asked.append)
    assert parallel.usable_threads() == taken
    parallel.set_threads(0)
    parallel.set_threads(5)
    assert asked == [taken, 5]
