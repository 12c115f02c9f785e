"""A server that tells silos different lists of who sent, or of whose shares they hold, sees one sum and no part."""

import itertools

import numpy as np
import pytest

from fedmm.deployment.masks import SHARE_BYTES, Purpose, SiloMasks, mask_info, needs_no_word, threshold_of
from fedmm.deployment.messages import RefusedError
from fedmm.privacy import shamir
from fedmm.privacy.secure_sum import KEY_BYTES, NEIGHBOURS, agreed_key, key_stream, signed
from worlds.lying_server import shared

PURPOSE = Purpose("sum", "asked", 1)
WIDTH = 3


def subsets(members, least=0):
    return [set(own) for size in range(least, len(members) + 1) for own in itertools.combinations(members, size)]


class Attack:
    """A server that hands each silo what shares it likes, and tells each a list of its own."""

    def __init__(self, number, held=None):
        self.names = [f"s{place}" for place in range(number)]
        self.masks, given = shared(self.names, [1] * number)
        self.held = {own: set(self.names) - {own} if held is None else set(held[own]) for own in self.names}
        stream = np.random.default_rng(number)
        self.words = {own: stream.integers(2**32, size=WIDTH, dtype=np.uint32) for own in self.names}
        self.masked = {
            own: self.masks[own].masked("one", PURPOSE, {n: given[own][n] for n in self.held[own]}, self.words[own])
            for own in self.names
        }
        self.kept = {own: dict(one._kept) for own, one in self.masks.items()}

    def opened(self, lists):
        """The shares that silos hand out, by who does; each hears its own of the ``lists`` and all words of others."""
        words, found = {}, {}
        for own, one in self.masks.items():
            one._kept, one.promises._held = dict(self.kept[own]), {}
            words[own] = attempt(lambda one=one, own=own: one.agreed("one", sorted(lists[own])))
        for own, one in self.masks.items():
            agreed = {other: said[own] for other, said in words.items() if own in said}
            found[own] = attempt(lambda one=one, own=own, agreed=agreed: one.opening("one", sorted(lists[own]), agreed))
        return {own: shares for own, shares in found.items() if shares}

    def known(self, lists):
        """Whose own masks, and whose keys, the server has enough shares of."""
        opened = self.opened(lists)
        gave = {
            own: [{h for h, shares in opened.items() if own in shares and (own in lists[h]) == sent} for sent in (1, 0)]
            for own in self.names
        }
        needed = threshold_of(len(self.names))
        return [{own for own in self.names if len(gave[own][which]) >= needed} for which in (0, 1)]

    def sums(self, lists):
        """The sets of silos whose sum the server can form: what masks them is known, or cancels among them."""
        masks, keys = self.known(lists)
        found = []
        for start in sorted(masks):
            part, new = set(), {start}
            while new:
                part |= new
                near = {n for own in part for n in self.names if n in self.held[own] or own in self.held[n]}
                new = near - keys - part
            both = all((n in self.held[own]) == (own in self.held[n]) for own in part for n in part)
            if both and part <= masks - keys and part not in found:
                found.append(part)
        return found


def attempt(call):
    try:
        return call()
    except RefusedError:
        return {}


