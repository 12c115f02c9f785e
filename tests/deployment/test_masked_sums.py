"""Sums of silos that the server cannot see the parts of: exact, open over the threshold, and never opened twice."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.deployment.masks import FILE, Purpose, SiloMasks
from fedmm.deployment.messages import Message, RefusedError, encode, read_header
from fedmm.privacy.secure_sum import public_key
from worlds.faulty_transport import FaultyTransport
from worlds.maskers import SEAL, WIDTH, Masker, maskers, plain_sum, total_of


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=WIDTH, max_size=WIDTH), min_size=2, max_size=5))
@settings(max_examples=15, deadline=None)
def test_a_masked_sum_is_the_sum_and_no_part_of_it_is_seen(rows):
    silos = {f"s{place}": Masker(f"s{place}", np.array(row, dtype=np.uint32)) for place, row in enumerate(rows)}
    found, members, _ = total_of(silos)
    assert np.array_equal(found.words, plain_sum(silos, silos))
    assert found.sent == set(silos)
    assert members.conversation.events.number["masked sum not opened"] == 0
    for own in silos.values():
        assert len(own.sent) == 1
        assert not np.array_equal(own.sent[0], own.words)


@pytest.mark.parametrize("kind", ["keys", "roster", "count", "open"])
def test_who_leaves_between_two_exchanges_stops_nothing(kind):
    silos = maskers(5)
    silos["silo02"].silent = {kind}
    found, members, _ = total_of(silos)
    expected = set(silos) if kind == "open" else set(silos) - {"silo02"}
    assert found.sent == expected
    assert np.array_equal(found.words, plain_sum(silos, expected))
    assert members.conversation.events.number["masked sum not opened"] == 0


def test_silos_hear_of_each_others_lists_where_one_is_missing():
    """And one of those may leave before it said so."""
    silos = maskers(5)
    total_of(silos)
    assert "agree" not in {kind for own in silos.values() for kind in own.asked}
    silos = maskers(5)
    silos["silo02"].silent, silos["silo03"].silent = {"count"}, {"agree"}
    found, members, _ = total_of(silos)
    assert found.sent == set(silos) - {"silo02"}
    assert np.array_equal(found.words, plain_sum(silos, found.sent))
    assert members.conversation.events.number["masked sum not opened"] == 0
    assert silos["silo00"].asked.count("agree") == 1


def test_under_the_threshold_nothing_is_opened_and_the_sum_begins_anew():
    silos = maskers(5)
    for name in ("silo00", "silo01", "silo02"):
        silos[name].silent = {"count"}

    def again():
        for own in silos.values():
            own.silent = set()

    found, members, told = total_of(silos, again)
    assert np.array_equal(found.words, plain_sum(silos, silos))
    assert members.conversation.events.number["masked sum not opened"] == 1
    assert "nothing was revealed" in told[-1]


def test_two_of_three_open_and_one_of_two_does_not():
    three = maskers(3)
    three["silo00"].silent = {"count"}
    found, _, _ = total_of(three)
    assert found.sent == {"silo01", "silo02"}
    two = maskers(2)
    two["silo00"].silent = {"count"}
    tries = []

    def again():
        tries.append(1)
        two["silo00"].silent = set()

    found, _, _ = total_of(two, again)
    assert tries
    assert np.array_equal(found.words, plain_sum(two, two))


def test_of_many_silos_each_knows_twenty():
    silos = maskers(25)
    for name in ("silo03", "silo17"):
        silos[name].silent = {"count"}
    found, _, _ = total_of(silos, least=20)
    assert np.array_equal(found.words, plain_sum(silos, set(silos) - {"silo03", "silo17"}))
    assert len(silos["silo05"].masks._kept["roster"]) == 20


def test_a_silo_that_is_a_new_process_at_each_message_goes_on(tmp_path):
    silos = maskers(3, tmp_path)
    found, _, _ = total_of(silos)
    assert np.array_equal(found.words, plain_sum(silos, silos))
    assert (tmp_path / "silo00" / FILE).stat().st_mode & 0o077 == 0
    (tmp_path / "silo00" / FILE).write_text("damaged")
    assert np.array_equal(total_of(silos)[0].words, plain_sum(silos, silos))


@pytest.mark.parametrize("seed", range(4))
def test_a_bad_line_changes_no_sum(seed, tmp_path):
    silos = maskers(9, tmp_path if seed == 0 else None)
    lines = []

    def line(answers):
        lines.append(FaultyTransport(answers, rate=0.2, seed=seed))
        return lines[0]

    found, _, _ = total_of(silos, least=5, line=line)
    assert sum(lines[0].done.values()) > 3
    assert len(found.sent) >= 5
    assert np.array_equal(found.words, plain_sum(silos, found.sent))


# What a silo holds to


def begun(attempt="one"):
    """Two silos' masks with their keys exchanged, and the shares that the first has for the second, and back."""
    one, two = SiloMasks("one"), SiloMasks("two")
    keys = {own.name: list(own.keys(attempt).values()) for own in (one, two)}
    given_one = one.shares(attempt, {"two": keys["two"]})
    given_two = two.shares(attempt, {"one": keys["one"]})
    return one, two, keys, given_one["two"], given_two["one"]


WORDS = np.arange(4, dtype=np.uint32)
A, B = Purpose("sum 1", "a", 1), Purpose("sum 1", "b", 1)


