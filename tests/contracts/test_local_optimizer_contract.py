"""What every local optimizer owes: torch's formula, client by client, and hands off everything else."""

import pytest
import torch

from fedmm.config import FederationConfig
from fedmm.federation.optimizers import LOCAL_OPTIMIZERS, TORCH_OPTIMIZERS, clip_factors
from fedmm.utils.params import client_norms
from fedmm.utils.seeding import torch_stream

EVERY = pytest.mark.parametrize("name", sorted(LOCAL_OPTIMIZERS))
DECAYS = pytest.mark.parametrize("weight_decay", [0.0, 0.1])
SHAPES = {"a": (3, 2), "b": ()}
ACTIVE = (3, 3, 2, 1)  # clients still training at each step


def draw(what, num_clients=3):
    stream = torch_stream(0, what)
    return {
        name: torch.randn(num_clients, *shape, generator=stream, dtype=torch.float64) for name, shape in SHAPES.items()
    }


def config_of(name, weight_decay=0.0):
    return FederationConfig(local_optimizer=name, learning_rate=0.05, weight_decay=weight_decay)


def run(name, params, gradients, active=ACTIVE, weight_decay=0.0):
    """Stacked parameters after one step for each tree of gradients."""
    own = {key: value.clone() for key, value in params.items()}
    update = LOCAL_OPTIMIZERS[name](own, config_of(name, weight_decay))
    for index, (num_active, step) in enumerate(zip(active, gradients, strict=True)):
        for key, gradient in step.items():
            update(own[key][:num_active], gradient[:num_active], key, num_active, index + 1)
    return own


def steps():
    return [draw(f"gradient {index}") for index in range(len(ACTIVE))]


@EVERY
@DECAYS
def test_each_client_moves_as_under_torch(name, weight_decay):
    found = run(name, draw("params"), steps(), weight_decay=weight_decay)
    for client in range(3):
        leaves = {key: value[client].clone().requires_grad_() for key, value in draw("params").items()}
        reference = TORCH_OPTIMIZERS[name](leaves.values(), lr=0.05, weight_decay=weight_decay)
        for num_active, step in zip(ACTIVE, steps(), strict=True):
            if client < num_active:
                for key, leaf in leaves.items():
                    leaf.grad = step[key][client]
                reference.step()
        for key, leaf in leaves.items():
            torch.testing.assert_close(found[key][client], leaf.detach(), rtol=1e-12, atol=1e-14)


@EVERY
@DECAYS
def test_clients_do_not_feel_each_other(name, weight_decay):
    together = run(name, draw("params"), steps(), weight_decay=weight_decay)
    others = [
        {key: value * torch.tensor([1.0, 9.0, -9.0]).view(-1, *[1] * (value.ndim - 1)) for key, value in s.items()}
        for s in steps()
    ]
    disturbed = run(name, draw("params"), others, weight_decay=weight_decay)
    for key in SHAPES:
        assert torch.equal(together[key][0], disturbed[key][0])
        assert not torch.equal(together[key][1:], disturbed[key][1:])


@EVERY
@DECAYS
def test_gradients_and_resting_clients_stay_as_they_are(name, weight_decay):
    gradients, before = steps(), steps()
    found = run(name, draw("params"), gradients, active=(2, 2, 1, 1), weight_decay=weight_decay)
    for step, original in zip(gradients, before, strict=True):
        assert all(torch.equal(step[key], original[key]) for key in step)
    assert all(torch.equal(found[key][2], draw("params")[key][2]) for key in found)


@EVERY
def test_a_round_starts_afresh(name):
    """No state outlives the optimizer: the same steps again give the same move from the same start."""
    first, second = (run(name, draw("params"), steps()) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@EVERY
def test_no_gradient_and_no_decay_move_nothing(name):
    nothing = {key: torch.zeros_like(value) for key, value in draw("params").items()}
    found = run(name, draw("params"), [nothing] * 4)
    assert all(torch.equal(found[key], value) for key, value in draw("params").items())


@pytest.mark.parametrize("clip_norm", [0.01, 1.0, 100.0])
def test_clipping_is_torchs_client_by_client(clip_norm):
    gradients = draw("clip")
    factors = clip_factors(client_norms(gradients), clip_norm)
    for client in range(3):
        leaves = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in SHAPES.values()]
        for leaf, gradient in zip(leaves, gradients.values(), strict=True):
            leaf.grad = gradient[client].clone()
        torch.nn.utils.clip_grad_norm_(leaves, clip_norm)
        for leaf, gradient in zip(leaves, gradients.values(), strict=True):
            torch.testing.assert_close(factors[client] * gradient[client], leaf.grad)
        assert float(factors[client]) <= 1.0
