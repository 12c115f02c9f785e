"""The account by privacy loss distributions: what it needs, whose figure is told, and what it refuses. Its numbers are
compared with closed forms where its package is: ``nox -s privacy``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import fedmm
from fedmm.privacy import losses
from fedmm.privacy.accountant import Release, noise_for, spent
from fedmm.runs.facts import privacy_result
from fedmm.runs.same_noise import noise_of, require_same_noise
from fedmm.testing import tiny_config
from worlds.loss_accountant import TIGHTER, stand_in

UPDATES = Release("updates", 1.5, "poisson", 0.2, 10)


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    for given in ({"epsilon": 8.0}, {"noise_multiplier": 1.0}):
        with pytest.raises(fedmm.ConfigError, match="dp-accounting") as found:
            fedmm.Experiment.prepare(tiny_config(accountant="pld", **given))
        assert 'pip install "fedmm[pld]"' in found.value.remedy


@pytest.mark.parametrize(
    ("given", "named"),
    [({"cohorts": "fixed"}, "cohorts"), ({"update_transforms": ("clip", "rotate", "round", "noise")}, "round")],
)
def test_what_has_no_distribution_is_refused(given: dict[str, object], named: str) -> None:
    with pytest.raises(fedmm.ConfigError, match=f'{named}.*privacy.accountant "?rdp'):
        tiny_config(accountant="pld", epsilon=8.0, **given)


@pytest.mark.parametrize(
    ("release", "what"),
    [(Release("u", 1.0, "fixed", 0.2), 'sampling "fixed"'), (Release("u", 1.0, units=50.0), "noise of 50 units")],
)
def test_a_release_without_a_distribution_is_refused(
    release: Release, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Accountant:
        def __init__(self, **given: object) -> None:
            pass

    own = type("library", (), {"pld": type("pld", (), {"PLDAccountant": Accountant})})
    monkeypatch.setattr(losses, "library", lambda: own)
    with pytest.raises(ValueError, match=f"u: .*{what} is not known"):
        losses.epsilon_of_losses((release,), 1e-4)


def test_the_noise_is_the_least_by_this_account(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)

    def planned(z: float) -> list[Release]:
        return [Release("start", 5.0 * z), Release("updates", z, "poisson", 0.2, 10)]

    z = noise_for(4.0, 1e-4, planned, "pld")
    assert z == pytest.approx(noise_for(4.0 / TIGHTER, 1e-4, planned), rel=3e-6)
    assert spent(planned(z), 1e-4, "pld") <= 4.0


def test_no_release_and_no_noise_need_no_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    assert spent([], 1e-3, "pld") == 0.0
    assert spent([Release("u", 0.0)], 1e-3, "pld") == float("inf")


@pytest.mark.slow
def test_a_run_tells_who_accounted_and_resumes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    config = tiny_config(tmp_path / "run", epsilon=8.0, accountant="pld", rounds=2, privacy__rounds=3)
    folder = Path(fedmm.train(config, quiet=True).folder)
    first = json.loads((folder / "result.json").read_text())["privacy"]
    more = config.with_values({"federation.rounds": 3, "runtime.output": str(folder)})
    fedmm.train(more, resume=True, quiet=True)
    second = json.loads((folder / "result.json").read_text())["privacy"]
    assert first["accountant"] == second["accountant"] == "PLD"
    assert first["noise_multiplier"] == second["noise_multiplier"]
    assert first["epsilon"] < second["epsilon"] == pytest.approx(8.0, rel=1e-5)


def test_another_version_of_the_account_cannot_change_the_noise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a run began with stands in its checkpoints; another noise is refused by name, the same and none are not."""
    stand_in(monkeypatch)
    config = tiny_config(epsilon=8.0, accountant="pld", rounds=2)
    before = fedmm.Experiment.prepare(config).federation.plan
    monkeypatch.setattr("worlds.loss_accountant.TIGHTER", 0.8)
    after = fedmm.Experiment.prepare(config).federation.plan
    assert before is not None
    assert after is not None
    assert noise_of(None) == {}
    for meta, plan in ((noise_of(before), before), (noise_of(before), None), ({}, after)):
        require_same_noise(meta, plan, tmp_path)
    with pytest.raises(fedmm.errors.CheckpointError, match=f"noise of {before.noise_multiplier:.9g}.*dp-accounting"):
        require_same_noise(noise_of(before), after, tmp_path)


@pytest.mark.slow
def test_a_run_of_another_version_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    config = tiny_config(tmp_path / "run", epsilon=8.0, accountant="pld", rounds=2, privacy__rounds=3)
    folder = Path(fedmm.train(config, quiet=True).folder)
    monkeypatch.setattr("worlds.loss_accountant.TIGHTER", 0.8)
    more = config.with_values({"federation.rounds": 3, "runtime.output": str(folder)})
    with pytest.raises(fedmm.errors.CheckpointError, match="Install dp-accounting"):
        fedmm.train(more, resume=True, quiet=True)


def test_a_plan_tells_who_accounted_and_is_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    config = tiny_config(epsilon=8.0, accountant="pld", rounds=2)
    experiments = [fedmm.Experiment.prepare(config) for _ in range(2)]
    told = [privacy_result(experiment, 2) for experiment in experiments]
    assert told[0] is not None
    assert told[0] == told[1]
    assert (told[0].accountant, told[0].epsilon) == ("PLD", pytest.approx(8.0, rel=1e-5))
