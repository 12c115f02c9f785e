"""Claims about private runs: how far a client can move what is released, how much noise covers it, and the account."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from fedmm.audit.canaries import audit_canaries
from fedmm.audit.interactions import audit_inversion, audit_membership, read_round
from fedmm.config import ExperimentConfig
from fedmm.data.types import Ragged
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.kind_start import NoisyStart
from fedmm.federation.private_parts import private_federation, with_plan
from fedmm.federation.private_start import CLIP, PrivateStart, sum_holders, sum_pairs
from fedmm.federation.rounds import Federation, ServerState, run_round
from fedmm.federation.snapshot import Snapshot
from fedmm.federation.traffic import traffic
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.subject import SMALL_ITEMS, Subject
from fedmm.verification.wire import size_of
from fedmm.verification.world import by_client, make_federation, make_local

ROUNDS, BOUND = 3, 0.05
NAMES = ("own items above others", "guessed items that are own", "own items that are guessed")
CLASHES: Sequence[tuple[str, object]] = (
    ("federation.local_algorithm", "scaffold"),
    ("federation.aggregation", "median"),
    ("federation.client_weighting", "positions"),
    ("federation.count_sums", "open"),
    ("federation.cohort_sampler", "rotation"),
    ("federation.spectral_sketch_size", 8),
    ("model.transition", True),
    ("model.succession", 1.0),
    ("evaluation.patience", 1),
)


def _settings(**privacy: object) -> ExperimentConfig:
    values = {f"privacy.{name}": value for name, value in privacy.items()}
    return ExperimentConfig().with_values({"federation.rounds": ROUNDS, **values})


def _private(config: ExperimentConfig) -> tuple[Federation, NoisyStart | None, Params]:
    """A small private federation, and the server's parameters."""
    own = private_federation(config.federation, config, experts=True)
    given = {name: getattr(own, name) for name in ("item_table", "backbone", "update_transforms", "item_rows")}
    local, params = make_local(
        {"hidden_dim": 8}, {**given, "update_clip": BOUND, "aggregation": "mean", "rounds": ROUNDS}
    )
    whole = len(local.windows.trainable)
    federation, start = with_plan(make_federation(local, cohort_size=whole), config, local.train, SMALL_ITEMS)
    return federation, start, params


def rounds(subject: Subject) -> Finding:
    """The server's step in two rounds, less the clients' clipped updates: what is left must be noise of the size that
    the plan says, in standard deviations of its own deviation, and other noise each round."""
    del subject
    gaps, noises = [], []
    for cohorts, contributions in (("all", 1), ("fixed", 2)):
        federation, _, params = _private(_settings(noise_multiplier=1.5, cohorts=cohorts))
        names = federation.local.trainable(params, 1)
        for number in (0, 1):
            after, _, told = run_round(ServerState(params, {}, number), NO_STATES, federation)
            sums = torch.zeros(sum(params[name].numel() for name in names), dtype=torch.float64)
            for delta, loss, balance in by_client(
                federation.engine(federation.local, params, federation.clients, number + 1)
            ).values():
                flat = torch.cat([delta[name].flatten() for name in names])
                said = torch.tensor([loss, balance], dtype=torch.float64) * 0.01 * BOUND
                size = float(torch.linalg.vector_norm(torch.cat([flat, said])))
                sums += flat * min(1.0, BOUND / size)
            moved = torch.cat([(after.params[name] - params[name]).flatten() for name in names])
            noise = (moved * len(federation.clients) - sums) / (1.5 * BOUND * contributions)
            noises.append(noise)
            gaps.append((f"{cohorts}: size of noise", abs(float(noise.std()) - 1) * math.sqrt(2 * len(noise))))
            gaps.append((f"{cohorts}: mean of noise", abs(float(noise.mean())) * math.sqrt(len(noise))))
            gaps.append((f"{cohorts}: cohort", float(abs(told.num_clients - len(federation.clients)))))
    alike = float(torch.dot(noises[0], noises[1])) / math.sqrt(len(noises[0]))
    value, label = worst([*gaps, ("two rounds' noise is one", abs(alike))])
    return at_most(value, 5.0, f"{len(noises[0])} numbers a round, in standard deviations; largest: {label}")


