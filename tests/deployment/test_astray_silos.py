"""A silo that always lies or refuses in the start is named at once, and left out where the others can go on."""

import time
from dataclasses import replace

import pytest
import torch

from fedmm.deployment.astray import TIMES, AstrayError
from fedmm.deployment.messages import Message, encode, read_header
from worlds.lying_server import SEAL
from worlds.masked_world import BY_USERS, MASKED, NAMES
from worlds.silo_world import lead_of, silos_of, write_world

PLAIN = {"protocols": ("full", "popularity100"), "rounds": 1, "hidden_dim": 4, "spectral_start": False}
HIDDEN = {**MASKED, "protocols": ("full", "popularity100")}
NOISY = {"epsilon": 8.0, "protocols": ("full",), "rounds": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("astray")
    write_world(folder, {"a": 7, "b": 9, "c": 5, "d": 6})
    return folder


def refusing(silo, kinds, what=""):
    """The silo, which refuses what is of these kinds, well sealed."""
    good = silo.answer

    def answer(data):
        asked = read_header(SEAL.open(data, "server")).message
        if asked.kind not in kinds or what not in asked.body.get("what", ""):
            return good(data)
        told = Message("refused", {"why": "I do not like it."})
        return SEAL.close(encode(replace(told, node=silo.name, session=asked.session, sequence=asked.sequence)))

    silo.answer = answer


def lying(silo):
    good = silo.answer

    def answer(data):
        sealed = good(data)
        header = read_header(SEAL.open(sealed, silo.name))
        if header.message.kind != "sums" or read_header(SEAL.open(data, "server")).message.kind != "count":
            return sealed
        return SEAL.close(encode(replace(header.message, tensors={"popularity": torch.zeros(2)})))

    silo.answer = answer


def fouling(silo):
    """Its shares are sealed for nobody."""
    good = silo.answer

    def answer(data):
        sealed = good(data)
        message = read_header(SEAL.open(sealed, silo.name)).message
        if message.kind != "shares":
            return sealed
        told = dict.fromkeys(message.body["shares"], "00" * 176)
        return SEAL.close(encode(replace(message, body={"shares": told})))

    silo.answer = answer


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [(PLAIN, ["count"]), (HIDDEN, ["keys"]), (HIDDEN, ["roster"]), (HIDDEN, ["count"]), (NOISY, ["count"])],
    ids=["plain", "keys", "roster", "masked count", "private"],
)
def test_the_start_goes_on_without_one_that_refuses(world, settings, kinds):
    silos = silos_of(world, [*NAMES, "d"], **settings)
    refusing(silos["b"], kinds)
    told = []
    lead = lead_of(world, silos, silos=3, **settings)
    lead.tell = told.append
    began = time.monotonic()
    state = lead.begin()
    assert time.monotonic() - began < lead.options.deadline / 2
    assert [(own.name, own.base) for own in state.silos] == [("a", 0), ("c", 7), ("d", 12)]
    assert any(line.startswith("b is left out: the start goes on without it: I do not like it") for line in told)
    calm = lead_of(world, silos_of(world, ["a", "c", "d"], **settings), **settings)
    calm.secret = lead.secret
    begun = calm.begin().begin
    assert begun.keys() == state.begin.keys()
    assert all(torch.equal(state.begin[name], value) for name, value in begun.items())
    assert lead.one_round().num_clients > 0


def test_one_that_lies_is_left_out_as_one_that_refuses(world):
    silos = silos_of(world, NAMES, **PLAIN)
    lying(silos["c"])
    lead = lead_of(world, silos, silos=2, **PLAIN)
    assert [own.name for own in lead.begin().silos] == ["a", "b"]
    refused = [own for own in lead.conversation.events.last if own["event"] == "refused"]
    assert {own["node"] for own in refused} == {"c"}


