"""Texts of the other side end nothing, write no second line, and overwrite no promise."""

from dataclasses import replace

import pytest

from fedmm.deployment import lead as lead_module
from fedmm.deployment.messages import MOST_DEPTH, Message, RefusedError, encode, read_header
from fedmm.deployment.promises import FILE, Promises
from fedmm.deployment.silo import Silo
from fedmm.deployment.terms import SECTIONS
from worlds.lying_server import SEAL, Between
from worlds.masked_world import BY_USERS, MASKED, NAMES, led
from worlds.silo_world import lead_of, silos_of, write_world

HALF = "\ud800"  # of a character: JSON can name it, and no file holds it


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    write_world(folder, {"a": 7, "b": 9, "c": 5})
    return folder


@pytest.fixture(scope="module")
def masked(world):
    silos = silos_of(world, NAMES, **MASKED)
    return silos["a"], led(world, silos, **MASKED)


def nested(depth):
    return [nested(depth - 1)] if depth else "end"


EMPTY = {name: {} for name in (*SECTIONS, "data", "runtime")}
KEYS = ["11" * 32, "22" * 32]
BODIES = {
    "half a character as attempt": ("keys", {"attempt": HALF}),
    "a silo of half a character": ("roster", {"attempt": "one", "clients": 1, "roster": {HALF: KEYS}}),
    "terms without tables": ("begin", {"terms": {**EMPTY, "data": 7}}),
    "half a character in terms": ("begin", {"terms": {**EMPTY, "data": {HALF: 1}}}),
    "lists in lists": ("count", {"what": "popularity", "more": nested(MOST_DEPTH)}),
    "two lines": ("keys", {"attempt": "one\ntwo"}),
}


@pytest.mark.parametrize("attack", BODIES)
def test_a_server_ends_no_silo_by_what_it_writes(masked, attack):
    silo, lead = masked
    kind, body = BODIES[attack]
    silo._masks.keys("one")
    asked = Message(kind, body, session=lead.conversation.session, sequence=10**6 + list(BODIES).index(attack))
    answer = read_header(SEAL.open(silo.answer(SEAL.close(encode(asked))), "a")).message
    assert answer.kind == "refused"
    assert silo.failure is None


def test_a_federations_name_overwrites_no_promise(world, tmp_path, monkeypatch):
    """It is written to the silo's promises where users add the noise: a line of it would be another promise."""
    silos = silos_of(world, NAMES, **BY_USERS)
    for name, silo in silos.items():
        silos[name] = Silo(name, silo.config, tmp_path / name)
    made = lead_module.start.private_state
    promised = {}

    def named(*about):
        state = made(*about)
        promised.update(Promises(tmp_path / "a")._held)
        counts = next(name for name in promised if name.endswith("holders"))
        return replace(state, name=f"x\ty\nother\t{counts}\nz")

    monkeypatch.setattr(lead_module.start, "private_state", named)
    heard = {name: Between(silo) for name, silo in silos.items()}
    lead_of(world, heard, **BY_USERS).begin()
    assert any("not a text" in why for why in heard["a"].refusals())
    again = Silo("a", silos["a"].config, tmp_path / "a")
    assert again._masks.promises._held.items() >= promised.items()
    assert not any("\t" in line.partition("\t")[2] for line in (tmp_path / "a" / FILE).read_text().splitlines())


def test_a_promise_is_one_line_and_what_was_promised_first_holds(tmp_path):
    one = Promises(tmp_path)
    for name, value in (("sum", "x\ny"), ("sum\t", "x"), ("sum", ""), (f"sum {HALF}", "x")):
        with pytest.raises(RefusedError, match="more than a line"):
            one.hold(name, value)
    assert not (tmp_path / FILE).exists()
    (tmp_path / FILE).write_bytes(b"first\tsum\nother\tsum\n")
    with pytest.raises(RefusedError, match="sum again"):
        Promises(tmp_path).require("sum", "other")


def test_what_a_silo_says_is_told_in_one_line(world):
    silos = silos_of(world, NAMES, **MASKED)
    good = silos["b"].answer

    def answer(data):
        asked = read_header(SEAL.open(data, "server")).message
        if asked.kind != "begin":
            return good(data)
        why = {"why": "no\nround 3 of 3: all is well\x1b[2J" + "!" * 500}
        return SEAL.close(encode(Message("refused", why, {}, asked.session, asked.sequence, node="b")))

    silos["b"].answer = answer
    told = []
    lead = lead_of(world, silos, **MASKED)
    lead.tell = told.append
    lead.begin()
    line = next(own for own in told if own.startswith("b does not begin"))
    assert line.startswith("b does not begin: no round 3 of 3: all is well [2J!!")
    assert len(line) < 230
    assert all(own.isprintable() for own in told)
