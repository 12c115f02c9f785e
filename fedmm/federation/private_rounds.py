"""A round whose updates go through the chain of transforms: the sums that the server's rule reads.

In a private run these sums hold noise, and nothing else of the round is released: the losses are part of the same
bounded vector, the number of clients is a round's planned one, and holders are those of the noisy counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedmm.config import FederationConfig
from fedmm.data.types import FloatArray, IntArray
from fedmm.federation.aggregation import UpdateSum
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.transforms.chain import FACT_SHARE, Layout, chained_sum
from fedmm.federation.transforms.contract import StageCost, TransformRound
from fedmm.privacy.plan import PrivacyPlan
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream
from fedmm.utils.timing import OFF, Timer


@dataclass(frozen=True, eq=False)
class PrivateRounds:
    """What the rounds of a private run need beside the federation's own parts."""

    plan: PrivacyPlan
    num_clients: int  # a round's planned number, which is public
    holders: FloatArray  # [V] noisy, of the start; zeros where there is no start


def draw_poisson(clients: IntArray, rate: float, seed: int, round_number: int) -> IntArray:
    """The clients of a round that each joins with probability ``rate``, ascending."""
    return clients[numpy_stream(seed, "poisson cohort", round_number).random(len(clients)) < rate]


def draw_turn(clients: IntArray, rate: float, bands: int, seed: int, round_number: int) -> IntArray:
    """The clients of a round, ascending, where each has its turn every ``bands`` rounds, drawn once for itself alone,
    and joins then with probability ``bands`` * ``rate``: whoever is drawn is in none of the next ``bands`` - 1 rounds,
    whether its update arrives or not. With one band a client joins any round with probability ``rate``.

    >>> [draw_turn(np.arange(6), 0.5, 2, 0, number).tolist() for number in (1, 2, 3)]
    [[0, 3], [1, 2, 4, 5], [0, 3]]
    """
    if bands == 1:
        return draw_poisson(clients, rate, seed, round_number)
    there = turns(clients, bands, seed) == (round_number - 1) % bands
    joined = draw_poisson(np.arange(len(clients)), bands * rate, seed, round_number)
    return clients[np.intersect1d(np.flatnonzero(there), joined)]


def turns(clients: IntArray, bands: int, seed: int) -> IntArray:
    """In which of ``bands`` rounds each of ``clients`` has its turn: a draw of its own, whoever else there is."""
    drawn = numpy_stream(seed, "turns").random(int(clients.max(initial=-1)) + 1)[clients]
    return np.asarray(np.floor(drawn * bands), dtype=np.int64)


def transformed_sums(
    updates: Iterable[UpdateBlock],
    local: LocalTraining,
    turn: TransformRound,
    params: Params,
    private: PrivateRounds | None,
    timer: Timer = OFF,
) -> tuple[UpdateSum, dict[str, StageCost]]:
    """The cohort's sums after the chain, and what each stage cost."""
    config = turn.config
    layout = layout_of(config, {name: params[name].shape for name in local.trainable(params, turn.number)}, private)
    deltas, facts, more, beside, costs = chained_sum(updates, layout, layout.known_to(turn), local, timer)
    if private is not None and facts is not None:
        return noisy_sums(deltas, facts, more, private, turn.num_present), costs
    if beside is None:
        raise ValueError("an empty cohort has no update")
    return replace(beside, deltas=deltas, within=share_within(more, turn.num_present)), costs


def noisy_sums(
    deltas: Params, facts: torch.Tensor, more: torch.Tensor | None, private: PrivateRounds, num_present: int
) -> UpdateSum:
    """A private round's sums as the rule reads them: by its planned number of clients, whoever was there."""
    weight = torch.tensor(float(private.num_clients)).to(facts)
    holders = torch.from_numpy(private.holders).to(facts) * private.plan.rate
    within = share_within(more, private.num_clients)
    return UpdateSum(deltas, weight, holders, facts[0], facts[1], num_present, within)


def share_within(more: torch.Tensor | None, number: int) -> float | None:
    """The share of ``number`` clients within the bound, of which ``more`` were within than beyond; None: not asked."""
    return None if more is None else 0.5 + float(more) / (2 * number)


def layout_of(config: FederationConfig, shapes: Mapping[str, torch.Size], private: PrivateRounds | None) -> Layout:
    """How updates of these shapes lie in a vector; in a private run with the losses."""
    bound = config.update_clip
    facts = FACT_SHARE * bound if private is not None else 0.0
    return Layout(shapes, facts, bound if config.update_clip_quantile is not None else 0.0)


def turn_of(
    config: FederationConfig, seed: int, number: int, cohort: IntArray, private: PrivateRounds | None
) -> TransformRound:
    """What the stages of round ``number`` know."""
    turn = TransformRound(config, seed, number, np.asarray(cohort), ())
    if private is None:
        return turn
    plan = private.plan
    return replace(
        turn,
        noise_multiplier=plan.noise_multiplier,
        contributions=plan.contributions,
        bands=plan.bands,
        senders_share=plan.senders_share,
    )
