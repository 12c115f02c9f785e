"""Steps without item tables by the compiled kernel: what torch makes of them in float64, and what plain tables do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedmm.engines.kept_slopes import KeptSlopes
from fedmm.kernels.build import library
from fedmm.kernels.losses import Asked, can_round
from fedmm.kernels.rows import Added, Differentiated, KeptRows, fits
from fedmm.models.rounding import UNIT

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C compiler here")


class World:
    """Clients with items of their own, who predict some of these among all."""

    def __init__(self, seed: int, clients: int, rows: int, items: int, width: int) -> None:
        self.g = torch.Generator().manual_seed(seed)
        self.clients, self.rows, self.width = clients, rows, width
        self.num_rows: Tensor | None = None  # [C] of every step; None: any number
        self.table = torch.randn(items, width, generator=self.g) / width**0.25
        own = [self._own(items) for _ in range(clients)]
        size = max(map(len, own))
        self.items = torch.stack([torch.nn.functional.pad(some, (0, size - len(some))) for some in own])
        self.num_own = torch.tensor([len(some) for some in own])
        self.exists = torch.rand(clients, items, generator=self.g) < 0.7
        self.exists.scatter_(1, self.items, value=True)[:, 0] = False

    def _own(self, items: int) -> Tensor:
        number = int(torch.randint(1, min(12, items - 1) + 1, (1,), generator=self.g))
        some = torch.randperm(items - 1, generator=self.g)[:number] + 1
        return torch.cat([torch.zeros(1, dtype=torch.long), some.sort().values])

    def asked(self, clients: int, barred: str, *, mask: bool) -> Asked:
        """A step of the first ``clients``."""
        num_rows = torch.randint(1, self.rows + 1, (clients,), generator=self.g)
        num_rows[0] = self.rows
        num_rows = num_rows if self.num_rows is None else self.num_rows[:clients]
        shape = (clients, self.rows)
        weights = (torch.arange(self.rows) < num_rows.unsqueeze(1)) * torch.rand(*shape, generator=self.g).add(0.1)
        place = 1 + (torch.rand(*shape, generator=self.g) * (self.num_own[:clients] - 1).unsqueeze(1)).long()
        targets = self.items[:clients].gather(1, place) * (weights > 0)
        excluded = each = None
        if barred != "none":
            excluded = self.items[:clients] if barred == "by client" else self.items[:clients].unsqueeze(1)
            excluded = excluded.expand(*shape, -1).clone() if barred == "by row" else excluded
            index = excluded if excluded.ndim == 3 else excluded.unsqueeze(1)
            each = (torch.rand(*shape, index.shape[2], generator=self.g) < 0.4) & (index != targets.unsqueeze(2))
            each &= (index > 0) & (weights > 0).unsqueeze(2)
        return Asked(num_rows, targets, weights, self.exists[:clients] if mask else None, excluded, each)

    def queries(self, clients: int) -> Tensor:
        return torch.randn(clients, self.rows, self.width, generator=self.g)

    def added(self, clients: int) -> Added:
        """Numbers added to a few of a step's scores, own items' and targets' among them."""
        there = torch.rand(clients * self.rows, len(self.table), generator=self.g) < 0.3
        rows, columns = there.nonzero(as_tuple=True)
        ends = torch.nn.functional.pad(there.sum(1).cumsum(0), (1, 0))
        values = torch.rand(len(rows), generator=self.g) * 3
        return Added(rows, columns, values, ends, torch.randn(clients, len(self.table), generator=self.g))

    def own_rows(self, clients: int) -> Tensor:
        moved = torch.randn(clients, self.items.shape[1], self.width, generator=self.g)
        return self.table[self.items[:clients]] + 0.1 * moved


def doubled(asked: Asked) -> Asked:
    return replace(asked, weights=asked.weights.double())


def is_close(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> bool:
    size = max(float(wanted.abs().max()), 0.05)
    return bool((found.double() - wanted).abs().max() <= tolerance * size)


def parts(found: Differentiated) -> Iterator[Tensor]:
    assert found.rest is not None
    yield from (found.losses, found.by_queries, found.by_own, found.rest)
    if found.by_scale is not None:
        yield found.by_scale


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(1, 3), st.integers(1, 11), st.sampled_from((3, 70, 256, 257, 700))),
    st.sampled_from((16, 64)),
    st.sampled_from(("none", "by client", "by row")),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
