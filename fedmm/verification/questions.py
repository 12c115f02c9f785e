"""Claims about who is asked what: both splits, cold items and groups against brute force over histories known here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedmm.data.cold_items import choose_cold_items
from fedmm.data.datasets import load_dataset
from fedmm.data.splits import make_split
from fedmm.data.types import BoolArray, Queries, Ragged, Split
from fedmm.evaluation.groups import group_tables
from fedmm.evaluation.ranking import RankCounts
from fedmm.evaluation.user_counts import UserCounts
from fedmm.runs.cold import chance
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.little_world import histories, little_config
from fedmm.verification.subject import Subject

Question = tuple[int, tuple[int, ...], int, frozenset[int]]  # user, known, target, excluded


def asked(queries: Queries) -> list[Question]:
    """The questions as plain values."""
    found = []
    for q in range(len(queries)):
        known, others = queries.histories[q].tolist(), queries.excluded[q].tolist()
        found.append((int(queries.users[q]), tuple(known), int(queries.targets[q]), frozenset(others)))
    return found


def _little_split(settings: dict[str, Any]) -> tuple[Split, list[list[int]], list[list[float]]]:
    """The split, and every user's items and moments as the files have them."""
    with little_config(settings) as config:
        dataset = load_dataset(config.data)
        split = make_split(dataset, config.data)
    place = {str(name): index for index, name in enumerate(dataset.interactions.item_ids)}
    rows = [[place[f"i{item:03d}"] for item in row] for row in histories()]
    times = [[1000.0 * at + user for at in range(len(row))] for user, row in enumerate(rows)]
    return split, rows, times


def _wrong(name: str, found: Sequence[Any], expected: Sequence[Any]) -> list[str]:
    if list(found) == list(expected):
        return []
    first = next((pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]), ("lengths", "differ"))
    return [f"{name}: {first[0]} instead of {first[1]}"]


def splits(subject: Subject) -> Finding:
    """Leave-one-out: the last item is the test's, the one before it validation's, and test knows the latter. Temporal:
    a user's first item after each of two cuts, which have a tenth of all events behind them each."""
    del subject
    split, rows, times = _little_split({})
    asks = [(user, row) for user, row in enumerate(rows) if len(row) >= 3]
    offences = _wrong("leave-one-out, training", [r.tolist() for r in split.train],
                      [row[:-2] if len(row) >= 3 else row for row in rows])  # fmt: skip
    for name, queries, back in (("validation", split.validation, 2), ("test", split.test, 1)):
        expected = [
            (user, tuple(row[: len(row) - back]), row[-back], frozenset(row) - {row[-back]}) for user, row in asks
        ]
        offences += _wrong(f"leave-one-out, {name}", asked(queries), expected)
    split, rows, times = _little_split({"data.split": "temporal"})
    moments = sorted(moment for own in times for moment in own)
    share = round(0.1 * len(moments))
    cuts = moments[len(moments) - 2 * share], moments[len(moments) - share]
    before = [[sum(moment < cut for moment in own) for own in times] for cut in cuts]
    offences += _wrong("temporal, training", [r.tolist() for r in split.train],
                       [row[:own] for row, own in zip(rows, before[0], strict=True)])  # fmt: skip
    limits = (before[1], [len(row) for row in rows])
    for name, queries, first, end in zip(
        ("validation", "test"), (split.validation, split.test), before, limits, strict=True
    ):
        expected = [
            (user, tuple(row[: first[user]]), row[first[user]], frozenset(row) - {row[first[user]]})
            for user, row in enumerate(rows)
            if 0 < first[user] < end[user]
        ]
        offences += _wrong(f"temporal, {name}", asked(queries), expected)
    return none_of(len(offences), "; ".join(offences[:2]) or f"{len(rows)} users, both splits, every question")


