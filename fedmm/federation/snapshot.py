"""A model as of one round's end, and the best of a run's so far."""

from __future__ import annotations

from dataclasses import dataclass

from fedmm.federation.client_states import NO_STATES, ClientStates
from fedmm.utils.params import Params


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that a trained model's scores depend on, settings and data apart.

    ``round`` says whether partial aggregation was on: up to ``federation.warmup_rounds`` the backbone scores alone.
    ``clients`` holds what clients keep for themselves; of it only personal parameters change a score.
    """

    params: Params
    round: int  # rounds done; 0 is the model before training
    clients: ClientStates = NO_STATES


@dataclass(frozen=True, eq=False)
class Best:
    """The round that validation liked most so far, and the selection metric it reached."""

    snapshot: Snapshot  # its clients hold personal parameters alone
    value: float
