"""What is done to a block's gradients between differentiation and the optimizer, in this order:

1. FedProx's pull towards the server (Li et al., MLSys 2020): g + mu (y - x)
2. clipping: each client's gradient, over all its parameters, is brought to at most ``clip_norm``
3. SCAFFOLD's correction (Karimireddy et al., ICML 2020): g + c - c_i, after clipping (see ``scaffold.py``)

Each rule changes a dict of gradients [C', ...] of the first C' clients of a block in place. The reference engine
(``engines/sequential.py``) does not use them: it pulls by its objective and clips by torch's own function, so that the
engines' equality says something of these rules too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.federation.client_states import Carried
from fedmm.federation.optimizers import clip_factors
from fedmm.utils.params import Params, client_norms

# (gradients [C', ...] by name, to be changed; the parameters [C', ...] they are taken at; C')
GradientRule = Callable[[Params, Mapping[str, Tensor], int], None]


def gradient_rules(config: FederationConfig, start: Mapping[str, Tensor], carried: Carried) -> tuple[GradientRule, ...]:
    """The rules that ``config`` asks for, in order. ``start`` are the server's parameters as the block's clients hold
    them, stacked [C, ...]; ``carried`` has the clients' corrections."""
    rules: list[GradientRule] = []
    if config.proximal_mu:
        rules.append(proximal_pull(config.proximal_mu, start))
    if config.clip_norm is not None:
        rules.append(clipping(config.clip_norm))
    if carried.correction:
        rules.append(correction(carried))
    return tuple(rules)


def proximal_pull(mu: float, start: Mapping[str, Tensor]) -> GradientRule:
    """The gradient of mu / 2 |y - x|^2 for the parameters in ``start``, x [C, ...]: none of the personal ones."""

    def pull(gradients: Params, values: Mapping[str, Tensor], num_active: int) -> None:
        for name, value in start.items():
            gradients[name] = gradients[name] + mu * (values[name] - value[:num_active])

    return pull


def clipping(clip_norm: float) -> GradientRule:
    """Scales each client's gradient to a norm of at most ``clip_norm``."""

    def clip(gradients: Params, values: Mapping[str, Tensor], num_active: int) -> None:
        del values, num_active
        factors = clip_factors(client_norms(gradients), clip_norm)
        for gradient in gradients.values():
            gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))

    return clip


def correction(carried: Carried) -> GradientRule:
    """Adds c - c_i to each client's gradient."""

    def correct(gradients: Params, values: Mapping[str, Tensor], num_active: int) -> None:
        del values
        carried.correct(gradients, num_active)

    return correct
