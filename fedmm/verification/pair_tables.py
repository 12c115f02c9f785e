"""Claims about tables of item pairs: what was added is read back, every pair lies where its hash says, and a table
says when it is too full; and about attributes in common, which are added to scores."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.federation.pair_tables import PairTable
from fedmm.models.kinship import Kinship, default_weight
from fedmm.utils.seeding import derive, numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.subject import Subject

ITEMS = 500
WORD = 2**64
Pairs = tuple[IntArray, IntArray, FloatArray]


def hashed(number: int) -> int:
    """The upper 32 bits of SplitMix64's mixing (Steele, Lea & Flood, OOPSLA 2014), in whole numbers."""
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB % WORD
    return (number ^ (number >> 31)) >> 32


def _pairs(name: str, number: int) -> Pairs:
    stream = numpy_stream(0, "verify pairs", name)
    code = stream.choice(ITEMS * ITEMS, size=number, replace=False)
    return code // ITEMS + 1, code % ITEMS + 1, stream.integers(1, 2**17, size=number) / 2**16


def read_back(subject: Subject) -> Finding:
    """Three clients' pairs, many of them in common, are read from the sum of their tables; so are as many pairs as a
    table is said to hold, at the corners of the catalogue too; twice as many as cells are told not to be readable."""
    del subject
    offences = []
    for seed in (0, 7):
        form = PairTable.of(ITEMS, seed)
        own = [_pairs(f"client {client} {seed}", 90) for client in range(3)]
        common = _pairs(f"common {seed}", 60)
        expected: Counter[tuple[int, int]] = Counter()
        table = np.zeros((form.cells, 5), np.uint32)
        for pairs in (*own, common, common, common):
            for i, j, w in zip(*(part.tolist() for part in pairs), strict=True):
                expected[i, j] += round(w * 2**16)
            table = table + form.encode(*pairs)
        offences += _differs(f"three clients, seed {seed}", form.decode(table), expected)
        offences += _differs(f"nobody, seed {seed}", form.decode(0 * table), Counter())
        full = _pairs(f"full {seed}", form.capacity)
        for at, corner in enumerate(itertools.product((1, ITEMS), repeat=2)):
            full[0][at], full[1][at] = corner
        expected = Counter({(i, j): round(w * 2**16) for i, j, w in zip(*(p.tolist() for p in full), strict=True)})
        offences += _differs(f"filled, seed {seed}", form.decode(form.encode(*full)), expected)
        crowded = form.encode(*_pairs(f"crowded {seed}", 2 * form.cells))
        offences += [f"twice too many are read, seed {seed}"] if form.decode(crowded) is not None else []
    forms = [PairTable.of(number, 0) for number in (1, 480, 481, 5000)]
    shapes = [(form.cells, form.capacity, form.most_clients) for form in forms]
    wanted = [(960, 672, 2**32 - 1), (960, 672, 8947848), (963, 674, 8929245), (10002, 7001, 858993)]
    offences += [] if shapes == wanted else [f"sizes {shapes}"]
    return none_of(len(offences), "; ".join(offences[:2]) or "three clients, a full table, a crowded one, four sizes")


def _differs(label: str, found: Pairs | None, expected: Counter[tuple[int, int]]) -> list[str]:
    if found is None:
        return [f"{label}: not readable"]
    rows, columns, weights = (part.tolist() for part in found)
    told = {(i, j): w * 2**16 for i, j, w in zip(rows, columns, weights, strict=True)}
    return [] if told == dict(expected) and len(told) == len(rows) else [f"{label}: other pairs"]


def placed(subject: Subject) -> Finding:
    """Every cell of a table against sums in whole numbers: a pair is in one cell of each third, where its hash says."""
    del subject
    form, gap = PairTable.of(ITEMS, 3), 0
    rows, columns, weights = _pairs("placed", 200)
    expected = np.zeros((form.cells, 5), dtype=object)
    for i, j, w in zip(rows.tolist(), columns.tolist(), weights.tolist(), strict=True):
        keys = [hashed((i * (ITEMS + 1) + j + derive(3, "pair table", purpose)) % WORD) for purpose in range(4)]
        for third in range(3):
            cell = third * (form.cells // 3) + keys[third] * (form.cells // 3) // 2**32
            expected[cell] += np.array([1, round(w * 2**16), i, j, keys[3]], dtype=object)
    found = form.encode(rows, columns, weights)
    gap = sum(int(a) != int(b) % 2**32 for a, b in zip(found.flat, expected.flat, strict=True))
    gap += int(found.dtype != np.uint32 or found.shape != (form.cells, 5))
    return none_of(gap, f"{form.cells} cells of five sums")


def kinship(subject: Subject) -> Finding:
    """What attributes in common add to every candidate's score, one pair of items at a time: weights by rarity, items
    without attributes, an attribute of all items, histories that are long, short and empty."""
    del subject
    stream, items, kinds = numpy_stream(0, "verify kinship"), 30, 7
    has = stream.random((items + 1, kinds)) < 0.3
    has[0] = has[4] = False
    has[1:, 6] = True  # tells nothing, and leaves item 4 with nothing that tells
    rarity = [math.log(items / max(1, int(has[:, a].sum()))) for a in range(kinds)]

    def likeness(i: int, j: int) -> float:
        products = [(has[i, a] * rarity[a], has[j, a] * rarity[a]) for a in range(kinds)]
        lengths = [math.sqrt(sum(pair[side] ** 2 for pair in products)) for side in (0, 1)]
        return sum(a * b for a, b in products) / (lengths[0] * lengths[1]) if min(lengths) > 0 else 0.0

    rows = [(stream.permutation(items)[:size] + 1).tolist() for size in (1, 3, 10, 11, 25)]
    attributes = csr_matrix(has * stream.integers(1, 5, size=has.shape))  # what is stored beside 0 does not matter
    found = Kinship.build(attributes, 1.5).scores(Ragged.from_rows([*rows, []])).toarray()
    gaps = [("an empty history", float(np.abs(found[-1]).max()))]
    for place, row in enumerate(rows):
        recent = [(0.8**age, item) for age, item in enumerate(reversed(row)) if age < 10]
        for t in range(items + 1):
            expected = 1.5 * sum(w * likeness(item, t) for w, item in recent) / sum(w for w, _ in recent)
            gaps.append((f"a history of {len(row)}, item {t}", abs(float(found[place, t]) - expected)))
    gaps.append(("weights", float((default_weight(3.0), default_weight(0.0)) != (6.0, 2.0))))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(rows)} histories, {items} items; largest: {label}")


CHECKS: Sequence[Check] = (
    Check("federation", "tables of pairs give back what was added, or say that they cannot", read_back),
    Check("federation", "a pair lies in one cell of each third, where its hash says", placed),
    Check("architecture", "attributes in common are added by definition", kinship),
)
