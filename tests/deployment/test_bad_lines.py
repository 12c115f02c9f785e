"""On a bad line a federation learns what it learns on a good one: nothing is counted twice, nothing half."""

import resource
import threading

import pytest
import torch

from worlds.faulty_transport import FAULTS, FaultyTransport
from worlds.silo_world import lead_of, silos_of, write_world

SETTINGS = {
    "spectral_start": False, "protocols": ("full",), "fusion": "backbone", "local_steps": 1, "hidden_dim": 4,
    "max_length": 4, "dropout": 0.0,
}  # fmt: skip


def learned(folder, names, *, rate, rounds, **settings):
    silos = silos_of(folder, names, **settings)
    transport = FaultyTransport({name: own.answer for name, own in silos.items()}, rate=rate, seed=3)
    lead = lead_of(folder, transport, rounds=rounds, **settings)
    lead.begin()
    reports = list(lead.rounds())
    return lead, reports, transport, silos


def assert_same(bad, good):
    for name, value in good.state.server.params.items():
        assert torch.equal(bad.state.server.params[name], value), name
    assert bad.state.best.value == good.state.best.value


def test_a_bad_line_changes_nothing_that_is_learnt(tmp_path):
    names = [f"s{number}" for number in range(4)]
    write_world(tmp_path, dict.fromkeys(names, 2))
    settings = {**SETTINGS, "local_algorithm": "scaffold", "fusion": "residual", "personal_gate": True}
    good, told, _, kept = learned(tmp_path, names, rate=0.0, rounds=2, **settings)
    bad, heard, transport, states = learned(tmp_path, names, rate=0.5, rounds=2, **settings)
    assert set(FAULTS) <= set(transport.done)
    assert_same(bad, good)
    assert [own.num_clients for own in heard] == [own.num_clients for own in told]
    for name in names:  # nor what stays with the clients
        ours, theirs = (own[name]._states.now(2).to_tensors() for own in (states, kept))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.slow
def test_a_thousand_silos_on_a_bad_line(tmp_path):
    names = [f"s{number:04d}" for number in range(1000)]
    write_world(tmp_path, dict.fromkeys(names, 1))
    settings = {**SETTINGS, "client_fraction": 0.1, "evaluation__every": 10}
    good, told, _, _ = learned(tmp_path, names, rate=0.0, rounds=20, **settings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bad, heard, transport, _ = learned(tmp_path, names, rate=0.1, rounds=20, **settings)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_same(bad, good)
    assert [own.num_clients for own in heard] == [own.num_clients for own in told] == [100] * 20
    assert min(transport.done[fault] for fault in FAULTS) > 20
    assert bad.conversation.events.number["refused"] > 0
    assert after - before < 300_000  # KiB: as much as the first, and no more
    assert threading.active_count() == 1


CHAIN = ("clip", "rotate", "round")


@pytest.mark.slow
def test_a_thousand_masked_silos_on_a_bad_line_are_the_plain_integers(tmp_path):
    """Each knows 20 neighbours: masks, shares and openings of all come back through faults to the same sum."""
    names = [f"s{number:04d}" for number in range(1000)]
    write_world(tmp_path, dict.fromkeys(names, 1))
    settings = {**SETTINGS, "client_fraction": 1.0, "evaluation__every": 10}
    good, told, _, _ = learned(tmp_path, names, rate=0.0, rounds=2, **settings, update_transforms=CHAIN)
    masked = {**settings, "update_transforms": (*CHAIN, "mask")}
    bad, heard, transport, silos = learned(tmp_path, names, rate=0.03, rounds=2, **masked)
    for name, value in good.state.server.params.items():
        assert torch.equal(bad.state.server.params[name], value), name
    assert [own.num_clients for own in heard] == [own.num_clients for own in told] == [1000] * 2
    assert min(transport.done[fault] for fault in FAULTS) > 20
    assert {len(own._masks._kept["roster"]) for own in silos.values()} == {20}
