"""Noise that the clients add: its size, its account, who must send, and runs with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedmm
from fedmm.config import FederationConfig
from fedmm.errors import ConfigError
from fedmm.federation.private_start import CLIP, client_holders, client_pairs, whole
from fedmm.federation.transforms import UPDATE_TRANSFORMS, Bound, TransformRound
from fedmm.federation.transforms.noise_share import least_senders
from fedmm.privacy.accountant import Release, noise_for, spent
from fedmm.privacy.renyi import gaussian, skellam
from fedmm.privacy.secure_sum import SecureSumError
from fedmm.runs.folder import Progress, load_state, save_state
from fedmm.testing import tiny_config

CHAIN = ["clip", "rotate", "round", "noise_share", "mask"]
BY_CLIENTS: dict[str, Any] = {
    "federation.update_transforms": CHAIN,
    "federation.update_bits": 8,
    "privacy.epsilon": 8.0,
    "privacy.cohorts": "all",
}


@pytest.mark.parametrize(("number", "share"), [(6, 1.0), (9, 0.5)])
def test_shares_of_the_fewest_come_to_the_noise_that_is_accounted_for(number: int, share: float) -> None:
    turn = TransformRound(FederationConfig(), 0, 1, np.arange(number), (), 2.0, senders_share=share)
    stage = UPDATE_TRANSFORMS["noise_share"](turn, Bound(20_000, norm=3.0, integers=True))
    assert stage.send is not None
    least = least_senders(number, share)
    sent = stage.send(torch.zeros(least, 20_000, dtype=torch.int64), turn.clients[:least]).sum(0).double()
    assert float(sent.std()) == pytest.approx(6.0, rel=5 / math.sqrt(40_000))
    assert abs(float(sent.mean())) < 5 * 6.0 / math.sqrt(20_000)


def test_the_account_is_skellams_and_no_sampling_is_claimed() -> None:
    z = noise_for(2.0, 1e-3, lambda z: [Release("u", z, times=5, units=127.0)])
    bare = noise_for(2.0, 1e-3, lambda z: [Release("u", z, times=5)])
    assert bare < z < 1.01 * bare
    fewer = noise_for(2.0, 1e-3, lambda z: [Release("u", z, times=5, units=7.0)])
    assert z < fewer
    assert spent([Release("u", 3.0, units=50.0)], 1e-3) < spent([Release("u", 3.0, units=5.0)], 1e-3)
    with pytest.raises(ValueError, match="Skellam"):
        Release("u", 1.0, "poisson", 0.1, units=7.0).curve()


@given(st.floats(0.3, 5.0), st.integers(1, 1000))
def test_fewer_whole_numbers_never_cost_less(z: float, units: int) -> None:
    near, far = skellam(z, units, units**2), skellam(z, 2 * units, 4 * units**2)
    assert (near >= far - 1e-12).all()
    assert (far >= gaussian(z)).all()


@settings(max_examples=30)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.sampled_from([0.5, 1 / 256]))
def test_whole_counts_stay_within_the_bound(history: list[int], step: float) -> None:
    items, weight = client_holders(np.array(history), step)
    _, _, values = client_pairs(np.array(history), np.arange(31) - 1, step)
    for said in (np.full(len(items), weight), values):
        assert np.linalg.norm(said) <= CLIP + 1e-9
        assert np.array_equal(whole(said, step), said)


@pytest.mark.parametrize("more", [pytest.param({}, marks=pytest.mark.slow), {"privacy.kinds": 3}])
def test_engines_agree_and_a_round_later_is_the_same_round(more: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_config(rounds=3).with_values({**BY_CLIENTS, **more})
    experiment = fedmm.Experiment.prepare(config)
    done = list(experiment.rounds(experiment.initial_state()))
    other = fedmm.Experiment.prepare(config.with_values({"runtime.engine": "sequential"}))
    *_, (last, report) = other.rounds(other.initial_state())
    save_state(tmp_path, experiment, done[0][0], Progress(None, 0.0))
    loaded = load_state(tmp_path, fedmm.Experiment.prepare(config), lambda _: None)
    assert loaded is not None
    *_, (resumed, _) = experiment.rounds(loaded[0])
    for name, value in done[-1][0].server.params.items():
        assert torch.equal(value, resumed.server.params[name])
        torch.testing.assert_close(value, last.server.params[name])
    assert report.epsilon == done[-1][1].epsilon
    assert 0 < (report.epsilon or 0.0) <= 8.0


def test_too_few_senders_reveal_nothing() -> None:
    config = tiny_config(rounds=3).with_values({**BY_CLIENTS, "federation.absence_rate": 0.6})
    experiment = fedmm.Experiment.prepare(config)
    assert experiment.federation.plan is not None
    assert experiment.federation.plan.senders_share == 0.8
    with pytest.raises(SecureSumError, match="senders_share"):
        list(experiment.rounds(experiment.initial_state()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"privacy.cohorts": "poisson"}, "cohorts"),
        ({"federation.update_transforms": ["clip", "rotate", "round", "noise_share"]}, "masked"),
        ({"federation.update_transforms": ["clip", "noise_share", "round", "mask"]}, "masked"),
        ({"federation.update_transforms": ["clip", "round", "noise", "noise_share", "mask"]}, "leave out"),
        ({"privacy.epsilon": None}, "noise_share"),
    ],
)
def test_what_would_show_a_client_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiny_config().with_values({**BY_CLIENTS, **changes})


def test_kinds_need_features() -> None:
    config = tiny_config(fusion="backbone").with_values({"privacy.epsilon": 8.0, "privacy.kinds": 3})
    with pytest.raises(ConfigError, match="features"):
        fedmm.Experiment.prepare(config)