def test_a_mask_hides_one_request_and_opens_for_one_list():
    one, two, _, for_two, for_one = begun()
    hidden = one.masked("one", A, {"two": for_one}, WORDS)
    assert np.array_equal(hidden, one.masked("one", A, {"two": for_one}, WORDS))
    with pytest.raises(RefusedError, match="second request under one mask"):
        one.masked("one", B, {"two": for_one}, WORDS)
    with pytest.raises(RefusedError, match="1 silos sent"):
        one.opening("one", ["one"])
    first = one.opening("one", ["one", "two"])
    assert first == one.opening("one", ["two", "one"])
    two.masked("one", A, {"one": for_two}, WORDS)
    for sent in (["two"], ["one", "two", "three"], ["one", "one"], []):
        with pytest.raises(RefusedError):
            one.opening("one", sent)


def test_a_second_list_of_who_sent_is_refused():
    silos = maskers(5)
    total_of(silos)
    masks = silos["silo00"].masks
    attempt, sent = masks._kept["attempt"], masks._kept["sent"]
    with pytest.raises(RefusedError, match="second list"):
        masks.opening(attempt, sent[:-1])


def test_what_was_recorded_of_another_sum_is_refused():
    one, _, keys, _, for_one = begun("first")
    with pytest.raises(RefusedError, match="second list of neighbours"):
        one.shares("first", {"two": [public_key(bytes([7]) * 32).hex()] * 2})
    one.keys("second")
    for call in (
        lambda: one.shares("first", {"two": keys["two"]}),
        lambda: one.masked("first", A, {"two": for_one}, WORDS),
        lambda: one.opening("first", ["one", "two"]),
        lambda: one.masked("second", A, {"two": for_one}, WORDS),
    ):
        with pytest.raises(RefusedError, match="not begun"):
            call()
    one.shares("second", {"two": keys["two"]})
    with pytest.raises(RefusedError, match="did not seal"):
        one.masked("second", A, {"two": for_one}, WORDS)


@pytest.mark.parametrize(
    "roster",
    [
        {},
        {"one": ["00" * 32, "00" * 32]},
        {"two": ["00" * 32, "00" * 32]},  # agrees with everybody on the same
        {"two": ["ab", "cd"]},
        {"two": ["zz" * 32, "zz" * 32]},
        {"two": "no keys"},
        {"two": None},
        {"two": [1, 2]},
        {str(place): ["11" * 32, "11" * 32] for place in range(101)},
    ],
)
def test_neighbours_that_cannot_be_are_refused(roster):
    one = SiloMasks("one")
    one.keys("attempt")
    with pytest.raises(RefusedError):
        one.shares("attempt", roster)


HOSTILE = {
    "no key": lambda own: {**own, "mask": "ab"},
    "a key of zeros": lambda own: {**own, "share": "00" * 32},
    "a key in words": lambda own: {**own, "mask": "key " * 16},
    "no keys": lambda own: {},
    "no shares": lambda own: {"shares": {}},
    "shares in a list": lambda own: {"shares": [1, 2]},
    "a share for a stranger": lambda own: {"shares": {**own["shares"], "stranger": "00"}},
    "a share that is a number": lambda own: {"shares": dict.fromkeys(own["shares"], 7)},
    "words in a list": lambda own: {"agreed": [1]},
    "a word for a stranger": lambda own: {"agreed": {**own["agreed"], "stranger": "00" * 16}},
    "a short word": lambda own: {"agreed": dict.fromkeys(own["agreed"], "00")},
    "a huge share": lambda own: {"shares": dict.fromkeys(own["shares"], "00" * 10_000)},
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_answer_is_refused_and_the_sum_is_right(attack):
    silos = maskers(4)
    bad, kinds = silos["silo01"], {"keys"} if "key" in attack else {"shares", "opening"}
    if "word" in attack and "key" not in attack:
        kinds, silos["silo03"].silent = {"agreed"}, {"count"}
    good, tried = bad.answer, []

    def answer(data):
        found = read_header(SEAL.open(good(data), "silo01")).message
        if found.kind not in kinds or found.kind in tried:
            return good(data)
        tried.append(found.kind)
        body = HOSTILE[attack](found.body)
        return SEAL.close(encode(Message(found.kind, body, {}, found.session, found.sequence, node="silo01")))

    bad.answer = answer
    found, members, _ = total_of(silos)
    assert np.array_equal(found.words, plain_sum(silos, found.sent))
    assert len(found.sent) == len(silos) - (kinds == {"agreed"})
    assert members.conversation.events.number["refused"] >= len(tried) > 0


def test_shares_that_lie_open_nothing():
    silos, tries = maskers(2), []
    good = silos["silo01"].answer

    def answer(data):
        found = read_header(SEAL.open(good(data), "silo01")).message
        if found.kind != "opening" or tries:
            return good(data)
        lies = dict.fromkeys(found.body["shares"], "ff" * 60)
        return SEAL.close(
            encode(Message("opening", {"shares": lies}, {}, found.session, found.sequence, node="silo01"))
        )

    silos["silo01"].answer = answer
    found, members, _ = total_of(silos, lambda: tries.append(1))
    assert len(tries) == members.conversation.events.number["masked sum not opened"] == 1
    assert np.array_equal(found.words, plain_sum(silos, silos))


def test_states_on_disk_hold_what_was_promised(tmp_path):
    one = SiloMasks("one", tmp_path)
    one.keys("attempt")
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["attempt"] == "attempt"
    again = SiloMasks("one", tmp_path)
    assert again.keys("attempt") == one.keys("attempt")
    assert again.keys("another") != one.keys("attempt")
    again.forget()
    assert not (tmp_path / FILE).exists()
    with pytest.raises(RefusedError):
        again.shares("another", {})
