"""Secrets in shares: any ``threshold`` of them give the secret back, fewer say nothing (Shamir, CACM 1979)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol

PRIME = 2**521 - 1
_BYTES = 72  # drawn for a coefficient: far more than the prime's, so that the remainder is even


class Draws(Protocol):
    """Random bytes; a generator of NumPy has them."""

    def bytes(self, length: int) -> bytes:
        """As many as asked for."""
        ...


def split(secret: int, places: Sequence[int], threshold: int, stream: Draws) -> dict[int, int]:
    """One share for each of the ``places`` (different, above 0): a polynomial of degree ``threshold`` - 1 there, whose
    value at 0 is the secret. Raises ValueError where there are fewer places than the threshold, or the secret is too
    large.

    >>> import numpy as np
    >>> shares = split(12345, [1, 2, 3], 2, np.random.default_rng(0))
    >>> join({1: shares[1], 3: shares[3]}, 2)
    12345
    """
    if not 1 <= threshold <= len(set(places)) or min(places) < 1 or not 0 <= secret < PRIME:
        raise ValueError(f"{len(set(places))} places cannot hold a secret that {threshold} give back")
    drawn = [int.from_bytes(stream.bytes(_BYTES), "little") % PRIME for _ in range(threshold - 1)]
    found = {}
    for place in places:
        value = 0
        for coefficient in reversed([secret, *drawn]):
            value = (value * place + coefficient) % PRIME
        found[place] = value
    return found


def join(shares: Mapping[int, int], threshold: int) -> int:
    """The secret of these shares. Raises ValueError where they are fewer than the threshold."""
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares do not give a secret back that needs {threshold}")
    places = tuple(sorted(shares)[:threshold])
    return sum(shares[place] * weight for place, weight in zip(places, _weights(places), strict=True)) % PRIME


@lru_cache(maxsize=1024)
def _weights(places: tuple[int, ...]) -> tuple[int, ...]:
    """What the shares at ``places`` count in the value at 0."""
    found = []
    for place in places:
        over, under = 1, 1
        for other in places:
            if other != place:
                over, under = over * other % PRIME, under * (other - place) % PRIME
        found.append(over * pow(under, -1, PRIME) % PRIME)
    return tuple(found)
