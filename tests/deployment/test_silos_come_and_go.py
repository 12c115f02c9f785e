"""Silos that are late, gone, new or changed: rounds go on with those who are there, and only they count."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedmm.deployment.seals import Checksums
from fedmm.deployment.silo import Silo
from fedmm.deployment.transport import InProcess
from fedmm.errors import CheckpointError, ConfigError, DataError
from worlds.silo_world import lead_of, silo_settings, silos_of, write_world

SETTINGS = {"spectral_start": False, "protocols": ("full",), "fusion": "backbone", "hidden_dim": 4, "rounds": 3}
KEEPING = {**SETTINGS, "local_algorithm": "scaffold", "client_fraction": 1.0}


class Coming:
    """A transport whose silos come and go as the test says."""

    def __init__(self, silos):
        self.inner, self.there = InProcess({name: own.answer for name, own in silos.items()}), set(silos)

    def nodes(self):
        return sorted(self.there)

    def exchange(self, requests, seconds):
        return self.inner.exchange([own for own in requests if own[0] in self.there], seconds)


@pytest.fixture
def world(tmp_path):
    write_world(tmp_path, {"a": 4, "b": 4, "c": 2})
    return tmp_path


def test_a_round_goes_on_without_a_silo_and_what_that_one_kept_stays(world):
    silos = silos_of(world, ["a", "b"], **KEEPING)
    transport = Coming(silos)
    lead = lead_of(world, transport, quorum=0.5, **KEEPING)
    lead.begin()
    assert lead.one_round().num_clients == 8
    kept = silos["b"]._states.now(1).to_tensors()
    transport.there = {"a"}
    assert lead.one_round().num_clients == 4
    assert [silo.counted for silo in lead.state.silos] == [2, 1]
    transport.there = {"a", "b"}
    assert all(torch.equal(silos["b"]._states.now(1).to_tensors()[name], kept[name]) for name in kept)
    assert lead.one_round().num_clients == 8


def test_sums_that_came_too_late_change_nothing_that_stays(world):
    silos = silos_of(world, ["a", "b"], **KEEPING)
    transport = Coming(silos)
    lead = lead_of(world, transport, quorum=0.5, **KEEPING)
    lead.begin()
    lead.one_round()
    before = silos["b"]._states.now(1).to_tensors()
    answer, silos["b"].answer = silos["b"].answer, None
    transport.inner = InProcess({"a": silos["a"].answer, "b": lambda data: (answer(data), b"lost")[1]})
    assert lead.one_round().num_clients == 4  # b trained, and nobody heard of it
    assert silos["b"]._states.pending_round == 2
    transport.inner = InProcess({"a": silos["a"].answer, "b": answer})
    settled = []

    def watched(data):
        found = answer(data)
        settled.append(silos["b"]._states.settled.to_tensors())
        return found

    transport.inner = InProcess({"a": silos["a"].answer, "b": watched})
    assert lead.one_round().num_clients == 8
    assert all(torch.equal(settled[0][name], before[name]) for name in before)


def test_a_new_silo_joins_and_its_users_count_among_all(world):
    silos = silos_of(world, ["a", "b", "c"], **SETTINGS)
    transport = Coming(silos)
    transport.there = {"a", "b"}
    lead = lead_of(world, transport, client_fraction=1.0, **SETTINGS)
    lead.begin()
    assert lead.one_round().num_clients == 8
    transport.there.add("c")
    assert lead.one_round().num_clients == 10
    assert [(silo.name, silo.base) for silo in lead.state.silos] == [("a", 0), ("b", 4), ("c", 8)]


def test_a_silo_of_whom_few_are_drawn_sits_the_round_out(world):
    silos = silos_of(world, ["a", "b", "c"], **SETTINGS)
    lead = lead_of(world, silos, min_users=2, client_fraction=0.5, **SETTINGS)
    lead.begin()
    drawn = [lead._cohort(np.arange(10), number) for number in (1, 2, 3)]
    reports = list(lead.rounds())
    firsts = [0, 4, 8, 10]
    parts = [np.histogram(own, firsts)[0] for own in drawn]
    assert any(0 < number < 2 for own in parts for number in own)
    assert [own.num_clients for own in reports] == [int(own[own >= 2].sum()) for own in parts]
    alone = lead_of(world, silos_of(world, ["a", "b", "c"], **SETTINGS), min_users=2, cohort_size=1, **SETTINGS)
    alone.begin()
    with pytest.raises(ConfigError, match="Of no silo 2 users are drawn"):
        alone.one_round()


def test_a_restarted_silo_is_told_again_and_goes_on(world):
    kept = silos_of(world, ["a", "b"], keep=True, **KEEPING)
    transport = Coming(kept)
    lead = lead_of(world, transport, **KEEPING)
    lead.begin()
    lead.one_round()
    again = {name: Silo(name, own.config, own.folder) for name, own in kept.items()}  # what is in memory is lost
    transport.inner = InProcess({name: own.answer for name, own in again.items()})
    lead.one_round()
    for name in kept:
        assert set(again[name]._states.settled.entries) == set(kept[name]._states.pending.entries)
    forgetful = {name: Silo(name, own.config) for name, own in kept.items()}  # the disk, too
    transport.inner = InProcess({name: own.answer for name, own in forgetful.items()})
    assert lead.one_round().num_clients == 8
    assert lead.conversation.events.number["silo cannot follow"] == 2


def test_a_silo_forgets_what_it_kept_for_another_federation(world):
    for _ in range(2):
        silos = silos_of(world, ["a", "b"], keep=True, **KEEPING)
        lead = lead_of(world, silos, **KEEPING)
        lead.begin()
        assert not silos["a"]._states.settled.entries
        lead.one_round()
        assert silos["a"]._states.pending.entries


def test_a_silo_whose_users_have_changed_is_told_so(world):
    silos = silos_of(world, ["a", "b"], keep=True, **SETTINGS)
    lead = lead_of(world, silos, **SETTINGS)
    lead.begin()
    folder: Path = silos["a"].folder
    with pytest.raises(CheckpointError, match="2 are new, 4 are gone"):
        Silo("a", silo_settings(world, "c", **SETTINGS), folder)


@pytest.mark.parametrize("content", [b"", b"null", b"[1]", b"\xff"])
def test_a_damaged_list_of_users_is_told_so(world, content):
    silos = silos_of(world, ["a", "b"], keep=True, **SETTINGS)
    lead_of(world, silos, **SETTINGS).begin()
    (silos["a"].folder / "roster.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"roster\.json.* was changed"):
        Silo("a", silos["a"].config, silos["a"].folder)


def test_trouble_with_its_own_data_ends_a_silo_and_is_not_told(world):
    secret = world / "secret.csv"
    secret.write_text("user,item,timestamp\nuser-secret,item-none,77\n", encoding="utf-8")
    silo = Silo("a", silo_settings(world, "secret", **SETTINGS))
    told = []

    def answer(data):
        told.append(silo.answer(data))
        return told[-1]

    lead = lead_of(world, Coming({"a": silo}), **SETTINGS)
    lead.conversation.transport = InProcess({"a": answer})
    assert lead.members.introductions(["a"]) == {}
    assert isinstance(silo.failure, DataError)
    assert b"secret" not in b"".join(told)
    assert b"item-none" not in b"".join(told)
    assert b"the silo cannot go on (data)" in Checksums().open(told[-1], "a")


def test_a_server_goes_on_from_its_disk_and_refuses_other_settings(world):
    silos = silos_of(world, ["a", "b"], **KEEPING)
    whole = lead_of(world, silos_of(world, ["a", "b"], **KEEPING), **KEEPING)
    whole.begin()
    list(whole.rounds())
    first = lead_of(world, silos, kept=world / "kept", **KEEPING)
    first.begin()
    first.one_round()
    second = lead_of(world, silos, kept=world / "kept", **KEEPING)
    second.begin()
    assert second.state.server.round == 1
    list(second.rounds())
    for name, value in whole.state.server.params.items():
        assert torch.equal(second.state.server.params[name], value), name
    other = lead_of(world, silos, kept=world / "kept", **{**KEEPING, "hidden_dim": 8})
    with pytest.raises(CheckpointError, match="other settings"):
        other.begin()


def test_what_a_silo_was_told_is_told_anew_where_its_disk_lost_it(world):
    silos = silos_of(world, ["a", "b"], keep=True, **SETTINGS)
    transport = Coming(silos)
    lead = lead_of(world, transport, **SETTINGS)
    lead.begin()
    lead.one_round()
    (silos["a"].folder / "begin.message").write_bytes(b"FMM\x01 damaged")
    (silos["b"].folder / "offer.message").write_bytes(b"")
    told = []
    again = {name: Silo(name, own.config, own.folder, tell=told.append) for name, own in silos.items()}
    assert sum("is not used" in line for line in told) >= 2
    transport.inner = InProcess({name: own.answer for name, own in again.items()})
    lead.one_round()
    assert [silo.counted for silo in lead.state.silos] == [2, 2]


def test_a_silo_that_lives_on_answers_the_federation_that_asks(world):
    """The same first request of a second federation, under other settings, is trained anew."""
    steps = {name: {**SETTINGS, "local_steps": number} for name, number in (("few", 1), ("more", 3))}

    def learnt(silos, settings):
        lead = lead_of(world, silos, **settings)
        lead.begin()
        lead.one_round()
        return lead.state.server.params

    living = silos_of(world, ["a", "b"], **steps["few"])
    first = learnt(living, steps["few"])
    second = learnt(living, steps["more"])
    fresh = learnt(silos_of(world, ["a", "b"], **steps["more"]), steps["more"])
    assert all(torch.equal(value, second[name]) for name, value in fresh.items())
    assert any(not torch.equal(value, second[name]) for name, value in first.items())
