"""The engine cluster against the vectorized one in one process: run by ``nox -s cluster``, which brings Ray along.

However many workers there are, and whoever of them dies, every bit of the model is the same, and so is every count of
an evaluation.
"""

import contextlib
import os
import resource
import signal
import statistics
import subprocess
import sys
import threading
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from fedmm.config.load import dump_toml
from fedmm.config.part_files import load_parts
from fedmm.engines import cluster, ray_workers
from fedmm.engines.cluster import ClusterEngine
from fedmm.errors import ConfigError, DivergenceError
from fedmm.experiment import Experiment
from fedmm.study import read_study
from fedmm.utils import registry
from worlds.silo_world import silo_settings, write_world
from worlds.sweep_world import is_alive, outcomes, study_text, sweep, trials_of, wait_until, write_data

SETTINGS = {"rounds": 3, "block_size": 4, "client_fraction": 1.0, "engine": "vectorized"}
CASES = [
    {"local_algorithm": "scaffold", "personal_gate": True, "user_vector": True},
    {"num_negatives": 20, "succession": 2.0, "dropout": 0.3},
]
OWN_PART = """
import fedmm, torch
from fedmm.models.experts import Expert
from fedmm.models.features import rows_of
from fedmm.models.layers import pick_rows

class LastOne(Expert):
    local_tables = True

    def init(self, generator):
        return {f"{self.name}.scale": torch.ones((), dtype=torch.float64)}

    def term(self, params, asked):
        table = asked.tables[self.name]
        last = pick_rows(table.at(asked.items).values, asked.rows)
        return params[f"{self.name}.scale"].view(-1, 1, 1) * last, rows_of(table.values, asked.candidates)

def signs(own, config):
    def update(value, gradient, key, num_active, step):
        value.sub_(1e-3 * gradient.sign())
    return update

fedmm.register_expert("last_one", LastOne)
fedmm.register_local_optimizer("signs", signs)
"""
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def world(tmp_path):
    torch.set_num_threads(1)
    write_world(tmp_path, {"a": 30})
    yield tmp_path
    ray.shutdown()


def trained(folder, settings, engine=None, after=lambda number: None):
    experiment = Experiment.prepare(silo_settings(folder, **SETTINGS, **settings))
    if engine is not None:
        experiment = replace(experiment, federation=replace(experiment.federation, engine=engine))
    reached = []
    for state, report in experiment.rounds(experiment.initial_state()):
        reached.append((state, report))
        after(report.round)
    return reached[-1]


def assert_same(found, expected):
    (state, report), (other, told) = found, expected
    for name, value in other.server.params.items():
        assert torch.equal(state.server.params[name], value), name
    ours, theirs = state.clients.to_tensors(), other.clients.to_tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert report.validation == told.validation


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("settings", CASES, ids=lambda own: next(iter(own)))
def test_any_number_of_workers_gives_the_bits_of_one_process(world, workers, settings):
    assert_same(trained(world, settings, ClusterEngine(4, workers)), trained(world, settings))


def test_a_worker_that_dies_at_a_block_is_replaced_and_the_block_is_trained_again(world, monkeypatch):
    settings, train_part = CASES[0], cluster.train_part
    expected = trained(world, settings)

    def deadly(*given):
        try:
            (world / f"died-{given[-1]}").touch(exist_ok=False)
        except FileExistsError:
            return train_part(*given)
        return os.kill(os.getpid(), signal.SIGKILL)  # the first block of each round that is begun

    monkeypatch.setattr(cluster, "train_part", deadly)
    assert_same(trained(world, settings, ClusterEngine(4, 2)), expected)
    assert len(list(world.glob("died-*"))) == 3


