"""Named streams: a draw is a function of the seed and the names of what it is for, and of nothing else."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedmm.utils.seeding import derive, numpy_stream, torch_stream

KNOWN = [4246866556266386882, 1217749091958306553, 3348832899763608801]
words = st.text(st.characters(exclude_categories=["C"]), max_size=6)
names = st.lists(st.one_of(st.integers(0, 10**6), words), max_size=3).map(tuple)
seeds = st.integers(0, 2**63)


def numpy_draw(seed, *name):
    return numpy_stream(seed, *name).integers(0, 2**62, 8)


def torch_draw(seed, *name):
    return torch.randint(0, 2**62, (8,), generator=torch_stream(seed, *name)).numpy()


DRAWS = pytest.mark.parametrize("draw", [numpy_draw, torch_draw])


@settings(deadline=None)
@given(seeds, names)
def test_seeds_are_repeatable_and_fit_every_generator(seed, name):
    assert derive(seed, *name) == derive(seed, *name)
    assert 0 <= derive(seed, *name) < 2**63


@settings(deadline=None)
@given(seeds, names, seeds, names)
def test_another_seed_or_name_is_another_stream(seed, name, other_seed, other_name):
    # A number and its spelling are two names, and (a, b) is not (a b).
    assume((seed, *map(repr, name)) != (other_seed, *map(repr, other_name)))
    assert derive(seed, *name) != derive(other_seed, *other_name)


def test_numbers_and_their_spellings_and_groupings_are_apart():
    ways = [(), ("",), ("", ""), (1,), ("1",), (1, 2), (12,), ("1", "2"), ("12",), ("a", "b"), ("ab",), ("b", "a")]
    assert len({derive(0, *name) for name in ways}) == len(ways)
    assert len({derive(seed, "x") for seed in range(1000)}) == 1000
    assert len({derive(1, "x", place) for place in range(1000)}) == 1000


def test_seeds_are_the_same_on_every_machine_and_in_every_process():
    """Known answers: a stream that moved would silently change every published number."""
    known = [derive(0), derive(0, "cohort", 1), derive(7, "batches", 3, 5)]
    code = (
        "from fedmm.utils.seeding import derive; print(derive(0), derive(0, 'cohort', 1), derive(7, 'batches', 3, 5))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [int(value) for value in found] == known == KNOWN


@DRAWS
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), name=names)
def test_streams_do_not_feel_each_other_or_the_global_state(draw, seed, name):
    first = draw(seed, *name)
    np.random.default_rng(0).random()
    torch.manual_seed(seed % 1000)
    draw(seed, *name, "other")
    draw(seed + 1, *name)
    np.testing.assert_array_equal(draw(seed, *name), first)
    assert not np.array_equal(draw(seed, *name, "other"), first)
    assert not np.array_equal(draw(seed + 1, *name), first)


@DRAWS
def test_drawing_leaves_the_global_state_alone(draw):
    before = torch.get_rng_state()
    draw(0, "x")
    assert torch.equal(torch.get_rng_state(), before)


def test_streams_of_neighbouring_names_look_independent():
    """Correlation of 64 streams of 4,000 normal draws each: 5 standard errors, for a fixed seed."""
    draws = np.stack([numpy_stream(0, "dropout", 1, client).standard_normal(4000) for client in range(64)])
    correlation = np.corrcoef(draws) - np.eye(64)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    assert abs(draws.mean()) < 5 / np.sqrt(draws.size)
