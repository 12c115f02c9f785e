"""Claims about local training: engines agree, and one full-batch step is plain gradient descent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fedmm.data.transitions import sum_transition_counts
from fedmm.engines import sequential, vectorized
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.rounds import ServerState, run_round
from fedmm.models.recommender import Batch, Recommender
from fedmm.utils.params import Params, expand_for_clients
from fedmm.utils.seeding import numpy_stream, torch_stream
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.subject import DTYPE, Subject, shaken
from fedmm.verification.world import (
    ENGINES,
    all_by_client,
    by_client,
    make_federation,
    make_local,
    params_gap,
    update_gap,
    with_states,
)

COHORT = (0, 2, 3, 6)  # of the small world: one window, several, and several of unequal length
RATES = {"sgd": 0.5, "adam": 0.01, "adamw": 0.01}
Case = tuple[Mapping[str, Any], Mapping[str, Any]]
# Together these reach every optimizer, fusion, kind of expert, scoring and option of local training at least once.
# The proximal pull goes with SGD: where a gradient is 0 by the mathematics (queries of a window of one item), Adam
# makes steps of a rounding error, and the pull makes gradients of those steps, a hundred thousand times larger each
# time.
CASES: Sequence[Case] = (
    ({"experts": "pooled"}, {"local_optimizer": "sgd", "weight_decay": 0.01}),
    ({"experts": "hybrid", "dropout": 0.2}, {"local_optimizer": "adam", "num_negatives": 8, "batch_size": 2}),
    (
        {"experts": "hybrid", "dropout": 0.3, "num_blocks": 2},
        {"local_optimizer": "adam", "local_epochs": 2, "batch_size": 2},
    ),
    (
        {"fusion": "competitive", "experts": "neighbors"},
        {"local_optimizer": "adamw", "weight_decay": 0.1},
    ),
    ({"fusion": "backbone", "dropout": 0.2}, {"local_optimizer": "sgd", "num_negatives": 7, "clip_norm": None}),
    ({"fusion": "backbone", "scoring": "cosine"}, {"local_optimizer": "adam"}),
    ({"fusion": "backbone", "dropout": 0.2}, {"local_optimizer": "sgd", "batch_size": 1, "local_steps": 3}),
    (
        {"fusion": "backbone", "dropout": 0.2, "block": "ligr", "positions": "rotary", "num_blocks": 2},
        {"local_optimizer": "sgd", "num_negatives": 8, "logq_correction": True},
    ),
    ({"experts": "memory"}, {"local_optimizer": "sgd", "num_negatives": 0, "batch_size": 1}),
    ({"experts": "memory", "scoring": "cosine"}, {"local_optimizer": "adamw", "exclude_seen": False}),
    ({"experts": "memory", "fusion": "competitive", "dropout": 0.2}, {"local_optimizer": "adam", "num_negatives": 5}),
    (
        {"fusion": "competitive", "experts": "pooled", "dropout": 0.2},
        {"local_optimizer": "sgd", "num_negatives": 9, "local_epochs": 1},
    ),
    ({"transition": True, "experts": "pooled", "dropout": 0.2}, {"local_optimizer": "adam", "batch_size": 1}),
    ({"transition": True, "experts": "memory"}, {"local_optimizer": "sgd", "num_negatives": 6}),
    ({"experts": "neighbors"}, {"local_optimizer": "adam", "warmup_rounds": 2, "client_weighting": "positions"}),
    (
        {"experts": "neighbors", "dropout": 0.2},
        {"local_optimizer": "adam", "num_negatives": 8, "negatives_per": "round"},
    ),
    (
        {"experts": "pooled"},
        {"local_optimizer": "sgd", "num_negatives": 8, "weight_decay": 0.1, "proximal_mu": 0.5},
    ),
    (
        {"alignment_weight": 0.5, "experts": "pooled", "dropout": 0.2},
        {"local_optimizer": "adam", "loss": "gbce", "num_negatives": 8},
    ),
    ({"alignment_weight": 0.5, "experts": "memory"}, {"local_optimizer": "sgd", "loss": "gbce", "num_negatives": 0}),
    ({"transition": True, "experts": "hybrid"}, {"local_optimizer": "sgd", "loss": "bpr", "exclude_seen": False}),
    (
        {"experts": "pooled"},
        {"local_optimizer": "sgd", "num_negatives": 8, "logq_correction": True, "negatives_per": "round"},
    ),
    (
        {"personal_gate": True, "user_vector": True, "experts": "pooled"},
        {"local_optimizer": "adam"},
    ),
    (
        {"personal_gate": True, "user_vector": True, "experts": "neighbors"},
        {"local_optimizer": "sgd", "num_negatives": 8, "proximal_mu": 0.5},
    ),
    ({"personal_gate": True, "user_vector": True, "experts": "memory"}, {"local_optimizer": "sgd"}),
    (
        {"user_vector": True, "experts": "hybrid"},
        {"local_algorithm": "scaffold", "local_epochs": 2, "batch_size": 2},
    ),
    (
        {"experts": "pooled", "dropout": 0.2},
        {"local_algorithm": "scaffold", "num_negatives": 8, "learning_rate_schedule": "cosine"},
    ),
)


def with_rate(federation: Mapping[str, Any]) -> dict[str, Any]:
    """A rate at which the optimizer moves far enough to show a difference."""
    return {"learning_rate": RATES[federation.get("local_optimizer", "sgd")], **federation}


def cases_of(subject: Subject) -> list[tuple[str, Case]]:
    """The configured model and federation on the small world, and (unless a model was named) all other kinds."""
    model = subject.config.model.model_dump(exclude={"max_length"}) | {"max_length": 6}
    federation = subject.config.federation.model_dump(exclude={"cohort_size"})
    own = ("configured", (model, federation))
    if subject.only_own_model:
        return [own]
    return [own, *((_label(case), (case[0], with_rate(case[1]))) for case in CASES)]


def _label(case: Case) -> str:
    return ", ".join(f"{key}={value}" for part in case for key, value in part.items())


def engine_gap(case: Case, block_sizes: Sequence[int]) -> float:
    """Vectorized against sequential, client by client, for several block sizes; some clients have states already."""
    local, params = make_local(*case)
    cohort, number = local.windows.trainable[list(COHORT)], local.config.warmup_rounds + 1
    local = with_states(local, params, number)
    reference = all_by_client(sequential.train_cohort(local, params, cohort, number))
    return max(
        update_gap(reference, all_by_client(vectorized.train_cohort(local, params, cohort, number, block_size=size)))
        for size in block_sizes
    )


def engines_agree(subject: Subject) -> Finding:
    """float64, every optimizer, dropout on."""
    cases = cases_of(subject)
    # Blocks of 3 have clients that end early beside others; every other size takes its turn.
    sizes = [(3, (1, 32)[place % 2]) if place % 6 < 2 else (3,) for place in range(len(cases))]
    value, label = worst((label, engine_gap(case, own)) for (label, case), own in zip(cases, sizes, strict=True))
    return at_most(value, 1e-9, f"{len(cases)} settings, float64, blocks of 1, 3 and 32; largest: {label}")


def engines_agree_in_float32(subject: Subject) -> Finding:
    """float32 with SGD."""
    del subject
    local, params = make_local({"dropout": 0.2}, {"learning_rate": 0.5}, dtype=torch.float32)
    cohort = local.windows.trainable
    reference = by_client(sequential.train_cohort(local, params, cohort, 1))
    gap = update_gap(reference, by_client(vectorized.train_cohort(local, params, cohort, 1)))
    return at_most(gap, 1e-5, "SGD, dropout on")


def engines_agree_on_the_data(subject: Subject) -> Finding:
    """The configured model and federation in float64 on a dozen clients of the configured data."""
    split, config = subject.split, subject.config
    counts = sum_transition_counts(split.train, split.num_items) if config.model.transition else None
    recommender = Recommender.build(
        config.model, split.num_items, subject.dataset.features, DTYPE, transition_counts=counts
    )
    local = LocalTraining.build(recommender, config.federation, split.train, config.runtime.seed, DTYPE)
    params = shaken(recommender.init(torch_stream(config.runtime.seed, "parameters"), DTYPE))
    trainable, number = local.windows.trainable, config.federation.warmup_rounds + 1
    cohort = numpy_stream(0, "verify cohort").choice(trainable, min(12, len(trainable)), replace=False)
    local = with_states(local, params, number)
    reference = all_by_client(sequential.train_cohort(local, params, cohort, number))
    gap = update_gap(reference, all_by_client(vectorized.train_cohort(local, params, cohort, number)))
    return at_most(gap, 1e-9, f"{len(cohort)} clients, the model as configured")


def order_gap(subject: Subject) -> Finding:
    """A client's update must not depend on the other clients of its block or on their order."""
    del subject
    gaps = []
    for name, engine in ENGINES.items():
        local, params = make_local({"dropout": 0.2}, {"learning_rate": 0.5, "num_negatives": 6, "clip_norm": 0.05})
        together = by_client(engine(local, params, np.array([6, 2, 7, 4, 3]), 1))
        otherwise = by_client(engine(local, params, np.array([3, 7, 6, 4, 2]), 1))
        gaps.append((name, update_gap(together, otherwise)))
        for client in (6, 2):  # of one block: what they share would be the one's or the other's
            alone = by_client(engine(local, params, np.array([client]), 1))
            gaps.append((name, update_gap(alone, {client: together[client]})))
    value, label = worst(gaps)
    return at_most(value, 1e-12, f"both engines, dropout and negatives on; largest: {label}")


