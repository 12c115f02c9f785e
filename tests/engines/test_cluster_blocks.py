"""What the engine cluster hands on and out, without Ray: whoever takes down who sent must not keep updates."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from fedmm.engines.cluster import MOST_JOBS, by_itself, groups
from fedmm.federation.local_training import UpdateBlock
from fedmm.verification.world import ENGINES, make_local

LARGE = {"deltas", "touched", "control_deltas"}  # added up at once
CASES = [
    {"local_algorithm": "scaffold"},
    {"num_negatives": 5},
]


def arrays(value: Any) -> list[Any]:
    """All arrays and tensors of a field, as arrays."""
    if isinstance(value, (tuple, dict)):
        return [own for part in (value.values() if isinstance(value, dict) else value) for own in arrays(part)]
    return [] if value is None else [value.numpy() if isinstance(value, torch.Tensor) else value]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_small_parts_of_a_block_share_no_memory_with_what_came(settings: dict[str, Any]) -> None:
    local, params = make_local({"personal_gate": True}, settings)
    came = next(ENGINES["vectorized"](local, params, local.windows.trainable, 1))
    block = replace(came, coded=np.ones((len(came.clients), 2), np.int64))
    own = by_itself(block)
    for name in {part.name for part in fields(UpdateBlock)} - LARGE:
        before, after = arrays(getattr(block, name)), arrays(getattr(own, name))
        assert len(before) == len(after), name
        for one, other in zip(before, after, strict=True):
            assert np.array_equal(one, other), name
            assert not np.shares_memory(one, other), name
    assert block.states
    assert (block.num_rows is None) == ("num_negatives" not in settings)
    assert all(own.deltas[name] is value for name, value in block.deltas.items())


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_jobs_are_handed_out_in_order_few_at_a_time_at_first(workers: int) -> None:
    for number in (0, 1, 2 * workers, 2 * workers + 1, 500):
        handed = list(groups(iter(range(number)), workers))
        assert [job for several in handed for job in several] == list(range(number))
        sizes = [len(several) for several in handed]
        assert all(sizes)
        assert sizes[:-1] == sorted(sizes[:-1])
        assert sizes[: 2 * workers] == [1] * min(number, 2 * workers)
        assert max(sizes, default=0) == (MOST_JOBS if number == 500 else max(sizes, default=0))
    drawn: list[int] = []
    next(groups((drawn.append(job) for job in range(100)), workers))
    assert len(drawn) == 1  # the others are not taken before they are asked for
