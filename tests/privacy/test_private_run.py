"""Laws of a private run: sensitivity by brute force, noise of the promised size, no release without an account."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedmm
from fedmm.data.types import Ragged
from fedmm.federation.local_training import UpdateBlock
from fedmm.federation.private_rounds import draw_poisson
from fedmm.federation.private_start import CLIP, PrivateStart, client_pairs, leading_factor, sum_holders, sum_pairs
from fedmm.federation.transforms import Bound, TransformRound
from fedmm.federation.transforms.chain import Layout, chained_sum
from fedmm.federation.transforms.clipping import clip
from fedmm.federation.transforms.noise import noise
from fedmm.privacy.accountant import spent
from fedmm.testing import tiny_config

HISTORIES = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=30), min_size=2, max_size=6)


def private(folder: Path | None = None, **given: Any) -> fedmm.ExperimentConfig:
    given = {"cohorts": "all", **given}
    given = given if "noise_multiplier" in given else {"epsilon": 8.0, **given}
    return tiny_config(folder, **given) if folder is not None else tiny_config(**given)


@given(HISTORIES, st.data())
@settings(max_examples=40, deadline=None)
def test_no_client_moves_a_count_by_more_than_the_bound(histories: list[list[int]], data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, len(histories) - 1))
    left = [own for place, own in enumerate(histories) if place != gone]
    head = np.arange(1, 13)
    with_it, without = Ragged.from_rows(histories), Ragged.from_rows(left)
    for moved in (
        sum_holders(with_it, 12) - sum_holders(without, 12),
        sum_pairs(with_it, 12, head) - sum_pairs(without, 12, head),
    ):
        assert np.linalg.norm(moved) <= CLIP * (1 + 1e-12)


@given(st.lists(st.integers(1, 12), min_size=2, max_size=30))
@settings(max_examples=40, deadline=None)
def test_a_client_counts_each_pair_of_different_items_once(history: list[int]) -> None:
    place = np.arange(-1, 12)
    rows, columns, values = client_pairs(np.array(history), place)
    assert (rows < columns).all()
    assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == len(rows)
    assert (values > 0).all()


def test_the_starts_noise_is_of_the_promised_size() -> None:
    train = Ragged.from_rows([[1, 2, 3]] * 4)
    start = PrivateStart(train, 5000, 3.0, 5.0, 8, 1)
    moved = start.counts.holders[1:] - sum_holders(train, 5000)[1:]
    assert (start.counts.holders >= 0).all()
    half_normal = moved[moved > 0]  # what is below zero is cut off
    assert half_normal.mean() == pytest.approx(3.0 * math.sqrt(2 / math.pi), rel=0.1)
    assert start.counts.factor.shape[1] <= 8


def test_what_stands_out_of_the_noise_is_kept_and_no_more() -> None:
    stream = np.random.default_rng(0)
    direction = np.ones(200) / math.sqrt(200)
    drawn = np.triu(stream.standard_normal((200, 200)), 1)
    factor = leading_factor(100.0 * np.outer(direction, direction) + drawn + drawn.T, 1.0, 200)
    assert abs(factor[:, 0] @ direction) == pytest.approx(10.0, rel=0.05)
    alone = leading_factor(drawn + drawn.T, 2.0, 200)  # noise half as large as it is taken for
    assert alone.shape == (200, 0)


def turn_for(width: int, **more: Any) -> TransformRound:
    own = tiny_config().federation.model_copy(update={"update_transforms": ("clip", "noise"), "update_clip": 2.0})
    return TransformRound(own, 0, 1, np.arange(3), (width,), **more)


@pytest.mark.parametrize("contributions", [1, 2])
def test_a_rounds_noise_is_multiplier_times_sensitivity(contributions: int) -> None:
    width = 200_000
    turn = turn_for(width, noise_multiplier=1.5, contributions=contributions)
    stage = noise(turn, clip(turn, Bound(width)).bound)
    assert stage.on_sum is not None
    drawn = stage.on_sum(torch.zeros(width, dtype=torch.float64))
    assert float(drawn.std()) == pytest.approx(1.5 * 2.0 * contributions, rel=0.01)
    assert abs(float(drawn.mean())) < 0.05
    again = noise(dataclasses.replace(turn, number=2), Bound(width, norm=2.0))
    assert again.on_sum is not None
    assert not torch.equal(again.on_sum(torch.zeros(width, dtype=torch.float64)), drawn)


@pytest.mark.parametrize("by", ["whole", "part"])
def test_clipping_bounds_every_client_and_leaves_small_ones_alone(by: str) -> None:
    turn = turn_for(10)
    turn = dataclasses.replace(turn, config=turn.config.model_copy(update={"update_clip_by": by}), parts=(6, 4))
    send = clip(turn, Bound(10)).send
    assert send is not None
    vectors = torch.randn(50, 10, dtype=torch.float64) * torch.logspace(-3, 3, 50, dtype=torch.float64).unsqueeze(1)
    sent = send(vectors, np.arange(50))
    assert (torch.linalg.vector_norm(sent, dim=1) <= 2.0 + 1e-9).all()
    small = torch.linalg.vector_norm(vectors, dim=1) < 2.0 / math.sqrt(2)
    assert small.any()
    torch.testing.assert_close(sent[small], vectors[small])


def test_noise_needs_a_bound() -> None:
    with pytest.raises(fedmm.ConfigError, match="bound"):
        noise(turn_for(4, noise_multiplier=1.0), Bound(4))


def test_a_wide_bound_alone_changes_nothing() -> None:
    found = []
    for more in ({}, {"update_transforms": ("clip",), "update_clip": 1e6}):
        experiment = fedmm.Experiment.prepare(tiny_config(dtype="float64", **more))
        reports = [report for _, report in experiment.rounds(experiment.initial_state())]
        found.append([(report.loss, report.update_norm, report.validation) for report in reports])
    for (loss, size, validation), (other_loss, other_size, other_validation) in zip(*found, strict=True):
        assert (loss, size) == pytest.approx((other_loss, other_size), rel=1e-9)
        assert validation == pytest.approx(other_validation)


def test_the_chain_adds_up_clipped_clients() -> None:
    local = fedmm.Experiment.prepare(tiny_config(dtype="float64")).federation.local
    deltas = {"a": torch.randn(3, 4, dtype=torch.float64), "b": torch.randn(3, dtype=torch.float64)}
    ones = torch.ones(3, dtype=torch.float64)
    block = UpdateBlock(np.arange(3), deltas, ones, 2 * ones, 3 * ones)
    layout = Layout({"a": torch.Size([4]), "b": torch.Size([])}, fact_scale=0.01)
    turn = dataclasses.replace(turn_for(7), parts=layout.parts)
    found, facts, _, _, costs = chained_sum([block], layout, turn, local)
    flat = torch.cat([deltas["a"], deltas["b"].unsqueeze(1), 0.02 * ones.unsqueeze(1), 0.03 * ones.unsqueeze(1)], 1)
    clipped = (flat / (torch.linalg.vector_norm(flat, dim=1, keepdim=True) / 2.0).clamp(min=1.0)).sum(0)
    torch.testing.assert_close(torch.cat([found["a"], found["b"].view(1)]), clipped[:5])
    assert facts is not None
    torch.testing.assert_close(facts, clipped[5:] / 0.01)
    assert {name: cost.bytes for name, cost in costs.items()} == {"clip": 28, "noise": 28}
    nobody, losses, _, beside, _ = chained_sum([], layout, turn, local)
    assert beside is None
    assert losses is not None
    assert not any(value.any() for value in (*nobody.values(), losses))


def numbers(config: fedmm.ExperimentConfig) -> list[float]:
    experiment = fedmm.Experiment.prepare(config)
    reports = [report for _, report in experiment.rounds(experiment.initial_state())]
    return [value for report in reports for value in (report.loss, report.update_norm, report.epsilon or 0.0)]


@pytest.mark.parametrize("cohorts", ["all", "poisson", "fixed"])
def test_engines_train_alike(cohorts: str) -> None:
    found = [
        numbers(private(engine=engine, dtype="float64", cohorts=cohorts, noise_multiplier=0.3))
        for engine in ("sequential", "vectorized")
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-9)


def test_a_run_says_what_it_spent_and_keeps_the_last_round(tmp_path: Path) -> None:
    run = fedmm.train(private(tmp_path / "run"))
    told = json.loads((Path(run.folder) / "result.json").read_text())["privacy"]
    plan = fedmm.Experiment.prepare(private()).federation.plan
    assert plan is not None
    assert told["epsilon"] == pytest.approx(8.0, rel=1e-6)
    assert told["epsilon"] <= 8.0
    assert told["epsilon"] == spent(plan.releases(2), plan.delta)
    assert told["delta"] == pytest.approx(16**-1.1)
    assert [release["name"] for release in told["releases"]] == ["holders of each item", "pairs of items", "updates"]
    assert told["releases"][-1]["times"] == 2
    assert told["accountant"] == "RDP"
    assert told["neighbouring"] == "one client added or removed"
    assert run.result.best_round == 2
    assert sum(note.startswith("private: everything that leaves") for note in run.result.notes) == 1
    plain = fedmm.train(tiny_config(tmp_path / "plain"))
    assert json.loads((Path(plain.folder) / "result.json").read_text())["privacy"] is None


def test_spend_grows_round_by_round_and_goes_on_where_it_stopped() -> None:
    experiment = fedmm.Experiment.prepare(private(rounds=3, dtype="float64"))
    whole = list(experiment.rounds(experiment.initial_state()))
    again = fedmm.Experiment.prepare(private(rounds=3, dtype="float64"))
    rest = list(again.rounds(whole[0][0]))
    assert [report.epsilon for _, report in rest] == [report.epsilon for _, report in whole[1:]]
    for (one, _), (other, _) in zip(whole[1:], rest, strict=True):
        assert all(torch.equal(value, other.server.params[name]) for name, value in one.server.params.items())
    paid = [report.epsilon or 0.0 for _, report in whole]
    assert paid == sorted(paid)
    assert 0.0 < paid[0] < paid[-1] <= 8.0


def test_a_spent_budget_ends_the_run() -> None:
    config = private(rounds=3)
    config = config.model_copy(update={"privacy": config.privacy.model_copy(update={"rounds": 1})})
    experiment = fedmm.Experiment.prepare(config)
    reports = [report for _, report in experiment.rounds(experiment.initial_state())]
    assert [report.round for report in reports] == [1]
    assert reports[0].validation is not None
    assert reports[0].epsilon == pytest.approx(8.0, rel=1e-6)


def test_what_is_released_does_not_depend_on_held_out_items() -> None:
    experiment = fedmm.Experiment.prepare(private())
    state = experiment.initial_state()
    split = experiment.split
    changed = dataclasses.replace(experiment, split=dataclasses.replace(split, validation=split.test))
    for (one, _), (two, _) in zip(experiment.rounds(state), changed.rounds(state), strict=True):
        assert all(torch.equal(value, two.server.params[name]) for name, value in one.server.params.items())
        assert one.best is not None
        assert two.best is not None
        assert one.best.snapshot.round == two.best.snapshot.round


def test_only_what_is_planned_trains() -> None:
    experiment = fedmm.Experiment.prepare(private())
    start = experiment.initial_state()
    (*_, (last, _)) = experiment.rounds(start)
    moved = {n for n, value in start.server.params.items() if not torch.equal(value, last.server.params[n])}
    assert moved
    assert not any(experiment.recommender.is_backbone(name) for name in moved)
    few = fedmm.Experiment.prepare(private(trained_size=10))
    assert 0 < len(few.federation.local.trainable(start.server.params, 1)) < len(moved)


@given(st.integers(0, 1000), st.floats(0.0, 1.0))
@settings(max_examples=30, deadline=None)
def test_poisson_cohorts_are_clients_each_once(seed: int, rate: float) -> None:
    clients = np.arange(3, 200, 3)
    cohort = draw_poisson(clients, rate, seed, 1)
    assert set(cohort) <= set(clients)
    assert (np.diff(cohort) > 0).all()
    np.testing.assert_array_equal(cohort, draw_poisson(clients, rate, seed, 1))


def test_poisson_cohorts_have_their_rate() -> None:
    clients = np.arange(500)
    sizes = [len(draw_poisson(clients, 0.2, 0, number)) for number in range(200)]
    assert np.mean(sizes) == pytest.approx(100, abs=5 * math.sqrt(80 / 200))
    assert np.var(sizes) == pytest.approx(80, rel=0.5)


CLASHES = {
    "federation.mode": "centralized",
    "federation.local_algorithm": "scaffold",
    "federation.aggregation": "median",
    "federation.client_weighting": "positions",
    "federation.count_sums": "open",
    "federation.cohort_sampler": "rotation",
    "federation.spectral_sketch_size": 8,
    "federation.warmup_rounds": 1,
    "federation.update_transforms": ("clip",),
    "model.transition": True,
    "model.succession": 2.0,
    "evaluation.patience": 2,
}


@pytest.mark.parametrize("key", CLASHES)
def test_what_is_not_accounted_for_is_refused_by_name(key: str) -> None:
    fedmm.load_config(set={"privacy.noise_multiplier": 1.0})
    with pytest.raises(fedmm.ConfigError) as caught:
        fedmm.load_config(set={"privacy.epsilon": 8.0, key: CLASHES[key]})
    assert key in str(caught.value)
    assert "privacy.epsilon 8" in str(caught.value)


def test_prototypes_are_refused() -> None:
    given = {"privacy.epsilon": 8.0, "model.experts": "memory", "model.memory.num_prototypes": 4}
    with pytest.raises(fedmm.ConfigError, match=r"model\.memory\.num_prototypes 4"):
        fedmm.load_config(set=given)


def test_epsilon_and_noise_exclude_each_other() -> None:
    with pytest.raises(fedmm.ConfigError, match="exclude each other"):
        fedmm.load_config(set={"privacy.epsilon": 8.0, "privacy.noise_multiplier": 1.0})


def test_noise_without_privacy_is_refused() -> None:
    with pytest.raises(fedmm.ConfigError, match=r"privacy\.epsilon"):
        fedmm.load_config(set={"federation.update_transforms": ("clip", "noise")})


def test_a_private_run_does_not_grow(tmp_path: Path) -> None:
    run = fedmm.train(private(tmp_path / "run"))
    more = private(tmp_path / "run", rounds=3, output=str(run.folder))
    with pytest.raises(fedmm.ConfigError, match="its noise was set for 2"):
        fedmm.train(more, resume=True)


def test_a_private_run_counts_the_bytes_of_its_start() -> None:
    experiment = fedmm.Experiment.prepare(private())
    start = experiment.private_start
    assert start is not None
    ledger = experiment.initial_state().ledger
    clients, pairs = 16, 30 * 29 // 2
    assert 4 * (31 + pairs) * clients < ledger.uplink_bytes < (4 * (31 + pairs) + 200) * clients
    assert 4 * (30 + 31 + pairs) * clients < ledger.downlink_bytes < (4 * (61 + pairs) + 400) * clients
    _, report = next(experiment.rounds(experiment.initial_state()))
    numbers = sum(report.transforms[name].bytes for name in ("noise",)) // 4
    sent = report.uplink_bytes - ledger.uplink_bytes
    assert 4 * numbers * clients < sent < (4 * numbers + 100) * clients


def test_the_start_is_the_table_that_rounds_leave_alone() -> None:
    experiment = fedmm.Experiment.prepare(private())
    start = experiment.private_start
    assert start is not None
    table = start.item_table(8)
    factor = start.counts.factor[:, :8]
    if factor.shape[1]:
        kept = table[start.counts.head][:, : factor.shape[1]].numpy()
        assert abs(np.corrcoef(kept.ravel(), factor.ravel())[0, 1]) > 0.9
    assert not table[0].any()
    assert float(table.square().sum(1).mean().sqrt()) < 0.02  # nothing trains with it
    assert experiment.recommender.config.gating_init == 0.3
