"""A world of a few kilobytes, and what all refusals have in common."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from test_bad_settings import assert_refused

NUM_USERS, NUM_ITEMS = 16, 30
TINY = (
    "--rounds", "2", "--hidden-dim", "8", "--num-blocks", "1", "--max-length", "8", "--threads", "1", "--no-tracking",
    "--set", "evaluation.bootstrap_samples=20", "--set", "evaluation.cutoffs=5,10",
)  # fmt: skip
TORN = (".new", ".old", ".gone", ".writable")  # endings of what is only there while something is written


def rows(num_users: int = NUM_USERS, num_items: int = NUM_ITEMS, seed: int = 0) -> list[tuple[str, str, int, int]]:
    """(user, item, rating, timestamp) of users u0, u1, ... with 6 to 10 of the items i0, i1, ..., each item in use."""
    stream = np.random.default_rng(seed)
    drawn = []
    for user in range(num_users):
        own = stream.permutation(num_items)[: 6 + user % 5]
        drawn += [(user, int(item), place) for place, item in enumerate(own)]
    met = {item for _, item, _ in drawn}
    drawn += [(0, item, 20 + item) for item in range(num_items) if item not in met]
    return [(f"u{u}", f"i{i}", int(stream.integers(1, 6)), 10**9 + 100 * place + u) for u, i, place in drawn]


def csv(table: Sequence[Sequence[Any]], header: str = "user,item,rating,timestamp", delimiter: str = ",") -> bytes:
    """The rows as delimited text."""
    lines = [header] if header else []
    return "".join(f"{line}\n" for line in [*lines, *(delimiter.join(map(str, row)) for row in table)]).encode()


def held(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below ``folder`` with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def assert_fails(
    run: Callable[..., Any], arguments: Sequence[str], value: str, remedy: str = "", *, code: str, exit_code: int = 2
) -> None:
    """Once in words and once with ``--json``: the exit code, one line with ``value``, a remedy, no traceback."""
    ended = run(*arguments)
    assert ended.code == exit_code, ended
    assert_refused(dataclasses.replace(ended, code=2), value)
    assert remedy in ended.stderr.splitlines()[-1]
    ended = run(*arguments, "--json")
    assert ended.code == exit_code
    failure = json.loads(ended.stdout)
    assert failure.keys() == {"version", "status", "error"}
    assert failure["status"] == "failed"
    assert failure["error"]["code"] == code
    assert value in failure["error"]["message"]
    assert remedy in failure["error"]["remedy"]
    assert not failure["error"]["message"].startswith("This is a bug")


def torn(folder: Path) -> list[str]:
    """Names of half-written things below ``folder``."""
    return [str(path) for path in folder.rglob(".*") if path.name.endswith(TORN)]
