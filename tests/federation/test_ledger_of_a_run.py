"""The ledger against messages written down one by one: every client, every round, the spectral round too."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from fedmm.config import ExperimentConfig
from fedmm.data.types import IntArray
from fedmm.experiment import Experiment
from fedmm.federation.aggregation import AGGREGATIONS
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.ledger import Ledger
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.robust_aggregation import ROBUST_AGGREGATIONS
from fedmm.federation.rounds import ServerState, run_round
from fedmm.federation.traffic import traffic
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.subject import SMALL_ITEMS
from fedmm.verification.world import ENGINES, make_federation, make_local, params_gap

NUM_USERS, NUM_ITEMS = 9, 14


def written(delta: Params, num_items: int, *, holders: bool) -> int:
    """Bytes of one client's answer, from the parts it must have: delta, three numbers, and whom it holds."""
    message = {name: value.contiguous() for name, value in delta.items()} | {"weight_and_losses": torch.zeros(3)}
    if holders:
        message["holders"] = torch.zeros(num_items + 1, dtype=torch.int32)
    return len(save(message))


@pytest.mark.parametrize("aggregation", [*AGGREGATIONS, *ROBUST_AGGREGATIONS])
def test_a_rounds_bytes_are_those_of_its_messages(aggregation: str) -> None:
    local, params = make_local({}, {"aggregation": aggregation, "warmup_rounds": 1}, dtype=torch.float32)
    federation = make_federation(local)
    sent: list[int] = []

    def engine(own: LocalTraining, server: Params, cohort: IntArray, number: int) -> Iterator[UpdateBlock]:
        for block in federation.engine(replace(own, sums_only=False), server, cohort, number):
            for place in range(len(block.clients)):
                delta = {name: value[place] for name, value in block.deltas.items()}
                sent.append(written(delta, own.recommender.num_items, holders=aggregation != "mean"))
            yield block

    state, uplinks = ServerState(params, {}, 0), []
    for _ in range(3):
        sent.clear()
        before = state.params
        state, _, statistics = run_round(state, NO_STATES, replace(federation, engine=engine))
        travelling = {n: v.contiguous() for n, v in before.items() if state.round > 1 or n.startswith("backbone.")}
        assert statistics.uplink_bytes == sum(sent)
        assert statistics.downlink_bytes == statistics.num_clients * len(save(travelling))
        uplinks.append(statistics.uplink_bytes)
    assert uplinks[0] < uplinks[1] == uplinks[2]  # the warm-up is cheaper


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "model", [{"experts": "pooled"}, {"experts": "neighbors"}, {"experts": "hybrid"}, {"experts": "memory"}], ids=str
)
def test_sampled_negatives_shorten_messages_to_the_touched_rows(engine: str, model: dict[str, Any]) -> None:
    """A request of row numbers and its answer go before the update; each is written down here and measured. The answer
    is the whole table where memories are at work, whose surprise reads it."""
    local, params = make_local(model, {"num_negatives": 5, "aggregation": "heat"}, dtype=torch.float32)
    asked, sent, received = [], [], []

    def watched(own: LocalTraining, server: Params, cohort: IntArray, number: int) -> Iterator[UpdateBlock]:
        for block in ENGINES[engine](own, server, cohort, number):
            for place, delta in enumerate(each_clients(block)):
                rows = torch.nonzero(touched(own, int(block.clients[place]), number)).flatten().int()
                sparse = {**delta, ITEM_TABLE: delta[ITEM_TABLE][rows]}
                assert float(delta[ITEM_TABLE].abs().sum()) == pytest.approx(float(sparse[ITEM_TABLE].abs().sum()))
                asked.append(len(save({"item_rows": rows})))
                sent.append(written(sparse, len(rows) - 1, holders=True))
                answered = server[ITEM_TABLE] if model["experts"] == "memory" else server[ITEM_TABLE][rows]
                received.append(len(save({**server, ITEM_TABLE: answered})))
            yield block

    _, _, statistics = run_round(ServerState(params, {}, 0), NO_STATES, replace(make_federation(local), engine=watched))
    assert statistics.uplink_bytes == sum(asked) + sum(sent)
    assert statistics.downlink_bytes == sum(received)
    everything = local.config.model_copy(update={"item_rows": "all"})
    hidden = replace(make_federation(replace(local, config=everything)), config=everything)
    _, _, others = run_round(ServerState(params, {}, 0), NO_STATES, hidden)
    assert others.uplink_bytes == others.num_clients * traffic(hidden, params, 1)[0]


@pytest.mark.parametrize(
    "model",
    [
        {"experts": "pooled"},
        {"experts": "neighbors"},
        {"experts": "hybrid"},
        {"experts": "memory", "memory": {"size": 3}},
    ],
    ids=str,
)
def test_what_does_not_come_down_changes_nothing(model: dict[str, Any]) -> None:
    """Rows that a client is not said to receive may be any numbers."""
    local, params = make_local(model, {"num_negatives": 5})
    client = np.array([6])
    (before,) = ENGINES["sequential"](local, params, client, 1)
    table = params[ITEM_TABLE].clone()
    table[~touched(local, 6, 1)] *= 50
    (after,) = ENGINES["sequential"](local, {**params, ITEM_TABLE: table}, client, 1)
    gap = params_gap(before.deltas, after.deltas)
    assert (gap > 0) == (model["experts"] == "memory") == local.reads_all_rows(1)


