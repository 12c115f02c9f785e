"""The compiled encoder against the backbone in float64: values, every derivative, and independence of the block."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.kernels import encoding
from fedmm.kernels.build import missing
from fedmm.models import sasrec
from fedmm.models.layers import Dropout, lookup, no_dropout
from fedmm.models.workspace import Workspace
from fedmm.utils.params import Params

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"no kernels: {missing()}")
ITEMS = 30
Derivatives = dict[str, Tensor]


class Masks:
    """Dropout by masks [sites, C, B, L, D] that are there already."""

    def __init__(self, masks: Tensor) -> None:
        self._left = list(masks)

    def __call__(self, x: Tensor) -> Tensor:
        return x * self._left.pop(0)


def model(heads: int, head: int, blocks: int, length: int) -> ModelConfig:
    return ModelConfig(hidden_dim=heads * head, num_heads=heads, num_blocks=blocks, max_length=length)


def stacked(config: ModelConfig, num_clients: int, generator: torch.Generator, *, shared: bool) -> Params:
    """Parameters in float64 but of float32's precision, none of them at its start."""
    own = sasrec.init_backbone(config, ITEMS, generator)
    params = {}
    for name, value in own.items():
        moved = value + 0.1 * torch.randn(num_clients, *value.shape, generator=generator, dtype=torch.float64)
        moved = moved.float().double()
        params[name] = moved[:1].expand_as(moved) if shared else moved
    return params


def histories(lengths: list[list[int]], generator: torch.Generator) -> Tensor:
    """Items [C, B, L] of those lengths."""
    longest = max(map(max, lengths))
    items = torch.randint(1, ITEMS, (len(lengths), len(lengths[0]), longest), generator=generator)
    return items * (torch.arange(longest) < torch.tensor(lengths).unsqueeze(-1))


def masks_of(config: ModelConfig, items: Tensor, generator: torch.Generator) -> Tensor:
    shape = (1 + 2 * config.num_blocks, *items.shape, config.hidden_dim)
    return (torch.rand(shape, generator=generator) > 0.3) / 0.7


def exact(
    config: ModelConfig, params: Params, items: Tensor, masks: Tensor | None, incoming: Tensor
) -> tuple[Tensor, Derivatives]:
    """States and derivatives in float64; of padding, zeros."""
    dropout: Dropout = no_dropout if masks is None else Masks(masks.double())
    embedded = lookup(params[sasrec.ITEM_TABLE], items).requires_grad_()
    leaves = {name: params[name].detach().clone().requires_grad_() for name in encoding.names_of(config)}
    real = (items != 0).unsqueeze(-1)
    hidden = sasrec.encode(leaves, items, config, dropout, embedded) * real
    found = torch.autograd.grad(hidden, [embedded, *leaves.values()], incoming.double())
    return hidden.detach(), dict(zip(["embedded", *leaves], found, strict=True))


def compiled(
    config: ModelConfig,
    params: Params,
    items: Tensor,
    masks: Tensor | None,
    incoming: Tensor,
    take: encoding.Take | None = None,
) -> tuple[Tensor, Derivatives]:
    """The same of the kernel, in float32, with client stride 0 where the parameters have it."""
    embedded = lookup(params[sasrec.ITEM_TABLE], items).float().requires_grad_()
    leaves = {}
    for name in encoding.names_of(config):
        value = params[name]
        narrow = value[:1].float().expand_as(value) if value.stride(0) == 0 else value.float()
        leaves[name] = narrow.detach().requires_grad_()
    hidden = encoding.encode(leaves, items, config, masks, embedded, take)
    found = torch.autograd.grad(hidden, [embedded, *leaves.values()], incoming)
    return hidden.detach(), dict(zip(["embedded", *leaves], found, strict=True))


def apart(got: Tensor, wanted: Tensor) -> float:
    """The norm of the difference, relative to the wanted one."""
    return float((got.double() - wanted).norm() / wanted.norm().clamp_min(1e-3))


@st.composite
def cases(draw: st.DrawFn) -> tuple[ModelConfig, list[list[int]], bool, bool, int]:
    """Heads of any width that come to a multiple of 16; some windows, and some whole clients, are padding."""
    head = draw(st.sampled_from([2, 8, 16, 20, 32, 48, 64]))
    heads = draw(st.sampled_from([1, 2, 3])) * (16 // math.gcd(16, head))
    windows = draw(st.integers(1, 3))
    lengths = st.lists(st.integers(0, 40), min_size=windows, max_size=windows)
    own = draw(st.lists(lengths, min_size=1, max_size=3))
    own[0][0] = max(own[0][0], 1)
    longest = max(map(max, own))
    config = model(heads, head, draw(st.integers(1, 3)), max(longest, 2) + draw(st.integers(0, 3)))
    return config, own, draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 1000))