@example(1, (1, 1, 256), 64, "by client", True, False, True)  # 6.8 units of rounding at the last step
def test_every_step_is_what_float64_makes_of_it(
    seed: int, shape: tuple[int, int, int], width: int, barred: str, mask: bool, snug: bool, rounded: bool
) -> None:
    """Over three steps of falling numbers of clients, whatever is barred or does not exist; and what tables changed by
    in the end, one by one and in sum. Where products are rounded, within some of their units: a step's logits hold what
    those before it were off by."""
    tolerance = 16 * UNIT if rounded and can_round() else 1e-5
    world = World(seed, *shape, width)
    room = torch.full((shape[0],), 3 * shape[1])
    if snug:  # every step takes all that a client predicts
        world.num_rows = torch.randint(1, shape[1] + 1, (shape[0],), generator=world.g)
        world.num_rows[0] = shape[1]
        room = world.num_rows * torch.tensor({1: [3], 2: [3, 1], 3: [3, 2, 1]}[shape[0]])
    kernel = KeptRows(world.table, world.items, room, rounded=rounded)
    plain = KeptSlopes(world.table.double(), world.items, room)
    for step in range(3):
        clients = max(1, shape[0] - step)
        asked, queries, own = world.asked(clients, barred, mask=mask), world.queries(clients), world.own_rows(clients)
        added = world.added(clients) if seed % 2 else None
        more = None if added is None else replace(added, values=added.values.double(), scale=added.scale.double())
        found = kernel.differentiate(queries, own, asked, norms=True, added=added)
        wanted = plain.differentiate(queries.double(), own.double(), doubled(asked), norms=True, added=more)
        assert all(is_close(one, other, tolerance) for one, other in zip(parts(found), parts(wanted), strict=True))
        rates = torch.rand(clients, generator=world.g)
        kernel.move(rates)
        plain.move(rates.double())
    changed = world.own_rows(shape[0]) - world.table[world.items]
    changed[world.items == 0] = 0.0
    weights = torch.rand(shape[0], generator=world.g)
    wanted_deltas = plain.deltas(changed.double())
    assert is_close(kernel.deltas(changed), wanted_deltas, tolerance)
    others = plain.deltas(torch.zeros_like(changed).double())
    total = torch.einsum("c,cvd->vd", weights.double(), others)
    assert is_close(kernel.total(weights), total, tolerance)
    assert is_close(plain.total(weights.double()), total)


def test_a_clients_bits_do_not_depend_on_its_block() -> None:
    world = World(3, 4, 7, 600, 64)
    asked = [world.asked(4, "by client", mask=True) for _ in range(2)]
    queries, own = [world.queries(4) for _ in range(2)], world.own_rows(4)

    def steps(of: slice) -> list[Tensor]:
        kept, found = KeptRows(world.table, world.items[of], torch.full((4,), 14)[of]), []
        for step in range(2):
            parts_of = vars(asked[step]).items()
            some: dict[str, Any] = {name: part[of] for name, part in parts_of if isinstance(part, Tensor)}
            found += parts(kept.differentiate(queries[step][of], own[of], Asked(**some), norms=True))
            kept.move(torch.full((len(found[-1]),), 0.5))
        return [*found, kept.deltas(torch.zeros_like(own[of]))]

    together = steps(slice(0, 4))
    for c in range(4):
        alone = steps(slice(c, c + 1))
        assert all(torch.equal(one, other[c : c + 1]) for one, other in zip(alone, together, strict=True))


def test_norms_are_formed_where_they_are_asked_for() -> None:
    world = World(5, 2, 4, 300, 16)
    asked, queries, own = world.asked(2, "none", mask=False), world.queries(2), world.own_rows(2)
    found = [
        KeptRows(world.table, world.items, torch.full((2,), 4)).differentiate(queries, own, asked, norms=n)
        for n in (True, False)
    ]
    assert found[1].rest is None
    assert torch.equal(found[0].by_queries, found[1].by_queries)


def test_logits_far_apart_stay_finite_and_what_is_not_a_number_is_seen() -> None:
    table = torch.zeros(600, 16)
    table[1, 0], table[500, 0] = 1.0, -1.0
    items, asked = torch.tensor([[0, 500]]), Asked(torch.tensor([1]), torch.tensor([[500]]), torch.ones(1, 1))
    queries, own = torch.zeros(1, 1, 16), table[items]
    queries[0, 0, 0] = 1e4
    found = KeptRows(table, items, torch.ones(1, dtype=torch.long)).differentiate(queries, own, asked, norms=True)
    assert found.losses.item() == pytest.approx(2e4)
    assert all(bool(part.isfinite().all()) for part in parts(found))
    table[300] = torch.nan
    found = KeptRows(table, items, torch.ones(1, dtype=torch.long)).differentiate(queries, own, asked, norms=True)
    assert all(bool(part.isnan().any()) for part in parts(found))


def test_which_tables_the_kernel_takes() -> None:
    assert fits(torch.zeros(3, 64))
    assert not fits(torch.zeros(3, 64).double())
    assert not fits(torch.zeros(3, 7))