def plain_step(local: LocalTraining, params: Params, client: int, rate: float) -> Params:
    """One full-batch step of one client, one prefix at a time, with nothing of the engines."""
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    windows, history = local.windows, local.train[client]
    losses = []
    for window in range(windows.first[client], windows.first[client + 1]):
        start = int(windows.start[window] - local.train.offsets[client])
        for length in range(1, int(windows.length[window]) + 1):
            items = torch.from_numpy(history[start : start + length]).view(1, 1, -1)
            batch = Batch(items, torch.tensor([[length - 1]]))
            scores = local.recommender.forward(expand_for_clients(leaves), batch).scores.materialise()[0, 0]
            place = start + length
            candidates = [t for t in range(1, len(scores)) if t not in history[:place]]
            losses.append(torch.logsumexp(scores[candidates], 0) - scores[history[place]])
    loss = torch.stack(losses).mean()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {name: -rate * gradient for name, gradient in zip(leaves, gradients, strict=True)}


def one_step_gap(subject: Subject) -> Finding:
    """One client, one full-batch step, server SGD at rate 1: plain SGD on that client's loss."""
    del subject
    gaps = []
    for model in (
        {"fusion": "backbone"},
        {"experts": "pooled", "load_balance_weight": 0.0},
        {"experts": "neighbors", "load_balance_weight": 0.0},
        {"experts": "memory", "load_balance_weight": 0.0},
    ):
        settings = {
            "local_steps": 1,
            "learning_rate": 0.7,
            "clip_norm": None,
            "aggregation": "mean",
            "num_negatives": 0,
        }
        local, params = make_local(model, settings)
        expected = plain_step(local, params, 4, 0.7)
        for name, engine in ENGINES.items():
            (delta, _, _) = by_client(engine(local, params, np.array([4]), 1))[4]
            gaps.append((f"{name} {model}", params_gap(delta, expected)))
        alone = replace(make_federation(local, cohort_size=1), clients=np.array([4]))
        state, _, _ = run_round(ServerState(params, {}, 0), NO_STATES, alone)
        gaps.append((f"server {model}", params_gap(state.params, {k: params[k] + expected[k] for k in params})))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"candidates without what came before; largest: {label}")


CHECKS: Sequence[Check] = (
    Check("federation", "vectorized equals sequential", engines_agree),
    Check("federation", "vectorized equals sequential in float32", engines_agree_in_float32),
    Check(
        "federation",
        "vectorized equals sequential on the configured data",
        engines_agree_on_the_data,
        "full",
        threads=True,
    ),
    Check("federation", "cohort, order and block do not touch a client's update", order_gap),
    Check("federation", "one client, one full-batch step, server SGD 1.0 is plain SGD", one_step_gap),
)
