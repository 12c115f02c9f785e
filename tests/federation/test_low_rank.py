"""Laws of updates in few random directions: addable, whole at full rank, right on average, and few bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedmm
from fedmm.federation.traffic import traffic
from fedmm.federation.transforms import Bound, TransformRound
from fedmm.federation.transforms.contract import Stage
from fedmm.federation.transforms.low_rank import directions, low_rank
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.testing import tiny_config

ROWS, COLUMNS, BEFORE, AFTER = 5, 6, 3, 4
WIDTH = BEFORE + ROWS * COLUMNS + AFTER
CLIENTS = np.arange(3)


def turn_for(rank: int, number: int = 1) -> TransformRound:
    own = tiny_config().federation.model_copy(update={"update_transforms": ("low_rank",), "update_rank": rank})
    return TransformRound(own, 7, number, CLIENTS, (BEFORE, ROWS * COLUMNS, AFTER), table=(BEFORE, ROWS, COLUMNS))


def through(stage: Stage, vectors: torch.Tensor) -> torch.Tensor:
    assert stage.send is not None
    assert stage.receive is not None
    return stage.receive(stage.send(vectors, CLIENTS[: len(vectors)]).sum(0))


def reports(**given: Any) -> list[fedmm.RoundReport]:
    experiment = fedmm.Experiment.prepare(tiny_config(dtype="float64", **given))
    return [report for _, report in experiment.rounds(experiment.initial_state())]


@given(st.integers(1, COLUMNS), st.integers(1, 50))
@settings(max_examples=10, deadline=None)
def test_sums_are_sums_of_projections_and_no_norm_grows(rank: int, number: int) -> None:
    vectors = torch.from_numpy(np.random.default_rng(number).normal(size=(3, WIDTH)))
    stage = low_rank(turn_for(rank, number), Bound(WIDTH, norm=2.0))
    assert stage.send is not None
    sent = stage.send(vectors, CLIENTS)
    assert sent.shape == (3, stage.bound.width) == (3, BEFORE + ROWS * rank + AFTER)
    assert stage.bound.norm == 2.0
    assert (torch.linalg.vector_norm(sent, dim=1) <= torch.linalg.vector_norm(vectors, dim=1) * (1 + 1e-12)).all()
    alone = sum(through(stage, vector.unsqueeze(0)) for vector in vectors)
    torch.testing.assert_close(through(stage, vectors), alone)
    basis = directions(COLUMNS, rank, 7, number)
    table = vectors.sum(0)[BEFORE : BEFORE + ROWS * COLUMNS].view(ROWS, COLUMNS)
    found = through(stage, vectors)
    expected = vectors.sum(0)
    expected[BEFORE : BEFORE + ROWS * COLUMNS] = (table @ basis @ basis.T * COLUMNS / rank).flatten()
    torch.testing.assert_close(found, expected)


def test_at_full_rank_nothing_is_lost() -> None:
    vectors = torch.randn(2, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(through(low_rank(turn_for(COLUMNS), Bound(WIDTH)), vectors), vectors.sum(0))
    whole, projected = (reports(**more) for more in ({}, {"update_transforms": ("low_rank",), "update_rank": 8}))
    for left, right in zip(whole, projected, strict=True):
        assert (left.loss, left.update_norm) == pytest.approx((right.loss, right.update_norm), rel=1e-9)


def test_the_mean_over_rounds_is_the_update() -> None:
    rank, rounds = 2, 4000
    bases = torch.stack([directions(COLUMNS, rank, 7, number) for number in range(rounds)])
    products = bases @ bases.mT * COLUMNS / rank
    error = (products.mean(0) - torch.eye(COLUMNS, dtype=torch.float64)).abs()
    assert (error < 5 * products.std(0) / rounds**0.5 + 1e-12).all()


@pytest.mark.parametrize("more", [{}, pytest.param({"num_negatives": 3}, marks=pytest.mark.slow)], ids=str)
def test_both_engines_and_masks_give_the_same_sum(more: dict[str, Any]) -> None:
    chain = ("clip", "low_rank", "rotate", "round")
    given = {"update_rank": 3, "absence_rate": 0.3, "client_fraction": 0.9, **more}
    plain, vectorized, masked = (
        reports(update_transforms=stages, engine=engine, **given)
        for stages, engine in ((chain, "sequential"), (chain, "vectorized"), ((*chain, "mask"), "sequential"))
    )
    for one, two, three in zip(plain, vectorized, masked, strict=True):
        assert one.loss == pytest.approx(two.loss, abs=1e-9)
        assert one.update_norm == pytest.approx(two.update_norm, rel=1e-6)
        assert (one.loss, one.update_norm) == (three.loss, three.update_norm)


def test_the_bill_is_that_of_fewer_columns() -> None:
    bills = []
    for more in ({"update_transforms": ("clip",)}, {"update_transforms": ("clip", "low_rank"), "update_rank": 3}):
        experiment = fedmm.Experiment.prepare(tiny_config(**more))
        before = experiment.initial_state()
        (after, report), *_ = experiment.rounds(before)
        sent = after.ledger.uplink_bytes - before.ledger.uplink_bytes
        assert sent == traffic(experiment.federation, before.server.params, 1)[0] * report.num_clients
        bills.append(sent / report.num_clients)
    rows, columns = before.server.params[ITEM_TABLE].shape
    assert bills[0] - bills[1] == pytest.approx(4 * rows * (columns - 3), abs=40)


def test_what_cannot_be_projected_is_refused() -> None:
    turn = turn_for(2)
    with pytest.raises(fedmm.ConfigError, match="item table that trains"):
        low_rank(dataclasses.replace(turn, table=None), Bound(WIDTH))
    for bound in (Bound(WIDTH, spread=True), Bound(WIDTH, integers=True), Bound(64)):
        with pytest.raises(fedmm.ConfigError, match='"low_rank" before'):
            low_rank(turn, bound)
    assert low_rank(turn_for(COLUMNS + 1), Bound(WIDTH)).bound.width == WIDTH


def test_a_private_run_releases_fewer_numbers() -> None:
    chain = {"update_transforms": ("clip", "low_rank", "noise"), "update_rank": 2, "item_table": "trained"}
    found = reports(epsilon=8.0, rounds=2, **chain)
    assert found[-1].epsilon == pytest.approx(8.0, rel=1e-6)
    assert found[-1].transforms["noise"].bytes < found[-1].transforms["clip"].bytes
