"""A silo that lied is left out from then on, whatever is killed, until the server's operator takes it back."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmm.deployment.astray import GoneError
from fedmm.deployment.events import Events
from fedmm.deployment.lead_state import LeadState, Named
from fedmm.deployment.leading import STATUS_FILE, _write_status, named_of, read_status, status_of
from fedmm.deployment.messages import encode, read_header
from fedmm.federation.rounds import ServerState
from fedmm_cli.federation_report import print_status
from worlds.lying_server import SEAL
from worlds.masked_world import BY_USERS, MASKED
from worlds.silo_world import lead_of, silos_of, write_world

NAMES = ["a", "b", "c", "d"]
PLAIN = {"protocols": ("full", "popularity100"), "rounds": 4, "hidden_dim": 4, "spectral_start": False}
HIDDEN = {**MASKED, "rounds": 4, "client_fraction": 1.0, "local_steps": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    write_world(folder, {"a": 7, "b": 9, "c": 5, "d": 6})
    return folder


def lying(silo, kind, lie):
    """The silo, whose answers of one kind are changed while ``lie`` has an entry for it; what it was asked is kept."""
    good, heard = silo.answer, []

    def answer(data):
        asked = read_header(SEAL.open(data, "server")).message
        heard.append(asked.kind)
        sealed = good(data)
        header = read_header(SEAL.open(sealed, silo.name))
        if header.message.kind != kind or asked.kind == "train" != kind == "sums":
            return sealed
        return SEAL.close(encode(lie(header.message)))

    silo.answer = answer
    return heard


def wrong(message):
    return replace(message, body={"shares": dict.fromkeys(message.body["shares"], "17" * 64)})


def led(world, silos, kept=None, take_back=(), **settings):
    lead, told = lead_of(world, silos, kept=kept, silos=2, **settings), []
    lead.tell = told.append
    lead.options = lead.members.options = replace(lead.options, take_back=take_back, deadline=5.0)
    lead.begin()
    return lead, told


def test_who_sends_wrong_shares_is_left_out_of_the_next_rounds_and_evaluations(world, tmp_path):
    silos = silos_of(world, NAMES, **HIDDEN)
    heard = lying(silos["b"], "opening", wrong)
    lead, told = led(world, silos, tmp_path, **HIDDEN)
    assert lead.one_round().num_clients == 27  # the sum is opened, with its part
    assert [(own.silo, own.round) for own in lead.state.named] == [("b", 1)]
    assert sum("b is left out from now on" in line for line in told) == 1
    heard.clear()
    assert lead.one_round().num_clients == 18
    assert heard == []
    second, _ = led(world, silos, tmp_path, **HIDDEN)  # killed in between
    assert second.state.named == lead.state.named
    assert second.one_round().num_clients == 18
    assert heard == []
    lead, told = led(world, silos_of(world, NAMES, **HIDDEN), tmp_path, take_back=("b", "z"), **HIDDEN)
    assert "b is taken back: it was named in round 1" in told
    assert "z is not taken back: it was not left out" in told
    assert lead.one_round().num_clients == 27
    assert lead.state.named == ()
    assert led(world, silos, tmp_path, **HIDDEN)[0].members.named == {}


def test_the_cohort_is_drawn_among_the_others(world):
    settings = {**PLAIN, "client_fraction": 0.4}
    calm, _ = led(world, silos_of(world, ["a", "b"], **settings), **settings)
    lead, _ = led(world, silos_of(world, ["a", "b", "c"], **settings), **settings)
    lead.members.name("c", "it lied", 0)
    assert lead.one_round().num_clients == calm.one_round().num_clients
    for name, value in calm.state.server.params.items():
        if name not in calm.state.begin:
            assert lead.state.server.params[name].shape == value.shape
    assert [own.counted for own in lead.state.silos] == [1, 1, 0]
    state = lead.state
    assert state.places(()).tolist() == list(range(21))
    assert state.places({"b"}).tolist() == [*range(7), *range(16, 21)]
    assert state.places({"a", "b", "c"}).dtype == np.int64


def test_who_lies_in_the_start_does_not_join_after_it(world, tmp_path):
    silos = silos_of(world, ["a", "b", "c"], **PLAIN)
    heard = lying(silos["b"], "sums", lambda own: replace(own, tensors={"popularity": torch.zeros(2)}))
    lead, _ = led(world, silos, tmp_path, **PLAIN)
    assert [own.name for own in lead.state.silos] == ["a", "c"]
    assert [(own.silo, own.round) for own in lead.state.named] == [("b", 0)]
    there = lead.conversation.transport.silos
    away = there.pop("b")
    lead.one_round()
    there["b"], silos["b"].answer = away, away  # it left and came back
    heard.clear()
    lead.one_round()
    assert heard == []
    assert [own.name for own in lead.state.silos] == ["a", "c"]


def test_a_private_federation_goes_on_by_the_account_of_all(world, tmp_path):
    settings = {"epsilon": 8.0, "protocols": ("full",), "rounds": 3, "client_fraction": 0.5}
    lead, _ = led(world, silos_of(world, NAMES, **settings), tmp_path, **settings)
    full = lead._chosen(1)
    lead.members.name("b", "it lied", 0)
    rest = lead._chosen(1)
    assert rest.keys() == full.keys() - {"b"}
    assert all(np.array_equal(own, full[name]) for name, own in rest.items())
    assert lead._absent(1) == len(full["b"])
    plan = lead.plan
    assert lead.one_round().num_clients == sum(map(len, rest.values()))
    again, _ = led(world, silos_of(world, NAMES, **settings), tmp_path, **settings)
    assert again.members.named.keys() == {"b"}
    assert again.plan == plan


def test_noise_that_is_left_out_ends_it_in_one_line(world):
    lead, _ = led(world, silos_of(world, NAMES, **BY_USERS), **BY_USERS)
    lead.members.name("b", "it lied", 0)
    with pytest.raises(GoneError, match=r"18 clients are left, and the noise takes 2\d"):
        lead.one_round()


def test_under_masks_another_silo_is_waited_for_where_one_alone_is_left(world):
    silos = silos_of(world, NAMES, **HIDDEN)
    lead, told = led(world, {name: silos[name] for name in ("a", "b")}, **HIDDEN)
    lead.members.name("b", "it lied", 0)

    def comes():
        lead.conversation.transport.silos["c"] = silos["c"].answer

    lead.members.pause = comes
    assert lead.one_round().num_clients == 12
    assert any("Without b 1 silo of the federation can go on. Waiting for another" in line for line in told)
    private = {"epsilon": 8.0, "protocols": ("full",), "rounds": 2, "update_transforms": (
        *MASKED["update_transforms"], "noise")}  # fmt: skip
    lead, _ = led(world, silos_of(world, ["a", "b"], **private), **private)
    lead.members.name("b", "it lied", 0)
    with pytest.raises(GoneError, match="Without b 1 silo"):
        lead.one_round()


def test_what_a_killed_round_asks_for_stays(world):
    """Who is named in a round takes part in what is left of it: its masked sum is over the silos of then."""
    lead, _ = led(world, silos_of(world, NAMES, **HIDDEN), **HIDDEN)
    lead.members.name("b", "it lied", 3)
    lead.members.name("b", "it lied again", 1)
    assert [lead.members.out_of(number) for number in (1, 3, 4)] == [set(), set(), {"b"}]


def test_who_lied_is_in_the_status_and_the_health(world, tmp_path, capsys):
    lead, _ = led(world, silos_of(world, ["a", "b"], **PLAIN), tmp_path, **PLAIN)
    lead.members.name("b", "wrong shares: its shares of [a] do not fit", 2)
    lead.members.name("x", "in the start: counts below 0", 0)
    found = status_of(lead)["named"]
    assert found == named_of(lead)
    assert [(own["silo"], own["round"]) for own in found] == [("b", 2), ("x", 0)]
    _write_status(lead, tmp_path, "running")
    read = read_status(tmp_path)
    assert read["named"] == found
    print_status({**read, "named": [{**own, "time": 0.0} for own in read["named"]]})
    told = " ".join(capsys.readouterr().out.split())
    assert "b lied in round 2 (1970-01-01 00:00 UTC), and is left out: wrong shares: its shares of [a]" in told
    assert "x lied in the start (1970-01-01 00:00 UTC)" in told
    status = json.loads((tmp_path / STATUS_FILE).read_bytes())
    del status["named"]
    (tmp_path / STATUS_FILE).write_text(json.dumps(status))
    assert read_status(tmp_path)["named"] == []  # of an earlier version


def test_who_is_taken_back_stays_out_of_no_later_list(world):
    lead, _ = led(world, silos_of(world, ["a", "b"], **PLAIN), take_back=("b",), **PLAIN)
    lead.conversation.events = Events()
    lead.members.know([Named("b", "it lied", 2, 0.0), Named("a", "it lied", 2, 0.0)])
    assert lead.members.named.keys() == {"a"}
    assert lead.conversation.events.number["taken back"] == 1
    assert LeadState(ServerState({}, {}, 0), (), {}).named == ()
