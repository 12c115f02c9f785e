"""Claims about counts: transitions as counted by hand, what a client sees of its own, the start they give, and the
baselines made of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedmm.config import ExperimentConfig
from fedmm.data.splits import training_popularity
from fedmm.data.transitions import client_transition_counts, sum_transition_counts
from fedmm.data.types import FloatArray, Queries, Ragged, Split
from fedmm.evaluation.baselines import popularity_scorer, transition_scorer
from fedmm.federation.data_rules import settled
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.spectral_sketch import ColumnHash, client_degrees, client_sketch, sum_sketches
from fedmm.federation.spectral_start import spectral_item_table
from fedmm.models.experts.transition import TransitionExpert, transition_scores
from fedmm.models.experts.transition_rows import sparse_transition_scores
from fedmm.models.recommender import Batch
from fedmm.models.scores import SparseScores
from fedmm.models.succession import Succession, default_weight
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.subject import SMALL_ITEMS, Subject
from fedmm.verification.world import histories, make_local

NOTHING = Ragged(np.zeros(0, np.int64), np.zeros(1, np.int64))
ASKED = Queries(np.zeros(0, np.int64), NOTHING, np.zeros(0, np.int64), NOTHING)


def counted(rows: Sequence[Sequence[int]], num_items: int) -> FloatArray:
    """C [V, V] without direction: every two places of a history up to ten apart count 0.5^(distance / 5), both ways."""
    counts = np.zeros((num_items + 1, num_items + 1))
    for row in rows:
        for later, item in enumerate(row):
            for earlier in range(max(0, later - 10), later):
                share = 0.5 ** ((later - earlier) / 5)
                counts[row[earlier], item] += share
                counts[item, row[earlier]] += share
    return counts


def yardstick(counts: FloatArray, history: Sequence[int], t: int) -> float:
    """sum over the last ten items, the newest first, of 0.8^age C[item, t] / root of t's sum."""
    total = counts[:, t].sum()
    last = list(history)[::-1][:10]
    found = sum(0.8**age * counts[item, t] for age, item in enumerate(last))
    return float(found / math.sqrt(total)) if total > 0 else 0.0


def kernel(rows: Sequence[Sequence[int]], num_items: int, softening: float = 0.1) -> FloatArray:
    """K [V, V]: what follows an item up to ten places on, and a quarter of what precedes it, over n_i^.4 n_t^.3, in
    ``softening`` of its mean entry."""
    onward = np.zeros((num_items + 1, num_items + 1))
    for row in rows:
        for at, item in enumerate(row):
            for gap, other in enumerate(row[at + 1 : at + 11], 1):
                onward[item, other] += 0.5 ** (gap / 5)
    total = onward.sum(0) + onward.sum(1)
    found = np.zeros_like(onward)
    for i, t in itertools.product(range(num_items + 1), repeat=2):
        if onward[i, t] or onward[t, i]:
            found[i, t] = (onward[i, t] + 0.25 * onward[t, i]) / (total[i] ** 0.4 * total[t] ** 0.3)
    return np.asarray(found / (softening * found[found > 0].mean()))


def followed(table: FloatArray, history: Sequence[int], t: int, weight: float) -> float:
    """weight times ln(1 + sum over the last ten items, the newest first, of 0.8^age K[item, t])."""
    last = list(history)[::-1][:10]
    return weight * math.log1p(sum(0.8**age * float(table[item, t]) for age, item in enumerate(last)))