@pytest.mark.parametrize(
    ("settings", "kinds", "least"),
    [(PLAIN, ["count"], 3), (HIDDEN, ["keys"], 3), (NOISY, ["count"], 3), (BY_USERS, ["count"], 2)],
    ids=["plain", "masked", "private", "noise of users"],
)
def test_the_start_ends_at_once_where_it_cannot_go_on(world, settings, kinds, least):
    silos = silos_of(world, NAMES, **settings)
    refusing(silos["b"], kinds)
    lead = lead_of(world, silos, silos=least, **settings)
    began = time.monotonic()
    with pytest.raises(AstrayError, match=r"lacks what b should send \(b: I do not like it\)"):
        lead.begin()
    assert time.monotonic() - began < lead.options.deadline / 2


@pytest.mark.parametrize(
    "settings", [{**HIDDEN, "succession": 2.0, "fusion": "residual"}, NOISY], ids=["mask", "noise"]
)
def test_a_secret_sum_is_not_made_again_without_one_whose_part_it_had(world, settings):
    """The two would differ by that silo's own, or have the same noise."""
    silos = silos_of(world, [*NAMES, "d"], **settings)
    refusing(silos["b"], ["count"], "pairs" if settings is NOISY else "counts")
    lead = lead_of(world, silos, silos=2, **settings)
    with pytest.raises(AstrayError, match="lacks what b should send") as caught:
        lead.begin()
    assert caught.value.sums == 1


def test_those_who_were_asked_to_open_a_sum_are_asked_for_no_other(world):
    """Two of four refuse to open it: the other two hold to it, and it is not they who are named."""
    silos = silos_of(world, [*NAMES, "d"], **HIDDEN)
    for name in ("b", "d"):
        refusing(silos[name], ["open"])
    lead, told = lead_of(world, silos, silos=2, **HIDDEN), []
    lead.tell = told.append
    with pytest.raises(AstrayError, match="lacks what b, d should send") as caught:
        lead.begin()
    assert caught.value.sums == 1
    assert len([line for line in told if line.startswith("a has 7 users")]) == 1


def test_of_shares_that_nobody_sealed_both_silos_are_named(world):
    silos = silos_of(world, NAMES, **HIDDEN)
    fouling(silos["c"])
    with pytest.raises(AstrayError, match="shares of 'c' that it did not seal") as caught:
        lead_of(world, silos, silos=2, **HIDDEN).begin()
    assert caught.value.why.keys() == {"a", "b"}
    assert "cannot be told" in str(caught.value)


def test_one_that_fails_now_and_then_is_asked_again(world):
    silos = silos_of(world, NAMES, **PLAIN)
    good, bad = silos["b"].answer, []

    def answer(data):
        sealed = good(data)
        if read_header(SEAL.open(data, "server")).message.kind != "count" or len(bad) == TIMES - 1:
            return sealed
        bad.append(1)
        message = read_header(SEAL.open(sealed, "b")).message
        return SEAL.close(encode(replace(message, kind="refused", body={"why": "not now"})))

    silos["b"].answer = answer
    assert [own.name for own in lead_of(world, silos, **PLAIN).begin().silos] == NAMES
    assert len(bad) == TIMES - 1


def test_a_masked_round_that_is_nonsense_each_time_is_left_out_at_once(world):
    settings = {**MASKED, "rounds": 1}
    silos = silos_of(world, NAMES, **settings)
    good = silos["b"].answer

    def answer(data):
        sealed = good(data)
        header = read_header(SEAL.open(sealed, "b"))
        if header.message.kind != "masked":
            return sealed
        numbers = int.from_bytes(header.content[:8], "little")
        content = bytearray(header.content)
        for place in range(8 + numbers + 3, len(content), 4):
            content[place] ^= 0x40
        return SEAL.close(encode(header.message) + bytes(content))

    silos["b"].answer = answer
    lead = lead_of(world, silos, **settings)
    lead.begin()
    began = time.monotonic()
    assert lead.one_round().num_clients == 0
    assert time.monotonic() - began < lead.options.deadline / 2
    left = [own["why"] for own in lead.conversation.events.last if own["event"] == "round left out"]
    assert len(left) == 1
    assert lead.conversation.events.number["masked sum not used"] == TIMES
