"""Claims about what stands beside the model's numbers: lists of best items, yardsticks of pooled data, summands of
scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import Queries, Ragged, Split
from fedmm.evaluation.pooled_yardsticks import item_knn_weights, pooled_bytes, pooled_scorers, pooled_wanted
from fedmm.evaluation.ranking import best_items, rank_queries
from fedmm.models.experts.hybrid import HybridExpert
from fedmm.models.experts.neighbors import NeighborExpert
from fedmm.models.experts.pooled import PooledExpert
from fedmm.models.shares import shares
from fedmm.utils.params import expand_for_clients
from fedmm.utils.seeding import numpy_stream
from fedmm.verification import naive
from fedmm.verification.architecture import all_rows, scores_of, some_items
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.subject import Model, Subject

SHORT, LONG = 12, 16_500  # items of a catalogue; the long one is looked through in stretches
HISTORIES: Sequence[Sequence[int]] = ([1, 2, 3], [2, 3, 2], [4, 1], [5, 6, 1, 2], [6], [3, 4, 5, 1], [7, 2])
ITEMS = 8  # of the pooled histories; nobody met the last


def _expected(scores: Tensor, barred: set[int], standing: dict[int, int], keep: int) -> list[int]:
    """The best items by sorting, level ones as they stand; 0 where they run out."""
    left = [item for item in range(1, len(scores)) if item not in barred]
    order = sorted(left, key=lambda item: (-float(scores[item]), standing[item]))[:keep]
    return [*order, *[0] * (keep - len(order))]


def _mixed(item: int) -> int:
    """The (item + 1)th number of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) from 0."""
    word, most = (item + 1) * 0x9E3779B97F4A7C15 % 2**64, 2**64
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % most
    word = (word ^ word >> 27) * 0x94D049BB133111EB % most
    return word ^ word >> 31


def best(subject: Subject) -> Finding:
    """Lists of a few and of many items, with level scores at their ends, items left out and too few left: each as
    sorting gives it, level items by a fixed hash, so that no catalogue order shows."""
    del subject
    stream = numpy_stream(0, "verify lists")
    gaps = []
    for size, keeps in ((SHORT, (1, 3, 11, 14)), (LONG, (30, 300))):
        levels = np.concatenate([stream.integers(0, 4, size=(3, size)), stream.normal(size=(2, size)) * 10])
        scores = torch.from_numpy(levels.astype(np.float64))
        scores[3, : size // 2] = scores[3, size // 2 : size // 2 * 2]  # twins, the best among them
        excluded = [[1, 2, 5], [], list(range(1, size - 3)), [7], [3]]
        standing = {item: -_mixed(item) for item in range(size)}
        some = stream.random(size) < 0.6
        some[0] = False
        for candidates in (None, some):
            outside = set() if candidates is None else set(np.flatnonzero(~candidates).tolist())
            for keep in keeps:
                found = best_items(scores.clone(), Ragged.from_rows(excluded), candidates, keep)
                again = best_items(scores.clone(), Ragged.from_rows(excluded), candidates, keep, in_place=True)
                for row, barred in enumerate(excluded):
                    expected = _expected(scores[row], {*barred, *outside}, standing, keep)
                    wrong = found[row].tolist() != expected or again[row].tolist() != expected
                    gaps.append((f"row {row}, {keep} of {size}", float(wrong)))
    users = np.arange(5)
    queries = Queries(
        users, Ragged.from_rows([[]] * 5), np.array([3, 4, 1, 2, 5]), Ragged.from_rows([[1], [], [2], [], []])
    )
    table = torch.from_numpy(stream.integers(0, 4, size=(5, SHORT)).astype(np.float64))
    ranking = rank_queries(lambda who, _: table[torch.from_numpy(who)], queries, {}, ["full"], block_size=2, keep_top=4)
    shown = best_items(table.clone(), queries.excluded, None, 4)
    gaps.append(("lists of a ranking", float(ranking.top_items.tolist() != shown.tolist())))
    gaps.append(("items of a ranking", float(abs(ranking.num_items - (SHORT - 1)))))
    value, label = worst(gaps)
    return at_most(value, 0.0, f"{len(gaps)} lists; largest: {label}")


def pooled(subject: Subject) -> Finding:
    """EASE as a ridge regression for each item on all others, item-kNN by the formula of cosines; how many numbers a
    sum over clients would take, and when both are measured."""
    del subject
    met = np.zeros((len(HISTORIES), ITEMS + 1))
    for user, row in enumerate(HISTORIES):
        met[user, list(row)] = 1.0
    ease = np.zeros((ITEMS + 1, ITEMS + 1))
    for t in range(ITEMS + 1):
        rest = [i for i in range(ITEMS + 1) if i != t]
        gram = met[:, rest].T @ met[:, rest] + 300.0 * np.eye(ITEMS)
        ease[rest, t] = np.linalg.solve(gram, met[:, rest].T @ met[:, t])
    norms = np.sqrt((met**2).sum(0))
    cosines = np.array([[met[:, i] @ met[:, t] / max(norms[i] * norms[t] + 10.0, 1e-9) * (i != t)
                         for t in range(ITEMS + 1)] for i in range(ITEMS + 1)])  # fmt: skip
    none = Ragged.from_rows([])
    nobody = Queries(np.zeros(0, np.int64), none, np.zeros(0, np.int64), none)
    scorers = pooled_scorers(None, Split("world", ITEMS, Ragged.from_rows(HISTORIES), nobody, nobody))
    gaps = [("names", float(set(scorers) != {"ease", "item_knn"} or bool(pooled_scorers(False, _catalogue(3)))))]
    asked = Ragged.from_rows([[2, 2, 5], [8], [1, 3, 4]])
    for name, weights in (("ease", ease), ("item_knn", cosines)):
        found = scorers[name](np.arange(3), asked).numpy()
        expected = np.stack([weights[sorted(set(row))].sum(0) for row in ([2, 5], [8], [1, 3, 4])])
        gaps.append((name, float(np.abs(found - expected).max() / np.abs(expected).max())))
    products = (met.T @ met).astype(np.float32)
    few = item_knn_weights(products.copy(), neighbors=2, shrinkage=1.0)
    plain = np.array([[products[i, t] / (norms[i] * norms[t] + 1.0) * (i != t) for t in range(ITEMS + 1)]
                      for i in range(ITEMS + 1)])  # fmt: skip
    for t in range(ITEMS + 1):
        second = np.sort(plain[:, t])[-2]
        column = np.where(plain[:, t] >= second - 1e-6, plain[:, t], 0.0)
        gaps.append((f"neighbours of {t}", float(np.abs(few[:, t] - column).max())))
    gaps += [(f"numbers of {n} items", float(abs(pooled_bytes(n) - 4 * sum(range(n + 1))))) for n in (1, 2, 7)]
    wanted = [pooled_wanted(*given) for given in ((None, 5000), (None, 5001), (True, 9000), (False, 3))]
    gaps.append((f"measured: {wanted}", float(wanted != [True, False, True, False])))
    value, label = worst(gaps)
    return at_most(value, 1e-5, f"{len(HISTORIES)} histories; largest: {label}")


def _catalogue(num_items: int) -> Split:
    none = Ragged.from_rows([])
    nobody = Queries(np.zeros(0, np.int64), none, np.zeros(0, np.int64), none)
    return Split("world", num_items, Ragged.from_rows([[1]]), nobody, nobody)


def summands(subject: Subject) -> Finding:
    """What the backbone and every expert add to a score: each by the oracle, and all of them sum to the score."""
    gaps = []
    for model in subject.models:
        if model.num_items > 200 and not subject.full:
            continue  # the kinds are small, and one of them is as configured
        found = shares(model.recommender, expand_for_clients(model.params), model.history, all_rows(model.history))
        total = torch.stack(list(found.parts.values())).sum(0)[0]
        gaps.append((f"{model.label}: sum", float((total - scores_of(model)).abs().max())))
        told = found.linear == (model.recommender.config.scoring == "dot")
        gaps.append((f"{model.label}: linear", 0.0 if told else math.inf))
        names = ["backbone", *model.recommender.experts]
        gaps.append((f"{model.label}: {list(found.parts)}", 0.0 if list(found.parts) == names else math.inf))
        gaps += _alone_gaps(model, {name: own[0] for name, own in found.parts.items()})
        routed = {name: own[0] for name, own in found.weights.items()}
        for t in some_items(model, 6) if model.recommender.experts else []:
            weights = naive.naive_router_weights(model.recommender, model.params, t)
            gaps += [
                (f"{model.label}: weight of {name}", abs(float(routed[name][t]) - own)) for name, own in weights.items()
            ]
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(gaps)} summands and weights; largest: {label}")


def _alone_gaps(model: Model, parts: dict[str, Tensor]) -> list[tuple[str, float]]:
    """Every summand after the whole history and after its first three items; under the plain scoring alone, where each
    has a definition of its own."""
    recommender, params = model.recommender, model.params
    gaps: list[tuple[str, float]] = []
    if recommender.config.scoring != "dot":
        return gaps
    history = model.history[0, 0].tolist()
    states = naive.naive_states(params, history, recommender.config)
    gate = float(params["fusion.gate"]) if recommender.has_gate else 1.0
    for length in (3, len(history)):
        prefix = history[:length]
        backbone = naive._norm(states[length - 1], params, "backbone.norm")
        for t in some_items(model, 5):
            item = params["backbone.item_embedding"][t]
            weights = naive.naive_router_weights(recommender, params, t) if recommender.experts else {}
            expected = {"backbone": weights.get("backbone", 1.0) * float(backbone @ item)}
            for name, part in recommender.parts.items():
                said = 0.0
                if isinstance(part, PooledExpert | HybridExpert):
                    said += float(naive._pooled_score(recommender, params, name, prefix, t))
                if isinstance(part, NeighborExpert | HybridExpert):
                    said += naive._neighbor_score(recommender, name, prefix, t)
                if name in naive._counted(recommender):
                    said += naive._transition_score(naive._counted(recommender)[name], prefix, t)
                elif not part.factorises:
                    said += float(naive._memory_vector(recommender, params, name, prefix, states, t) @ item)
                expected[name] = gate * weights[name] * said
            gaps += [(f"{model.label}: {name} on {t}", abs(float(parts[name][length - 1, t]) - value))
                     for name, value in expected.items()]  # fmt: skip
    return gaps


CHECKS: Sequence[Check] = (
    Check("honesty", "lists of best items are those that sorting gives", best),
    Check("honesty", "yardsticks of pooled data equal their definitions", pooled),
    Check("architecture", "what each part adds is what it says, and all parts sum to the score", summands),
)
