"""Laws of attacks: below the accountant's figure with noise, above zero without, blind where nothing shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedmm
from fedmm.audit.canaries import CanaryAudit, audit_canaries
from fedmm.audit.poison import audit_poisoning
from fedmm.audit.rows import asked_by_round, audit_rows
from fedmm.federation.snapshot import Snapshot
from fedmm.privacy.lower_bound import epsilon_lower_bound
from fedmm.testing import tiny_config, tiny_run
from fedmm_cli.app import main


def canaries(number: int = 300, rounds: int = 5, **given: Any) -> CanaryAudit:
    experiment = fedmm.Experiment.prepare(tiny_config(rounds=rounds, **given))
    return audit_canaries(experiment.federation, experiment.initial_state().server.params, rounds, number)


def test_the_lower_bound_of_a_gaussian_release_is_below_its_epsilon_and_not_far() -> None:
    below = []
    for seed in range(20):
        stream = np.random.default_rng(seed)
        inside, outside = stream.normal(1.0, 1.0, 4000), stream.normal(0.0, 1.0, 4000)
        below.append(epsilon_lower_bound(inside, outside, 1e-3))
    assert max(below) < 3.35  # the exact epsilon of one Gaussian release of multiplier 1 at this delta
    assert np.mean(below) > 1.0


@pytest.mark.parametrize(
    "given",
    [
        {"epsilon": 8.0},
        {"epsilon": 8.0, "cohorts": "all"},
        {"epsilon": 4.0, "cohorts": "fixed", "update_clip_by": "part"},
        pytest.param(
            {"epsilon": 8.0, "cohorts": "all", "update_transforms": ("clip", "rotate", "round", "noise", "mask")},
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_canaries_stay_below_the_account(given: dict[str, Any]) -> None:
    found = canaries(**given)
    assert found.epsilon_accounted is not None
    assert found.holds
    assert 0.45 < found.auc < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_canaries_stay_below_the_account_in_twenty_runs(seed: int) -> None:
    more = [{}, {"cohorts": "all"}, {"cohorts": "fixed"}, {"update_clip_by": "part"}][seed % 4]
    assert canaries(4000, epsilon=(1.0, 2.0, 4.0, 8.0, 16.0)[seed % 5], seed=seed, **more).holds


def test_without_noise_canaries_show() -> None:
    found = canaries()
    assert found.epsilon_accounted is None
    assert found.epsilon_lower > 2.0


@pytest.mark.parametrize(
    ("part", "name"),
    [("fedmm.federation.transforms.noise", "discrete_gaussian_noise"), ("fedmm.federation.transforms.noise", "noise")],
)
def test_canaries_find_noise_that_is_missing(part: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "noise":
        monkeypatch.setattr(f"{part}.gaussian_noise", lambda deviation, size, stream: np.zeros(size))
        found = canaries(1000, epsilon=1.0, cohorts="all")
    else:
        monkeypatch.setattr(f"{part}.{name}", lambda deviation, size, stream: np.zeros(size, dtype=np.int64))
        chain = ("clip", "rotate", "round", "noise")
        found = canaries(1000, epsilon=1.0, cohorts="all", update_transforms=chain)
    assert not found.holds


def test_canaries_find_a_sensitivity_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmm.federation.transforms.clipping._clipped", lambda vectors, limit: vectors)
    assert not canaries(1000, epsilon=1.0, cohorts="all").holds


def test_rows_tell_where_they_are_asked_for_and_nowhere_else() -> None:
    found = audit_rows(fedmm.Experiment.prepare(tiny_config(rounds=6, num_negatives=3)), 6)
    assert found is not None
    assert found.chance < found.share_in_one_visit <= found.precision <= 1.0
    for given in ({}, {"num_negatives": 3, "item_rows": "all"}):
        assert audit_rows(fedmm.Experiment.prepare(tiny_config(**given)), 2) is None


def test_rows_are_asked_for_by_nobody_who_is_at_work() -> None:
    """The visits of the attack are those of the run itself, whose rounds skip who is still at work."""
    config = tiny_config(rounds=5, num_negatives=3, late_updates="buffered", over_selection=2.0, client_fraction=0.25)
    experiment = fedmm.Experiment.prepare(config)
    asked, at_work = [own.tolist() for own in asked_by_round(experiment.federation, 5)], list[list[int]]()
    for state, _ in experiment.rounds(experiment.initial_state()):
        assert state.server.at_work is not None
        there = state.server.at_work
        at_work.append(there.clients.tolist())
        new = there.clients[there.started == state.server.round]
        assert set(new.tolist()) <= set(asked[state.server.round - 1])
    assert any(at_work)
    for drawn, busy in zip(asked[1:], at_work, strict=False):
        assert not set(drawn) & set(busy)
    found = audit_rows(experiment, 5)
    assert found is not None
    assert found.precision > found.chance


@pytest.mark.parametrize("fusion", ["residual", "backbone"])  # a backbone's clients could send sums
def test_wrong_clients_push_an_item_and_a_bound_on_norms_holds_them(fusion: str) -> None:
    experiment = fedmm.Experiment.prepare(tiny_config(server_optimizer="sgd", client_fraction=1.0, fusion=fusion))
    start = Snapshot(experiment.initial_state().server.params, 0)
    found = audit_poisoning(experiment, start, share=0.2, rounds=2)
    outcomes = {own.rule: own for own in found.outcomes}
    assert outcomes["mean"].exposure > outcomes["mean"].honest_exposure
    for rule in ("median", "trimmed_mean", "norm_clip"):
        assert outcomes[rule].exposure <= outcomes["mean"].exposure


def test_the_command_tells_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tiny_run().folder)
    assert (
        main(["audit", folder, "--canaries", "40", "--json", "--quiet", "--attacks", "canaries,rows,membership"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["poisoning"] is None
    assert found["rows"] is None
    assert found["inversion"] is None
    assert 0.5 < found["membership"]["auc"]["bare"] <= 1.0
    assert found["canaries"]["epsilon_lower"] >= 0.0
    assert main(["audit", folder, "--attacks", "telepathy"]) == 2
    assert "telepathy" in capsys.readouterr().err
    assert main(["audit", str(Path(folder) / "nowhere")]) != 0
