"""Canaries: made-up clients whose presence an attacker tries to see in what a run's rounds release.

One-shot auditing (Andrew et al., *One-shot Empirical Privacy Estimation for Federated Learning*, ICLR 2024) in its
sharpest form: each canary sends ten times the clipping bound in a direction of its own, the directions are orthogonal,
and the attacker knows all that the other clients sent, so that the released sum shows noise and canaries alone. Rounds,
chain, noise and sampling are the run's own code and settings; nothing is trained. What bounds the attacker here is the
mechanism, and nothing else does. Not audited: the noisy counts before the first round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fedmm.data.types import FloatArray, IntArray
from fedmm.federation.cohorts import sample_cohort
from fedmm.federation.local_training import UpdateBlock
from fedmm.federation.private_rounds import draw_turn, layout_of, turn_of, turns
from fedmm.federation.rounds import Federation
from fedmm.federation.transforms.chain import Layout, chained_sum
from fedmm.privacy.accountant import default_delta, spent
from fedmm.privacy.banded import coefficients
from fedmm.privacy.lower_bound import epsilon_lower_bound
from fedmm.utils.params import Params, select
from fedmm.utils.seeding import derive, numpy_stream

LOUD = 10.0  # a canary's update in clipping bounds
MOST = 64  # canaries at once


@dataclass(frozen=True)
class CanaryAudit:
    """What the canaries of a run's rounds showed."""

    canaries: int  # seen or not, all trials together
    rounds: int
    delta: float
    epsilon_lower: float  # at 95%: the rounds tell at least so much
    epsilon_accounted: float | None  # what the accountant says of the rounds; None: no noise, no bound
    auc: float  # how often a canary that is in scores above one that is not

    @property
    def holds(self) -> bool:
        """Whether the accountant's figure is above what was seen."""
        return self.epsilon_accounted is None or self.epsilon_lower <= self.epsilon_accounted


def audit_canaries(
    federation: Federation, params: Params, rounds: int, number: int = 1000, seed: int = 0
) -> CanaryAudit:
    """Sends about ``number`` canaries through the releases of ``rounds`` rounds, as many trials as that takes. Of the
    server's ``params`` only the shapes matter."""
    plan = federation.plan
    inside, outside = list[float](), list[float]()
    trial = 0
    while len(inside) < number:
        own, others = canary_scores(federation, params, rounds, number - len(inside), derive(seed, "canaries", trial))
        inside, outside, trial = inside + own.tolist(), outside + others.tolist(), trial + 1
    delta = default_delta(len(federation.clients)) if plan is None else plan.delta
    accounted = None if plan is None else spent(plan.releases(rounds)[-1:], plan.delta, plan.accountant)
    scores = np.array(inside), np.array(outside)
    lower = epsilon_lower_bound(*scores, delta)
    return CanaryAudit(len(inside) + len(outside), rounds, delta, lower, accounted, auc(*scores))


def canary_scores(
    federation: Federation, params: Params, rounds: int, number: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Scores of ``number`` canaries that take part in the rounds, as the others do, or as many as half the released
    numbers have room for; and of as many directions in which nobody sends."""
    plan, local, config = federation.plan, federation.local, federation.config
    travelling = select(params, local.trainable(params, config.warmup_rounds + 1))
    layout = layout_of(config, {name: value.shape for name, value in travelling.items()}, federation.private)
    width = sum(shape.numel() for shape in layout.shapes.values())
    number = min(number, max(width // 2, 1), len(local.train))
    places = numpy_stream(seed, "directions").permutation(width)[: 2 * number]
    clients = np.arange(number)
    parts = len(layout.parts) if config.update_clip_by == "part" else 1
    unit = config.update_clip / np.sqrt(parts) if config.update_transforms else LOUD * config.update_clip
    noise = 0.0 if plan is None else plan.noise_multiplier * plan.contributions * np.sqrt(parts)
    rate = federation.cohort_size / len(federation.clients) if plan is None else plan.rate
    bands = 1 if plan is None else plan.bands
    seen = np.zeros((rounds, 2 * number))
    for round_number in range(1, rounds + 1):
        drawn = _drawn(clients, rate, bands, seed, round_number, fixed=plan is None or plan.sampling == "fixed")
        drawn = clients if plan is not None and plan.sampling == "none" else drawn
        turn = layout.known_to(turn_of(config, seed, round_number, drawn, federation.private))
        blocks = _blocks(drawn, places, LOUD * config.update_clip, layout)
        deltas, _, _, _, _ = chained_sum(blocks, layout, turn, local)
        flat = np.concatenate([value.detach().cpu().double().numpy().ravel() for value in deltas.values()])
        seen[round_number - 1] = flat[places] / unit
    found = _evidence(seen, noise, rate, bands, turns(np.arange(2 * number), bands, seed))
    return found[:number], found[number:]


def _drawn(clients: IntArray, rate: float, bands: int, seed: int, number: int, *, fixed: bool) -> IntArray:
    if fixed:
        return sample_cohort(clients, max(1, round(rate * len(clients))), seed, number)
    return draw_turn(clients, rate, bands, seed, number)


def _evidence(seen: FloatArray, noise: float, rate: float, bands: int, turn: IntArray) -> FloatArray:
    """[n] the log likelihood ratio of taking part or not, by the rounds' sums [rounds, n] in units of a canary, where
    each is asked from round ``turn`` on every ``bands`` rounds; without noise the sum itself, which is the number of
    its visits. Noise that reaches over several rounds is undone, and a visit shows in as many."""
    if noise <= 0:
        return np.asarray(seen.sum(0), dtype=np.float64)
    column, rounds, joins = coefficients(bands), len(seen), min(1.0, bands * rate)
    white = sum(weight * np.pad(seen, ((age, 0), (0, 0)))[:rounds] for age, weight in enumerate(column))
    found = np.zeros(seen.shape[1])
    for number in range(rounds):
        shown = column[: rounds - number]
        told, size = shown @ white[number : number + len(shown)], float(shown @ shown)
        inside = np.minimum((2 * told - size) / (2 * noise**2), 500.0)
        evidence = np.log(1 - joins + joins * np.exp(inside))
        found += np.where(turn == number % bands, evidence, 0.0)
    return found


def _blocks(clients: IntArray, places: IntArray, size: float, layout: Layout) -> Iterator[UpdateBlock]:
    """Updates of ``size`` in each client's own direction."""
    width = sum(shape.numel() for shape in layout.shapes.values())
    for begin in range(0, len(clients), MOST):
        own = clients[begin : begin + MOST]
        flat = torch.zeros(len(own), width)
        flat[torch.arange(len(own)), torch.from_numpy(places[own])] = size
        pieces = torch.split(flat, [shape.numel() for shape in layout.shapes.values()], dim=1)
        deltas = {
            name: piece.reshape(len(own), *shape)
            for piece, (name, shape) in zip(pieces, layout.shapes.items(), strict=True)
        }
        zeros = torch.zeros(len(own))
        yield UpdateBlock(own, deltas, zeros + 1, zeros, zeros)


def auc(inside: FloatArray, outside: FloatArray) -> float:
    """How often one of ``inside`` is above one of ``outside``; ties count half.

    >>> auc(np.array([2.0, 1.0]), np.array([1.0, 0.0]))
    0.875
    """
    order = np.sort(outside)
    below = np.searchsorted(order, inside, "left") + np.searchsorted(order, inside, "right")
    return float(below.mean() / (2 * len(outside)))
