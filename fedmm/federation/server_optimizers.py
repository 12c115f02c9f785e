"""Server optimizers (Reddi et al., *Adaptive Federated Optimization*, ICLR 2021): state in, state out.

Each takes the pseudo-gradient (minus the aggregate). ``SERVER_OPTIMIZERS`` is the registry behind
``federation.server_optimizer``. Parameters that do not train in a round (partial aggregation) are absent from the
pseudo-gradient and keep value and state.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.utils.params import Params
from fedmm.utils.registry import Registry

State = dict[str, Tensor]  # "momentum/<parameter>" and "second/<parameter>"
Step = Callable[[Tensor, Tensor, str, State, FederationConfig], tuple[Tensor, State]]


def apply_pseudo_gradient(
    params: Params, pseudo_gradient: Params, state: State, config: FederationConfig
) -> tuple[Params, State]:
    """New parameters and optimizer state; the arguments stay as they are."""
    step = SERVER_OPTIMIZERS[config.server_optimizer]
    new_params, new_state = dict(params), dict(state)
    for name, gradient in pseudo_gradient.items():
        new_params[name], changed = step(params[name], gradient, name, state, config)
        new_state |= changed
    return new_params, new_state


def _sgd(value: Tensor, gradient: Tensor, name: str, state: State, config: FederationConfig) -> tuple[Tensor, State]:
    """x - eta * g: with eta = 1 and the mean this is FedAvg."""
    del name, state
    return value - config.server_rate * gradient, {}


def _momentum(
    value: Tensor, gradient: Tensor, name: str, state: State, config: FederationConfig
) -> tuple[Tensor, State]:
    """FedAvgM (Hsu et al., 2019): m = beta1 m + g; x - eta * m."""
    key = f"momentum/{name}"
    momentum = config.server_beta1 * state.get(key, torch.zeros_like(gradient)) + gradient
    return value - config.server_rate * momentum, {key: momentum}


def _adaptive(second_moment: Callable[[Tensor, Tensor, float], Tensor], *, uses_momentum: bool) -> Step:
    """x - eta * m / (sqrt(v) + tau), v starting at tau^2 (Algorithm 2); no bias correction, as in the paper."""

    def step(
        value: Tensor, gradient: Tensor, name: str, state: State, config: FederationConfig
    ) -> tuple[Tensor, State]:
        first_key, second_key = f"momentum/{name}", f"second/{name}"
        changed: State = {}
        direction = gradient
        if uses_momentum:
            previous = state.get(first_key, torch.zeros_like(gradient))
            direction = config.server_beta1 * previous + (1 - config.server_beta1) * gradient
            changed[first_key] = direction
        floor = config.server_floor
        second = second_moment(
            state.get(second_key, torch.full_like(gradient, floor**2)), gradient.square(), config.server_beta2
        )
        changed[second_key] = second
        return value - config.server_rate * direction / (second.sqrt() + floor), changed

    return step


def _adam_moment(v: Tensor, squared: Tensor, beta2: float) -> Tensor:
    return beta2 * v + (1 - beta2) * squared


def _yogi_moment(v: Tensor, squared: Tensor, beta2: float) -> Tensor:
    return v - (1 - beta2) * squared * torch.sign(v - squared)


def _adagrad_moment(v: Tensor, squared: Tensor, beta2: float) -> Tensor:
    del beta2
    return v + squared


SERVER_OPTIMIZERS: Registry[Step] = Registry(
    "server_optimizer",
    {
        "sgd": _sgd,
        "momentum": _momentum,
        "adam": _adaptive(_adam_moment, uses_momentum=True),
        "yogi": _adaptive(_yogi_moment, uses_momentum=True),
        "adagrad": _adaptive(_adagrad_moment, uses_momentum=False),
    },
)