@settings(max_examples=40, deadline=None)
@given(cases())
def test_states_and_derivatives_are_those_of_the_backbone(
    case: tuple[ModelConfig, list[list[int]], bool, bool, int],
) -> None:
    config, lengths, shared, drops, seed = case
    generator = torch.Generator().manual_seed(seed)
    items = histories(lengths, generator)
    params = stacked(config, len(lengths), generator, shared=shared)
    masks = masks_of(config, items, generator) if drops else None
    incoming = torch.randn(*items.shape, config.hidden_dim, generator=generator)
    wanted, slopes = exact(config, params, items, masks, incoming)
    got, found = compiled(config, params, items, masks, incoming)
    assert apart(got, wanted) < 3e-5
    assert not got[items == 0].any()
    assert not found["embedded"][items == 0].any()
    for name, slope in slopes.items():
        assert found[name].shape == slope.shape
        assert apart(found[name], slope) < 3e-5, name


@pytest.mark.parametrize("length", [63, 64, 65, 130, 200])
def test_long_windows(length: int) -> None:
    generator = torch.Generator().manual_seed(1)
    config = model(2, 32, 2, 200)
    items = histories([[length, 17], [1, 0]], generator)
    params = stacked(config, 2, generator, shared=False)
    masks = masks_of(config, items, generator)
    incoming = torch.randn(*items.shape, 64, generator=generator)
    wanted, slopes = exact(config, params, items, masks, incoming)
    got, found = compiled(config, params, items, masks, incoming)
    assert apart(got, wanted) < 3e-5
    assert max(apart(found[name], slope) for name, slope in slopes.items()) < 3e-5


def test_sharp_attention_neither_overflows_nor_loses_its_sums() -> None:
    generator = torch.Generator().manual_seed(2)
    config = model(2, 16, 1, 40)
    items = histories([[40]], generator)
    params = stacked(config, 1, generator, shared=False)
    for part in ("query", "key"):
        params[f"backbone.block0.{part}.weight"] = params[f"backbone.block0.{part}.weight"] * 40
    incoming = torch.randn(*items.shape, 32, generator=generator)
    wanted, slopes = exact(config, params, items, None, incoming)
    got, found = compiled(config, params, items, None, incoming)
    assert apart(got, wanted) < 1e-3
    assert all(bool(slope.isfinite().all()) for slope in found.values())
    assert apart(found["embedded"], slopes["embedded"]) < 1e-2


@pytest.mark.parametrize("head", [8, 32])
def test_padding_and_company_move_no_bit(head: int) -> None:
    generator = torch.Generator().manual_seed(3)
    config = model(2, head, 2, 30)
    lengths = [[30, 11, 4], [9, 25, 0], [13, 0, 0]]
    items = histories(lengths, generator)
    params = stacked(config, 3, generator, shared=False)
    masks = masks_of(config, items, generator)
    incoming = torch.randn(*items.shape, config.hidden_dim, generator=generator)
    hidden, slopes = compiled(config, params, items, masks, incoming)
    anything = incoming.where((items != 0).unsqueeze(-1), torch.tensor(math.nan))
    spoilt = masks.where((items != 0).unsqueeze(-1), torch.tensor(math.nan))
    again = compiled(config, params, items, spoilt, anything)[1]
    assert all(torch.equal(again[name], slope) for name, slope in slopes.items())
    for c, own in enumerate(lengths):
        B, L = sum(map(bool, own)), max(own)
        part = {name: value[c : c + 1] for name, value in params.items()}
        inside = (slice(c, c + 1), slice(0, B), slice(0, L))
        alone, own_slopes = compiled(config, part, items[inside], masks[(slice(None), *inside)], incoming[inside])
        assert torch.equal(alone, hidden[inside])
        assert torch.equal(own_slopes.pop("embedded"), slopes["embedded"][inside])
        assert all(torch.equal(slope, slopes[name][c : c + 1]) for name, slope in own_slopes.items())


def test_derivatives_that_nobody_asks_for_are_left_out() -> None:
    generator = torch.Generator().manual_seed(4)
    config = model(2, 8, 2, 9)
    items = histories([[9, 3]], generator)
    params = stacked(config, 1, generator, shared=False)
    incoming = torch.randn(*items.shape, 16, generator=generator)
    slopes = compiled(config, params, items, None, incoming)[1]
    names = encoding.names_of(config)
    for asked in ("embedded", *names):
        embedded = lookup(params[sasrec.ITEM_TABLE], items).float().requires_grad_(asked == "embedded")
        leaves = {name: params[name].float().requires_grad_(asked == name) for name in names}
        hidden = encoding.encode(leaves, items, config, None, embedded)
        (own,) = torch.autograd.grad(hidden, [embedded if asked == "embedded" else leaves[asked]], incoming)
        assert torch.equal(own, slopes[asked]), asked


