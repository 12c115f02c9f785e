"""What a stage of the chain is.

Every client's update is one vector of P numbers. A stage may change it at the client (``send``), may change the sum
before anyone reads it (``on_sum``), and says how the server undoes it there (``receive``, last stage first). A stage
that is linear, but for noise, can be undone on a sum: the server never needs a single vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray

Send = Callable[[Tensor, IntArray], Tensor]  # [C, P] of these clients -> [C, P']
OnSum = Callable[[Tensor], Tensor]  # [P] -> [P]


@dataclass(frozen=True)
class Bound:
    """What is known of one client's vector at a place in the chain."""

    width: int  # P
    norm: float = math.inf  # its Euclidean norm is at most this
    spread: bool = False  # whether it was rotated: its entries are alike
    integers: bool = False  # whether its entries are whole numbers
    largest: float = math.inf  # an entry is at most this, in absolute value
    bits: float = 32.0  # of one number as it travels
    modulus: int | None = None  # sums are taken modulo this


@dataclass(frozen=True)
class TransformRound:
    """What a stage knows of its round."""

    config: FederationConfig
    seed: int
    number: int  # from 1
    clients: IntArray  # the cohort, as the round begins
    parts: tuple[int, ...]  # lengths of the parameters that make up the vector
    noise_multiplier: float = 0.0  # 0: the run is not private
    contributions: int = 1  # how many vectors of one client neighbours differ by
    bands: int = 1  # rounds whose noise is in a round's, its own among them
    senders_share: float = 1.0  # of the cohort, whose shares of the noise are all that is accounted for
    present: IntArray | None = None  # those of ``clients`` whose vectors arrive; None: all
    table: tuple[int, int, int] | None = None  # where the item table begins, its V rows and D columns; None: not sent
    secret: int | None = None  # seed of the noise where others know ``seed``; None: the same

    @property
    def num_present(self) -> int:
        """How many vectors arrive."""
        return len(self.clients if self.present is None else self.present)

    @property
    def noise_seed(self) -> int:
        """Of what nobody may draw again."""
        return self.seed if self.secret is None else self.secret


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage of one round. What is None changes nothing."""

    bound: Bound  # of what leaves it
    send: Send | None = None
    on_sum: OnSum | None = None
    receive: OnSum | None = None


@dataclass(frozen=True)
class StageCost:
    """What one stage came to in a round."""

    bytes: int  # of one client's vector as it leaves the stage
    seconds: float  # at the clients and on the sum, all together


UpdateTransform = Callable[[TransformRound, Bound], Stage]
