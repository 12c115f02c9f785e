"""Sums of transition counts: tables add up and can be read, no pair is lost or made up, every byte is counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from fedmm.config import ExperimentConfig
from fedmm.data.transitions import client_transition_counts, sum_transition_counts
from fedmm.data.types import Ragged
from fedmm.experiment import Experiment
from fedmm.federation import count_sums
from fedmm.federation.count_sums import (
    DENSE_ITEMS,
    FEWEST_CLIENTS,
    PAIRS_PER_ITEM,
    CountSums,
    client_pairs,
    pairs_message_bytes,
    sparse_message_bytes,
    sum_in_groups,
    table_message_bytes,
)
from fedmm.federation.count_uses import received_counts
from fedmm.federation.data_rules import settled
from fedmm.federation.ledger import Ledger, counts_message_bytes
from fedmm.federation.pair_tables import FIELDS, UNITS, PairTable
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.models.succession import Succession
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.leakage import write_histories

ROUNDING = 1 / UNITS


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Ragged, int]:
    num_items = draw(st.integers(2, 30))
    row = st.lists(st.integers(1, num_items), max_size=num_items, unique=True)
    return Ragged.from_rows(draw(st.lists(row, min_size=1, max_size=12))), num_items


def random_world(num_items: int, num_clients: int, longest: int = 14) -> Ragged:
    stream = numpy_stream(0, "count sums")
    rows = [stream.permutation(num_items)[: stream.integers(1, longest)] + 1 for _ in range(num_clients)]
    return Ragged.from_rows(rows)


@settings(max_examples=60, deadline=None)
@given(worlds(), st.integers(0, 3))
def test_the_table_of_a_group_is_the_sum_of_its_clients_tables(world: tuple[Ragged, int], seed: int) -> None:
    train, num_items = world
    form = PairTable.of(num_items, seed)
    tables = [form.encode(*client_transition_counts(history)) for history in train]
    total = sum(tables[1:], tables[0])
    assert total.dtype == np.uint32
    assert total.shape == (form.cells, FIELDS)
    np.testing.assert_array_equal(total, form.encode(*client_pairs(train, 10**6)))


@settings(max_examples=60, deadline=None)
@given(worlds(), st.integers(0, 3))
def test_what_is_read_are_the_counts(world: tuple[Ragged, int], seed: int) -> None:
    train, num_items = world
    found, _ = sum_in_groups(train, num_items, seed)
    limit = PairTable.of(num_items, seed).capacity // FEWEST_CLIENTS
    exact = np.zeros((num_items + 1, num_items + 1))
    for history in train:
        rows, columns, values = (part[:limit] for part in client_transition_counts(history))  # in order of gaps
        np.add.at(exact, (rows, columns), values)
    np.testing.assert_allclose(found.toarray(), exact, rtol=0, atol=ROUNDING * len(train))


def test_no_pair_is_lost_in_groups_of_clients_with_few() -> None:
    train = random_world(480, 900, 9)
    found, sent = sum_in_groups(train, 480, 5)
    exact = sum_transition_counts(train, 480)
    assert found.nnz == exact.nnz
    assert abs(found - exact).max() < ROUNDING * 900
    form = PairTable.of(480, 5)
    assert sent >= 900 * table_message_bytes(form)
    assert count_sums._groups(count_sums._num_pairs(train, form), form, 5)[1:], "one group proves little"


def test_a_table_that_holds_too_much_is_not_read() -> None:
    form = PairTable.of(60, 0)
    rows, columns = (1 + place for place in np.nonzero(~np.eye(60, dtype=bool)))
    few = form.capacity // 2
    assert form.decode(form.encode(rows[:few], columns[:few], np.ones(few))) is not None
    assert form.decode(form.encode(rows, columns, np.ones(len(rows)))) is None


def test_a_group_that_cannot_be_read_sends_again_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    train = random_world(120, 300, 8)
    expected, _ = sum_in_groups(train, 120, 0)
    monkeypatch.setattr(count_sums, "_groups", lambda num_pairs, *_: [np.arange(len(num_pairs))])
    found, sent = sum_in_groups(train, 120, 0)
    assert abs(found - expected).max() < 1e-9
    form = PairTable.of(120, 0)
    assert sent >= 2 * 300 * table_message_bytes(form), "the first table, and those of the halves"


def test_heavy_clients_send_their_closest_pairs() -> None:
    train = Ragged.from_rows([np.arange(1, 31), np.arange(30, 0, -1)])
    rows, columns, weights = client_pairs(train, 40)
    assert len(rows) == 80
    assert np.abs(rows - columns).max() == 2, "29 pairs next to each other, then 11 of the next gap"
    order = np.argsort(-weights, kind="stable")
    assert set(np.abs(rows - columns)[order[:58]]) == {1}


@pytest.mark.parametrize("num_items", [40, 5001, 12_000, 100_000])
def test_bytes_grow_with_the_catalogue_and_stay_below_what_was_promised(num_items: int) -> None:
    form = PairTable.of(num_items, 0)
    table = torch.zeros(form.cells, FIELDS, dtype=torch.uint32)
    assert table_message_bytes(form) == len(save({"pairs": table}))
    assert table_message_bytes(form) <= max(1e6 / 12_000 * num_items, 20_000)
    most = sparse_message_bytes(num_items, PAIRS_PER_ITEM * num_items)
    assert most <= (4e6 if num_items < 2**16 else 6e6) / 12_000 * num_items + 200
    assert DENSE_ITEMS < 5001
    sums = CountSums.of(random_world(40, 9), num_items, "auto", 0)
    assert sums.protocol == ("dense" if num_items == 40 else "grouped")


def test_messages_have_the_length_of_those_that_are_written() -> None:
    pairs = {"pairs": torch.zeros(17, 2, dtype=torch.int32), "gaps": torch.zeros(17, dtype=torch.uint8)}
    assert pairs_message_bytes(17) == len(save(pairs))
    parts = {
        "offsets": torch.zeros(42, dtype=torch.int32),
        "columns": torch.zeros(17, dtype=torch.uint16),
        "counts": torch.zeros(17, dtype=torch.float16),
    }
    assert sparse_message_bytes(40, 17) == len(save(parts))


def test_clients_receive_the_largest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_sums, "PAIRS_PER_ITEM", 2)
    opened, sums = (CountSums.of(random_world(40, 90), 40, way, 0, "largest") for way in ("open", "dense"))
    assert (opened.clients != sums.clients).nnz == 0, "whichever way they were summed"
    assert sums.downlink_bytes(counts=True) == opened.downlink_bytes(counts=True) == 90 * sparse_message_bytes(40, 80)
    assert sums.clients.nnz == 80 < sums.server.nnz
    dropped = sums.server.copy()
    dropped[sums.clients.nonzero()] = 0
    assert sums.clients.data.min() > dropped.max() - 1e-3
    kept = sums.server[sums.clients.nonzero()]
    np.testing.assert_allclose(sums.clients[sums.clients.nonzero()], kept, rtol=1e-3)


@pytest.mark.parametrize("num_items", [161, 162, 1849])
def test_of_a_dense_sum_the_largest_counts_are_received_where_they_are_fewer_bytes(num_items: int) -> None:
    config = ExperimentConfig().with_values({"model.succession": 2.0})
    found = settled(config, random_world(30, 9), num_items).federation
    fewer = sparse_message_bytes(num_items, PAIRS_PER_ITEM * num_items) < counts_message_bytes(num_items)
    assert (found.count_sums, found.counts_received) == ("dense", "largest" if fewer else "all")
    for values in ({"model.transition": True}, {"federation.counts_received": "all"}):
        assert settled(config.with_values(values), random_world(30, 9), num_items).federation.counts_received == "all"


def test_what_all_clients_receive_is_what_the_model_adds(history_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_sums, "PAIRS_PER_ITEM", 2)
    given = tree(history_file, "dense", counts_received="largest").with_values({"model.transition": False})
    kernels, bills = {}, {}
    for kind in ("all", "largest"):
        values = {"model.succession": 2.0, "federation.counts_received": kind}
        experiment = Experiment.prepare(given.with_values(values))
        succession = experiment.succession
        assert succession is not None
        kernels[kind], bills[kind] = succession.kernel.nnz, experiment.initial_state().ledger
        assert (
            succession.kernel.nnz
            == Succession.build(received_counts(experiment.config, experiment.sums.server), 2).kernel.nnz
        )
    assert kernels["largest"] < kernels["all"]
    assert bills["all"] == Ledger(9 * counts_message_bytes(14), 9 * counts_message_bytes(14))
    assert bills["largest"] == Ledger(9 * counts_message_bytes(14), 9 * sparse_message_bytes(14, 28))


def tree(path: Path, protocol: str, **federation: Any) -> ExperimentConfig:
    files = {"path": path, "visual_features": "none", "text_features": "none", "min_user_interactions": 1}
    return ExperimentConfig.model_validate(
        {
            "data": files,
            "model": {"hidden_dim": 8, "num_blocks": 1, "max_length": 6, "transition": True},
            "federation": {"count_sums": protocol, **federation},
            "evaluation": {"protocols": ["full"], "cutoffs": [10]},
        }
    )


@pytest.fixture
def history_file(tmp_path: Path) -> Path:
    stream = numpy_stream(0, "sums ledger")
    path = tmp_path / "histories.csv"
    write_histories([*(stream.permutation(14)[:7] + 1 for _ in range(8)), np.arange(1, 15)], path)
    return path


@pytest.mark.parametrize("protocol", ["auto", "dense", "grouped", "open"])
def test_the_ledger_has_the_messages_of_the_protocol(protocol: str, history_file: Path) -> None:
    experiment = Experiment.prepare(tree(history_file, protocol))
    sums, found = experiment.sums, experiment.initial_state().ledger
    down = sparse_message_bytes(14, sums.clients.nnz)
    number = len(save({"num_pairs": torch.zeros((), dtype=torch.int32)}))
    if protocol in ("auto", "dense"):
        dense = counts_message_bytes(14)
        assert found == Ledger(9 * dense, 9 * dense)
    elif protocol == "open":
        pairs = [len(client_transition_counts(history)[0]) for history in experiment.split.train]
        assert found == Ledger(sum(map(pairs_message_bytes, pairs)), 9 * down)
    else:
        table = table_message_bytes(PairTable.of(14, 0))
        told = len(save({"num_groups": torch.zeros((), dtype=torch.int32)}))
        assert found.downlink_bytes == 9 * (down + told)
        assert (found.uplink_bytes - 9 * number) % table == 0
        assert found.uplink_bytes >= 9 * (number + table)


def test_where_nothing_reads_the_counts_nothing_is_sent(history_file: Path) -> None:
    config = tree(history_file, "grouped", spectral_start=False).model_dump()
    config["model"]["transition"] = False
    experiment = Experiment.prepare(ExperimentConfig.model_validate(config))
    assert experiment.initial_state().ledger == Ledger()
    assert "_summed" not in vars(experiment.sums)


def test_the_start_hardly_depends_on_the_protocol(history_file: Path) -> None:
    tables = {
        protocol: Experiment.prepare(tree(history_file, protocol)).initial_state().server.params[ITEM_TABLE]
        for protocol in ("dense", "open", "grouped")
    }
    assert torch.equal(tables["dense"], tables["open"])
    assert torch.isfinite(tables["grouped"]).all()
