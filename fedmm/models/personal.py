"""Personal parameters: learned by a client for itself, kept by it, and part of no message.

Partial personalisation (Pillutla et al., ICML 2022) at its smallest: a number and a vector a client. Where they stand
among the parameters of a forward pass the model uses them; where they do not, it is the model that all share.
"""

from __future__ import annotations

from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.utils.params import Params

PREFIX = "personal."
GATE_OFFSET = "personal.gate"  # [C], added to the gate of the residual fusion
USER_VECTOR = "personal.user_vector"  # [C, D], added to the query LN(H_l): a client's own bias u . E_t of every item


def personal_zeros(config: ModelConfig, like: Tensor, *, gate: bool) -> Params:
    """One client's personal parameters before any training, of the type and on the device of ``like``. Without
    ``gate`` there is none to be personal: no expert, or none that trains."""
    zeros: Params = {}
    if config.personal_gate and gate:
        zeros[GATE_OFFSET] = like.new_zeros(())
    if config.user_vector:
        zeros[USER_VECTOR] = like.new_zeros(config.hidden_dim)
    return zeros


def apart(value: Tensor) -> Tensor:
    """``value``, to be added to something. Two summands of one shape get one gradient in one memory, which clipping in
    place would scale twice; the product gives this one memory of its own."""
    return 1.0 * value
