"""Laws of diverse lists, of item to item, and of the quick way to the best items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fedmm.testing
from fedmm.data.types import Ragged
from fedmm.errors import ConfigError, DataError
from fedmm.evaluation import ranking
from fedmm.recommendation.diversity import Diversity
from fedmm.runs.model import TrainedModel
from fedmm.utils import largest as quick


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return fedmm.testing.tiny_run().model


def greedy(items: np.ndarray, scores: np.ndarray, vectors: np.ndarray, weight: float, k: int) -> list[int]:
    """The definition, an item at a time."""
    pool = [(int(i), float(s)) for i, s in zip(items, scores, strict=True) if i]
    low, high = min(s for _, s in pool), max(s for _, s in pool)
    found = [pool[0][0]]
    while len(found) < min(k, len(pool)):
        left = [(i, (s - low) / (high - low)) for i, s in pool if i not in found]
        gains = [(1 - weight) * r - weight * max(float(vectors[i] @ vectors[j]) for j in found) for i, r in left]
        found.append(left[int(np.argmax(gains))][0])
    return found


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.7, 1.0])
def test_diverse_lists_are_the_greedy_ones(weight: float) -> None:
    stream = np.random.default_rng(5)
    vectors = stream.normal(size=(41, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = np.stack([stream.permutation(40)[:25] + 1 for _ in range(7)]).astype(np.int32)
    scores = -np.sort(-stream.normal(size=items.shape), axis=1).astype(np.float32)
    items[3, 4:] = 0  # candidates ran out
    found, values = Diversity(vectors, weight).arrange(items, scores, 6)
    for row in range(7):
        wanted = greedy(items[row], scores[row], vectors, weight, 6)
        assert found[row].tolist() == wanted + [0] * (6 - len(wanted))
        score_of = dict(zip(items[row].tolist(), scores[row].tolist(), strict=True))
        assert [score_of[i] for i in wanted] == values[row, : len(wanted)].tolist()


def test_diversity_of_nothing_changes_nothing_and_all_of_it_takes_the_most_unlike(model: TrainedModel) -> None:
    history = ["i3", "i4", "i5"]
    plain = model.recommend(history, k=8)
    assert model.recommend(history, k=8, diversity=0.0) == plain
    vectors = Diversity.of(0.5, model.experiment.recommender.tables, torch.zeros(1)).vectors
    place = {name: at for at, name in enumerate(model.item_ids, start=1)}

    diverse = model.recommend(history, k=8, diversity=1.0)
    assert diverse[0] == plain[0]
    assert len({one.item_id for one in diverse}) == 8
    first = vectors[place[plain[0].item_id]]
    others = [one.item_id for one in model.recommend(history, k=30)[1:]]
    assert diverse[1].item_id == min(others, key=lambda name: float(vectors[place[name]] @ first))


def test_a_least_score_cuts_lists_before_they_are_made_diverse(model: TrainedModel) -> None:
    plain = model.recommend(["i3", "i4"], k=30)
    level = plain[5].score
    assert model.recommend(["i3", "i4"], k=30, min_score=level) == plain[:6]
    diverse = model.recommend(["i3", "i4"], k=30, min_score=level, diversity=0.5)
    assert sorted(diverse) == sorted(plain[:6])
    assert model.recommend(["i3", "i4"], min_score=float("inf")) == []


@pytest.mark.parametrize("by", ["model", "text", "image"])
def test_similar_items_have_the_greatest_cosines(by: str, model: TrainedModel) -> None:
    tables = model.experiment.recommender.tables
    vectors = model.item_embeddings().astype(np.float64)
    known = np.ones(len(vectors), bool)
    if by != "model":
        table = tables[{"text": "semantic", "image": "visual"}[by]]
        vectors, known = table.values[1:].double().numpy(), table.present[1:].numpy()
    item = int(np.flatnonzero(known)[4])
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vectors[item])
    cosines = np.where(known & (lengths > 0), vectors @ vectors[item] / np.where(lengths > 0, lengths, 1), -np.inf)
    cosines[item] = -np.inf
    found = model.similar(model.item_ids[item], by=by, k=len(known))
    assert [one.item_id for one in found] == [model.item_ids[at] for at in np.argsort(-cosines)[: known.sum() - 1]]
    assert [one.score for one in found] == pytest.approx(sorted(cosines[np.isfinite(cosines)], reverse=True), abs=1e-5)
    stock = [one.item_id for one in found[2:6]]
    assert model.similar(model.item_ids[item], by=by, only=stock, exclude=stock[:1]) == found[3:6]
    if not known.all():
        with pytest.raises(DataError, match="no such features"):
            model.similar(model.item_ids[int(np.flatnonzero(~known)[0])], by=by)


def test_what_cannot_be_compared_is_refused(model: TrainedModel) -> None:
    with pytest.raises(DataError, match="no item 'nope'"):
        model.similar("nope")
    with pytest.raises(ConfigError, match="'sound'"):
        model.similar("i3", by="sound")


def test_the_quick_way_to_the_best_items_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = np.random.default_rng(2)
    for size in (700, 1500):
        coarse = torch.from_numpy(np.round(stream.normal(size=(9, size)) * 3).astype(np.float32))  # ties everywhere
        fine = torch.from_numpy(stream.normal(size=(9, size)).astype(np.float32))
        excluded = Ragged.from_rows([stream.permutation(size - 1)[:row] + 1 for row in range(9)])
        few = np.zeros(size, bool)
        few[1:4] = True
        for scores in (coarse, fine):
            for candidates in (None, few):
                monkeypatch.setattr(quick, "MANY_COLUMNS", 10**9)
                plain = ranking.best_items(scores, excluded, candidates, 7)
                monkeypatch.setattr(quick, "MANY_COLUMNS", 1)
                assert torch.equal(ranking.best_items(scores, excluded, candidates, 7), plain)
                own = scores.clone()
                assert torch.equal(ranking.best_items(own, excluded, candidates, 7, in_place=True), plain)
