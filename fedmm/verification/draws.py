"""Claims about draws: every protocol's candidates, training negatives and cohorts follow the distribution they name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedmm.config import FederationConfig
from fedmm.data.negatives import evaluation_negatives
from fedmm.data.types import IntArray, Queries, Ragged, Split
from fedmm.federation.candidates import draw_negatives, shares_drawn
from fedmm.federation.cohorts import COHORT_SAMPLERS, cohort_size, rotating_cohort, sample_cohort
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.subject import Subject
from fedmm.verification.world import make_local

ITEMS = 12
HOLDERS = {1: 1, 2: 2, 3: 3, 4: 5, 5: 8, 6: 13, 7: 21, 8: 34, 9: 4, 10: 0, 11: 0, 12: 6}  # clients that train on it
DRAWS = 2500
FURTHEST = 4.5  # standard deviations of a count; of some 60 counts none is that far out in one of a thousand trials
KNOWN, TARGET, LATER = [3, 6], 9, [11]  # one user's: items 3 and 6 known, 9 asked for, 11 met afterwards
OUTSIDE = sorted(set(range(1, ITEMS + 1)) - {*KNOWN, TARGET, *LATER})


def _split() -> Split:
    """Clients with one training item each, as many as HOLDERS says, and one question of one user, asked on validation
    and on test. What is asked for is popular among the held-out, and must not count."""
    rows = [[item] for item, count in HOLDERS.items() for _ in range(count)]
    asked = _queries(DRAWS)
    return Split("world", ITEMS, Ragged.from_rows(rows), asked, asked)


def _queries(number: int) -> Queries:
    known, others = [KNOWN] * number, [[*KNOWN, *LATER]] * number
    users = np.arange(number)
    return Queries(users, Ragged.from_rows(known), np.full(number, TARGET), Ragged.from_rows(others))


def inclusion(weights: Mapping[int, float]) -> dict[int, float]:
    """How likely each item is among two drawn one after the other in proportion to its weight, without replacement."""
    total = sum(weights.values())
    found = dict.fromkeys(weights, 0.0)
    for first, one in weights.items():
        for second, other in weights.items():
            if second != first and one and other:
                chance = one / total * other / (total - one)
                found[first] += chance
                found[second] += chance
    return found


def _furthest(counts: Mapping[int, int], chances: Mapping[int, float], draws: int) -> float:
    """The largest distance of a count from its expectation, in standard deviations; infinite where what cannot be drawn
    was drawn, or what must be was not."""
    gap = 0.0
    for item in {*counts, *chances}:
        chance = chances.get(item, 0.0)
        expected, sd = draws * chance, math.sqrt(draws * chance * (1 - chance))
        off = abs(counts.get(item, 0) - expected)
        gap = max(gap, off / sd if sd > 1e-6 else (0.0 if off < 1e-6 else math.inf))
    return gap


def protocols(subject: Subject) -> Finding:
    """Two negatives for each of many users in the same position, against what drawing by weight comes to."""
    del subject
    split = _split()
    expected = {
        "uniform100": dict.fromkeys(OUTSIDE, 2 / len(OUTSIDE)),
        "popularity100": inclusion({item: float(HOLDERS[item]) for item in OUTSIDE}),
    }
    gaps = []
    for protocol, chances in expected.items():
        drawn = evaluation_negatives(split.test, split, protocol, 0, 2)  # type: ignore[arg-type]
        if drawn.shape != (DRAWS, 2) or (drawn[:, 0] == drawn[:, 1]).any():
            return at_most(math.inf, FURTHEST, f"{protocol}: shape {drawn.shape}, or an item twice in one draw")
        items, counts = np.unique(drawn, return_counts=True)
        gaps.append((protocol, _furthest(dict(zip(items.tolist(), counts.tolist(), strict=True)), chances, DRAWS)))
    value, label = worst(gaps)
    return at_most(value, FURTHEST, f"in standard deviations, {DRAWS} draws of 2 of {len(OUTSIDE)}; largest: {label}")


def rare_items_last(subject: Subject) -> Finding:
    """Drawing all but one under popularity: items that nobody trains on come after all others; nobody's own items, the
    target or what is no candidate ever; as many as the user with the fewest leaves; another seed, user or length of
    history another draw, the same again the same."""
    del subject
    split, queries, offences = _split(), _queries(40), []
    allowed = np.ones(ITEMS + 1, dtype=np.bool_)
    allowed[[0, 12]] = False
    few = replace(queries, candidates=allowed)
    for protocol in ("uniform100", "popularity100"):
        whole = evaluation_negatives(queries, split, protocol, 0, 100)
        offences += [] if {tuple(row) for row in whole.tolist()} == {tuple(OUTSIDE)} else [f"{protocol}: not all"]
        part = evaluation_negatives(few, split, protocol, 0, 100)
        offences += [] if 12 not in part and part.shape[1] == len(OUTSIDE) - 1 else [f"{protocol}: no candidate"]
        some = evaluation_negatives(queries, split, protocol, 0, 3)
        again = evaluation_negatives(queries, split, protocol, 0, 3)
        seeded = evaluation_negatives(queries, split, protocol, 1, 3)
        other = evaluation_negatives(queries, replace(split, name="other"), protocol, 0, 3)
        offences += [] if (some == again).all() else [f"{protocol}: not the same twice"]
        offences += [f"{protocol}: draws are shared" for own in (seeded, other) if (some == own).all(1).mean() > 0.5]
        offences += [] if len(np.unique(some, axis=0)) > 5 else [f"{protocol}: users share a draw"]
    most = evaluation_negatives(queries, split, "popularity100", 0, len(OUTSIDE) - 1)
    trained = {item for item in OUTSIDE if HOLDERS[item]}
    offences += ["what nobody trains on came first" for row in most.tolist() if not trained <= set(row)]
    return none_of(len(offences), "; ".join(offences[:3]) or "both protocols")


def shortages(subject: Subject) -> Finding:
    """How many candidates are drawn where users leave too few: all that the settings ask for while half of the users
    leave so many, else what the neediest leave of those who leave half of the median at least; who leaves fewer is not
    asked, and nobody is given an item of its own."""
    del subject
    gaps = []
    for left in ([9, 9, 9, 1, 0], [5, 5, 4, 3, 1, 0], [2, 0, 1], [1, 1, 1, 9], [8, 8, 5, 8, 1], [30, 2, 5, 6, 6]):
        excluded = [list(range(1, 41 - own - 1)) for own in left]  # the target is 40
        queries = Queries(np.arange(len(left)), Ragged.from_rows([[]] * len(left)), np.full(len(left), 40),
                          Ragged.from_rows(excluded))  # fmt: skip
        median = float(np.median(left))
        asked_for = 7
        limit = asked_for if median >= asked_for else min(own for own in left if own >= max(1.0, median / 2))
        split = Split("world", 40, Ragged.from_rows([[1, 39]]), queries, queries)
        for protocol in ("uniform100", "popularity100"):
            drawn = evaluation_negatives(queries, split, protocol, 0, min(asked_for, 7))
            expected = min(limit, asked_for)
            gaps.append((f"{left}: {drawn.shape[1]} drawn", float(abs(drawn.shape[1] - expected))))
            for own, row, barred in zip(left, drawn.tolist(), excluded, strict=True):
                if own < expected:
                    gaps.append((f"{left}: {own} left", float(any(row))))
                else:
                    allowed = set(range(1, 40)) - set(barred)
                    gaps.append((f"{left}: of {own}", float(len(set(row)) != len(row) or not set(row) <= allowed)))
    value, label = worst(gaps)
    return at_most(value, 0.0, f"six populations, two protocols; largest: {label}")


def training_negatives(subject: Subject) -> Finding:
    """Training negatives: each item outside a history equally often, each once, none of the history; and the share that
    log-Q and gBCE go by is how often an item is drawn."""
    del subject
    history, stream = np.array([2, 9, 4, 9]), numpy_stream(0, "verify training negatives")
    outside = sorted(set(range(1, ITEMS + 1)) - {2, 4, 9})
    counts: dict[int, int] = {}
    for _ in range(DRAWS):
        drawn = draw_negatives(history, ITEMS, 4, stream).tolist()
        if len(set(drawn)) != 4:
            return at_most(math.inf, FURTHEST, f"drawn {drawn}")
        for item in drawn:
            counts[item] = counts.get(item, 0) + 1
    chances = dict.fromkeys(outside, 4 / len(outside))
    gaps = [("drawn", _furthest(counts, chances, DRAWS))]
    shares = shares_drawn([history, np.array([1]), np.arange(1, ITEMS + 1)], ITEMS, 4)
    gaps.append(("share", 1e9 * float(np.abs(shares - [4 / 9, 4 / 11, 1.0]).max())))
    gaps.append(("share of all", 1e9 * float(np.abs(shares_drawn([history], ITEMS, 0) - 1.0).max())))
    whole = sorted(draw_negatives(history, ITEMS, 50, stream).tolist())
    gaps.append(("all of them", 0.0 if whole == outside else math.inf))
    value, label = worst(gaps)
    return at_most(value, FURTHEST, f"in standard deviations, {DRAWS} draws of 4 of {len(outside)}; largest: {label}")


def fresh_negatives(subject: Subject) -> Finding:
    """Steps and rounds draw anew unless they are to share; two clients never share."""
    del subject
    offences = []
    for per in ("step", "round"):
        local, _ = make_local({}, {"num_negatives": 8, "negatives_per": per})
        rounds = []
        for number in (1, 2):
            stream = local.steps(np.array([2, 4]), number)
            rounds.append([[own.tolist() for own in stream.negatives(2)] for _ in range(3)])
        first, second = rounds
        shared = first[0] == first[1] == first[2]
        offences += [] if shared == (per == "round") else [f"{per}: the steps of a round share {shared}"]
        offences += [f"{per}: rounds share their negatives"] if first[0] == second[0] else []
        offences += [f"{per}: clients share their negatives"] if first[0][0] == first[0][1] else []
    return none_of(len(offences), "; ".join(offences) or "a step's or a round's, two clients")


def cohorts(subject: Subject) -> Finding:
    """Cohorts of 5 of 14: distinct, everybody equally often, another in each round, and as many as the settings say."""
    del subject
    clients = np.array([1, 2, 3, 5, 8, 13, 21, 34, 55, 56, 57, 58, 59, 60])
    counts: dict[int, int] = {}
    seen: list[IntArray] = []
    for number in range(1, 1201):
        cohort = sample_cohort(clients, 5, 0, number)
        if len(set(cohort.tolist())) != 5:
            return at_most(math.inf, FURTHEST, f"cohort {cohort}")
        seen.append(cohort)
        for client in cohort.tolist():
            counts[client] = counts.get(client, 0) + 1
    gaps = [("how often", _furthest(counts, dict.fromkeys(clients.tolist(), 5 / 14), 1200))]
    distinct = len({tuple(cohort.tolist()) for cohort in seen})
    gaps.append(("different cohorts", 0.0 if distinct > 800 else math.inf))  # of 2,002; 1,200 draws hit some 900
    again = sample_cohort(clients, 5, 0, 7)
    other = sample_cohort(clients, 5, 1, 7)
    gaps.append(("seeds", 0.0 if (again == seen[6]).all() and not (other == seen[6]).all() else math.inf))
    sizes: list[tuple[dict[str, float], int, int]] = [
        ({"client_fraction": 0.2}, 943, 189),
        ({"client_fraction": 0.01}, 20, 1),
        ({"cohort_size": 7, "client_fraction": 0.9}, 20, 7),
        ({"client_fraction": 1.0}, 33, 33),
    ]
    gaps += [
        (f"size {settings}", abs(cohort_size(FederationConfig.model_validate(settings), total) - expected) * math.inf)
        for settings, total, expected in sizes
        if cohort_size(FederationConfig.model_validate(settings), total) != expected
    ]
    value, label = worst(gaps)
    return at_most(value, FURTHEST, f"in standard deviations, 1,200 cohorts; largest: {label}")


def rotation(subject: Subject) -> Finding:
    """The cohorts that take turns: in 14 rounds of 5 of 14 clients everybody 5 times, nobody twice before all once; the
    order is the seed's; and there is no sampler of cohorts but this one and the uniform one."""
    del subject
    clients = np.arange(100, 114)
    took = [rotating_cohort(clients, 5, 3, number).tolist() for number in range(1, 15)]
    offences = [f"a sampler {name!r} has no check" for name in COHORT_SAMPLERS.built_in if name not in KNOWN_SAMPLERS]
    for until in range(1, 15):
        times = [sum(client in cohort for cohort in took[:until]) for client in clients.tolist()]
        offences += [f"after {until} rounds: {times}"] if max(times) - min(times) > 1 else []
        offences += [f"round {until}: {took[until - 1]}"] if len(set(took[until - 1])) != 5 else []
    other = [rotating_cohort(clients, 5, 4, number).tolist() for number in range(1, 15)]
    offences += ["another seed, the same order"] if other == took else []
    offences += ["the order of the catalogue"] if took[0] == clients[:5].tolist() else []
    return none_of(len(offences), "; ".join(offences[:2]) or "14 rounds of 5 of 14")


KNOWN_SAMPLERS = ("uniform", "rotation")
MEASURES: Sequence[tuple[str, str, Callable[[Subject], Finding]]] = (
    ("honesty", "each protocol's negatives follow the distribution that it names", protocols),
    ("honesty", "negatives: the rare last, never one's own, each draw its own", rare_items_last),
    ("honesty", "training negatives are uniform over what is outside", training_negatives),
    ("honesty", "who leaves too few candidates is not asked", shortages),
    ("federation", "negatives are drawn as often as the settings say", fresh_negatives),
    ("federation", "everybody is in cohorts equally often", cohorts),
    ("federation", "cohorts that take turns leave nobody out", rotation),
)
CHECKS: Sequence[Check] = tuple(Check(*entry) for entry in MEASURES)
