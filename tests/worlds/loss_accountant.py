"""A stand-in for the accountant of privacy loss distributions, whose package the tests do not have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from fedmm.experiment import Experiment
from fedmm.privacy import losses
from fedmm.privacy.accountant import Release, spent
from worlds.config_world import settings_of

TIGHTER = 0.9


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is there, and its epsilon is nine tenths of RDP's."""
    monkeypatch.setattr("fedmm.privacy.plan.library", lambda: SimpleNamespace())
    monkeypatch.setattr(losses, "epsilon_of_losses", nine_tenths)


def nine_tenths(releases: tuple[Release, ...], delta: float) -> float:
    return TIGHTER * spent(releases, delta)


def accountant_sets_the_noise(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less noise is enough where the account is tighter."""
    stand_in(monkeypatch)
    found = []
    for name in ("rdp", "pld"):
        settings = settings_of(world, {"privacy.epsilon": 8.0, "privacy.accountant": name})
        plan = Experiment.prepare(settings).federation.plan
        assert plan is not None
        found.append((plan.noise_multiplier, settings.digest))
    assert found[1][0] < found[0][0]
    assert found[1][1] != found[0][1]
