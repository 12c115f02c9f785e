"""The stage by which the clients add the noise themselves: whoever sums up never has a sum without it.

Each client of a cohort adds Skellam noise of variance s^2 / m to its whole numbers, m the least number of clients that
must send; shares of Skellam noise add up to Skellam noise, so that the sum of m has variance s^2 and that of more has
more (Agarwal, Kairouz & Liu, *The Skellam Mechanism for Differentially Private Federated Learning*, NeurIPS 2021).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.errors import ConfigError
from fedmm.federation.transforms.contract import Bound, Stage, TransformRound
from fedmm.privacy.noise import skellam_noise
from fedmm.privacy.secure_sum import SecureSumError
from fedmm.utils.seeding import numpy_stream


def noise_share(turn: TransformRound, bound: Bound) -> Stage:
    """Adds each client's share of the noise to what it sends. Raises ConfigError where vectors are not whole or have no
    bound; adding up raises SecureSumError where fewer clients sent than the noise is accounted for."""
    if not (bound.integers and math.isfinite(bound.norm)):
        raise ConfigError(
            "The stage noise_share adds whole noise to whole numbers of bounded norm: nothing before makes them.",
            'Put "clip", "rotate" and "round" before "noise_share" in federation.update_transforms.',
        )
    least = least_senders(len(turn.clients), turn.senders_share)
    deviation = turn.noise_multiplier * bound.norm * turn.contributions / math.sqrt(least)

    def send(vectors: Tensor, clients: IntArray) -> Tensor:
        shares = [
            skellam_noise(
                deviation, vectors.shape[1], numpy_stream(turn.noise_seed, "noise share", turn.number, int(client))
            )
            for client in clients
        ]
        return vectors + torch.from_numpy(np.stack(shares)) if shares else vectors

    def on_sum(total: Tensor) -> Tensor:
        if turn.num_present < least:
            raise SecureSumError(
                f"{turn.num_present} of {len(turn.clients)} clients sent their update, and the noise of {least} is "
                "what the account goes by.",
                f"Lower privacy.senders_share (now {turn.senders_share:g}); nothing was revealed.",
            )
        return total

    return Stage(bound, send=send, on_sum=on_sum)


def least_senders(number: int, share: float) -> int:
    """How many of ``number`` clients must send at least.

    >>> least_senders(10, 0.75), least_senders(0, 1.0)
    (8, 1)
    """
    return max(1, math.ceil(share * number - 1e-9))