def each_clients(block: UpdateBlock) -> Iterator[Params]:
    """Each client's delta with all rows."""
    deltas = block.dense_deltas(SMALL_ITEMS)
    for place in range(len(block.clients)):
        yield {name: value[place] for name, value in deltas.items()}


def touched(local: LocalTraining, client: int, number: int) -> torch.Tensor:
    """[V]: the client's own items and all the negatives that its stream draws."""
    stream = local.steps(np.array([client]), number)
    found = torch.zeros(local.recommender.num_items + 1, dtype=torch.bool)
    found[torch.from_numpy(local.train[client])] = True
    for _ in range(int(stream.num_steps[0])):
        found[torch.from_numpy(stream.negatives(1)[0])] = True
    return found


def test_who_holds_an_item_costs_one_number_an_item() -> None:
    sizes = {}
    for aggregation in (*AGGREGATIONS, *ROBUST_AGGREGATIONS):
        local, params = make_local({}, {"aggregation": aggregation})
        sizes[aggregation] = traffic(make_federation(local), params, 1)[0]
    entries = 4 * (local.recommender.num_items + 1)
    for aggregation in ("heat", *ROBUST_AGGREGATIONS):
        assert entries < sizes[aggregation] - sizes["mean"] < entries + 128  # and its name in the header


@pytest.fixture
def history_file(tmp_path: Path) -> Path:
    """A user a line; one of them has a single training item and still takes part in the spectral round."""
    stream = numpy_stream(0, "ledger")
    rows = [stream.permutation(NUM_ITEMS)[: 3 if user == 0 else 9] + 1 for user in range(NUM_USERS - 1)]
    path = tmp_path / "histories.csv"
    lines = [f"u{u},i{item},{place}" for u, row in enumerate([*rows, np.arange(1, NUM_ITEMS + 1)])
             for place, item in enumerate(row)]  # fmt: skip
    path.write_text("\n".join(["user,item,timestamp", *lines]) + "\n")
    return path


def start_ledger(history_file: Path, given: Mapping[str, Mapping[str, Any]]) -> Ledger:
    files = {"path": history_file, "visual_features": "none", "text_features": "none"}
    model = {"hidden_dim": 8, "num_blocks": 1, "max_length": 6, **given.get("model", {})}
    evaluation = {"protocols": ["full"], "cutoffs": [10]}
    tree = {"data": files, "model": model, "federation": given.get("federation", {}), "evaluation": evaluation}
    return Experiment.prepare(ExperimentConfig.model_validate(tree)).initial_state().ledger


@pytest.mark.parametrize("spectral", [True, False])
def test_counts_travel_once_for_both_uses(history_file: Path, spectral: bool) -> None:
    """The transition expert needs the counts at the server, and their sum at every client."""
    message = len(save({"counts": torch.zeros(NUM_ITEMS * (NUM_ITEMS + 1) // 2)}))
    federation = {"spectral_start": spectral}
    found = start_ledger(history_file, {"model": {"transition": True}, "federation": federation})
    assert found == Ledger(NUM_USERS * message, NUM_USERS * message)
    backbone = {"transition": True, "fusion": "backbone"}  # nobody reads the counts
    found = start_ledger(history_file, {"model": backbone, "federation": federation})
    assert found == Ledger(NUM_USERS * message if spectral else 0, 0)


def test_nothing_travels_where_data_are_pooled(history_file: Path) -> None:
    found = start_ledger(history_file, {"model": {"transition": True}, "federation": {"mode": "centralized"}})
    assert found == Ledger(0, 0)


def test_the_spectral_round_is_on_the_bill(history_file: Path) -> None:
    """All clients send the counts of all pairs; without the spectral start nothing travels before round 1."""
    totals = {}
    for spectral in (True, False):
        config = ExperimentConfig.model_validate(
            {
                "data": {"path": history_file, "visual_features": "none", "text_features": "none"},
                "model": {"hidden_dim": 8, "num_blocks": 1, "max_length": 6},
                "federation": {"spectral_start": spectral, "cohort_size": 3, "rounds": 2},
                "evaluation": {"protocols": ["full"], "cutoffs": [10]},
            }
        )
        experiment = Experiment.prepare(config)
        assert experiment.split.num_items == NUM_ITEMS
        state = experiment.initial_state()
        counts = len(save({"counts": torch.zeros(NUM_ITEMS * (NUM_ITEMS + 1) // 2)}))
        assert state.ledger.uplink_bytes == (NUM_USERS * counts if spectral else 0)
        assert state.ledger.downlink_bytes == 0
        expected = state.ledger
        for reached, report in experiment.rounds(state):
            uplink, downlink = traffic(experiment.federation, state.server.params, report.round)
            expected = expected.add(3 * uplink, 3 * downlink)
            assert reached.ledger == expected
            assert (report.uplink_bytes, report.downlink_bytes) == (expected.uplink_bytes, expected.downlink_bytes)
            state = reached
        totals[spectral] = state.ledger
    assert totals[True].uplink_bytes - totals[False].uplink_bytes == NUM_USERS * counts
    assert totals[True].downlink_bytes == totals[False].downlink_bytes
