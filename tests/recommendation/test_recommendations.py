"""Laws of recommending: the evaluator's ranking, under the user's own ids."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

import fedmm
from fedmm.errors import ConfigError, DataError
from fedmm.evaluation.ranking import rank_queries
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.runs.evaluate import run_evaluation
from fedmm.runs.model import Run, TrainedModel
from worlds.run_world import Watcher, trainer

KINDS = {
    "plain": {"federation.rounds": 2},
    "memory": {"model.experts": "memory", "federation.rounds": 1},
    "competitive": {"model.experts": "neighbors", "model.fusion": "competitive", "federation.rounds": 1},
    "cosine": {"model.experts": "memory", "model.scoring": "cosine", "federation.rounds": 1},
    "counts": {"model.transition": True, "federation.rounds": 1},
    "added": {"model.succession": 2.0, "model.kinship": 1.5, "data.attributes": True, "federation.rounds": 1},
    "personal": {
        "model.personal_gate": True,
        "model.user_vector": True,
        "model.experts": "pooled",
        "federation.rounds": 2,
    },
    "cold": {"data.cold_item_fraction": 0.2, "federation.rounds": 1},
}  # fmt: skip
Ran = Callable[[str], Run]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    train = trainer(tmp_path_factory.mktemp("recommending"), KINDS)
    return cache(lambda kind: Run.load(train(kind)))


def ids(model: TrainedModel, items: np.ndarray) -> list[str]:
    return [str(one) for one in model.experiment.dataset.interactions.item_ids[items]]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"personal"}))
def test_lists_are_the_evaluators(kind: str, ran: Ran) -> None:
    """For every question: its history and exclusions give its list, in full and to the last place."""
    model = ran(kind).model
    queries, num_items = model.experiment.queries("test"), model.experiment.split.num_items
    scorer = model.experiment.scorer(model.snapshot)
    tops = rank_queries(scorer, queries, {}, ["full"], keep_top=num_items).top_items
    for row in range(len(queries)):
        history, excluded = (ids(model, of[row]) for of in (queries.histories, queries.excluded))
        found = model.recommend(history, k=num_items, exclude=excluded, keep_seen=True)
        assert [one.item_id for one in found] == ids(model, tops[row][tops[row] > 0])
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_a_user_is_its_whole_history_and_its_own_parameters(ran: Ran) -> None:
    for kind in ("plain", "personal"):
        model = ran(kind).model
        interactions = model.experiment.dataset.interactions
        users = [str(one) for one in interactions.user_ids]
        by_user = model.recommend(users=users, k=5)
        by_history = model.recommend(histories=[ids(model, row) for row in interactions.histories], k=5)
        assert (by_user == by_history) == (kind == "plain")
        assert model.recommend(users=interactions.user_ids, k=5) == by_user  # an array will do
        alone = model.recommend(user=users[3], k=5)
        assert [one.item_id for one in alone] == [one.item_id for one in by_user[3]]
        assert [one.score for one in alone] == pytest.approx([one.score for one in by_user[3]], rel=1e-5)
        for row, found in zip(interactions.histories, by_user, strict=True):
            assert not {one.item_id for one in found} & set(ids(model, row))


def test_scores_are_those_of_the_lists(ran: Ran) -> None:
    model = ran("plain").model
    history = list(model.item_ids[2:6])
    (scores,) = model.score(history)
    assert scores.dtype == np.float32
    found = model.recommend(history, k=len(model.item_ids), keep_seen=True)
    place = {name: at for at, name in enumerate(model.item_ids)}
    assert [one.score for one in found] == [float(scores[place[one.item_id]]) for one in found]
    assert sorted(place) == sorted(one.item_id for one in found)
    assert torch.equal(torch.from_numpy(model.item_embeddings()), model.snapshot.params[ITEM_TABLE][1:])


def test_stock_lists_and_seen_items(ran: Ran) -> None:
    model = ran("plain").model
    history, stock = list(model.item_ids[:3]), list(model.item_ids[2:9])
    found = {one.item_id for one in model.recommend(history, only=stock, exclude=stock[-1:], k=99)}
    assert found == set(stock[1:-1])
    assert {one.item_id for one in model.recommend(history, only=stock, keep_seen=True, k=99)} == set(stock)


def test_unknown_ids_are_counted_and_named(ran: Ran) -> None:
    model, told = ran("plain").model, list[str]()
    history = list(model.item_ids[:3])
    assert model.recommend([*history, "nope", 77], warn=told.append) == model.recommend(history)
    assert told == ["2 unknown item ids are passed over: 'nope', '77'."]
    for ask in (model.score, model.recommend):
        with pytest.warns(UserWarning, match="1 unknown item id is") as told_by:
            ask([*history, "nope"])
        assert [one.filename for one in told_by] == [__file__]
    with pytest.raises(DataError, match=r"No item of a history is known \('nope'\)"):
        model.recommend(["nope"])
    with pytest.raises(DataError, match="no user 'nobody'"):
        model.recommend(user="nobody")
    with pytest.raises(DataError, match="None of the items to choose from"):
        model.recommend(history, only=["nope"])
    with pytest.raises(DataError, match="No item of history 2 is known"):
        model.recommend(histories=[history, ["nope"]])
    assert model.recommend(history, exclude=["gone"], only=["lost", *model.item_ids], warn=told.append)
    assert told[1:] == ["1 unknown item id is passed over: 'lost'.", "1 unknown item id is passed over: 'gone'."]
    for ask in (
        {},
        {"user": "u1", "history": history},
        {"history": history, "k": 0},
        {"history": history, "diversity": 1.5},
        {"history": history, "diversity": float("nan")},
        {"history": history, "min_score": float("nan")},
    ):
        with pytest.raises(ConfigError):
            model.recommend(**ask)


def test_one_text_is_no_list_of_ids(ran: Ran) -> None:
    """Its letters would be taken for ids, in silence where each of them is one."""
    run = ran("plain")
    model = run.model
    one = model.item_ids[0]
    for given, what in (
        ({"history": one}, "history"),
        ({"history": 55}, "history"),
        ({"histories": one}, "histories"),
        ({"histories": [one]}, "a history"),
        ({"users": "u1"}, "users"),
        ({"history": [one], "only": one}, "only"),
        ({"history": [one], "exclude": one}, "exclude"),
    ):
        with pytest.raises(ConfigError, match=f"^{what} is a list, not .* alone. Give"):
            model.recommend(**given)
    for ask in (
        lambda: model.score(one),
        lambda: model.explain(one),
        lambda: model.explain([one], one),
        lambda: model.similar(one, only=one),
        lambda: model.evaluate("test", "full"),
        lambda: fedmm.evaluate(run, protocols="full"),
        lambda: fedmm.compare(run, run, metrics="full/ndcg_at_10"),
        lambda: fedmm.compare(run, run, by="runtime.seed"),
        lambda: fedmm.verify(only="data"),
    ):
        with pytest.raises(ConfigError, match=r"is a list, not .* alone"):
            ask()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_loaded_model_measures_what_the_run_measured(kind: str, ran: Ran) -> None:
    run = ran(kind)
    assert run.model.round == run.result.best_round
    assert run.model.dataset == run.result.dataset
    for split in ("validation", "test"):
        assert run.model.evaluate(split) == run.result.metrics[split]
    again = run_evaluation(run.folder, Watcher(), protocols=("uniform100",))
    assert run.model.evaluate("test", ["uniform100"]) == again.metrics.test
    assert len(run.rounds) == run.result.rounds