def succession(subject: Subject) -> Finding:
    """What is added to a model's scores for what has followed recent items, item by item; and when it is by default."""
    del subject
    rows = [row.tolist() for row in histories()]
    rows[3] = [*rows[3], rows[3][0]]
    train, asked, gaps = Ragged.from_rows(rows), Ragged.from_rows(rows[2:5]), []
    counts = sum_transition_counts(train, SMALL_ITEMS)
    for softening, made in ((0.1, Succession.build(counts, 0.7)), (1.5, Succession.build(counts, 0.7, 1.5))):
        found, table = made.scores(asked).toarray(), kernel(rows, SMALL_ITEMS, softening)
        gaps += [
            (f"item {t} after history {place}, softening {softening}", abs(float(found[place, t]) - expected))
            for place, row in enumerate(rows[2:5])
            for t in range(SMALL_ITEMS + 1)
            for expected in (followed(table, row, t, 0.7),)
        ]
    short, long = Ragged.from_rows([[1] * 20, [1] * 20, [1] * 40]), Ragged.from_rows([[1] * 21, [1] * 21, [1] * 2])
    worlds = [(short, 5001), (short, 5000), (long, 5001), (long, 1000), (short, 999)]
    weights = [rule(*world) for world in worlds for rule in (default_weight, _weight_of_a_run)]
    expected = [6.0, 6.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.0, 0.0]
    gaps.append((f"default weights {weights}", 0.0 if weights == expected else math.inf))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"three histories, the whole catalogue; largest: {label}")


def _weight_of_a_run(train: Ragged, num_items: int) -> float | None:
    return settled(ExperimentConfig(), train, num_items).model.succession


def baselines(subject: Subject) -> Finding:
    """Counts, popularity and the yardstick of eight histories, one of which repeats an item."""
    del subject
    rows = [row.tolist() for row in histories()]
    rows[3] = [*rows[3], rows[3][0]]
    train = Ragged.from_rows(rows)
    split = Split("world", SMALL_ITEMS, train, ASKED, ASKED)
    counts = counted(rows, SMALL_ITEMS)
    directed = sum_transition_counts(train, SMALL_ITEMS).toarray()
    gaps = [("counts", float(np.abs(directed + directed.T - counts).max()))]
    for row in rows:
        first, second, values = client_transition_counts(np.array(row))
        dense = np.zeros_like(counts)
        for i, j, value in zip(first, second, values, strict=True):
            dense[i, j] += value
        gaps.append(("one client's counts", float(np.abs(dense + dense.T - counted([row], SMALL_ITEMS)).max())))
    holders = [sum(row.count(item) for row in rows) for item in range(SMALL_ITEMS + 1)]
    gaps.append(("popularity", float(np.abs(training_popularity(split) - np.array(holders)).max())))
    asked = Ragged.from_rows([rows[2], rows[0], rows[6]])
    users = np.array([5, 1, 2])
    popular, following = popularity_scorer(split)(users, asked), transition_scorer(split)(users, asked)
    gaps.append(("popularity's scores", float((popular - torch.tensor([holders], dtype=torch.float64)).abs().max())))
    for place, row in enumerate(asked):
        own = [yardstick(counts, row.tolist(), t) for t in range(SMALL_ITEMS + 1)]
        gap = (following[place].double() - torch.tensor(own, dtype=torch.float64)).abs().max()
        gaps.append(("the yardstick's scores", float(gap)))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"eight histories; largest: {label}")


def own_counts(subject: Subject) -> Finding:
    """What the transition expert says to each client in training: the counts of all others, nothing of its own; over
    the catalogue and over sampled candidates."""
    del subject
    gaps, touched = [], 0.0
    for negatives in (0, 9):
        local, _ = make_local({"transition": True}, {"num_negatives": negatives, "batch_size": 64})
        rows = [row.tolist() for row in local.train]
        whole = counted(rows, SMALL_ITEMS)
        present = whole.sum(0) > 0
        softening = 0.1 * whole[whole > 0].mean() / math.sqrt(whole.sum(0)[present].mean())
        clients = local.windows.trainable
        for client in clients:
            others = counted([row for place, row in enumerate(rows) if place != client], SMALL_ITEMS)
            others[others < 1e-9] = 0.0
            step = local.steps(np.array([client]), 1).step(0, 1)
            said = _both_ways(local, step.batch, int(client))
            candidates = range(SMALL_ITEMS + 1) if step.batch.candidates is None else step.batch.candidates[0].tolist()
            length = step.batch.items.shape[2]
            for row, place in enumerate(step.batch.rows[0].tolist()):
                window = step.batch.items[0, place // length, : place % length + 1].tolist()
                for column, t in enumerate(candidates):
                    expected = 2 * math.log1p(yardstick(others, window, t) / softening)
                    gaps += [(f"client {client}", abs(float(own[row, column]) - expected)) for own in said]
                    touched = max(touched, abs(yardstick(whole, window, t) / softening - math.expm1(expected / 2)))
    if touched < 1e-3:
        return at_most(math.inf, 1e-9, "taking nothing out would have made no difference: the world is too small")
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(gaps)} scores of {len(rows)} clients; largest: {label}")


