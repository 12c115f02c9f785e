"""The made-up shop: repeatable, a core, nothing twice, and what follows an item is more often the same than chance."""

from collections import Counter
from itertools import pairwise

from shop import CORE, half_of, make_shop


def test_a_shop_is_a_core_of_sequences_without_repeats() -> None:
    rows = make_shop(400, 120, seed=2)
    met = Counter(item for row in rows for item in row)
    assert rows == make_shop(400, 120, seed=2) != make_shop(400, 120, seed=3)
    assert min(met.values()) >= CORE <= min(map(len, rows))
    assert all(len(set(row)) == len(row) for row in rows)


def test_what_follows_an_item_is_learnt_from_half_of_the_users_and_holds_for_the_others() -> None:
    rows = make_shop(1500, 150, seed=2)
    first, second = (Counter(pair for row in half for pair in pairwise(row)) for half in (rows[::2], rows[1::2]))
    often = {pair for pair, number in first.items() if number > 2}
    assert sum(second[pair] for pair in often) > 0.2 * sum(second.values())
    assert sum(second[pair] for pair in often) > 5 * sum(second[after, before] for before, after in often)


def test_half_of_the_users_are_some_of_them() -> None:
    rows = make_shop(400, 120, seed=2)
    half = half_of(rows, 4, seed=1)
    assert 0 < len(half) <= 200
    assert all(any(set(row) <= set(whole) for whole in rows) for row in half[:20])
