"""The client's optimizers on stacked parameters, formula for formula those of ``torch.optim``.

Each starts afresh every round: no optimizer state stays with a client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.utils.params import Params, zeros_like
from fedmm.utils.registry import Registry

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
# Those that torch has: of the reference engine, and of pooled training, whose state lasts over epochs.
TORCH_OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}

Update = Callable[[Tensor, Tensor, str, int, int], None]


def sgd(params: Params, config: FederationConfig) -> Update:
    """Stochastic gradient descent with L2 weight decay."""
    del params

    def update(value: Tensor, gradient: Tensor, name: str, num_active: int, step: int) -> None:
        del name, num_active, step
        if config.weight_decay:
            gradient = gradient.add(value, alpha=config.weight_decay)
        value.sub_(gradient, alpha=config.learning_rate)

    return update


def adam(params: Params, config: FederationConfig, *, decoupled: bool = False) -> Update:
    """Adam (Kingma & Ba, 2015) with L2 decay; ``decoupled`` gives AdamW (Loshchilov & Hutter, 2019)."""
    first, second = zeros_like(params), zeros_like(params)
    beta1, beta2 = ADAM_BETAS

    def update(value: Tensor, gradient: Tensor, name: str, num_active: int, step: int) -> None:
        if decoupled:
            value.mul_(1 - config.learning_rate * config.weight_decay)
        elif config.weight_decay:
            gradient = gradient.add(value, alpha=config.weight_decay)
        m, v = first[name][:num_active], second[name][:num_active]
        m.lerp_(gradient, 1 - beta1)
        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = (v.sqrt() / (1 - beta2**step) ** 0.5).add_(ADAM_EPSILON)
        value.addcdiv_(m, denominator, value=-config.learning_rate / (1 - beta1**step))

    return update


def adamw(params: Params, config: FederationConfig) -> Update:
    """AdamW: weight decay apart from the gradient."""
    return adam(params, config, decoupled=True)


LocalOptimizer = Callable[[Params, FederationConfig], Update]
LOCAL_OPTIMIZERS: Registry[LocalOptimizer] = Registry(
    "local_optimizer",
    {
        "sgd": sgd,
        "adam": adam,
        "adamw": adamw,
    },
)


class RegisteredOptimizer:
    """A registered optimizer over the parameters of one model, in the manner of ``torch.optim``; what it remembers
    lasts as long as it does. ``stacked`` parameters have a client axis of length 1 already.

    >>> weights = {"w": torch.zeros(2, requires_grad=True)}
    >>> trainer = RegisteredOptimizer(weights, FederationConfig(learning_rate=0.5), stacked=False)
    >>> weights["w"].sum().backward()
    >>> trainer.step()
    >>> weights["w"].tolist()
    [-0.5, -0.5]
    """

    def __init__(self, trained: Params, config: FederationConfig, *, stacked: bool) -> None:
        self._trained, self._stacked = trained, stacked
        self._values = trained if stacked else {name: value.detach().unsqueeze(0) for name, value in trained.items()}
        self._update = LOCAL_OPTIMIZERS[config.local_optimizer](self._values, config)
        self._num_steps = 0

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for value in self._trained.values():
            value.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step by the gradients; a parameter that has none has a gradient of zero."""
        self._num_steps += 1
        for name, value in self._trained.items():
            gradient = torch.zeros_like(value) if value.grad is None else value.grad
            self._update(
                self._values[name], gradient if self._stacked else gradient.unsqueeze(0), name, 1, self._num_steps
            )


CLIP_EPSILON = 1e-6


def clip_factors(norms: Tensor, clip_norm: float) -> Tensor:
    """[C]: the factor that brings each client's gradient to at most ``clip_norm``, as torch's ``clip_grad_norm_``."""
    return torch.clamp(clip_norm / (norms + CLIP_EPSILON), max=1.0)
