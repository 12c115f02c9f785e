"""Closed forms of local training, seen from outside: what one or two steps of an engine must do to a client."""

from typing import Any

import numpy as np
import pytest
import torch

from fedmm.federation.local_training import LocalTraining
from fedmm.utils.params import Params, combine, norm
from fedmm.verification.subject import shaken
from fedmm.verification.world import ENGINES, by_client, histories, make_local, params_gap

RATE, CLIENT = 0.2, 4
PLAIN = {"learning_rate": RATE, "clip_norm": None, "local_steps": 1}
BOTH = pytest.mark.parametrize("engine", ENGINES)


def world(**federation: Any) -> tuple[LocalTraining, Params]:
    local, params = make_local({}, {**PLAIN, **federation})
    return local, shaken(params)


def train(engine: str, number: int = 1, start: Params | None = None, **federation: Any) -> tuple[Params, float, float]:
    """The delta, loss and load-balance loss of one client."""
    local, params = world(**federation)
    return by_client(ENGINES[engine](local, start or params, np.array([CLIENT]), number))[CLIENT]


@BOTH
@pytest.mark.parametrize("clip_norm", [0.05, 0.5, 1e6])
def test_clipping_scales_a_gradient_onto_the_ball_and_no_further(engine: str, clip_norm: float) -> None:
    free, _, _ = train(engine)
    bound, _, _ = train(engine, clip_norm=clip_norm)
    length = float(norm(free)) / RATE
    factor = min(1.0, clip_norm / (length + 1e-6))
    assert params_gap(bound, {name: factor * value for name, value in free.items()}) < 1e-12
    assert float(norm(bound)) / RATE <= clip_norm * (1 + 1e-12)


@BOTH
def test_the_proximal_pull_is_mu_times_the_way_walked(engine: str) -> None:
    """delta_2 = delta_1 - rate * (g(x_0 + delta_1) + mu * delta_1): at the first step there is nothing to pull."""
    mu = 0.7
    one, two, pulled = train(engine), train(engine, local_steps=2), train(engine, local_steps=2, proximal_mu=mu)
    first = train(engine, proximal_mu=mu)
    assert params_gap(one[0], first[0]) == 0.0
    expected = combine(lambda free, walked: free - RATE * mu * walked, two[0], one[0])
    assert params_gap(pulled[0], expected) < 1e-12
    assert pulled[1] == pytest.approx(two[1], rel=1e-12)  # the loss that is reported is without the pull


@BOTH
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_shrinks_every_parameter_that_trains(engine: str, optimizer: str) -> None:
    """After one step: -rate * decay * x apart from the gradient step, for plain SGD as for decoupled decay."""
    decay = 0.1
    _, params = world()
    free, decayed = (train(engine, local_optimizer=optimizer, weight_decay=own)[0] for own in (0.0, decay))
    expected = combine(lambda delta, value: delta - RATE * decay * value, free, params)
    assert params_gap(decayed, expected) < 1e-12


@BOTH
def test_adams_first_step_is_the_sign_of_the_gradient(engine: str) -> None:
    gradient = {name: -value / RATE for name, value in train(engine)[0].items()}
    found, _, _ = train(engine, local_optimizer="adam")
    expected = {name: -RATE * value / (value.abs() + 1e-8) for name, value in gradient.items()}
    # Where a gradient is rounding error its sign is nobody's.
    clear = {name: (value.abs() > 1e-9) | (value == 0) for name, value in gradient.items()}
    for name in found:
        torch.testing.assert_close(found[name][clear[name]], expected[name][clear[name]], rtol=1e-5, atol=1e-9)


@BOTH
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizers_start_afresh_every_round(engine: str, optimizer: str) -> None:
    """Training from where another round ended equals training from there: no state stays with a client. Full batches
    and no dropout make the round's number immaterial."""
    local, params = world(local_optimizer=optimizer)
    delta, _, _ = by_client(ENGINES[engine](local, params, np.array([CLIENT]), 1))[CLIENT]
    moved = combine(torch.add, params, delta)
    again, _, _ = by_client(ENGINES[engine](local, moved, np.array([CLIENT]), 2))[CLIENT]
    fresh, _, _ = train(engine, 7, moved, local_optimizer=optimizer)
    assert params_gap(again, fresh) == 0.0


@BOTH
def test_the_reported_loss_is_the_mean_over_local_steps(engine: str) -> None:
    """Step by step: each single step's loss, taken at the parameters it starts from."""
    _, start = world()
    losses, balances = [], []
    for _ in range(3):
        delta, loss, balance = train(engine, start=start)
        start = combine(torch.add, start, delta)
        losses.append(loss)
        balances.append(balance)
    _, loss, balance = train(engine, local_steps=3)
    assert loss == pytest.approx(np.mean(losses), rel=1e-12)
    assert balance == pytest.approx(np.mean(balances), rel=1e-12)
    assert losses[0] > losses[1] > losses[2]


@BOTH
def test_a_local_epoch_is_as_many_steps_as_it_has_batches(engine: str) -> None:
    local, params = make_local({}, {**PLAIN, "batch_size": 2, "local_epochs": 2, "local_steps": None})
    for client in local.windows.trainable:
        num_windows = int(local.windows.first[client + 1] - local.windows.first[client])
        steps = local.steps(np.array([client]), 1).num_steps
        assert steps.tolist() == [2 * -(-num_windows // 2)]
        counted, _ = make_local({}, {**PLAIN, "batch_size": 2, "local_steps": int(steps[0])})
        ways = [by_client(ENGINES[engine](own, params, np.array([client]), 1))[client][0] for own in (local, counted)]
        assert params_gap(*ways) == 0.0


@BOTH
def test_a_client_without_a_pair_has_no_window_and_is_never_offered(engine: str) -> None:
    local, params = make_local({}, PLAIN, train=histories([1, 5, 0, 2]))
    assert local.windows.trainable.tolist() == [1, 3]
    assert sorted(by_client(ENGINES[engine](local, params, local.windows.trainable, 1))) == [1, 3]
