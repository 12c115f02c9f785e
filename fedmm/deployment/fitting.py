"""Which of a secret's shares are wrong, where that can be told.

Of n shares, t of which give a secret back, w wrong ones stand out where n >= t + 2 w: the others alone are of one
secret. With fewer to spare, n >= t + w, it takes a sign of the secret itself: its public key, or that it is short, for
wrong shares of numbers below 2^521 hardly ever give one below 2^256. Whoever sends a wrong share can choose it so that
it looks short among some of the others; then two secrets do, and which of them is right is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import combinations

from fedmm.privacy import shamir

MOST_WRONG = 2  # wrong shares that are looked for


def fitting(
    shares: Mapping[int, int], threshold: int, suspects: Collection[int], right: Callable[[int], bool] | None = None
) -> tuple[int, frozenset[int]] | None:
    """The secret of these ``shares`` (by place), and the places whose share is wrong; None where that cannot be told.
    ``suspects`` are tried first; ``right`` says of a secret whether it can be the one. Raises ValueError for fewer
    shares than the threshold.

    >>> import numpy as np
    >>> shares = shamir.split(7, [1, 2, 3, 4], 2, np.random.default_rng(0))
    >>> fitting({**shares, 3: 5}, 2, ())
    (7, frozenset({3}))
    >>> fitting({1: shares[1], 2: shares[2], 3: 5}, 2, (), lambda secret: secret < 100)
    (7, frozenset({3}))
    >>> fitting({1: shares[1], 2: shares[2], 3: 5}, 2, ()) is None
    True
    """
    spare = len(shares) - threshold
    most = min(MOST_WRONG, spare if right is not None else spare // 2)
    order = sorted(shares, key=lambda place: (place not in suspects, place))
    for number in range(max(most, 0) + 1):
        found = []
        for left in combinations(order, number):
            kept = {place: own for place, own in shares.items() if place not in left}
            secret = shamir.join(kept, threshold)
            if _is_one(kept, threshold) and (right is None or right(secret)):
                found.append((secret, frozenset(left)))
                if 2 * number <= spare:  # no other secret has as many shares
                    break
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _is_one(shares: Mapping[int, int], threshold: int) -> bool:
    """Whether all shares are of one secret."""
    first = dict(sorted(shares.items())[:threshold])
    return all(_at(first, place) == own for place, own in shares.items() if place not in first)


def _at(shares: Mapping[int, int], place: int) -> int:
    """The share at another ``place``."""
    return shamir.join({other - place: own for other, own in shares.items()}, len(shares))
