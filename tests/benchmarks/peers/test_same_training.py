"""What a comparison with the peers stands on: the problem they are given is fedmm's, and unequal outputs are seen."""

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
import torch
from export import make_problem, part_of
from problem import Problem, Settings
from records import ROOT, Outcome, Recorder, cpu_seconds
from report import ABSOLUTE, RELATIVE, Compared, Measured, Way, as_table, difference, fastest, is_equal, summarise
from run_fedmm import ENGINES, build
from run_plain import run_round as plain_round
from sasrec import SASRec, name_in_fedmm

from fedmm.data.types import Ragged
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.rounds import run_round

SETTINGS = Settings(
    num_items=40, width=8, max_length=6, num_blocks=2, num_heads=2, local_steps=3, learning_rate=0.3, clip_norm=0.5
)
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


def histories() -> Ragged:
    """Nine clients: empty, one item, exactly one window, and several with a short first one."""
    stream = np.random.default_rng(1)
    return Ragged.from_rows([stream.choice(40, size=n, replace=False) + 1 for n in (9, 0, 1, 7, 20, 2, 13, 31, 6)])


def problem(tmp_path, settings=SETTINGS) -> Problem:
    """As a peer gets it: through the file."""
    make_problem(histories(), settings, 7).save(tmp_path / "problem.npz")
    return Problem.load(tmp_path / "problem.npz")


def outcome(*ends: float, started: float = 0.0, **delta: float) -> Outcome:
    rounds = np.diff(ends)[1:]
    arrays = {name: np.array([value], np.float32) for name, value in delta.items()}
    start_up, cpu = ends[1] - started - float(np.median(rounds)), (2 * rounds).tolist()
    return Outcome(start_up, rounds.tolist(), cpu, 2 * start_up, arrays, 1, {})


@pytest.mark.parametrize(("engine", "negatives"), [*((own, 0) for own in sorted(ENGINES)), ("vectorized", 5)])
def test_the_plain_loop_on_the_exported_problem_moves_the_server_as_fedmm_does(tmp_path, engine, negatives):
    given = problem(tmp_path, replace(SETTINGS, num_negatives=negatives))
    state, federation = build(given, engine)
    model = SASRec(SETTINGS)
    server = {name: value.clone() for name, value in given.start.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=SETTINGS.learning_rate)
    for _ in range(1 if negatives else 2):  # a peer has the negatives of the first round alone
        state, _, _ = run_round(state, NO_STATES, federation)
        plain_round(given, model, optimizer, server)
    ours = {name: (state.params[name_in_fedmm(name)] - given.start[name]).numpy() for name in server}
    plain = {name: (value - given.start[name]).numpy() for name, value in server.items()}
    assert {name_in_fedmm(name) for name in server} == state.params.keys()
    assert max(float(np.abs(value).max()) for value in ours.values()) > 1e-2
    assert is_equal(difference(plain, ours))


def test_every_client_that_can_train_is_there_once_the_longest_first(tmp_path):
    given = problem(tmp_path)
    sizes = [len(client.targets) for client in given.clients]
    assert sizes == sorted((length - 1 for length in histories().lengths.tolist() if length > 1), reverse=True)
    for number, client in enumerate(given.clients):
        own = given.history_values[given.history_offsets[number] : given.history_offsets[number + 1]]
        assert client.targets.tolist() == (own[1:] - 1).tolist()
        assert client.items.flatten()[client.rows].tolist() == own[:-1].tolist()


def test_a_part_of_a_problem_has_clients_of_all_sizes_and_moves_the_server_as_fedmm_does(tmp_path):
    whole = make_problem(histories(), replace(SETTINGS, num_negatives=5), 7)
    part_of(whole, 3).save(tmp_path / "part.npz")
    part = Problem.load(tmp_path / "part.npz")
    rows = np.split(whole.history_values, whole.history_offsets[1:-1])
    assert [own.tolist() for own in np.split(part.history_values, part.history_offsets[1:-1])] == [
        rows[number].tolist() for number in (0, 3, 6)
    ]
    state, federation = build(part, "sequential")
    state, _, _ = run_round(state, NO_STATES, federation)
    model = SASRec(SETTINGS)
    server = {name: value.clone() for name, value in part.start.items()}
    plain_round(part, model, torch.optim.SGD(model.parameters(), lr=SETTINGS.learning_rate), server)
    ours = {name: (state.params[name_in_fedmm(name)] - part.start[name]).numpy() for name in server}
    assert is_equal(difference({name: (value - part.start[name]).numpy() for name, value in server.items()}, ours))
    assert all(torch.equal(value, whole.start[name]) for name, value in part.start.items())


def test_a_client_of_more_windows_than_a_step_takes_is_refused():
    settings = Settings(**{**vars(SETTINGS), "max_length": 2, "num_items": 100})
    with pytest.raises(ValueError, match="more than 32 windows"):
        make_problem(Ragged.from_rows([np.arange(1, 70)]), settings, 1)


