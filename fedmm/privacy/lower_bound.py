"""How small epsilon cannot be, by what an attacker has been seen to tell apart.

An attack gives a score to each canary that was in and to each that was not. A mechanism of epsilon and delta bounds how
often any rule may be right: true positives <= e^epsilon * false positives + delta, and likewise the other way round
(Kairouz, Oh & Viswanath, 2015; Jagielski et al., NeurIPS 2020). Rates are bounded by Clopper and Pearson's intervals.
The rule, a threshold and a side, is chosen on one half of the scores and measured on the other.
"""

from __future__ import annotations

import numpy as np

from fedmm.data.types import FloatArray

LEVEL = 0.95  # of the bound, both rates together
TRIED = 200  # thresholds


def epsilon_lower_bound(inside: FloatArray, outside: FloatArray, delta: float, level: float = LEVEL) -> float:
    """A lower confidence bound of epsilon at ``delta`` by scores of canaries ``inside`` [n] and ``outside`` [m]; 0
    where they cannot be told apart.

    >>> epsilon_lower_bound(np.ones(200), np.zeros(200), 1e-3) > 3.0
    True
    >>> epsilon_lower_bound(np.arange(200.0), np.arange(200.0), 1e-3)
    0.0
    """
    halves = [(inside[place::2], outside[place::2]) for place in (0, 1)]
    if not all(len(part) for half in halves for part in half):
        return 0.0
    thresholds = np.unique(np.quantile(np.concatenate(halves[0]), np.linspace(0, 1, TRIED)))
    best = int(np.argmax(_bounds(*halves[0], thresholds, delta, level)))
    return max(float(_bounds(*halves[1], thresholds, delta, level)[best]), 0.0)


def _bounds(inside: FloatArray, outside: FloatArray, thresholds: FloatArray, delta: float, level: float) -> FloatArray:
    """[2 T]: what each threshold bounds, by who lies above it, and by who lies below: who is sure of an absence tells
    them apart as well."""
    above = [(scores >= thresholds[:, None]).sum(1) for scores in (inside, outside)]
    sizes = [len(inside), len(outside)]
    hits = np.concatenate([above[0], sizes[1] - above[1]])
    false_hits = np.concatenate([above[1], sizes[0] - above[0]])
    number, other = (np.repeat(pair, len(thresholds)) for pair in (sizes, sizes[::-1]))
    from scipy.stats import beta

    each = (1 - level) / 2
    low = np.where(hits > 0, beta.ppf(each, np.maximum(hits, 1), number - hits + 1), 0.0)
    high = np.where(false_hits < other, beta.ppf(1 - each, false_hits + 1, np.maximum(other - false_hits, 1)), 1.0)
    surely = np.maximum(low - delta, 0.0)
    return np.log(np.maximum(surely, 1e-300)) - np.log(high)
