"""Claims about what chance decides within a round: dropout by its definition, and draws that are new for every seed,
round and client."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fedmm.federation.client_data import plan_cohort
from fedmm.federation.cohorts import sample_cohort
from fedmm.federation.dropout import step_dropout
from fedmm.federation.private_rounds import draw_poisson
from fedmm.federation.transforms.contract import Bound, TransformRound
from fedmm.federation.transforms.registry import UPDATE_TRANSFORMS
from fedmm.utils.seeding import torch_stream
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.draws import FURTHEST
from fedmm.verification.subject import Subject
from fedmm.verification.world import make_local

CPU = torch.device("cpu")


def dropout(subject: Subject) -> Finding:
    """What dropout leaves of ones, at every place of a step: zeros at the rate, else 1 / (1 - rate), every entry by
    itself; nothing beyond a client's own windows; and a client's draw knows nothing of who stands beside it."""
    del subject
    windows, longest, width = np.array([40, 7, 25]), np.array([6, 3, 5]), 8

    def left(rate: float, who: Sequence[int]) -> list[torch.Tensor]:
        own = [torch_stream(0, "verify dropout", client) for client in who]
        drop = step_dropout(rate, own, windows[list(who)], longest[list(who)], 2, width, torch.float64, CPU)
        shape = (len(who), int(windows[list(who)].max()), int(longest[list(who)].max()), width)
        return [drop(torch.ones(shape, dtype=torch.float64)) for _ in range(5)]

    gaps = [("none at rate 0", max(float((own - 1).abs().max()) for own in left(0.0, (0, 1, 2))))]
    for rate in (0.2, 0.5, 0.9):
        found = left(rate, (0, 1, 2))
        level = round(rate * 65536) / 65536
        for site, values in enumerate(found):
            for c in range(3):
                own = values[c, : windows[c], : longest[c]]
                kept = own != 0
                far = float((own[kept] - 1 / (1 - level)).abs().max()) if bool(kept.any()) else math.inf
                gaps.append((f"scale of {rate}", far * 1e6))
                share = float((~kept).double().mean())
                gaps.append((f"share of {rate}", abs(share - level) / math.sqrt(level * (1 - level) / kept.numel())))
                outside = float(values[c].abs().sum() - own.abs().sum())
                gaps.append((f"beyond client {c}", 0.0 if outside == 0 else math.inf))
                alone = left(rate, (c,))[site][0]
                gaps.append((f"client {c} alone", 0.0 if torch.equal(alone, own) else math.inf))
        pairs = [(found[a][0], found[b][0]) for a, b in ((0, 1), (1, 4))] + [(found[0][0][:, 0], found[0][0][:, 1])]
        for one, other in pairs:
            both = float(((one == 0) & (other == 0)).double().mean())
            chance = level**2
            gaps.append((f"places at {rate}", abs(both - chance) / math.sqrt(chance * (1 - chance) / one.numel())))
    gaps.append(
        ("of the highest rate", 0.0 if all(bool(own.isfinite().all()) for own in left(0.999999, (0,))) else 1e9)
    )
    value, label = worst(gaps)
    return at_most(value, FURTHEST, f"in standard deviations, three rates, five places; largest: {label}")


def _drawn_by(seed: int, number: int) -> dict[str, list[object]]:
    """What each of several clients draws in one round, and what a round and a run draw once."""
    own, params = make_local({"dropout": 0.3}, {"num_negatives": 4, "batch_size": 2, "local_steps": 3})
    local = replace(own, seed=seed)
    busy = np.array([2, 7])  # clients with more windows than a batch holds
    plans = plan_cohort(local.windows, busy, local.config, seed, number)
    steps = local.steps(busy, number)
    first = steps.step(0, 2)
    ones = torch.ones(*first.batch.items.shape, params["backbone.item_embedding"].shape[1], dtype=torch.float64)
    kept = first.dropout(ones)
    clients = np.arange(40)
    config = TransformRound(local.config, seed, number, busy, (64,))
    bound = Bound(64, norm=2.0)
    rows = torch.ones(2, 64, dtype=torch.float64) / 8
    rounding, noise = (UPDATE_TRANSFORMS[name](config, bound) for name in ("round", "noise"))
    loud = UPDATE_TRANSFORMS["noise"](replace(config, noise_multiplier=1.0), bound)
    assert rounding.send is not None
    assert noise.on_sum is not None
    assert loud.on_sum is not None
    return {
        "batches": [
            [(step - local.windows.first[client]).tolist() for step in plan]
            for client, plan in zip(busy, plans, strict=True)
        ],
        "negatives": [draw.tolist() for draw in steps.negatives(2)],
        "dropout": [kept[c].tolist() for c in range(2)],
        "rounding": rounding.send(rows, busy).tolist(),
        "cohort": [sample_cohort(clients, 9, seed, number).tolist()],
        "those who join by chance": [draw_poisson(clients, 0.4, seed, number).tolist()],
        "noise": [loud.on_sum(torch.zeros(64, dtype=torch.float64)).tolist()],
    }


def own_draws(subject: Subject) -> Finding:
    """What is drawn is drawn anew for every seed, round and client, and is the same when it is drawn again."""
    del subject
    first, again, other_seed, other_round = (_drawn_by(*given) for given in ((0, 1), (0, 1), (1, 1), (0, 2)))
    offences = []
    for name, own in first.items():
        offences += [f"{name}: not the same twice"] if own != again[name] else []
        offences += (
            [f"{name}: the seed has no say"] if any(a == b for a, b in zip(own, other_seed[name], strict=True)) else []
        )
        offences += (
            [f"{name}: every round alike"] if any(a == b for a, b in zip(own, other_round[name], strict=True)) else []
        )
        offences += [f"{name}: every client alike"] if len(own) > 1 and own[0] == own[1] else []
    sizes = [len(draw_poisson(np.arange(1000), 0.3, 0, number)) for number in range(1, 21)]
    far = abs(sum(sizes) - 6000) / math.sqrt(20_000 * 0.3 * 0.7)
    offences += [f"{sum(sizes)} of 20,000 joined at a rate of 0.3"] if far > FURTHEST else []
    return none_of(len(offences), "; ".join(offences[:3]) or f"{len(first)} kinds of draws, two seeds, two rounds")


CHECKS: Sequence[Check] = (
    Check("federation", "draws are new for every seed, round and client", own_draws),
    Check("federation", "dropout leaves what it says, entry by entry", dropout),
)
