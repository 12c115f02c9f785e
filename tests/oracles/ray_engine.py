"""The engine cluster against the vectorized one in one process: run by ``nox -s cluster``, which brings Ray along.

However many workers there are, and whoever of them dies, every bit of the model is the same.
"""

import os
import signal
from dataclasses import replace

import pytest
import ray
import torch

from fedmm.engines import cluster
from fedmm.engines.cluster import ClusterEngine
from fedmm.experiment import Experiment
from worlds.silo_world import silo_settings, write_world

SETTINGS = {"rounds": 3, "block_size": 4, "client_fraction": 1.0, "engine": "vectorized"}
CASES = [
    {"local_algorithm": "scaffold", "personal_gate": True, "user_vector": True},
    {"num_negatives": 20, "succession": 2.0, "dropout": 0.3},
]
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
