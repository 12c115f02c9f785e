"""Laws of updates that join later rounds: an event-by-event oracle, what nobody's lateness changes, both engines,
resuming, and what is refused."""

from __future__ import annotations

import heapq
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import fedmm
from fedmm.config import FederationConfig
from fedmm.experiment import TrainState
from fedmm.federation.availability import visit_times
from fedmm.federation.buffered import AtWork, discount, fill_buffer
from fedmm.federation.client_data import Windows
from fedmm.federation.rounds import draw_cohort
from fedmm.federation.traffic import traffic
from fedmm.runs.folder import Progress, load_state, save_state
from fedmm.testing import tiny_config
from fedmm.utils.params import Params

LATE = {"late_updates": "buffered", "over_selection": 2.0, "cohort_size": 4, "rounds": 5, "speed_spread": 1.0}


def prepared(**given: Any) -> fedmm.Experiment:
    return fedmm.Experiment.prepare(tiny_config(dtype="float64", **given))


def reports(**given: Any) -> list[fedmm.RoundReport]:
    experiment = prepared(**given)
    return [report for _, report in experiment.rounds(experiment.initial_state())]


def event_by_event(experiment: fedmm.Experiment, rounds: int) -> tuple[Params, list[float]]:
    """Every client trains alone, when it is asked, from what the server has then; its update lies in a queue until the
    client is done. The server takes the first K from the queue."""
    federation, config = experiment.federation, experiment.config.federation
    params, clock = experiment.initial_state().server.params, 0.0
    queue: list[tuple[float, int, int, Params]] = []
    behind = []
    for number in range(1, rounds + 1):
        busy = np.array([client for _, _, client, _ in queue], dtype=np.int64)
        for client in draw_cohort(federation, number, busy):
            alone = np.array([client])
            (block,) = federation.engine(federation.local, params, alone, number)
            (time,) = visit_times(alone, federation.local.windows, config, federation.seed, number)
            deltas = {name: value[0] for name, value in block.dense_deltas(30).items()}
            heapq.heappush(queue, (clock + float(time), number, int(client), deltas))
        mean: Params = {}
        stale = []
        for _ in range(min(federation.cohort_size, len(queue))):
            clock, started, _, deltas = heapq.heappop(queue)
            stale.append(number - started)
            for name, value in deltas.items():
                part = value / (1 + number - started) ** 0.5 / federation.cohort_size
                mean[name] = mean[name] + part if name in mean else part
        params = params | {name: params[name] + config.server_rate * value for name, value in mean.items()}
        behind.append(float(np.mean(stale)))
    return params, behind


@pytest.mark.parametrize("more", [{}, pytest.param({"num_negatives": 3}, marks=pytest.mark.slow)], ids=str)
def test_rounds_are_those_of_an_event_by_event_simulation(more: dict[str, Any]) -> None:
    experiment = prepared(**LATE, **more, aggregation="mean", server_optimizer="sgd", dropout=0.1)
    found = [(state, report.staleness) for state, report in experiment.rounds(experiment.initial_state())]
    params, behind = event_by_event(experiment, 5)
    assert [staleness for _, staleness in found] == behind
    assert max(behind) > 0
    for name, value in found[-1][0].server.params.items():
        torch.testing.assert_close(value, params[name], rtol=1e-9, atol=1e-11)


def test_where_nobody_is_late_the_rounds_are_those_that_wait_for_all() -> None:
    same = {"absence_rate": 0.3, "deadline": 5.0, "rounds": 3}
    waiting, buffered = (reports(late_updates=late, **same) for late in ("lost", "buffered"))
    assert [report.staleness for report in waiting + buffered] == [None] * 3 + [0.0] * 3
    for left, right in zip(waiting, buffered, strict=True):
        assert (left.loss, left.update_norm, left.validation) == (right.loss, right.update_norm, right.validation)
        assert (left.uplink_bytes, left.downlink_bytes, left.num_lost) == (
            right.uplink_bytes, right.downlink_bytes, right.num_lost
        )  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"absence_rate": 0.4, "num_negatives": 3}, marks=pytest.mark.slow),
        pytest.param({"deadline": 1.5, "download_bits": 8, "upload_step": 1.0}, marks=pytest.mark.slow),
        {"update_transforms": ("low_rank", "rotate"), "day_rounds": 3},
    ],
    ids=str,
)
def test_both_engines_join_the_same_updates(more: dict[str, Any]) -> None:
    found = [reports(engine=engine, **LATE, **more) for engine in ("sequential", "vectorized")]
    for left, right in zip(*found, strict=True):
        assert left.loss == pytest.approx(right.loss, abs=1e-9)
        assert left.update_norm == pytest.approx(right.update_norm, abs=1e-9)
        assert (left.num_clients, left.staleness) == (right.num_clients, right.staleness)
        assert (left.uplink_bytes, left.downlink_bytes) == (right.uplink_bytes, right.downlink_bytes)


