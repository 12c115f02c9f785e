"""The moving average of the server's parameters over rounds: what is evaluated and kept, while training goes on from
the newest.

Averaging iterates is due to Polyak and Juditsky (*Acceleration of Stochastic Approximation by Averaging*, SIAM J.
Control Optim. 30, 1992); the exponential form without its bias to the start is that of Kingma and Ba (*Adam*, ICLR
2015, section 3), taken of parameters instead of gradients. No client notices: it is sent the newest, and what it keeps
for itself (``client_states.py``) is the newest too.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.federation.rounds import ServerState
from fedmm.models.prototypes import is_prototype
from fedmm.models.recommender import Recommender


def averaged(server: ServerState, before: ServerState, config: FederationConfig) -> ServerState:
    """Returns the server's state after a round with the moving average of the state ``before`` updated.

    What rests in partial aggregation is averaged from its first round of training on: the rounds before would hold it
    back at its start. Prototypes are means of all rounds as they are.
    """
    average = {}
    for name, value in server.params.items():
        trained = server.round if Recommender.is_backbone(name) else server.round - config.warmup_rounds
        kept = trained > 1 and not is_prototype(name)
        average[name] = moved(before.average[name], value, config.ema_decay, trained) if kept else value
    return replace(server, average=average)


def moved(average: Tensor, value: Tensor, decay: float, number: int) -> Tensor:
    """The average after ``number`` rounds (from 1): (1 - decay) / (1 - decay^number) * the sum over rounds k of
    decay^(number - k) times round k's value. ``average`` is the one before, of which the first
    round leaves nothing.
    """
    share = decay * (1 - decay ** (number - 1)) / (1 - decay**number)  # of the average before
    return torch.lerp(value, average, share)  # and not a sum of products: what did not train keeps its value to the bit
