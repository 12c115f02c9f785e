"""Where clients lie does not change what is learnt."""

import pytest
import torch

from fedmm.deployment.start import counts_part
from fedmm.deployment.sums import counts_from_tensors
from fedmm.experiment import Experiment
from worlds.silo_world import lead_of, silo_settings, silos_of, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("silos")
    write_world(folder, {"a": 7, "b": 9, "c": 5})
    return folder


def simulated(folder, **settings):
    experiment = Experiment.prepare(silo_settings(folder, **settings))
    return experiment, list(experiment.rounds(experiment.initial_state()))


def led(folder, names, **settings):
    lead = lead_of(folder, silos_of(folder, names, **settings), **settings)
    lead.begin()
    return lead, list(lead.rounds())


def assert_same(lead, reports, experiment, found, tolerance=1e-9):
    state = found[-1][0]
    for name, value in state.server.params.items():
        torch.testing.assert_close(lead.state.server.params[name], value, rtol=tolerance, atol=tolerance)
    assert len(reports) == len(found)
    for report, (_, other) in zip(reports, found, strict=True):
        assert report.num_clients == other.num_clients
        assert report.loss == pytest.approx(other.loss, rel=1e-9)
        for name in report.validation:
            assert report.validation[name] == pytest.approx(other.validation[name], abs=1e-9)
    assert (lead.state.best is None) == (state.best is None)
    assert lead.state.best.snapshot.round == state.best.snapshot.round


def test_three_silos_learn_what_one_process_learns(world):
    experiment, found = simulated(world)
    lead, reports = led(world, ["a", "b", "c"])
    assert_same(lead, reports, experiment, found)
    best = found[-1][0].best.snapshot
    metrics = lead.finish()
    for split in ("validation", "test"):
        whole = experiment.evaluate(best, split, intervals=False).metrics
        for name, value in metrics[split].items():
            protocol, _, metric = name.partition("/")
            assert value == pytest.approx(whole[protocol][metric], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"local_algorithm": "scaffold", "personal_gate": True, "user_vector": True},
        {"transition": True, "succession": 2.0, "aggregation": "mean"},
        {"succession": 2.0, "counts_received": "largest"},
        {"spectral_sketch_size": 40, "client_weighting": "positions", "warmup_rounds": 1},
        {"num_negatives": 20, "engine": "vectorized", "ema_decay": 0.0},
        {"experts": "memory", "model__memory__num_prototypes": 3, "num_negatives": 20},
        {"upload_bits": 6, "download_bits": 8, "spectral_start": False},
        {"cohort_sampler": "rotation", "server_optimizer": "yogi", "fusion": "competitive"},
    ],
    ids=lambda own: next(iter(own)),
)
def test_so_it_is_under_other_settings(world, settings):
    experiment, found = simulated(world, **settings)
    lead, reports = led(world, ["a", "b", "c"], **settings)
    assert_same(lead, reports, experiment, found)


def test_silos_receive_the_counts_that_a_simulation_charges(world, monkeypatch):
    monkeypatch.setattr("fedmm.federation.count_sums.PAIRS_PER_ITEM", 3)
    settings = {"succession": 2.0, "counts_received": "largest"}
    lead = lead_of(world, silos_of(world, ["a", "b", "c"], **settings), **settings)
    lead.begin()
    received = counts_from_tensors(counts_part(lead.state.begin), lead.catalogue.num_items)
    experiment = Experiment.prepare(silo_settings(world, **settings))
    assert received.nnz == 3 * lead.catalogue.num_items < experiment.sums.server.nnz
    assert sorted(received.data) == sorted(experiment.sums.clients.data), "which of equal ones is another draw"


def test_silos_of_one_user_each_are_added_bit_for_bit(tmp_path):
    write_world(tmp_path, dict.fromkeys("abcdefgh", 1))
    settings = {"rounds": 2, "spectral_start": False, "protocols": ("full",)}
    _, found = simulated(tmp_path, **settings)
    lead, _ = led(tmp_path, list("abcdefgh"), **settings)
    for name, value in found[-1][0].server.params.items():
        assert torch.equal(lead.state.server.params[name], value), name