def test_a_recorder_reports_the_first_round_and_times_the_others(tmp_path, monkeypatch):
    ticks = iter((10.0, 14.0, 16.0, 19.0, 21.0))
    monkeypatch.setattr("records.time.time", lambda: next(ticks))
    used = iter((1.0, 9.0, 10.0, 12.0, 13.0))
    monkeypatch.setattr("records.cpu_seconds", lambda: next(used))
    start = {"a": torch.tensor([1.0, 2.0])}
    recorder = Recorder(start)
    recorder.begin()
    for moved in (1.0, 5.0, 7.0, 9.0):
        recorder.end_round({"a": start["a"] + moved})
    recorder.save(tmp_path / "record.npz", ["torch"])
    read = Outcome.load(tmp_path / "record.npz", started=4.0)
    assert read.mean_delta["a"].tolist() == [1.0, 1.0]
    assert read.rounds == [2.0, 3.0, 2.0]
    assert read.cpu == [1.0, 2.0, 1.0]
    assert read.start_up == 14.0 - 4.0 - 2.0
    assert read.start_up_cpu == 9.0 - 1.0
    assert read.versions == {"torch": version("torch")}


def test_a_single_round_has_an_output_and_no_times(tmp_path):
    recorder = Recorder({"a": torch.tensor([1.0])}, ends=[10.0, 14.0], cpu=[1.0, 3.0])
    recorder.mean_delta = {"a": np.ones(1, np.float32)}
    recorder.save(tmp_path / "record.npz", ["torch"])
    read = Outcome.load(tmp_path / "record.npz", started=4.0)
    assert (read.rounds, read.cpu, read.start_up, read.start_up_cpu) == ([], [], 10.0, 3.0)


def test_what_computes_otherwise_is_left_out_and_bfloat16_may_round():
    def way(name: str, *arguments: str) -> Measured:
        return Measured(Way(name, name, None, "", arguments, 1), 10)

    start = {"a": torch.zeros(2)}
    first, same, other, rounded = way("first"), way("same"), way("other"), way("rounded", "vectorized", "bfloat16")
    compared = Compared([first, same, other, rounded], start)
    assert compared.take(first, 0, outcome(0, 9, 10, 11, a=1.0))
    assert compared.take(same, 0, outcome(0, 9, 10, 11, a=1.0))
    assert not compared.take(other, 0, outcome(0, 9, 10, 11, a=1.005))
    assert compared.take(rounded, 0, outcome(0, 9, 10, 11, a=1.005))
    assert not compared.take(rounded, 1, outcome(0, 9, 10, 11, a=1.02))
    assert [len(own.outcomes) for own in compared.measured] == [1, 1, 0, 1]
    assert [(own["way"], own["repeat"]) for own in compared.unequal] == [("other", 0), ("rounded", 1)]
    assert compared.gaps.keys() == {"first", "same", "rounded"}
    given = Compared([way("own")], start, {"a": np.array([2.0], np.float32)})
    assert not given.take(given.measured[0], 0, outcome(0, 9, 10, 11, a=1.0))


def test_processor_time_is_that_of_a_process_and_of_what_it_started(monkeypatch):
    monkeypatch.setenv(ROOT, str(os.getppid()))
    before = time.process_time()
    used = cpu_seconds()
    assert math.isnan(used) or used >= before - 0.05  # the kernel counts in hundredths
    child = subprocess.Popen([sys.executable, "-c", "sum(range(10**7)); print(flush=True); input()"], **PIPES)
    child.stdout.readline()
    monkeypatch.setenv(ROOT, str(os.getpid()))
    assert math.isnan(used) or cpu_seconds() > 0
    child.communicate(b"\n")


def test_differences_are_seen_in_large_entries_in_small_ones_and_in_nan():
    right = {"a": np.array([3.0, 4.0], np.float32), "b": np.zeros(2, np.float32)}
    assert difference(right, right) == (0.0, 0.0)
    moved = {**right, "b": np.array([0.5, 0.0], np.float32)}
    assert difference(moved, right) == pytest.approx((0.5, 0.1))
    tiny = {name: value * 1e-6 for name, value in right.items()}
    double = {name: value * 2 for name, value in tiny.items()}
    gap = difference(double, tiny)
    assert gap[0] < ABSOLUTE < RELATIVE < gap[1]
    assert not is_equal(gap)
    assert not is_equal(difference({**right, "b": np.full(2, np.nan, np.float32)}, right))
    with pytest.raises(ValueError, match="b"):
        difference({"a": right["a"]}, right)


def test_of_a_systems_ways_the_fastest_counts_and_ratios_are_to_it():
    def measured(name: str, system: str, *ms: float) -> Measured:
        way = Way(name, system, None, "", (), 1)
        return Measured(way, 1000, [outcome(0, 9, 9 + own, 9 + 2 * own) for own in ms])

    every = [
        measured("slow", "sequential", 8, 9, 7),
        measured("fast", "sequential", 5, 4, 6),
        measured("v", "vectorized", 2, 2, 2),
        measured("p", "pfl", 10, 10, 30),
    ]
    assert [own.median for own in every] == [8, 5, 2, 10]
    assert every[0].cpu_ms_per_client == [16, 18, 14]
    assert fastest(every)["sequential"] is every[1]
    gaps = {own.way.name: (0.0, 0.0) for own in every}
    records = summarise(every, gaps)
    assert [record["counts"] for record in records] == [False, True, True, True]
    assert records[3]["ratio_to"] == {"vectorized": 5.0, "sequential": 2.0}
    assert records[3]["cpu_ratio_to"] == {"vectorized": 5.0, "sequential": 2.0}
    lines = as_table(every, gaps).splitlines()
    assert len(lines) == 1 + len(every)
    assert [line[0] for line in lines[1:]] == [" ", "*", "*", "*"]
