"""Several attempts at one masked sum, of which each silo opens one list: nothing of one silo's own can be made of them.

A server that lies may begin a sum as often as it likes, over whom it likes. List S is seen where more than half of it
open it; these openers D hold to S, so that those of another list are others. That is all the search below assumes.

Why it is so for any number of silos: let lists count c_S each to make silo i's own of them. Added up over the openers
of list T, but for i, that is nothing: the sum of c_S M_ST is 0, M_ST being how many of S are among these. Now M_SS is
more than all other M_ST of S together (where i opened S, as many at least, and not 0), so M is regular, and c is 0.
"""

from itertools import combinations, product

import numpy as np
import pytest

from fedmm.deployment.masks import Purpose, SiloMasks, needs_no_word, threshold_of
from fedmm.deployment.messages import RefusedError

WORDS = np.arange(4, dtype=np.uint32)
PURPOSE = Purpose("sum", "asked", 1)


def sizes_of(number, least=2):
    """All ways to have openers for one list or more, by how many each has, ascending."""
    for first in range(least, number + 1):
        yield [first]
        for rest in sizes_of(number - first, first):
            yield [first, *rest]


def lists_of(openers, number):
    """All lists that these open, and no fewer of them: a list that fewer open is met with fewer."""
    others = [silo for silo in range(number) if silo not in openers]
    for more in range(len(others) + 1):
        if threshold_of(len(openers) + more) == len(openers):
            yield from ([*openers, *own] for own in combinations(others, more))


def seen(number):
    """All that a server may see, up to names: for each number of lists an array [F, K, N], 1 where a silo is in one."""
    found = {}
    for sizes in sizes_of(number):
        ends = np.cumsum(sizes).tolist()
        openers = [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        for lists in product(*(list(lists_of(own, number)) for own in openers)):
            rows = np.zeros((len(lists), number), np.int64)
            for row, own in zip(rows, lists, strict=True):
                row[own] = 1
            found.setdefault(len(lists), []).append(rows)
    return {length: np.stack(own) for length, own in found.items()}


@pytest.mark.parametrize("number", range(2, 9))
def test_whatever_lists_are_seen_no_combination_is_one_silos_own(number):
    families = seen(number)
    assert max(families) == number // 2
    for length, rows in families.items():
        assert (np.linalg.matrix_rank(rows) == length).all()
        for own in np.eye(number, dtype=np.int64):
            alone = np.concatenate([rows, np.broadcast_to(own, (len(rows), 1, number))], axis=1)
            assert (np.linalg.matrix_rank(alone) == length + 1).all()


def test_the_search_knows_what_it_forbids():
    """Lists that half of the silos of a list could open would differ by one silo."""
    rows = np.array([[1, 1, 1, 0], [0, 1, 1, 0]])
    assert np.linalg.matrix_rank(np.vstack([rows, [1, 0, 0, 0]])) == 2
    assert not any((own == rows).all() for own in seen(4)[2])
    assert sum(map(len, seen(8).values())) > 5000


@pytest.mark.parametrize("number", range(2, 20))
def test_of_any_number_two_lists_that_differ_by_one_silo_are_too_many(number):
    """Whoever opens the shorter one or the longer one first, the others are too few to open both."""
    assert threshold_of(number) + threshold_of(number + 1) > number + 1
    assert needs_no_word(number, number)


class Silos:
    """Silos with real masks, of which a server asks for one sum again and again."""

    def __init__(self, number):
        self.masks = {f"s{place}": SiloMasks(f"s{place}") for place in range(number)}
        self.tried = 0

    def opened(self, listed, openers):
        """Who opens the sum over these silos, of those asked to."""
        self.tried += 1
        attempt, names = f"attempt {self.tried}", sorted(listed)
        keys = {name: list(self.masks[name].keys(attempt).values()) for name in names}
        given = {
            name: self.masks[name].shares(attempt, {other: keys[other] for other in names if other != name})
            for name in names
        }
        for name in names:
            shares = {other: given[other][name] for other in names if other != name}
            self.masks[name].masked(attempt, PURPOSE, shares, WORDS)
        found = set()
        for name in openers:
            try:
                self.masks[name].opening(attempt, names)
                found.add(name)
            except RefusedError:
                continue
        return found


@pytest.mark.parametrize(("number", "size"), [(3, 2), (5, 4), (7, 6), (8, 7), (8, 5)])
def test_silos_that_opened_a_list_open_none_that_differs_by_one(number, size):
    """Real masks and promises; those who open are the fewest that do."""
    silos = Silos(number)
    names = sorted(silos.masks)
    listed, openers = set(names[:size]), set(names[: threshold_of(size)])
    assert silos.opened(listed, openers) == openers
    near = [listed ^ {name} for name in names if len(listed ^ {name}) > 1]
    assert near
    for other in near:
        promised = {name: dict(own.promises._held) for name, own in silos.masks.items()}
        found = silos.opened(other, sorted(other))
        assert found == other - openers
        assert len(found) < threshold_of(len(other))
        for name, own in silos.masks.items():
            own.promises._held = promised[name]
    assert silos.opened(listed, sorted(listed)) == listed  # the same again differs by nobody's
