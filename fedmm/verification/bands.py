"""Claims about private rounds whose noise reaches over several: what is released, who takes part, and the account."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fedmm.config import ExperimentConfig
from fedmm.data.types import FloatArray
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.private_parts import private_federation, with_plan
from fedmm.federation.rounds import Federation, ServerState, draw_cohort, run_round
from fedmm.utils.params import Params
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.subject import SMALL_ITEMS, Subject
from fedmm.verification.world import by_client, make_federation, make_local

CLIENTS, BANDS, ROUNDS, BOUND = 6, 3, 7, 0.05


def _matrix() -> FloatArray:
    """C [rounds, rounds] from binomials, entry by entry, each column as long as it would be in endless rounds."""
    entries = [math.comb(2 * place, place) / 4**place for place in range(BANDS)]
    length = math.hypot(*entries)
    found = np.zeros((ROUNDS, ROUNDS))
    for column in range(ROUNDS):
        for place in range(min(BANDS, ROUNDS - column)):
            found[column + place, column] = entries[place] / length
    return found


def _federation(**privacy: object) -> tuple[Federation, Params]:
    """Six clients of whom a third takes part in a round, so that turns decide alone; and the server's parameters."""
    given = {f"privacy.{name}": value for name, value in privacy.items()}
    own = {"privacy.mechanism": "banded", "privacy.bands": BANDS, "federation.spectral_start": False}
    config = ExperimentConfig().with_values({"federation.rounds": ROUNDS, **own, **given})
    private = private_federation(config.federation, config, experts=True)
    names = ("item_table", "backbone", "update_transforms", "item_rows", "spectral_start")
    settings = {name: getattr(private, name) for name in names}
    settings |= {"update_clip": BOUND, "aggregation": "mean", "rounds": ROUNDS}
    local, params = make_local({"hidden_dim": 8}, settings)
    federation = make_federation(local, cohort_size=CLIENTS // BANDS)
    federation = replace(federation, clients=federation.clients[:CLIENTS])
    return with_plan(federation, config, local.train, SMALL_ITEMS)[0], params


def noise_reaches_over(subject: Subject) -> Finding:
    """The server's steps in seven rounds, less the clients' clipped updates; C times that must be fresh noise of the
    size that the plan says in each round, in standard deviations of its own deviation."""
    del subject
    federation, params = _federation(noise_multiplier=1.5)
    names, left = federation.local.trainable(params, 1), list[FloatArray]()
    for number in range(ROUNDS):
        after, _, _ = run_round(ServerState(params, {}, number), NO_STATES, federation)
        cohort = draw_cohort(federation, number + 1)
        sums = torch.zeros(sum(params[name].numel() for name in names), dtype=torch.float64)
        for delta, loss, balance in by_client(federation.engine(federation.local, params, cohort, number + 1)).values():
            flat = torch.cat([delta[name].flatten() for name in names])
            said = torch.tensor([loss, balance], dtype=torch.float64) * 0.01 * BOUND
            sums += flat * min(1.0, BOUND / float(torch.linalg.vector_norm(torch.cat([flat, said]))))
        moved = torch.cat([(after.params[name] - params[name]).flatten() for name in names])
        left.append((moved * federation.cohort_size - sums).numpy() / (1.5 * BOUND))
    fresh = _matrix() @ np.stack(left)
    count = fresh.size
    gaps = [("size of noise", abs(float(fresh.std()) - 1) * math.sqrt(2 * count))]
    gaps += [
        (f"size in round {number}", abs(float(row.std()) - 1) * math.sqrt(2 * len(row)))
        for number, row in enumerate(fresh, 1)
    ]
    for lag in range(1, ROUNDS):
        alike = fresh[lag:] * fresh[:-lag]
        gaps.append((f"noise {lag} rounds apart is alike", abs(float(alike.sum())) / math.sqrt(alike.size)))
    value, label = worst(gaps)
    return at_most(value, 5.0, f"{count} numbers in all, in standard deviations; largest: {label}")


def turns_are_paid(subject: Subject) -> Finding:
    """Who takes part, over all rounds; how far that client moves what is released, column by column of a dense matrix;
    and the epsilon of so far, by the closed form of the Gaussian over a fine grid of orders."""
    del subject
    federation, _ = _federation(epsilon=8.0)
    plan = federation.plan
    if plan is None:
        return at_most(math.inf, 1.0, "a run with an epsilon has no plan")
    there = np.zeros((ROUNDS, int(federation.clients.max()) + 1))
    for number in range(ROUNDS):
        there[number, draw_cohort(federation, number + 1)] = 1.0
    gaps = [("visits to rest", float(there[start : start + BANDS].sum(0).max())) for start in range(ROUNDS - BANDS + 1)]
    visits = math.ceil(ROUNDS / BANDS)
    moved = float(np.linalg.norm(_matrix() @ there, axis=0).max())
    gaps.append(("moved over what is paid", moved / math.sqrt(visits)))
    rho, orders = visits / (2 * plan.noise_multiplier**2), np.arange(1.05, 100.0, 0.001)
    epsilon = float(np.min(rho * orders + np.log1p(-1 / orders) - np.log(plan.delta * orders) / (orders - 1)))
    gaps.append(("epsilon of all rounds", epsilon / 8.0))
    gaps.append(("spend is told lower", epsilon / (plan.spent(ROUNDS) * (1 + 1e-9))))
    gaps.append(("noise is wasted", 8.0 / plan.spent(ROUNDS) / 1.001))
    largest, label = worst(gaps)
    return at_most(largest, 1.0 + 1e-9, f"shares of what is allowed; largest: {label}")


CHECKS: Sequence[Check] = (
    Check(
        "federation",
        "noise that reaches over rounds is fresh noise through the inverse of a dense matrix",
        noise_reaches_over,
    ),
    Check("federation", "clients that take turns rest for a band and each turn is paid for", turns_are_paid),
)