def counts(subject: Subject) -> Finding:
    """Each client is left out once, long and short ones: what is counted moves by the bound at most; and the noise on
    it is of the planned size."""
    del subject
    stream = numpy_stream(0, "verify private counts")
    rows = [stream.integers(1, 61, size=size) for size in (1, 2, 5, 17, 40, 200, 400)]
    train, head = Ragged.from_rows(rows), np.arange(1, 61)
    gaps = []
    for left in range(len(rows)):
        rest = Ragged.from_rows([own for place, own in enumerate(rows) if place != left])
        gaps.append(("holders", float(np.linalg.norm(sum_holders(train, 60) - sum_holders(rest, 60))) / CLIP))
        gaps.append(("pairs", float(np.linalg.norm(sum_pairs(train, 60, head) - sum_pairs(rest, 60, head))) / CLIP))
    config = _settings(noise_multiplier=1.0)
    federation, start, _ = _private(config)
    plan = federation.plan
    if start is None or plan is None:
        return at_most(math.inf, 1.0, "a private run has no noisy start")
    gaps.append(("deviation of holders", plan.holders_multiplier * CLIP / start.holders_deviation))
    gaps.append(("deviation of pairs", plan.pairs_multiplier * CLIP / start.pairs_deviation))
    nobody = PrivateStart(Ragged.from_rows([[1]] * 500), 400, 3.0, 5.0, 8, 0).counts
    positive = nobody.holders[nobody.holders > 0]
    gaps.append(("noise of holders is smaller", 3.0 * math.sqrt(2 / math.pi) / float(positive.mean()) / 1.1))
    upper = nobody.pairs[np.triu_indices(len(nobody.head), 1)]
    gaps.append(("noise of pairs is smaller", 5.0 / max(float(upper.std()), 1e-9) / 1.1))
    value, label = worst(gaps)
    return at_most(value, 1.0 + 1e-9, f"shares of what is allowed; largest: {label}")


def account(subject: Subject) -> Finding:
    """Epsilon by the closed form of Gaussian releases over a fine grid of orders, the list of what was released, the
    message that leaves a client, and what is refused."""
    del subject
    gaps = []
    config = _settings(epsilon=8.0, start_share=0.5)
    federation, start, params = _private(config)
    plan = federation.plan
    if plan is None or start is None:
        return at_most(math.inf, 1.0, "a run with an epsilon has no plan")
    listed = {release.name: release for release in plan.releases(ROUNDS)}
    gaps.append(("releases", float(set(listed) != {"holders of each item", "pairs of items", "updates"})))
    multipliers = [plan.holders_multiplier, plan.pairs_multiplier, *[plan.noise_multiplier] * ROUNDS]
    rho = sum(1 / (2 * z**2) for z in multipliers)
    orders = np.arange(1.05, 100.0, 0.001)
    epsilon = float(np.min(rho * orders + np.log1p(-1 / orders) - np.log(plan.delta * orders) / (orders - 1)))
    gaps.append(("epsilon of all releases", epsilon / 8.0))
    gaps.append(("spend", plan.spent(ROUNDS) / 8.0))
    gaps.append(("spend is told lower", epsilon / (plan.spent(ROUNDS) * (1 + 1e-9))))
    gaps.append(("noise is wasted", 8.0 / plan.spent(ROUNDS) / 1.001))
    numbers = sum(params[name].numel() for name in federation.local.trainable(params, 1)) + 2
    sent, _ = traffic(federation, params, 1)
    alone = size_of({"update": torch.zeros(4 * numbers, dtype=torch.uint8)})
    gaps.append(("more or less than the vector leaves a client", 0.0 if sent == alone else math.inf))
    for key, value in CLASHES:
        try:
            config.with_values({key: value})
            gaps.append((f"{key} is not refused", math.inf))
        except ValueError:
            pass
    largest, label = worst(gaps)
    return at_most(largest, 1.0 + 1e-9, f"shares of what is allowed; largest: {label}")