def _both_ways(local: LocalTraining, batch: Batch, client: int) -> list[torch.Tensor]:
    """The expert's scores [R, N] of a client's step: those it trains with, and as dense and as sparse rows."""
    (part,) = (own for own in local.recommender.parts.values() if isinstance(own, TransitionExpert))
    asked = (part.counted, batch.items, batch.rows, batch.candidates, [local.train[client]])
    every = (batch.constants[part.name], transition_scores(*asked), sparse_transition_scores(*asked))
    return [(own.dense() if isinstance(own, SparseScores) else own)[0] for own in every]


def several_clients(subject: Subject) -> Finding:
    """The same of several clients at once, whose histories repeat items and whose candidates are named twice or not at
    all; and with nothing taken out."""
    del subject
    rows = [[3, 5, 3, 8, 5, 9, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], [9, 9, 2], [20, 21, 5], [21, 20, 3, 2]]
    local, _ = make_local({"transition": True}, train=Ragged.from_rows(rows))
    (part,) = (own for own in local.recommender.parts.values() if isinstance(own, TransitionExpert))
    whole = counted(rows, SMALL_ITEMS)
    softening = 0.1 * whole[whole > 0].mean() / math.sqrt(whole.sum(0)[whole.sum(0) > 0].mean())
    some = [2, 0, 1, 3]
    items = torch.zeros(len(some), 2, 4, dtype=torch.long)
    for c, client in enumerate(some):
        items[c, 0, : len(rows[client][:4])] = torch.tensor(rows[client][:4])
        items[c, 1, : len(rows[client][-3:])] = torch.tensor(rows[client][-3:])
    places = torch.tensor([[0, 1, 2, 4, 6], [3, 2, 1, 0, 6], [3, 5, 4, 6, 0], [2, 1, 0, 5, 6]])
    named = torch.tensor([[9, 2, 2, 5, 0, 3], [5, 3, 40, 3, 8, 5], [1, 13, 2, 7, 7, 0], [20, 5, 21, 30, 3, 21]])
    gaps = []
    for candidates, own in itertools.product((None, named), (True, False)):
        histories = [np.array(rows[client]) for client in some] if own else None
        asked = (part.counted, items, places, candidates, histories)
        found = [sparse_transition_scores(*asked).dense(), transition_scores(*asked)]
        for c, client in enumerate(some):
            left = counted([row for place, row in enumerate(rows) if place != client or not own], SMALL_ITEMS)
            left[left < 1e-9] = 0.0
            listed = range(SMALL_ITEMS + 1) if candidates is None else candidates[c].tolist()
            for r, place in enumerate(places[c].tolist()):
                window = items[c, place // 4, : place % 4 + 1].tolist()
                for column, t in enumerate(listed):
                    expected = 2 * math.log1p(yardstick(left, window, t) / softening) if t else 0.0
                    gaps += [(f"client {client}, {t}", abs(float(one[c, r, column]) - expected)) for one in found if t]
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(gaps)} scores; largest: {label}")