def test_the_lists_that_opened_one_silos_sum_open_nothing():
    """Five silos, the first of which masks with two others: its own mask and both keys are three shares each."""
    everyone = {f"s{place}" for place in range(5)}
    attack = Attack(5, {own: everyone - {own} for own in everyone} | {"s0": {"s1", "s2"}})
    lists = {
        "s0": {"s0", "s1", "s2"}, "s1": {"s1", "s3", "s4"}, "s2": {"s2", "s3", "s4"}, "s3": {"s0", "s3", "s4"},
        "s4": {"s0", "s3", "s4"},
    }  # fmt: skip
    assert attack.opened(lists) == {}
    held = {own: {**kept["held"], own: kept["share"]} for own, kept in attack.kept.items()}

    def secret(own, sent):  # of the shares that silos gave by these lists, before they asked each other
        given = {place: held[n][own] for place, n in enumerate(attack.names, 1) if (own in lists[n]) == sent}
        halves = {
            place: share[: 2 * SHARE_BYTES] if sent else share[2 * SHARE_BYTES :] for place, share in given.items()
        }
        found = {place: bytes.fromhex(own[: 2 * SHARE_BYTES]) for place, own in halves.items()}
        return shamir.join({p: int.from_bytes(own, "little") for p, own in found.items()}, 3).to_bytes(
            KEY_BYTES, "little"
        )

    seen = signed(attack.masked["s0"].copy(), key_stream(secret("s0", True), WIDTH), False)
    public = bytes.fromhex(attack.masks["s0"].keys("one")["mask"])
    for other in ("s1", "s2"):
        key = agreed_key(secret(other, False), public, mask_info("one", "s0", other))
        seen = signed(seen, key_stream(key, WIDTH), False)
    assert np.array_equal(seen, attack.words["s0"])


@pytest.mark.parametrize("number", [2, 3, 4])
def test_by_every_assignment_of_lists_one_sum_is_seen(number):
    """Real masks and shares, all lists that each silo would hear."""
    attack, needed = Attack(number), threshold_of(number)
    choices = [[own for own in subsets(attack.names, needed) if name in own] for name in attack.names]
    seen = 0
    for lists in itertools.product(*choices):
        told = dict(zip(attack.names, lists, strict=True))
        opened = attack.opened(told)
        assert set(opened) == opening(number, told)
        masks, keys = attack.known(told)
        assert not masks & keys
        sums = attack.sums(told)
        assert len(sums) <= 1
        assert all(len(own) >= needed and own in lists for own in sums)
        seen += len(sums)
    assert seen


def opening(number, lists):
    """Who opens: the rule by itself."""
    return {
        own
        for own, told in lists.items()
        if needs_no_word(number, len(told)) or sum(other == told for other in lists.values()) >= threshold_of(number)
    }


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7])
def test_whatever_shares_silos_hold_no_other_sum_is_seen(number):
    """Real masks; shares that the server kept back and lists are drawn."""
    stream = np.random.default_rng(number)
    needed, seen = threshold_of(number), 0
    for _ in range(12):
        names = {f"s{place}" for place in range(number)}
        held = {
            own: set(stream.permutation(sorted(names - {own}))[: stream.integers(needed - 1, number)].tolist())
            for own in names
        }
        whole = {own: names - {own} for own in names}
        attack = Attack(number, {own: whole[own] if stream.random() < 0.6 else held[own] for own in names})
        lists = [
            set(stream.permutation(sorted(names))[: stream.integers(needed, number + 1)].tolist()) for _ in range(2)
        ]
        for _ in range(10):
            told = {
                own: next((one for one in stream.permutation([names, *lists]).tolist() if own in one), names)
                for own in names
            }
            masks, keys = attack.known(told)
            sums = attack.sums(told)
            assert not masks & keys
            assert len(sums) <= 1
            assert all(len(own) >= needed and own in told.values() for own in sums)
            seen += len(sums)
    assert seen


@pytest.mark.parametrize("number", range(2, 6))
def test_no_two_lists_are_heard_by_enough(number):
    """Every assignment of lists of two to five silos, by the rule."""
    needed = threshold_of(number)
    choices = [[own for own in subsets(range(number), needed) if place in own] for place in range(number)]
    for lists in itertools.product(*choices):
        there = opening(number, dict(enumerate(lists)))
        for own in range(number):
            sent = sum(own in lists[place] for place in there)
            assert sent < needed or len(there) - sent < needed


