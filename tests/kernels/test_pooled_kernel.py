"""The compiled pooled queries against the expert's own text in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedmm.kernels.build import library
from fedmm.kernels.pooling import fits, queries
from fedmm.models.experts.pooled import pooled_queries
from fedmm.models.features import FeatureTable

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C compiler here")
NUM_ITEMS = 30
NAMES = ("decay_logit", "projection.weight", "norm.weight", "norm.bias")


Drawn = tuple[Tensor, Tensor, FeatureTable, dict[str, Tensor], int]


def drawn(lengths: list[list[int]], width: int, inner: int, seed: int) -> Drawn:
    g = torch.Generator().manual_seed(seed)
    C, B, L = len(lengths), max(map(len, lengths)), max(max(own) for own in lengths)
    items = torch.zeros(C, B, L, dtype=torch.int64)
    for c, own in enumerate(lengths):
        for b, length in enumerate(own):
            items[c, b, :length] = torch.randint(1, NUM_ITEMS, (length,), generator=g)
    present = torch.rand(NUM_ITEMS, generator=g) < 0.7
    present[0] = False
    values = torch.randn(NUM_ITEMS, width, generator=g) * present.unsqueeze(1)
    flat = (items > 0).flatten(1)
    num_rows = int(flat.sum(1).max())
    rows = torch.argsort((~flat).int(), dim=1, stable=True)[:, :num_rows]
    params = {
        "x.decay_logit": torch.randn(C, generator=g) * 2,
        "x.projection.weight": torch.randn(C, inner, width, generator=g) / width**0.5,
        "x.norm.weight": 1 + torch.randn(C, inner, generator=g) / 4,
        "x.norm.bias": torch.randn(C, inner, generator=g) / 4,
    }
    return items, rows, FeatureTable(values, present), params, num_rows


def compiled(
    items: Tensor, table: FeatureTable, params: dict[str, Tensor], num_rows: int, incoming: Tensor
) -> tuple[Tensor, list[Tensor]]:
    own = [params[f"x.{name}"].clone().requires_grad_() for name in NAMES]
    found = queries(
        items,
        num_rows,
        table.values,
        table.present,
        torch.sigmoid(own[0]),
        *own[1:],
        lambda name, shape: torch.full(tuple(shape), torch.nan),
    )
    return found.detach(), list(torch.autograd.grad(found, own, incoming))


def is_close(found: Tensor, wanted: Tensor, least: float = 0.1) -> bool:
    """Within float32's rounding of numbers of the size ``wanted``, or ``least``."""
    return bool((found.double() - wanted).abs().max() <= 2e-5 * max(float(wanted.abs().max()), least))


SUMMED = (2.0, 0.1, 0.1, 0.1)  # by ``NAMES``: the slope by the decay sums thousands of terms, which may leave little


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=3), min_size=1, max_size=3),
    st.sampled_from((16, 48, 64)),
    st.sampled_from((16, 32, 64)),
    st.integers(0, 2**31),
)
def test_queries_and_derivatives_are_those_of_the_expert(
    lengths: list[list[int]], width: int, inner: int, seed: int
) -> None:
    items, rows, table, params, num_rows = drawn(lengths, width, inner, seed)
    real = torch.arange(num_rows) < (items > 0).flatten(1).sum(1, keepdim=True)
    incoming = torch.randn(*rows.shape, width, generator=torch.Generator().manual_seed(seed)) * real.unsqueeze(2)
    double = {name: value.double().requires_grad_() for name, value in params.items()}
    exact = FeatureTable(table.values.double(), table.present)
    wanted = pooled_queries(double, "x", exact, items, rows)
    slopes = torch.autograd.grad(wanted, [double[f"x.{name}"] for name in NAMES], incoming.double())
    got, found = compiled(items, table, params, num_rows, incoming)
    assert is_close(got, wanted.detach() * real.unsqueeze(2))
    assert all(is_close(one, other, least) for one, other, least in zip(found, slopes, SUMMED, strict=True))


def test_a_clients_bits_do_not_depend_on_its_block() -> None:
    items, rows, table, params, num_rows = drawn([[9, 4], [3], [7, 7]], 32, 16, 1)
    incoming = torch.randn(*rows.shape, 32, generator=torch.Generator().manual_seed(1))
    got, found = compiled(items, table, params, num_rows, incoming)
    for c in range(3):
        own = {name: value[c : c + 1] for name, value in params.items()}
        alone, slopes = compiled(items[c : c + 1], table, own, num_rows, incoming[c : c + 1])
        assert torch.equal(alone[0], got[c])
        assert all(torch.equal(one[0], other[c]) for one, other in zip(slopes, found, strict=True))


def test_catalogues_of_each_clients_own_are_no_others_business() -> None:
    """The same features under other numbers give the same bits."""
    items, rows, table, params, num_rows = drawn([[9, 4], [3], [7, 7]], 32, 16, 1)
    incoming = torch.randn(*rows.shape, 32, generator=torch.Generator().manual_seed(1))
    orders = torch.stack([torch.cat([torch.zeros(1, dtype=torch.long), torch.randperm(29) + 1]) for _ in range(3)])
    own = FeatureTable(table.values[orders], table.present[orders])
    renamed = orders.argsort(1).gather(1, items.flatten(1)).view(items.shape)
    got, wanted = (compiled(*given, params, num_rows, incoming) for given in ((renamed, own), (items, table)))
    assert torch.equal(got[0], wanted[0])
    assert all(torch.equal(one, other) for one, other in zip(got[1], wanted[1], strict=True))


def test_what_the_kernel_takes() -> None:
    values, projection = torch.zeros(5, 32), torch.zeros(2, 16, 32)
    assert fits(values, projection)
    assert not fits(values.double(), projection.double())
    assert fits(values.expand(2, 5, 32), projection)
    assert not fits(values[:, :20], projection[..., :20])
