"""Laws of attacks on updates: a client's rows tell its items, sums tell what is popular, noise hides both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fedmm
from fedmm.audit.interactions import (
    Evidence,
    InversionAudit,
    MembershipAudit,
    audit_inversion,
    audit_membership,
    louder,
    read_round,
)
from fedmm.federation.snapshot import Snapshot
from fedmm.testing import tiny_config


def attacked(**given: Any) -> tuple[MembershipAudit, InversionAudit]:
    experiment = fedmm.Experiment.prepare(tiny_config(client_fraction=1.0, **given))
    evidence = read_round(experiment.federation, Snapshot(experiment.initial_state().server.params, 0))
    assert evidence is not None
    return audit_membership(evidence), audit_inversion(evidence)


def test_one_update_tells_its_items_and_the_sum_less() -> None:
    membership, inversion = attacked()
    assert membership.auc["bare"] > 0.95
    assert membership.auc["bare"] > membership.auc["summed"] > 0.5
    assert inversion.precision["bare"] > 0.8
    assert inversion.recall["bare"] > 0.5
    assert inversion.precision["summed"] < inversion.precision["bare"]


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_loud_noise_hides_items(engine: str) -> None:
    given = {"noise_multiplier": 1000.0, "cohorts": "all", "item_table": "trained"}
    membership, inversion = attacked(engine=engine, **given)
    assert membership.noise_multiplier == 1000.0
    assert membership.auc["noisy"] == pytest.approx(0.5, abs=0.12)
    assert membership.auc["bare"] > 0.95
    assert inversion.precision["noisy"] == pytest.approx(inversion.chance, abs=0.2)


def test_a_frozen_table_tells_nothing() -> None:
    experiment = fedmm.Experiment.prepare(tiny_config(epsilon=8.0))
    assert read_round(experiment.federation, Snapshot(experiment.initial_state().server.params, 0)) is None


def test_scores_are_counted_by_hand() -> None:
    norms = np.array([[0.0, 5.0, 1.0, 1.0, 4.0, 0.5], [0.0, 1.0, 6.0, 1.0, 0.5, 0.5]])
    evidence = Evidence((np.array([1, 2]), np.array([2, 5])), {"bare": norms}, np.array([0.0, 3, 3, 1, 0, 2]), 2, 0.0)
    membership, inversion = audit_membership(evidence), audit_inversion(evidence)
    assert membership.auc["bare"] == pytest.approx(np.mean([(3 + 1.5) / 6, (3 + 0.5) / 6]))
    assert membership.popularity_auc == pytest.approx(np.mean([5.0 / 6, 3.5 / 6]))
    assert inversion.precision["bare"] == pytest.approx(np.mean([1 / 2, 1.0]))
    assert inversion.recall["bare"] == pytest.approx(0.5)
    assert inversion.chance == pytest.approx(2 / 5)


def test_groups_are_split_where_variance_between_them_is_largest() -> None:
    stream = np.random.default_rng(0)
    for _ in range(20):
        norms = np.exp(stream.normal(size=stream.integers(2, 12)))
        logs, order = np.log(norms), np.argsort(norms)
        best = max(
            range(1, len(norms)),
            key=lambda cut: cut * (len(order) - cut) * (logs[order[:cut]].mean() - logs[order[cut:]].mean()) ** 2,
        )
        assert louder(norms).tolist() == sorted(order[best:].tolist())
    assert louder(np.zeros(3)).size == 0