@pytest.mark.parametrize("number", range(2, 10))
def test_by_every_assignment_and_all_masks_a_sum_is_of_those_who_were_checked(number):
    """Up to nine silos: of every list L but that of all, heard by A, while F hear that all sent (other lists are heard
    by too few), and for each set C of silos that a server would see the sum of, whatever shares it kept back."""
    needed, everyone = threshold_of(number), set(range(number))
    assert 2 * needed > number  # so that one list is heard by enough, and the rest by too few
    for size in range(needed, number + 1):
        sent = set(range(size))  # one of each size: names do not matter
        for agree in [own for own in subsets(sorted(sent)) if size < number and (len(own) >= needed or not own)]:
            for whole in subsets(sorted(everyone - agree)):
                if len(agree) + len(whole) < needed:
                    continue  # nothing is opened
                masks = {own for own in everyone if len(whole) + (len(agree) if own in sent else 0) >= needed}
                keys = everyone - sent if len(agree) >= needed else set()
                assert not masks & keys
                for part in _seen(masks, keys, agree, whole, sent, everyone, needed):
                    assert part in (sent, everyone)


def _seen(masks, keys, agree, whole, sent, everyone, needed):
    """All sets C of known own masks in which each silo can have masked with so many of C, or of known keys, as it must:
    whoever opened with all of its list."""
    must = (needed, agree and sent, whole and everyone)
    for size in range(1, len(masks) + 1):
        for own in itertools.combinations(sorted(masks), size):
            part = set(own)
            reach = part | keys
            if len(reach) < must[0] or (part & agree and not sent <= reach) or (part & whole and not everyone <= reach):
                continue
            yield part


def test_a_silo_that_is_told_of_fewer_silos_reads_no_share_of_others():
    """Rosters that differ would have thresholds that differ."""
    names = ["a", "b", "c", "d"]
    own = {name: SiloMasks(name) for name in names}
    keys = {name: list(one.keys("one").values()) for name, one in own.items()}
    rosters = {name: set(names) - {name} for name in names} | {"a": {"b"}}
    given = {n: one.shares("one", {other: keys[other] for other in rosters[n]}) for n, one in own.items()}
    with pytest.raises(RefusedError, match="did not seal"):
        own["b"].masked("one", PURPOSE, {n: given[n]["b"] for n in ("a", "c", "d")}, np.zeros(2, np.uint32))
    with pytest.raises(RefusedError, match="did not seal"):
        own["a"].masked("one", PURPOSE, {"b": given["b"]["a"]}, np.zeros(2, np.uint32))


def test_a_word_is_of_one_silo_for_one_list_and_one_sum():
    attack = Attack(3)
    a, b, c = (attack.masks[name] for name in attack.names)
    two, other = ["s0", "s1"], ["s0", "s2"]
    word = b.agreed("one", two)["s0"]
    assert b.agreed("one", two)["s0"] == word
    with pytest.raises(RefusedError, match="second list"):
        b.agreed("one", attack.names)
    for agreed in (
        {},
        {"s1": "00" * 16},
        {"s2": word},
        {"s0": word},
        {"s1": a.agreed("one", two)["s1"]},
        {"s1": "\ud800"},
    ):
        with pytest.raises(RefusedError, match="1 silos heard this list of who sent, and 2 have to"):
            a.opening("one", two, agreed)
    c._kept = dict(attack.kept["s2"])
    with pytest.raises(RefusedError, match="1 silos heard"):
        c.opening("one", ["s1", "s2"], {"s1": word})
    assert a.opening("one", two, {"s1": word}).keys() == set(attack.names)
    with pytest.raises(RefusedError, match="second list"):
        a.agreed("one", other)


def test_of_many_silos_each_hears_of_the_list_and_has_company():
    """With neighbours of its own a silo cannot know that all were told the same. Of 21 holders of its secrets 15 that
    open leave 6 whose keys may be known, and it masked with 14."""
    attack = Attack(21)
    assert attack.opened({own: set(attack.names) for own in attack.names}).keys() == set(attack.names)
    silo = attack.masks["s0"]
    silo._kept = dict(attack.kept["s0"])
    with pytest.raises(RefusedError, match="1 silos heard this list of who sent, and 15 have to"):
        silo.opening("one", attack.names)
    opens = threshold_of(NEIGHBOURS + 1)
    assert (opens - 1) - (NEIGHBOURS + 1 - opens) == 8
    assert threshold_of(NEIGHBOURS) == 11
