"""The centralised reference: plain epochs over pooled windows, against a loop written from the definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmm.config import FederationConfig
from fedmm.errors import DivergenceError
from fedmm.federation.centralized import minibatches, run_epoch
from fedmm.federation.local_training import StepStream
from fedmm.federation.rounds import ServerState
from fedmm.models.losses.softmax import masked_logits
from fedmm.models.recommender import Batch
from fedmm.testing.worlds import registered
from fedmm.utils.params import expand_for_clients
from fedmm.verification.world import make_federation, make_local, params_gap

OPTIMIZERS = {"sgd": (torch.optim.SGD, 0.5), "adam": (torch.optim.Adam, 0.01), "adamw": (torch.optim.AdamW, 0.01)}
PLAIN = {"exclude_seen": False, "clip_norm": None}


def epochs(local, params, number, state=None):
    federation = make_federation(local)
    state = state or ServerState(params, {}, 0)
    for _ in range(number):
        state, statistics = run_epoch(state, federation)
    return state, statistics


def pooled_loss(local, params, chosen):
    """The mean cross-entropy over all positions of ``chosen`` windows, one window after the other."""
    windows, losses = local.windows, []
    for window in chosen:
        start, length = int(windows.start[window]), int(windows.length[window])
        items = torch.from_numpy(windows.items[start : start + length]).view(1, 1, -1)
        targets = torch.from_numpy(windows.items[start + 1 : start + length + 1])
        scores = local.recommender.forward(expand_for_clients(params), Batch(items, torch.arange(length).view(1, -1)))
        logits = scores.scores.materialise()[0]
        logits[:, 0] = -torch.inf
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    return torch.cat(losses).mean()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("experts", "clip"), [("pooled", None), ("pooled", 0.05), ("neighbors", None)])
def test_epochs_are_those_of_a_plain_trainer(optimizer, experts, clip):
    """Two epochs of minibatches of three windows; the optimizer's state lasts from one to the next."""
    kind, rate = OPTIMIZERS[optimizer]
    given = {**PLAIN, "clip_norm": clip, "local_optimizer": optimizer, "learning_rate": rate, "batch_size": 3}
    local, params = make_local({"experts": experts, "load_balance_weight": 0.0}, {**given, "weight_decay": 0.01})
    found, _ = epochs(local, params, 2)
    own = {name: value.clone().requires_grad_() for name, value in params.items()}
    trainer = kind(own.values(), lr=rate, weight_decay=0.01)
    for epoch in (1, 2):
        for _, plans in minibatches(local, epoch):
            trainer.zero_grad()
            pooled_loss(local, own, np.concatenate([plan[0] for plan in plans])).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(own.values(), clip)
            trainer.step()
    assert params_gap(found.params, {name: value.detach() for name, value in own.items()}) < 1e-9
    assert params_gap(found.params, params) > 1e-3


def sign_descent(params, config):
    """Steps of a fixed length, which shrink from one to the next."""
    del params

    def update(value, gradient, name, num_active, step):
        del name
        assert len(value) == len(gradient) == num_active == 1
        value.sub_(config.learning_rate / step * gradient.sign())

    return update


def test_an_optimizer_of_ones_own_trains_and_starts_afresh_every_epoch():
    given = {**PLAIN, "local_optimizer": "signs", "learning_rate": 0.01, "batch_size": 3}
    with registered("local_optimizer", "signs", sign_descent):
        local, params = make_local({"load_balance_weight": 0.0}, {**given, "mode": "centralized"})
        found, _ = epochs(local, params, 2)
    own = {name: value.clone().requires_grad_() for name, value in params.items()}
    for epoch in (1, 2):
        for number, (_, plans) in enumerate(minibatches(local, epoch), 1):
            loss = pooled_loss(local, own, np.concatenate([plan[0] for plan in plans]))
            slopes = torch.autograd.grad(loss, list(own.values()))
            own = {name: (value - 0.01 / number * g.sign()).detach().requires_grad_() for (name, value), g in
                   zip(own.items(), slopes, strict=True)}  # fmt: skip
    # A gradient that is zero by the mathematics may have either sign.
    assert params_gap(found.params, {name: value.detach() for name, value in own.items()}) < 1e-9
    assert found.optimizer == {}


