"""Laws of clients that come and go: seeded, each by itself, the same from both engines, under masks and in the bill."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fedmm
from fedmm.config import FederationConfig
from fedmm.federation.availability import asked, awake, staying, visit_times
from fedmm.federation.client_data import Windows
from fedmm.federation.rounds import draw_cohort, split_by_arrival
from fedmm.federation.traffic import traffic
from fedmm.testing import tiny_config

MANY = np.arange(4000)
LOSSY: tuple[dict[str, Any], ...] = (
    {"absence_rate": 0.4},
    {"deadline": 1.0},
    {"over_selection": 1.5},
    {"day_rounds": 2},
    {"absence_rate": 0.4, "num_negatives": 3},
)


def windows(num_clients: int, each: int = 1) -> Windows:
    first = np.arange(num_clients + 1) * each
    return Windows(np.zeros(1, np.int64), first[:-1], np.ones(num_clients, np.int64), first)


def reports(**given: Any) -> list[fedmm.RoundReport]:
    experiment = fedmm.Experiment.prepare(tiny_config(dtype="float64", **given))
    return [report for _, report in experiment.rounds(experiment.initial_state())]


def test_shares_are_those_of_the_settings() -> None:
    config = FederationConfig(absence_rate=0.3)
    assert staying(MANY, windows(4000), config, 10, 0, 1).mean() == pytest.approx(0.7, abs=0.03)
    times = np.log(visit_times(MANY, windows(4000, 3), FederationConfig(speed_spread=0.4), 0, 1))
    assert np.median(times) == pytest.approx(np.log(3), abs=0.04)
    assert times.std() == pytest.approx(0.4 * np.sqrt(1.25), rel=0.05)
    day = FederationConfig(day_rounds=4)
    hours = np.array([np.isin(MANY[:300], awake(MANY[:300], day, 0, number)) for number in range(1, 9)])
    assert (hours.sum(0) == 4).all()  # half of two days
    assert (hours[:4] == hours[4:]).all()


def test_a_client_comes_and_goes_whoever_is_beside_it() -> None:
    config = FederationConfig(absence_rate=0.3, deadline=1.2, day_rounds=3)
    some = MANY[::7]
    all_there = staying(MANY, windows(4000), config, 10, 5, 2)
    np.testing.assert_array_equal(staying(some, windows(4000), config, 10, 5, 2), all_there[::7])
    np.testing.assert_array_equal(np.intersect1d(awake(MANY, config, 5, 2), some), awake(some, config, 5, 2))


def test_the_first_to_answer_count() -> None:
    config = FederationConfig(over_selection=1.3)
    assert [asked(10, config, 100), asked(10, config, 12), asked(10, FederationConfig(), 100)] == [13, 12, 10]
    there = staying(MANY[:13], windows(4000), config, 10, 0, 1)
    times = visit_times(MANY[:13], windows(4000), config, 0, 1)
    assert there.sum() == 10
    assert times[there].max() < times[~there].min()


@pytest.mark.parametrize("given", LOSSY, ids=str)
def test_both_engines_lose_the_same_clients(given: dict[str, Any]) -> None:
    found = [reports(engine=engine, **given) for engine in ("sequential", "vectorized")]
    for left, right in zip(*found, strict=True):
        assert left.loss == pytest.approx(right.loss, abs=1e-9)
        assert (left.num_clients, left.num_lost) == (right.num_clients, right.num_lost)
        assert (left.uplink_bytes, left.downlink_bytes) == (right.uplink_bytes, right.downlink_bytes)


@pytest.mark.parametrize("rows", [{}, {"num_negatives": 3}], ids=str)
def test_who_is_lost_has_received_and_not_sent(rows: dict[str, Any]) -> None:
    experiment = fedmm.Experiment.prepare(tiny_config(absence_rate=0.5, rounds=3, **rows))
    federation, before = experiment.federation, experiment.initial_state()
    lost_some = False
    for state, report in experiment.rounds(before):
        cohort, lost = split_by_arrival(federation, draw_cohort(federation, report.round), report.round)
        assert (report.num_clients, report.num_lost) == (len(cohort), len(lost))
        up, down = traffic(federation, before.server.params, report.round)
        if not rows:
            assert state.ledger.uplink_bytes - before.ledger.uplink_bytes == up * len(cohort)
            assert state.ledger.downlink_bytes - before.ledger.downlink_bytes == down * (len(cohort) + len(lost))
        elif len(lost):
            assert state.ledger.downlink_bytes > before.ledger.downlink_bytes
        before, lost_some = state, lost_some or len(lost) > 0
    assert lost_some


def test_who_is_lost_received_the_rows_that_it_asked_for() -> None:
    bills = []
    for rate in (0.0, 0.5):
        config = tiny_config(absence_rate=rate, rounds=1, num_negatives=3, item_rows="touched")
        experiment = fedmm.Experiment.prepare(config)
        before = experiment.initial_state()
        ((after, report),) = experiment.rounds(before)
        bills.append(after.ledger.downlink_bytes - before.ledger.downlink_bytes)
        assert ((report.num_lost or 0) > 0) == (rate > 0)
    assert bills[0] == bills[1]


def test_masks_of_lost_clients_are_recovered() -> None:
    chain = {"absence_rate": 0.3, "client_fraction": 0.9, "rounds": 3, "update_clip": 5.0}
    plain, masked = (
        reports(update_transforms=stages, **chain)
        for stages in (("clip", "rotate", "round"), ("clip", "rotate", "round", "mask"))
    )
    assert sum(report.num_lost or 0 for report in masked) > 0
    for left, right in zip(plain, masked, strict=True):
        assert (left.loss, left.update_norm, left.num_lost) == (right.loss, right.update_norm, right.num_lost)


def test_a_private_run_knows_what_absence_costs() -> None:
    with pytest.raises(fedmm.ConfigError, match="over_selection"):
        tiny_config(epsilon=8.0, over_selection=1.5)
    with pytest.raises(fedmm.ConfigError, match="day_rounds"):
        tiny_config(epsilon=8.0, cohorts="fixed", day_rounds=4)
    whole, lossy = (reports(epsilon=8.0, rounds=3, **more) for more in ({}, {"absence_rate": 0.5, "day_rounds": 3}))
    assert [report.epsilon for report in whole] == [report.epsilon for report in lossy]
    assert all(report.num_lost is not None for report in lossy)
    assert [report.num_lost for report in whole] == [None] * 3