def other_splits(subject: Subject) -> Finding:
    """By shares: a user's last tenth (rounded, one event at least) is the test's, the tenth before it validation's, and
    the first event of each is asked about; who has no event left to train on is not asked. By given moments: a user's
    first item after each."""
    del subject
    offences = []
    for fraction in (0.1, 0.3):
        split, rows, _ = _little_split({"data.split": "user_ratio", "data.temporal_fraction": fraction})
        shares = [max(1, round(fraction * len(row))) for row in rows]  # halves go to the even number in both
        firsts = {
            name: [len(row) - back * share for row, share in zip(rows, shares, strict=True)]
            for name, back in (("validation", 2), ("test", 1))
        }
        asks = [user for user, first in enumerate(firsts["validation"]) if first > 0]
        kept = [row[: firsts["validation"][user]] if user in asks else row for user, row in enumerate(rows)]
        offences += _wrong(f"shares of {fraction}, training", [row.tolist() for row in split.train], kept)
        for name, queries in (("validation", split.validation), ("test", split.test)):
            offences += _wrong(f"shares of {fraction}, {name}", asked(queries), _firsts(rows, firsts[name], asks))
    seconds = {"validation": 3500.0, "test": 6004.0}
    given = {f"data.{name}_from": f"{moment:.0f}" for name, moment in seconds.items()}
    split, rows, times = _little_split({"data.split": "temporal", **given})
    before = {name: [sum(at < moment for at in own) for own in times] for name, moment in seconds.items()}
    offences += _wrong("moments, training", [row.tolist() for row in split.train],
                       [row[:own] for row, own in zip(rows, before["validation"], strict=True)])  # fmt: skip
    ends = {"validation": before["test"], "test": [len(row) for row in rows]}
    for name, queries in (("validation", split.validation), ("test", split.test)):
        asks = [user for user, first in enumerate(before[name]) if 0 < first < ends[name][user]]
        offences += _wrong(f"moments, {name}", asked(queries), _firsts(rows, before[name], asks))
    return none_of(len(offences), "; ".join(offences[:2]) or f"{len(rows)} users, two shares and two moments")


def _firsts(rows: Sequence[list[int]], places: Sequence[int], asks: Sequence[int]) -> list[Question]:
    """The questions about the items at these places of the users asked."""
    return [
        (user, tuple(rows[user][: places[user]]), rows[user][places[user]],
         frozenset(rows[user]) - {rows[user][places[user]]})
        for user in asks
    ]  # fmt: skip


def cold_items(subject: Subject) -> Finding:
    """With a fifth of the items cold: ordinary questions know nothing of them, and every pair of a user and a cold item
    with a training item before it is asked among the cold items alone; chance is k of those left."""
    del subject
    split, rows, _ = _little_split({"data.cold_item_fraction": 0.2})
    queries = split.cold
    if queries is None or queries.candidates is None or split.candidates is None:
        return at_most(math.inf, 0.0, "no cold items were chosen")
    cold = {int(item) for item in np.flatnonzero(queries.candidates)}
    offences = [] if len(cold) == round(0.2 * split.num_items) and 0 not in cold else [f"{len(cold)} cold items"]
    warm = [[item for item in row if item not in cold] for row in rows]
    kept = [row[:-2] if len(row) >= 3 else row for row in warm]
    offences += _wrong("training", [row.tolist() for row in split.train], kept)
    expected = [
        (user, tuple(row[: len(row) - 1]), row[-1], frozenset(row) - {row[-1]})
        for user, row in enumerate(warm)
        if len(row) >= 3
    ]
    offences += _wrong("test", asked(split.test), expected)
    real = set(range(1, split.num_items + 1))
    offences += _wrong("candidates", np.flatnonzero(split.candidates).tolist(), sorted(real - cold))
    pairs: list[Question] = []
    for user, row in enumerate(rows):
        for at, item in enumerate(row):
            known = [other for other in row[:at] if other not in cold][: len(kept[user])]
            if item in cold and known:
                pairs.append((user, tuple(known), item, (frozenset(row) & cold) - {item}))
    offences += _wrong("cold", asked(queries), pairs)
    left = [len(cold) - len(others) for _, _, _, others in pairs]
    hits = sum(min(1.0, 3 / number) for number in left) / len(left)
    found = chance(queries, (3,))
    offences += [] if abs(found["hr_at_3"] - hits) < 1e-12 else [f"chance {found['hr_at_3']} instead of {hits}"]
    gains = sum(sum(1 / math.log2(place + 2) for place in range(min(3, n))) / n for n in left) / len(left)
    offences += [] if abs(found["ndcg_at_3"] - gains) < 1e-12 else ["chance of NDCG"]
    return none_of(len(offences), "; ".join(offences[:2]) or f"{len(cold)} cold items, {len(pairs)} pairs")