def test_a_block_that_kills_every_worker_ends_the_run_in_one_line(world, monkeypatch):
    def deadly(*given):
        (world / f"tried-{given[4].min()}-{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(cluster, "train_part", deadly)
    with pytest.raises(ray_workers.WorkerLostError, match=r"each of 3 times over a block of 4 clients \(numbers \d+, "):
        trained(world, CASES[0], ClusterEngine(4, 1))
    first = next(path.name.split("-")[1] for path in world.glob("tried-*"))
    # Ray counts a worker that is lost before the block begins, too, as happens on a busy machine.
    assert 2 <= len(list(world.glob(f"tried-{first}-*"))) <= 1 + ray_workers.RETRIES


def test_errors_of_a_worker_are_those_of_one_process(world, monkeypatch):
    def refused(*given):
        raise DivergenceError("it has diverged.", "Lower the rate.")

    monkeypatch.setattr(cluster, "train_part", refused)
    with pytest.raises(DivergenceError) as told:
        trained(world, CASES[0], ClusterEngine(4, 1))
    assert str(told.value) == "it has diverged. Lower the rate."


@pytest.mark.parametrize("settings", CASES, ids=lambda own: next(iter(own)))
def test_workers_rank_every_query_as_one_process_does(world, monkeypatch, settings):
    experiment = Experiment.prepare(silo_settings(world, **SETTINGS, **settings))
    engine = ClusterEngine(4, 2)
    spread = replace(experiment, federation=replace(experiment.federation, engine=engine))
    *_, (state, _) = spread.rounds(spread.initial_state())
    asked = []
    monkeypatch.setattr(engine, "spread", lambda *given: asked.append(given) or ClusterEngine.spread(engine, *given))
    for split in ("validation", "test"):
        found, expected = (own.evaluate(state.snapshot, split) for own in (spread, experiment))
        assert found.to_json() == expected.to_json()
        for name, counts in expected.counts.items():
            for values in ("better", "tied", "num_candidates"):
                assert (getattr(found.counts[name], values) == getattr(counts, values)).all()
    assert len(asked) == 2


def test_workers_rank_yardsticks_too_and_what_cannot_travel_is_ranked_here(world):
    experiment = Experiment.prepare(silo_settings(world, **SETTINGS, **CASES[0]))
    engine = ClusterEngine(4, 2)
    engine.start()
    spread = replace(experiment, federation=replace(experiment.federation, engine=engine))
    for name, scorer in experiment.baselines().items():
        found, expected = (own.evaluate_scorer(scorer, "test") for own in (spread, experiment))
        assert found.to_json() == expected.to_json(), name
        assert ray.put(scorer)
    lock = threading.Lock()

    def locked(users, histories):
        with lock:
            return scorer(users, histories)

    assert spread.evaluate_scorer(locked, "test").to_json() == expected.to_json()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's way with memory")
def test_a_worker_keeps_the_memory_of_a_block_for_the_next(world):
    def pages(job):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        _ = [torch.ones(5 * 2**18) for _ in range(12)]  # 60 MB: 15,000 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    # Half of the later ones: on a busy machine one may find that glibc has just given something back.
    assert statistics.median(list(ClusterEngine(4, 1).spread(pages, range(12)))[-8:]) < 1000


def test_parts_of_a_users_own_go_out_to_workers(world, monkeypatch):
    own = world / "own_parts_of_mine.py"
    own.write_text(OWN_PART, encoding="utf-8")
    monkeypatch.setattr(registry, "_OWN", {})
    load_parts(str(own))
    settings = {"experts": "last_one", "local_optimizer": "signs"}
    assert_same(trained(world, settings, ClusterEngine(4, 2)), trained(world, settings))


def test_an_engine_that_has_no_worker_at_hand_evaluates_in_this_process(world):
    experiment = Experiment.prepare(silo_settings(world, **SETTINGS | {"engine": "cluster"}))
    assert experiment.validate(experiment.initial_state().snapshot)
    assert not ray.is_initialized()


def test_a_second_engine_has_the_workers_and_the_cluster_that_it_asks_for(world):
    ClusterEngine(4, 1).start()
    ClusterEngine(4, 3).start()
    assert ray.cluster_resources()["CPU"] == 3
    ClusterEngine(4, 2).start()
    assert ray.cluster_resources()["CPU"] == 3
    with ray_workers._at_work():
        with pytest.raises(ConfigError, match="at work on a cluster of this machine with 3 workers and is asked for"):
            ClusterEngine(4, 4).start()
        with pytest.raises(ConfigError, match=r"is asked for the cluster '127\.0\.0\.1:1'"):
            ClusterEngine(4, 0, "127.0.0.1:1").start()
    with pytest.raises(ConfigError, match="cannot be reached"):
        ClusterEngine(4, 0, "127.0.0.1:1").start()


def test_a_cluster_that_was_opened_outside_is_taken_as_it_is_or_refused(world):
    ray.init(num_cpus=1, **ray_workers.QUIET)
    ClusterEngine(4).start()
    with pytest.raises(ConfigError, match=r"runtime\.workers is 2, and the cluster of Ray has 1"):
        ClusterEngine(4, 2).start()
    with pytest.raises(ConfigError, match=r"has opened '.*' by itself"):
        ClusterEngine(4, 0, "127.0.0.1:1").start()


def test_trials_of_two_processes_on_one_cluster_are_those_of_a_local_sweep(world):
    write_data(world)
    ray.init(num_cpus=2, **ray_workers.QUIET)
    shared = f'engine = "cluster"\nray_address = "{ray.get_runtime_context().gcs_address}"'
    found = []
    for name, own in (("local", ""), ("shared", shared)):
        text = study_text(world, "trials = 2", '[space."federation.local_steps"]\nchoices = [1, 2]')
        study = read_study(tomllib.loads(text.replace("threads = 1", f"threads = 1\n{own}")), "tiny.toml")
        result = sweep(study, world / name, jobs=2)
        assert result["trials"]["complete"] == 2
        found.append((outcomes(trials_of(study, world / name)), result["test"], result["best"]["params"]))
    assert found[0] == found[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda own: own.name)
def test_a_run_that_is_stopped_can_go_on_and_leaves_no_process_of_ray(world, number):
    settings = silo_settings(world, **SETTINGS | {"rounds": 40, "engine": "cluster", "workers": 2})
    (world / "own.toml").write_text(dump_toml(settings), encoding="utf-8")
    out, resume = world / "out", [sys.executable, "-m", "fedmm_cli", "train", "--config", str(world / "own.toml")]
    run = subprocess.Popen([*resume, "--output", str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_bytes().count(b"\n") > 1, run)
    started = descendants(run.pid)
    run.send_signal(number)
    told = run.communicate()[0]
    assert run.returncode == 128 + number, told
    assert "--resume" in told
    assert "Traceback" not in told
    assert any("raylet" in name for name in started.values())
    wait_until(lambda: not any(is_alive(pid) for pid in started))
    stopped = (out / "metrics.jsonl").read_bytes().count(b"\n")
    assert sorted(path.name for path in (out / "checkpoints").iterdir())[-1] == f"round-{stopped:05d}"


def descendants(pid):
    """All that a process has started, with their commands."""
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(path.name)] = (path / "cmdline").read_bytes().decode()
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: names[child] for child in found - {pid}}


def test_tensors_come_through_the_store_as_they_were(world):
    ray = ray_workers.connect(None, 1)
    for dtype in (torch.bfloat16, torch.float32, torch.int64, torch.bool):
        for sent in (torch.ones((), dtype=dtype), torch.empty(0, dtype=dtype), torch.arange(6).reshape(3, 2).to(dtype)):
            found = ray.get(ray.put(sent))
            assert found.dtype == dtype
            assert torch.equal(found, sent)
