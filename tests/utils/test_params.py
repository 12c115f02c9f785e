"""The algebra of parameter dicts: leaf by leaf what torch does, and never a change to an argument."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.utils import params as algebra
from fedmm.utils.seeding import torch_stream

SHAPES = {"table": (4, 3), "gate": (), "bias": (2,)}


def tree(seed: int, shapes=SHAPES):
    stream = torch_stream(seed, "tree")
    return {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in shapes.items()}


def same(left, right):
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_leaves_obey_the_laws_of_addition(a, b):
    left, right = tree(a), tree(b)
    nothing = algebra.zeros_like(left)
    assert same(algebra.subtract(left, nothing), left)
    assert same(algebra.subtract(left, left), nothing)
    assert same(algebra.negate(algebra.negate(left)), left)
    assert same(algebra.subtract(left, right), algebra.negate(algebra.subtract(right, left)))
    back = algebra.combine(torch.add, algebra.subtract(left, right), right)
    for name in left:
        torch.testing.assert_close(back[name], left[name])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_expanding_and_stacking_give_every_client_the_same_numbers(seed, num_clients):
    own = tree(seed)
    for spread in (algebra.expand_for_clients, algebra.stack_for_clients):
        stacked = spread(own, num_clients)
        assert list(stacked) == list(own)
        for client in range(num_clients):
            assert same({name: value[client] for name, value in stacked.items()}, own)
        norms = algebra.client_norms(stacked)
        torch.testing.assert_close(norms, algebra.norm(own).double().expand(num_clients))
        assert algebra.num_parameters(stacked) == num_clients * algebra.num_parameters(own)


def test_stacked_leaves_have_memory_of_their_own_and_expanded_ones_share():
    own = tree(0)
    stacked, expanded = algebra.stack_for_clients(own, 2), algebra.expand_for_clients(own, 2)
    for name, value in own.items():
        assert expanded[name].data_ptr() == value.data_ptr()
        stacked[name][1] += 1.0
        assert torch.equal(stacked[name][0], value)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.floats(-4, 4))
def test_norm_is_that_of_all_numbers_in_a_row(seed, factor):
    own = tree(seed)
    flat = torch.cat([value.flatten() for value in own.values()])
    assert float(algebra.norm(own)) == pytest.approx(float(flat.norm()))
    scaled = {name: factor * value for name, value in own.items()}
    assert float(algebra.norm(scaled)) == pytest.approx(abs(factor) * float(flat.norm()))
    assert algebra.num_parameters(own) == len(flat) == sum(math.prod(shape) for shape in SHAPES.values())


def test_norm_of_nothing_is_zero():
    assert float(algebra.norm({})) == 0.0
    assert algebra.num_parameters({}) == 0


@settings(deadline=None)
@given(st.sets(st.sampled_from([*SHAPES, "unknown"])))
def test_select_keeps_the_dicts_order_and_ignores_unknown_names(names):
    own = tree(0)
    chosen = algebra.select(own, names)
    assert list(chosen) == [name for name in SHAPES if name in names]
    assert all(chosen[name] is own[name] for name in chosen)


def test_arguments_stay_as_they_are():
    left, right = tree(0), tree(1)
    before = copy.deepcopy((left, right))
    algebra.subtract(left, right)
    algebra.negate(left)
    algebra.zeros_like(left)
    algebra.combine(lambda a, b: a * b, left, right)
    algebra.stack_for_clients(left, 3)["table"].add_(1.0)
    algebra.select(left, ["gate"])
    algebra.norm(left)
    assert same(left, before[0])
    assert same(right, before[1])