def canaries(subject: Subject) -> Finding:
    """Canaries in the releases of private rounds: what they show is below what the accountant says, for all clients and
    for sampled ones; and without noise it is far above."""
    del subject
    gaps = []
    for cohorts in ("all", "poisson"):
        federation, _, params = _private(_settings(epsilon=1.0, cohorts=cohorts, start_share=0.5))
        found = audit_canaries(federation, params, ROUNDS, 600)
        said = found.epsilon_accounted or 0.0
        gaps.append((f"{cohorts}: seen over said", found.epsilon_lower / said if said else math.inf))
        gaps.append((f"{cohorts}: not seen at all", 0.0 if found.auc > 0.5 else math.inf))
    local, params = make_local({"hidden_dim": 8})
    bare = audit_canaries(make_federation(local), params, ROUNDS, 600)
    gaps.append(("not seen without noise", 1.0 / max(bare.epsilon_lower, 1e-9)))
    largest, label = worst(gaps)
    return at_most(largest, 1.0, f"shares of what is allowed; largest: {label}")


def updates(subject: Subject) -> Finding:
    """What a round's updates tell of items, each client's rows compared pair by pair and its louder group searched cut
    by cut: in its update and in the sum."""
    del subject
    local, params = make_local({"hidden_dim": 8})
    federation = make_federation(local, cohort_size=len(local.windows.trainable))
    evidence = read_round(federation, Snapshot(params, 0))
    if evidence is None:
        return at_most(math.inf, 1e-9, "no item table travels")
    deltas = by_client(federation.engine(local, params, federation.clients, 1))
    tables = [deltas[int(client)][0]["backbone.item_embedding"] for client in federation.clients]
    told: dict[str, list[tuple[float, float, float]]] = {"bare": [], "summed": []}
    for client, table in zip(federation.clients, tables, strict=True):
        own = set(local.train[int(client)].tolist())
        for view, rows in (("bare", table), ("summed", torch.stack(tables).sum(0))):
            sizes = {item: math.sqrt(float((rows[item] ** 2).sum())) for item in range(1, SMALL_ITEMS + 1)}
            pairs = [(sizes[one], sizes[other]) for one in own for other in sizes if other not in own]
            area = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
            order = sorted((item for item in sizes if sizes[item] > 0), key=lambda item: sizes[item])
            logs = [math.log(sizes[item]) for item in order]
            between = [
                cut * (len(logs) - cut) * (sum(logs[:cut]) / cut - sum(logs[cut:]) / (len(logs) - cut)) ** 2
                for cut in range(1, len(logs))
            ]
            guessed = set(order[1 + between.index(max(between)) :])
            told[view].append((area, len(guessed & own) / len(guessed), len(guessed & own) / len(own)))
    membership, inversion = audit_membership(evidence), audit_inversion(evidence)
    gaps = []
    for view, rows_told in told.items():
        said = membership.auc[view], inversion.precision[view], inversion.recall[view]
        expected = np.mean(rows_told, axis=0)
        gaps += [(f"{view}: {name}", abs(a - float(b))) for name, a, b in zip(NAMES, said, expected, strict=True)]
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(tables)} clients; largest: {label}")


CHECKS: Sequence[Check] = (
    Check("federation", "a private round is the clipped sum and noise of the promised size", rounds),
    Check("federation", "no client moves noisy counts by more than their noise goes by", counts),
    Check("federation", "a private run accounts for all that leaves its clients", account),
    Check("federation", "canaries in private rounds show less than the account says", canaries),
    Check("federation", "what updates tell of a client's items is counted pair by pair", updates),
)