def pmi(counts: FloatArray) -> FloatArray:
    """max(0, ln(p(i, j) / (p(i) p'(j)))), p' with the power 3/4, averaged over both directions; 0 where C is."""
    mass = counts.sum(1)
    smooth = mass**0.75
    found = np.zeros_like(counts)
    for i, j in zip(*np.nonzero(counts), strict=True):
        joint = counts[i, j] / counts.sum()
        found[i, j] = max(0.0, math.log(joint / (mass[i] / counts.sum() * smooth[j] / smooth.sum())))
    return np.asarray((found + found.T) / 2)


def spectral(subject: Subject) -> Finding:
    """The start's item table against a dense eigendecomposition, and its sketch against all of D^-1/2 C D^-1/2: inner
    products of rows, which know no signs, up to the noise that is meant to be there."""
    del subject
    rows = [row.tolist() for row in histories((20, 25, 18, 30, 22, 16))]
    train, width = Ragged.from_rows(rows), 6
    counts = counted(rows, SMALL_ITEMS)
    table = spectral_item_table(sum_transition_counts(train, SMALL_ITEMS), width, 0).numpy()
    gaps = [("spectral", _gram_gap(table, pmi(counts), width))]
    degrees = counts.sum(1)
    own = [client_degrees(np.array(row), SMALL_ITEMS) for row in rows]
    gaps.append(("degrees", float(np.abs(np.sum(own, axis=0) - degrees).max())))
    scale = np.where(degrees > 0, 1 / np.sqrt(np.maximum(degrees, 1e-12)), 0.0)
    normal = scale[:, None] * counts * scale
    for size in (8, SMALL_ITEMS + 1):
        columns = ColumnHash.draw(SMALL_ITEMS, size, 0)
        signed = np.zeros((SMALL_ITEMS + 1, size))
        for item, (bucket, sign) in enumerate(zip(columns.buckets, columns.signs, strict=True)):
            signed[item, bucket] = sign
        sent = np.sum([client_sketch(np.array(row), degrees, columns) for row in rows], axis=0)
        for name, sketch in (("sketch", sent), ("sum of sketches", sum_sketches(train, SMALL_ITEMS, columns))):
            gaps.append((f"{name} of {size}", float(np.abs(sketch - normal @ signed).max())))
        loads = np.bincount(columns.buckets, minlength=size)
        gaps.append(("load of the buckets", 0.0 if loads.max() - loads.min() <= 1 else math.inf))
    value, label = worst(gaps)
    return at_most(value, 0.03, f"relative to the largest; largest: {label}")


def _gram_gap(table: NDArray[np.float64], matrix: FloatArray, width: int) -> float:
    """Inner products of the table's rows against those of the leading eigenvectors times the roots of their values."""
    values, vectors = np.linalg.eigh(matrix)
    kept = np.argsort(-values)[:width]
    expected = (vectors[:, kept] * np.maximum(values[kept], 0)) @ vectors[:, kept].T
    expected /= np.trace(expected) / (len(matrix) - 1)
    return float(np.abs(table @ table.T - expected).max() / np.abs(expected).max())


def popularity_without_held_out(subject: Subject) -> Finding:
    """Items' popularity on the configured data that is not their number of training histories; and held-out events that
    would have changed it, without which this would say nothing."""
    split, offences = subject.split, 0
    found = training_popularity(split)
    expected = [0] * (split.num_items + 1)
    for row in split.train:
        for item in row.tolist():
            expected[item] += 1
    offences = int((found != np.array(expected)).sum())
    return none_of(offences, f"{split.num_items} items; {len(split.test)} test events would have counted")


CHECKS: Sequence[Check] = tuple(
    Check(group, name, measure)
    for group, name, measure in (
        ("honesty", "counts, popularity and the yardstick equal counting by hand", baselines),
        ("honesty", "what has followed recent items is added by definition", succession),
        ("honesty", "a client in training sees no count of its own", own_counts),
        ("honesty", "counts of several clients at once, with items met twice, are as by hand", several_clients),
        ("federation", "the spectral start equals its definition, whole and sketched", spectral),
        ("honesty", "popularity counts training histories alone", popularity_without_held_out),
    )
)