def test_memory_that_was_used_before_moves_no_bit() -> None:
    generator = torch.Generator().manual_seed(5)
    config = model(2, 8, 1, 20)
    work, like = Workspace(), torch.zeros(1)

    def take(name: str, shape: Sequence[int]) -> Tensor:
        return work.take(name, [16 + math.prod(shape)], like)[16:].view(*shape)  # not where the memory begins

    for lengths in ([[20, 20], [20, 0]], [[3, 1]], [[20, 5], [1, 0]]):
        items = histories(lengths, generator)
        params = stacked(config, len(lengths), generator, shared=True)
        incoming = torch.randn(*items.shape, 16, generator=generator)
        wanted, slopes = compiled(config, params, items, None, incoming)
        got, found = compiled(config, params, items, None, incoming, take)
        assert torch.equal(got, wanted)
        assert all(torch.equal(found[name], slope) for name, slope in slopes.items())


@pytest.mark.parametrize("together", [1, 3, 32])
def test_many_windows_of_one_model_are_encoded_a_few_at_a_time(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "TOGETHER", together)
    generator = torch.Generator().manual_seed(8)
    config = model(2, 16, 2, 9)
    params = stacked(config, 1, generator, shared=False)
    items = histories([[9, 1, 4, 7, 2, 9, 3]], generator)
    table = torch.randn(int(items.max()) + 1, 32, generator=generator, dtype=torch.float64)
    single = {name: value.float() for name, value in params.items()}
    got = encoding.encode_all(single, items, config, table.float())
    assert got is not None
    rows = torch.nn.functional.embedding(items, table)
    wanted = sasrec.encode({name: value.double() for name, value in params.items()}, items, config, no_dropout, rows)
    assert apart(got[items > 0], wanted[items > 0]) < 3e-5
    assert encoding.encode_all(single, torch.cat([items, torch.zeros_like(items)], 1), config, table.float()) is None


def test_what_the_kernel_takes() -> None:
    assert encoding.fits(ModelConfig(), torch.empty(0))
    assert not encoding.fits(ModelConfig(), torch.empty(0, dtype=torch.float64))
    assert not encoding.fits(ModelConfig(), torch.empty(0, device="meta"))
    assert not encoding.fits(ModelConfig(block="ligr"), torch.empty(0))
    assert not encoding.fits(ModelConfig(positions="rotary"), torch.empty(0))
    assert not encoding.fits(ModelConfig(hidden_dim=24), torch.empty(0))


def test_wrong_shapes_are_refused() -> None:
    generator = torch.Generator().manual_seed(6)
    config = model(2, 8, 1, 5)
    params = {name: value.float() for name, value in stacked(config, 1, generator, shared=False).items()}
    items = histories([[6]], generator)
    embedded = torch.zeros(1, 1, 6, 16)
    with pytest.raises(ValueError, match="windows of 6 positions"):
        encoding.encode(params, items, config, None, embedded)
    with pytest.raises(ValueError, match="masks"):
        encoding.encode(params, items[..., :5], config, torch.ones(1, 1, 1, 5, 16), embedded[..., :5, :])
    with pytest.raises(ValueError, match="float32"):
        encoding.encode(params, items[..., :5], config, None, embedded[..., :5, :].double())


@pytest.mark.parametrize("part", ["inner.weight", "inner.bias", "outer.weight", "attention_norm.weight"])
def test_what_is_not_a_number_is_not_hidden(part: str) -> None:
    generator = torch.Generator().manual_seed(3)
    config = model(2, 16, 1, 5)
    items = histories([[5, 3], [4, 1]], generator)
    params = stacked(config, 2, generator, shared=False)
    params[f"backbone.block0.{part}"][1] = math.nan
    incoming = torch.randn(*items.shape, config.hidden_dim, generator=generator)
    wanted, slopes = exact(config, params, items, None, incoming)
    got, found = compiled(config, params, items, None, incoming)
    real = items != 0
    assert torch.equal(got[real].isnan(), wanted[real].isnan())
    assert got[1][real[1]].isnan().all()
    for name, slope in slopes.items():
        assert found[name][0].isfinite().all(), name
        assert bool(found[name][1].isnan().any()) == bool(slope[1].isnan().any()), name
