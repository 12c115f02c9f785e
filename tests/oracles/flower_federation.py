"""Flower's SuperLink and SuperNodes against the sequential engine: run by ``nox -s flower``, which brings Flower along.

Where clients lie does not change what is learnt, and neither does a SuperNode that is killed.
"""

import json
import shlex
import signal
import time

import pytest
import torch

from fedmm.config.load import load_config
from fedmm.experiment import Experiment
from fedmm.runs.checkpoint import load_checkpoint
from worlds.flower_world import APP, SILOS, Links, write_parts

SETTINGS = (
    "federation.client_fraction=0.05", "model.hidden_dim=16", "model.num_blocks=1", "model.personal_gate=true",
    "evaluation.protocols=full", "evaluation.bootstrap_samples=20", "evaluation.pooled_yardsticks=false",
    "runtime.dtype=float64", "runtime.engine=sequential", "runtime.threads=1", "runtime.device=cpu",
    "tracking.enabled=false",
)  # fmt: skip
pytestmark = pytest.mark.filterwarnings("default")


def simulated(rounds, *more):
    torch.set_num_threads(1)
    experiment = Experiment.prepare(load_config(assignments=(*SETTINGS, *more, f"federation.rounds={rounds}")))
    found = list(experiment.rounds(experiment.initial_state()))
    return found[-1][0], [report for _, report in found]


def given(folder, rounds, *more):
    return {
        "silos": len(SILOS), "quorum": 1.0, "output": str(folder / "federation"),
        "set": shlex.join((*SETTINGS, *more, f"federation.rounds={rounds}")),
    }  # fmt: skip


def rounds_of(folder):
    path = folder / "federation" / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [own for own in map(json.loads, lines) if own["event"] == "round"]


def wait_for(folder, number):
    for _ in range(1200):
        if len(rounds_of(folder)) >= number:
            return
        time.sleep(0.5)
    raise AssertionError((folder / "superlink.log").read_text()[-3000:])


def assert_same(folder, rounds):
    state, reports = simulated(rounds)
    tensors, meta = load_checkpoint(folder / "federation" / "checkpoints", "last")
    for name, value in state.server.params.items():
        torch.testing.assert_close(tensors[f"params/{name}"], value, rtol=1e-9, atol=1e-9)
    assert meta["round"] == rounds
    assert meta["best_round"] == state.best.snapshot.round
    events = rounds_of(folder)
    assert [own["clients"] for own in events] == [report.num_clients for report in reports]
    for own, report in zip(events, reports, strict=True):
        assert own["loss"] == pytest.approx(report.loss, rel=1e-9)
        assert own["validation"] == pytest.approx(report.validation["full/ndcg_at_10"], abs=1e-9)


def test_five_rounds_over_flower_equal_the_sequential_engine(tmp_path):
    write_parts(tmp_path)
    with Links(tmp_path, secure=False) as links:
        links.superlink()
        for name in SILOS:
            links.supernode(name)
        links.wait(links.run(APP, given(tmp_path, 5)), 600)
    assert_same(tmp_path, 5)


def test_ten_rounds_with_tls_keys_and_a_supernode_that_is_killed(tmp_path):
    write_parts(tmp_path)
    with Links(tmp_path) as links:
        links.superlink()
        for name in SILOS:
            links.supernode(name)
        run = links.run(APP, given(tmp_path, 10))
        wait_for(tmp_path, 3)
        links.end("node-b", signal.SIGKILL)
        time.sleep(65)  # the SuperLink lets a key in again once it knows that its node is gone
        links.supernode("b")
        links.wait(run, 900)
    assert_same(tmp_path, 10)
    kept = load_checkpoint(tmp_path / "b.silo" / "states")[1]
    assert kept["federation"] == load_checkpoint(tmp_path / "federation" / "checkpoints", "last")[1]["name"]


MASKED = (
    "federation.update_transforms=clip,rotate,round,mask", "federation.spectral_start=false", "model.succession=0",
    "model.personal_gate=false",
)  # fmt: skip


def test_masked_rounds_over_flower_are_the_simulations_integers(tmp_path):
    write_parts(tmp_path)
    with Links(tmp_path, secure=False) as links:
        links.superlink()
        for name in SILOS:
            links.supernode(name)
        links.wait(links.run(APP, given(tmp_path, 1, *MASKED)), 600)
    state, reports = simulated(1, *MASKED)
    tensors, meta = load_checkpoint(tmp_path / "federation" / "checkpoints", "last")
    for name, value in state.server.params.items():
        assert torch.equal(tensors[f"params/{name}"], value), name
    assert [silo["counted"] for silo in meta["silos"]] == [1, 1, 1]
    (event,) = rounds_of(tmp_path)
    assert event["clients"] == reports[0].num_clients
    assert event["validation"] == pytest.approx(reports[0].validation["full/ndcg_at_10"], abs=1e-9)
    for name in SILOS:  # each message woke a new process of the silo: what it opened is on its disk
        promised = (tmp_path / f"{name}.silo" / "promised.lines").read_text().splitlines()
        assert [line.split("\t")[1].split()[0] for line in promised] == [
            "users",
            "train",
        ]  # the start's sums, the round