def test_the_bill_is_of_updates_that_arrived() -> None:
    experiment = prepared(**LATE)
    before = experiment.initial_state()
    for state, report in experiment.rounds(before):
        up, down = traffic(experiment.federation, before.server.params, report.round)
        assert state.ledger.uplink_bytes - before.ledger.uplink_bytes == up * report.num_clients == up * 4
        assert state.ledger.downlink_bytes - before.ledger.downlink_bytes == down * 4
        at_work = state.server.at_work
        assert at_work is not None
        assert len(np.unique(at_work.clients)) == len(at_work.clients) == 4
        assert set(at_work.versions) == set(at_work.started.tolist())
        before = state


def test_a_round_later_is_the_same_round(tmp_path: Path) -> None:
    experiment = prepared(**LATE)
    whole = list(experiment.rounds(experiment.initial_state()))
    save_state(tmp_path, experiment, whole[2][0], Progress(None, 0.0))
    loaded = load_state(tmp_path, experiment, lambda _: None)
    assert loaded is not None
    rest = list(experiment.rounds(loaded[0]))
    one, other = whole[-1][0], rest[-1][0]
    assert one.ledger == other.ledger
    for left, right in zip(parts_of(one), parts_of(other), strict=True):
        assert left.keys() == right.keys()
        assert all(torch.equal(value, right[name]) for name, value in left.items())


def parts_of(state: TrainState) -> list[Params]:
    assert state.server.at_work is not None
    return [state.server.params, state.server.optimizer, state.server.at_work.tensors()]


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = Path(fedmm.train(tiny_config(tmp_path / "whole", **LATE), quiet=True).folder)
    config = tiny_config(tmp_path / "parts", **LATE | {"rounds": 3})
    parts = Path(fedmm.train(config, quiet=True).folder)
    fedmm.train(config.with_values({"federation.rounds": 5, "runtime.output": str(parts)}), resume=True, quiet=True)
    one, other = (next((folder / "checkpoints").glob("round-*5*/*.safetensors")) for folder in (whole, parts))
    left, right = load_file(one), load_file(other)
    assert left.keys() == right.keys()
    assert any(name.startswith("at_work/") for name in left)
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "more",
    [
        {"epsilon": 8.0},
        {"local_algorithm": "scaffold"},
        {"update_transforms": ("clip", "round", "mask")},
        {"warmup_rounds": 1},
        {"download_step": 0.5},
        {"cohort_sampler": "rotation"},
        {"experts": "memory", "fusion": "competitive", "num_prototypes": 3},
    ],
    ids=str,
)
def test_what_takes_fresh_updates_for_granted_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(fedmm.ConfigError, match=r'late_updates "buffered" .*(?:,|: )'):
        tiny_config(late_updates="buffered", **more)


@given(st.integers(0, 99), st.integers(2, 6), st.sampled_from([0.0, 0.5]))
@settings(max_examples=20, deadline=None)
def test_everybody_asked_arrives_once_or_is_lost(seed: int, size: int, absence: float) -> None:
    first = np.arange(61)
    windows = Windows(np.zeros(1, np.int64), first[:-1], np.ones(60, np.int64), first)
    config = FederationConfig(absence_rate=absence, over_selection=2.0)
    at_work, asked, done, clock = AtWork(), list[int](), list[int](), 0.0
    stream = np.random.default_rng(seed)
    for number in range(1, 8):
        free = np.setdiff1d(np.arange(60), at_work.clients)
        drawn = np.sort(stream.choice(free, 2 * size - len(at_work.clients), replace=False))
        visits, lost, at_work = fill_buffer(at_work, {}, drawn, windows, config, size, seed, number)
        arrived = [int(client) for own in visits for client in own.clients]
        assert 1 <= len(arrived) <= size
        assert all(own.discount == discount(number - own.started) <= 1.0 for own in visits)
        assert at_work.clock >= clock
        assert (at_work.ends >= at_work.clock).all()
        asked, done, clock = asked + drawn.tolist(), done + arrived + lost.tolist(), at_work.clock
    assert sorted(done + at_work.clients.tolist()) == sorted(asked)
