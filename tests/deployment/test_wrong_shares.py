"""Wrong shares of a masked sum: others open it and who sent them is named, or it is said that nobody can tell."""

from itertools import combinations

import numpy as np
import pytest

from fedmm.deployment.astray import TIMES
from fedmm.deployment.fitting import fitting
from fedmm.deployment.hidden_sum import UnopenedError, is_sure
from fedmm.deployment.messages import Message, RefusedError, encode, read_header
from fedmm.privacy import shamir
from worlds.maskers import SEAL, maskers, plain_sum, total_of


def lying(silo, about=None, lie=lambda own: "17" * 64):
    good = silo.answer

    def answer(data):
        sealed = good(data)
        found = read_header(SEAL.open(sealed, silo.name)).message
        if found.kind != "opening":
            return sealed
        shares = {n: lie(own) if about is None or n == about else own for n, own in found.body["shares"].items()}
        return SEAL.close(
            encode(Message("opening", {"shares": shares}, {}, found.session, found.sequence, node=silo.name))
        )

    silo.answer = answer


def named(members):
    return {own["node"]: own["why"] for own in members.conversation.events.last if own["event"] == "wrong shares"}


@pytest.mark.parametrize("gone", [(), ("silo05",)])
@pytest.mark.parametrize("liar", ["silo00", "silo03"])
def test_one_that_always_sends_wrong_shares_is_named_and_the_sum_is_opened(liar, gone):
    silos = maskers(7)
    lying(silos[liar])
    for name in gone:
        silos[name].silent = {"count"}
    found, members, told = total_of(silos, least=6)
    assert np.array_equal(found.words, plain_sum(silos, set(silos) - set(gone)))
    assert named(members).keys() == {liar}
    assert any(line.startswith(f"{liar} sends wrong shares") for line in told)
    assert "cannot tell" not in named(members)[liar]


def test_of_one_wrong_share_who_sent_it_and_who_dealt_it_are_named():
    silos = maskers(7)
    lying(silos["silo02"], "silo04")
    found, members, _ = total_of(silos)
    assert np.array_equal(found.words, plain_sum(silos, silos))
    assert "or silo04 dealt it wrong ones, which cannot be told" in named(members)["silo02"]
    assert members.named == {}


@pytest.mark.parametrize("number", [3, 4])
def test_of_few_silos_a_secret_that_is_too_long_tells(number):
    silos = maskers(number)
    lying(silos["silo01"])
    found, members, _ = total_of(silos)
    assert np.array_equal(found.words, plain_sum(silos, silos))
    assert named(members).keys() == members.named.keys() == {"silo01"}


def test_where_nothing_tells_whose_share_is_wrong_it_is_said_and_ends():
    """A share that is off by so much that with one other silo's it gives a secret that is off by 1, and short."""
    silos = maskers(3)
    weight = 3 * pow(3 - 2, -1, shamir.PRIME)  # of place 2 in the value at 0, beside place 3
    off = pow(weight, -1, shamir.PRIME)

    def near(own):
        number = (int.from_bytes(bytes.fromhex(own), "little") + off) % shamir.PRIME
        return number.to_bytes(len(own) // 2, "little").hex()

    lying(silos["silo01"], lie=near)
    with pytest.raises(UnopenedError, match="nothing tells which silo it is"):
        total_of(silos)


def test_nobody_is_named_for_a_sum_that_cannot_be():
    """Two of five that work together make another secret of a third one's wrong: what is opened then is nonsense."""
    silos = maskers(5)
    places = {"silo01": 2, "silo03": 4}

    def together(place):
        off = (place - 1) * (place - 5)  # 0 where the shares of the first and the last silo stay right

        def lie(own):
            number = (int.from_bytes(bytes.fromhex(own), "little") + off) % shamir.PRIME
            return number.to_bytes(len(own) // 2, "little").hex()

        return lie

    for name, place in places.items():
        lying(silos[name], lie=together(place))

    def plausible(opened):
        if not np.array_equal(opened.words, plain_sum(silos, silos)):
            raise RefusedError("a sum that cannot be.")

    heard = []
    with pytest.raises(UnopenedError, match="nothing tells which silo it is"):
        total_of(silos, heard=heard, plausible=plausible)
    assert named(heard[0]) == heard[0].named == {}


@pytest.mark.parametrize(
    ("others", "held", "sure"),
    [(["b"], 5, False), (["b", "c"], 5, False), (["b", "c", "d"], 5, True), (["a"], 5, True), (["b"], 1, True)],
)
def test_who_lies_for_sure(others, held, sure):
    """Of few silos these may have dealt it wrong shares; of its own secret it dealt them itself."""
    assert is_sure("a", others, held) is sure


def test_the_key_of_one_who_is_gone_tells_of_a_wrong_share_by_itself():
    """Of four silos three are needed, and three are there: none is spare, and none can be left out."""
    silos = maskers(4)
    silos["silo03"].silent = {"count"}
    lying(silos["silo01"])
    with pytest.raises(UnopenedError, match="do not fit together"):
        total_of(silos, least=3)


@pytest.mark.parametrize(("number", "threshold", "wrong"), [(5, 3, 1), (7, 4, 1), (9, 5, 2), (21, 15, 2)])
def test_wrong_shares_are_found_wherever_they_are(number, threshold, wrong):
    stream = np.random.default_rng(3)
    shares = shamir.split(99, list(range(1, number + 1)), threshold, stream)
    for places in list(combinations(shares, wrong))[:: max(1, number // 2)][:30]:
        lied = {place: own ^ 1 if place in places else own for place, own in shares.items()}
        assert fitting(lied, threshold, ()) == (99, frozenset(places))
        assert fitting(lied, threshold, places) == (99, frozenset(places))
    spare = dict(list(shares.items())[: threshold + 1])
    lied = {**spare, 1: 5}
    assert fitting(lied, threshold, ()) is None
    assert fitting(lied, threshold, (), lambda secret: secret == 99) == (99, frozenset({1}))
    assert TIMES == 3