def cold_choice(subject: Subject) -> Finding:
    """Which items are cold: a larger share holds the smaller, the order of ids has no say, a seed chooses anew."""
    del subject
    ids = np.array(["", *(f"item {place}" for place in range(60))])
    few, many, other = (choose_cold_items(ids, *given) for given in ((0.1, 0), (0.4, 0), (0.4, 1)))
    turned = choose_cold_items(np.array(["", *ids[1:][::-1].tolist()]), 0.4, 0)

    def named(chosen: BoolArray, names: Any = ids) -> set[str]:
        return set(names[chosen].tolist())

    offences = [] if (few.sum(), many.sum()) == (6, 24) and not few[0] | many[0] else ["numbers"]
    offences += [] if named(few) < named(many) else ["the larger share does not hold the smaller"]
    offences += [] if named(turned, np.array(["", *ids[1:][::-1].tolist()])) == named(many) else ["the order matters"]
    offences += [] if 0 < len(named(other) & named(many)) < 24 else ["the seed has no say"]
    return none_of(len(offences), "; ".join(offences) or "60 items")


def groups(subject: Subject) -> Finding:
    """Tables by users' histories and targets' holders: every query in the group of its number, means by hand, and the
    gain over the backbone user by user."""
    del subject
    stream = numpy_stream(0, "verify groups")
    lengths = [1, 19, 20, 49, 50, 99, 100, 130, 20, 3]
    train = Ragged.from_rows([stream.integers(1, 40, size=length) for length in lengths])
    # The first item is held by nobody, others by 9, 10, 49, 50, 99, 100 and 200 histories.
    held = {40: 0, 41: 9, 42: 10, 43: 49, 44: 50, 45: 99, 46: 100, 47: 200, 48: 11, 49: 0}
    rows = [*[row.tolist() for row in train], *([item] for item, number in held.items() for _ in range(number))]
    train, users = Ragged.from_rows(rows), np.arange(10)
    empty = Ragged.from_rows([[]] * 10)
    queries = Queries(users, empty, np.array(list(held)), empty)
    split = Split("world", 50, train, queries, queries)

    def counts(places: Sequence[int]) -> RankCounts:
        better = np.array(places, dtype=np.int32)
        return RankCounts(better, np.zeros_like(better), np.full_like(better, 50))

    own, backbone = [0, 3, 9, 10, 1, 30, 2, 0, 8, 12], [1, 3, 10, 4, 0, 2, 20, 0, 9, 5]
    names = users.astype(np.str_)
    model = UserCounts(users, names, {"full": counts(own)}, "d", "s", "n")
    beside = UserCounts(users, names, {"backbone/full": counts(backbone)}, "d", "s", "n")
    tables = group_tables(model, beside, queries, split, 50, 0)
    gaps = []
    for table, sizes, edges in (
        ("users_by_history", lengths, {"1-19": (1, 19), "20-49": (20, 49), "50-99": (50, 99), "100+": (100, 10**9)}),
        ("targets_by_holders", list(held.values()),
         {"0-9": (0, 9), "10-49": (10, 49), "50-99": (50, 99), "100+": (100, 10**9)}),
    ):  # fmt: skip
        found = {entry["group"]: entry for entry in tables[table]}
        gaps.append((f"{table}: groups {list(found)}", 0.0 if list(found) == list(edges) else math.inf))
        for label, (low, high) in edges.items():
            members = [place for place, size in enumerate(sizes) if low <= size <= high]
            entry = found[label]
            gaps.append((f"{label}: queries", float(abs(entry["num_queries"] - len(members)))))
            for row, places in (("model", own), ("backbone", backbone)):
                for metric, value in _means([places[at] for at in members]).items():
                    gaps.append((f"{label}: {row} {metric}", abs(entry["rows"][row][metric] - value)))
            for metric, gained in entry["model_minus_backbone"].items():
                mine, theirs = (_means([p[at] for at in members])[metric] for p in (own, backbone))
                gaps.append((f"{label}: gain", abs(gained["difference"] - (mine - theirs))))
                low_end, high_end = gained["ci95"]
                gaps.append((f"{label}: ends", 0.0 if low_end <= mine - theirs + 1e-9 <= high_end + 2e-9 else math.inf))
    value, label = worst(gaps)
    return at_most(value, 1e-12, f"two tables, ten queries on the edges; largest: {label}")


def _means(places: Sequence[int]) -> dict[str, float]:
    hits = [float(place < 10) for place in places]
    gains = [1 / math.log2(place + 2) if place < 10 else 0.0 for place in places]
    return {"ndcg_at_10": sum(gains) / len(gains), "hr_at_10": sum(hits) / len(hits)}


CHECKS: Sequence[Check] = tuple(
    Check("honesty", name, measure)
    for name, measure in (
        ("both splits ask what they say, question by question", splits),
        ("splits by shares and by given moments ask what they say", other_splits),
        ("cold items are asked about among themselves, and nowhere else", cold_items),
        ("cold items are chosen by their ids alone", cold_choice),
        ("groups hold whom they say, and their means", groups),
    )
)
