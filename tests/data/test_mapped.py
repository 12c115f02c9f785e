"""Histories that are a file: read alike, and no pages of it are kept."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedmm.data.mapped import let_go
from fedmm.data.types import Ragged
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.rounds import ServerState, run_round
from fedmm.verification.world import histories, make_federation, make_local

SIZE = 2**20  # numbers: 8 MB


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.arange(SIZE).tofile(tmp_path / "items.bin")
    return tmp_path / "items.bin"


def resident(file: Path) -> int:
    """Bytes of the file that this process holds; skips where the system does not tell."""
    if not Path("/proc/self/smaps").exists():
        pytest.skip("no /proc/self/smaps")
    lines = Path("/proc/self/smaps").read_text(encoding="utf-8").partition(str(file))[2].splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))


VIEWS = {"map": lambda own: own, "array": np.asarray, "part": lambda own: np.asarray(own)[10:]}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_pages_that_were_read_go_back_and_are_read_again(file: Path, view) -> None:
    mapped = np.memmap(file, np.int64, "r")
    own = view(mapped)
    total = own.sum()
    assert resident(file) > 7_000_000
    let_go(own)
    assert resident(file) == 0
    assert own.sum() == total


def test_what_was_changed_in_memory_alone_stays(file: Path) -> None:
    private = np.memmap(file, np.int64, "c")
    private[5] = -1
    let_go(private, np.arange(3), np.arange(6)[2:])
    assert private[5] == -1
    written = np.memmap(file, np.int64, "r+")
    written[6] = -2
    let_go(written)
    assert written[6] == -2
    assert np.fromfile(file, np.int64)[6] == -2


@pytest.mark.parametrize("aggregation", ["heat", "median"])
def test_a_round_over_mapped_histories_is_the_same_and_keeps_no_page(tmp_path: Path, aggregation: str) -> None:
    own = histories()
    own.values.tofile(tmp_path / "items.bin")
    mapped = Ragged(np.memmap(tmp_path / "items.bin", np.int64, "r"), own.offsets)
    found = []
    for train in (own, mapped):
        local, params = make_local(federation={"aggregation": aggregation}, train=train)
        after, _, _ = run_round(ServerState(params, {}, 0), NO_STATES, make_federation(local))
        found.append(after.params)
    assert all(torch.equal(found[1][name], value) for name, value in found[0].items())
    assert resident(tmp_path / "items.bin") == 0
