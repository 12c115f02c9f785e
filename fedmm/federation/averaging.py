"""The moving average of the server's parameters over rounds: what is evaluated and kept, while training goes on from
the newest.

Averaging iterates is due to Polyak and Juditsky (*Acceleration of Stochastic Approximation by Averaging*, SIAM J.
Control Optim. 30, 1992); the exponential form without its bias to the start is that of Kingma and Ba (*Adam*, ICLR
2015, section 3), taken of parameters instead of gradients. No client notices: it is sent the newest.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from fedmm.federation.rounds import ServerState
from fedmm.params import Params


def averaged(server: ServerState, before: ServerState, decay: float) -> ServerState:
    """The server's state after a round with the average moved on from the one ``before``; decay 0 keeps none."""
    if decay == 0:
        return server
    return replace(server, average=moved(before.average, server.params, decay, server.round))


def moved(average: Params, params: Params, decay: float, number: int) -> Params:
    """The average after round ``number`` (from 1): (1 - decay) / (1 - decay^number) * the sum over rounds k of
    decay^(number - k) times round k's parameters. ``average`` is the one before; where there is none, ``params``."""
    if not average:
        return params
    share = decay * (1 - decay ** (number - 1)) / (1 - decay**number)  # of the average before
    # lerp and not a sum of products: what did not train keeps its value to the bit.
    return {name: torch.lerp(value, average[name], share) for name, value in params.items()}