def test_an_epoch_takes_every_window_once():
    local, _ = make_local({}, {"batch_size": 4})
    orders = []
    for epoch in (1, 2):
        taken = []
        for clients, plans in minibatches(local, epoch):
            assert (np.diff(clients) > 0).all()
            for client, (chosen,) in zip(clients, plans, strict=True):
                assert (local.windows.first[client] <= chosen).all()
                assert (chosen < local.windows.first[client + 1]).all()
                taken += chosen.tolist()
        assert sorted(taken) == list(range(int(local.windows.first[-1])))
        orders.append(taken)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("experts", ["pooled", "neighbors", "hybrid"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_is_all_that_is_needed_to_go_on(optimizer, experts):
    """With dropout, sampled negatives, exclusions and a warm-up; nothing but tensors is in the state."""
    given = {
        "local_optimizer": optimizer,
        "learning_rate": 0.01,
        "num_negatives": 5,
        "batch_size": 3,
        "warmup_rounds": 1,
    }
    local, params = make_local({"dropout": 0.2, "experts": experts, "transition": True}, {**given, "warmup_rounds": 1})
    whole, _ = epochs(local, params, 3)
    half, _ = epochs(local, params, 1)
    assert all(isinstance(value, torch.Tensor) for value in half.optimizer.values())
    copied = ServerState(
        {name: value.clone() for name, value in half.params.items()},
        {name: value.clone() for name, value in half.optimizer.items()},
        half.round,
    )
    rest, _ = epochs(local, params, 2, copied)
    assert params_gap(whole.params, rest.params) == 0.0


def test_the_state_it_starts_from_stays_as_it_is():
    local, params = make_local({}, {"local_optimizer": "adam", "learning_rate": 0.01})
    state, _ = epochs(local, params, 1)
    before = {name: value.clone() for name, value in (state.params | state.optimizer).items()}
    epochs(local, params, 1, state)
    assert all(torch.equal(value, before[name]) for name, value in (state.params | state.optimizer).items())


@pytest.mark.parametrize("experts", ["pooled", "neighbors", "hybrid"])
def test_warm_up_trains_the_backbone_alone(experts):
    local, params = make_local(
        {"experts": experts}, {"warmup_rounds": 1, "local_optimizer": "adam", "learning_rate": 0.01}
    )
    state, _ = epochs(local, params, 1)
    for name, value in params.items():
        assert torch.equal(state.params[name], value) != name.startswith("backbone."), name


def test_statistics_and_no_bytes():
    local, params = make_local({"load_balance_weight": 0.0}, {**PLAIN, "learning_rate": 1e-12})
    _, statistics = epochs(local, params, 1)
    loss = float(pooled_loss(local, params, range(int(local.windows.first[-1]))))
    assert statistics.loss == pytest.approx(loss, rel=1e-9)
    assert statistics.num_clients == len(local.windows.trainable)
    assert (statistics.uplink_bytes, statistics.downlink_bytes) == (0, 0)


def test_divergence_is_an_error():
    local, params = make_local({}, {"learning_rate": 1e30, "clip_norm": None})
    with pytest.raises(DivergenceError, match="Epoch"):
        epochs(local, params, 6)


@pytest.mark.parametrize("experts", ["pooled", "neighbors", "hybrid"])
def test_logits_of_a_pooled_batch_do_not_depend_on_who_shares_it(experts):
    """One client's loss is the same beside others as alone: exclusions and masks are its own."""
    local, params = make_local({"experts": experts, "transition": True}, {})
    local = replace(local, config=FederationConfig.model_validate({**local.config.model_dump(), "batch_size": 50}))
    ((clients, plans),) = minibatches(local, 1)
    together = StepStream(local, clients, 1, plans, (0,)).step(0, len(clients))
    logits = masked_logits(
        local.recommender.forward(expand_for_clients(params, len(clients)), together.batch).scores, together.questions
    )
    for place, client in enumerate(clients):
        alone = StepStream(local, np.array([client]), 1, [plans[place]], (0,)).step(0, 1)
        own = masked_logits(local.recommender.forward(expand_for_clients(params), alone.batch).scores, alone.questions)
        torch.testing.assert_close(logits[place, : own.shape[1]], own[0], rtol=1e-9, atol=1e-9)
