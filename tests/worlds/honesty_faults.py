"""Faults of splits, candidates, metrics and features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedmm.data import features, negatives, preparation, splits
from fedmm.data.types import Ragged
from fedmm.evaluation import metrics, ranking
from fedmm.federation import candidates
from worlds.planting import Fault, everywhere


def negatives_spare_the_held_out(patch: pytest.MonkeyPatch) -> None:
    draw, make = candidates.draw_negatives, splits.make_split
    held_out: dict[bytes, Any] = {}

    def remember(dataset: Any, config: Any) -> Any:
        split = make(dataset, config)
        for queries in (split.validation, split.test):
            for user, target in zip(queries.users, queries.targets, strict=True):
                key = split.train[int(user)].tobytes()
                held_out[key] = np.append(held_out.get(key, np.zeros(0, np.int64)), target)
        return split

    def spare(history: Any, num_items: int, count: int, stream: Any) -> Any:
        own = np.append(history, held_out.get(np.asarray(history).tobytes(), np.zeros(0, np.int64)))
        return draw(own, num_items, count, stream)

    everywhere(patch, make, remember)
    everywhere(patch, draw, spare)


def counts_include_validation(patch: pytest.MonkeyPatch) -> None:
    popularity = splits.training_popularity

    def more(split: Any) -> Any:
        return popularity(split) + np.bincount(split.validation.targets, minlength=split.num_items + 1)

    everywhere(patch, popularity, more)


def training_includes_validation(patch: pytest.MonkeyPatch) -> None:
    make = splits.make_split

    def longer(dataset: Any, config: Any) -> Any:
        split = make(dataset, config)
        rows = list(split.train)
        for user, target in zip(split.validation.users, split.validation.targets, strict=True):
            rows[user] = np.append(rows[user], target)
        return replace(split, train=Ragged.from_rows(rows))

    everywhere(patch, make, longer)


def temporal_split_sees_the_future(patch: pytest.MonkeyPatch) -> None:
    temporal = splits._temporal

    def shuffled(interactions: Any, fraction: float) -> Any:
        order = np.argsort(interactions.timestamps % 97, kind="stable")
        mixed = replace(interactions, timestamps=np.sort(interactions.timestamps)[np.argsort(order)])
        return temporal(mixed, fraction)

    patch.setattr(splits, "_temporal", shuffled)


def exclusion_takes_the_target(patch: pytest.MonkeyPatch) -> None:
    exclude = candidates.exclude_seen
    everywhere(patch, exclude, lambda rows, places, columns, device: exclude(rows, places + 1, columns, device))


def optimistic_ties(patch: pytest.MonkeyPatch) -> None:
    measure = metrics.per_query
    everywhere(patch, measure, lambda c, cutoffs: measure(replace(c, tied=np.zeros_like(c.tied)), cutoffs))


def discount_off_by_one(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(metrics.METRICS.built_in, "ndcg", lambda places: 1.0 / np.log2(places + 3.0))


def diverged_scores_pass(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ranking, "count_diverged", lambda scores: 0)


def seen_items_unmasked(patch: pytest.MonkeyPatch) -> None:
    def all_items(scores: Any, excluded: Any, candidates: Any) -> Any:
        scores[:, 0] = -torch.inf
        return scores

    patch.setattr(ranking, "_mask", all_items)


def evaluation_negatives_from_the_history(patch: pytest.MonkeyPatch) -> None:
    draw = negatives._uniform
    patch.setattr(negatives, "_uniform", lambda stream, own, num_items, count: draw(stream, own[-1:], num_items, count))


def ties_in_file_order(patch: pytest.MonkeyPatch) -> None:
    prepare = preparation.prepare
    everywhere(patch, prepare, lambda raw, config: prepare(raw, config.model_copy(update={"tie_order": "file"})))


def shuffled_features(patch: pytest.MonkeyPatch) -> None:
    def shuffled(found: Any) -> Any:
        rows = np.flatnonzero(found.present)
        values = found.values.copy()
        values[rows] = values[np.random.default_rng(0).permutation(rows)]
        return replace(found, values=values)

    changed_features(patch, shuffled)


def features_one_row_off(patch: pytest.MonkeyPatch) -> None:
    changed_features(patch, lambda found: replace(found, values=np.roll(found.values, 1, axis=0)))


def places_halved(patch: pytest.MonkeyPatch, *, full_only: bool = False) -> None:
    measure = metrics.per_query

    def halved(counts: Any, cutoffs: Any) -> Any:
        halve = (counts.num_candidates > 101) | (not full_only)
        better = np.where(halve, counts.better // 20, counts.better)
        return measure(replace(counts, better=better), cutoffs)

    everywhere(patch, measure, halved)


def full_ranking_flattered(patch: pytest.MonkeyPatch) -> None:
    places_halved(patch, full_only=True)


def changed_features(patch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    load = features.load_features

    def changed(*arguments: Any) -> Any:
        found, notes = load(*arguments)
        return change(found), notes

    everywhere(patch, load, changed)


def features_not_found(patch: pytest.MonkeyPatch) -> None:
    changed_features(patch, lambda found: replace(found, present=np.zeros_like(found.present)))


def features_all_alike(patch: pytest.MonkeyPatch) -> None:
    changed_features(patch, lambda found: replace(found, values=np.ones_like(found.values)))


def features_not_finite(patch: pytest.MonkeyPatch) -> None:
    changed_features(patch, lambda found: replace(found, values=found.values * np.float32("nan")))


HELD_OUT = "changing held-out items changes nothing that leaves a client"
CANARY = "leak canary: counting training negatives stays at chance"
PAIRS = "splits share no (user, item) pair"
WINDOWS = "no held-out item enters its client's training"
FUTURE = "no future: none of a user's own, none at all in the temporal split"
SEEN = "training candidates: what a client met before, and nothing else, is left out"
NEGATIVES = "evaluation candidates: no duplicates, none of the user's items"
DEFINITION = "metrics equal their definition"
TIES = "ties: metrics equal the mean over all orders"
CONSTANT = "constant scores stand at chance"
CHANCE = "a model that knows nothing stands at chance"
COUNTED = "popularity equals counting by hand"
KNOWN = "popularity reproduces its known value"
NEIGHBOURS = "neighbours in features are neighbours in consumption"
FAULTS = (
    Fault("negatives spare the held-out", (CANARY, HELD_OUT), negatives_spare_the_held_out),
    Fault("counts include validation", (HELD_OUT, COUNTED, KNOWN), counts_include_validation),
    Fault("training includes validation", (PAIRS, WINDOWS), training_includes_validation),
    Fault("temporal split sees the future", (FUTURE,), temporal_split_sees_the_future),
    Fault("exclusion takes the target", (SEEN,), exclusion_takes_the_target),
    Fault("optimistic ties", (TIES, CONSTANT), optimistic_ties),
    Fault("discount off by one", (DEFINITION, "metrics equal those of ir-measures"), discount_off_by_one),
    Fault("places flattered", (CHANCE,), places_halved),
    Fault("full ranking flattered", ("full-ranking HR never exceeds sampled HR",), full_ranking_flattered),
    Fault("diverged scores pass", ("NaN, +inf and -inf scores raise",), diverged_scores_pass),
    Fault("seen items unmasked", (COUNTED,), seen_items_unmasked),
    Fault("evaluation negatives from the history", (NEGATIVES,), evaluation_negatives_from_the_history),
    Fault("ties in file order", ("the order of ties matters as much as this",), ties_in_file_order),
    Fault("shuffled features", ("features belong to their items", NEIGHBOURS), shuffled_features),
    Fault("features one row off", ("features belong to their items",), features_one_row_off),
    Fault("features not finite", ("features are finite",), features_not_finite),
    Fault("features not found", ("coverage",), features_not_found),
    Fault("features all alike", ("few duplicated rows", "few constant columns"), features_all_alike),
)
