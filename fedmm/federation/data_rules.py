"""Settings that are chosen by the shape of the data where they are left open.

A run keeps what was chosen among its settings: it resumes and evaluates under that, whatever later rules say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scipy.sparse import csr_matrix

from fedmm.config import ExperimentConfig
from fedmm.config.expert_kinds import EXPERT_TRAITS
from fedmm.data.types import Ragged
from fedmm.federation.count_sums import default_protocol, default_received
from fedmm.kernels.build import missing
from fedmm.models import kinship, succession
from fedmm.utils.text import counted

SPARSE_STEPS = 1
SPARSE_NEGATIVES = 512
SPARSE_SERVER_RATE = 0.01
SPARSE_SERVER_FLOOR = 1e-8
ADAPTIVE = ("adam", "yogi", "adagrad")  # the server optimizers that read a floor
FEW_EVENTS = 16.0  # of training for each item, from which on the gate starts where it is set
SELDOM = 5  # rounds between validations where there are many scores to form
MANY_SCORES = 100_000_000  # users times items of one validation


def settled(
    config: ExperimentConfig, train: Ragged, num_items: int, attributes: csr_matrix | None = None
) -> ExperimentConfig:
    """``config`` with a value wherever a rule reads the training histories and the catalogue; the rest is as given.

    ``attributes`` [V, A] are None where the data have none. What nothing reads stays open.
    """
    if config.privacy.on:  # no rule may read the histories, and counts are noisy ones
        weight = config.model.kinship
        weight = kinship.default_weight(0.0) if weight is None and attributes is not None else weight
        every = config.evaluation.every or (SELDOM if len(train) * num_items > MANY_SCORES else 1)
        chosen_for = {"federation.recipe": "standard", "evaluation.every": every}
        return config.with_values(chosen_for | ({} if weight is None else {"model.kinship": weight}))
    weight = config.model.succession
    if weight is None and config.model.fusion != "backbone":
        sketched = config.federation.spectral_sketch_size is not None
        weight = 0.0 if sketched else succession.default_weight(train, num_items)
    with_counts = config.with_values({"model.succession": weight})
    chosen = dict(_by_counts(with_counts, num_items, attributes, weight or 0.0))
    chosen |= dict(_of_training(config, succession.is_sparse(train, num_items)))
    if config.model.gate_start == "auto" and config.model.fusion == "residual":
        chosen["model.gate_start"] = "validation" if len(train.values) < FEW_EVENTS * num_items else "given"
    if config.evaluation.every is None:
        chosen["evaluation.every"] = SELDOM if len(train) * num_items > MANY_SCORES else 1
    return with_counts.with_values(chosen)


def _of_training(config: ExperimentConfig, sparse: bool) -> Iterator[tuple[str, Any]]:
    """The recipe, and what is open in it. Short histories over many items are trained best by many clients that take
    one step each: the cohort's mean is a gradient that Adam can follow, if its floor does not swamp rows that few move.
    What the recipe does not know (other optimizers and losses, one trainer for all) keeps its own defaults."""
    own = config.federation
    if own.mode == "centralized":
        return
    recipe = own.recipe
    if recipe == "auto":
        known = own.server_optimizer == "adam" and own.local_optimizer == "sgd" and own.local_algorithm == "fedavg"
        recipe = "sparse" if sparse and known else "standard"
        yield "federation.recipe", recipe
    if recipe == "standard":
        return
    if own.local_steps is None and own.local_epochs is None:
        yield "federation.local_steps", SPARSE_STEPS
    kind = EXPERT_TRAITS.get(config.model.experts)
    factorises = config.model.fusion == "backbone" or (kind is not None and kind.factorises)
    if own.num_negatives is None and own.loss == "softmax" and factorises:
        yield "federation.num_negatives", SPARSE_NEGATIVES
    if own.server_learning_rate is None and own.server_optimizer in ADAPTIVE:
        yield "federation.server_learning_rate", SPARSE_SERVER_RATE
    if own.server_epsilon is None and own.server_optimizer in ADAPTIVE:
        yield "federation.server_epsilon", SPARSE_SERVER_FLOOR


def _could_be_compiled(given: ExperimentConfig, config: ExperimentConfig) -> bool:
    """Whether torch trains what compiled kernels could, unless that was asked for."""
    own = config.runtime
    kind = (given.runtime.kernels, own.kernels, own.dtype)
    return kind == ("auto", "torch", "float32") and own.engine != "sequential" and own.device in ("auto", "cpu")


def training_notes(given: ExperimentConfig, config: ExperimentConfig, num_items: int) -> Iterator[str]:
    """One sentence for each choice about training that the data's shape or the machine made: ``config`` from what was
    ``given``."""
    own = config.federation
    if config.runtime.precision == "bfloat16":
        yield "training forms item scores and their gradients in bfloat16 (runtime.precision)"
    if _could_be_compiled(given, config) and (why := missing()) is not None:
        yield f"torch trains, more slowly than compiled kernels would: {why} (runtime.kernels)"
    if given.federation.recipe == "auto" and own.recipe == "sparse":
        yield (
            f"the sparse recipe trains: {counted(own.steps_per_round, 'local step')} a round, "
            f"{own.num_negatives or 'all'} negatives, server rate {own.server_rate:g} with floor {own.server_floor:g}: "
            f"histories are short for {num_items:,} items (federation.recipe)"
        )
    if given.evaluation.every is None and config.evaluation.interval > 1:
        yield (
            f"every {config.evaluation.interval}th round is validated: a validation ranks "
            f"{num_items:,} items for many users (evaluation.every)"
        )


def _by_counts(
    config: ExperimentConfig, num_items: int, attributes: csr_matrix | None, weight: float
) -> Iterator[tuple[str, Any]]:
    """What follows from the weight of the counts."""
    has_experts, own = config.model.fusion != "backbone", config.federation
    starts = own.spectral_start and own.spectral_sketch_size is None
    received = own.mode == "federated" and has_experts and bool(config.model.transition or weight)
    protocol = default_protocol(num_items) if own.count_sums == "auto" else own.count_sums
    if own.count_sums == "auto" and (received or (own.mode == "federated" and starts)):
        yield "federation.count_sums", protocol
    if own.counts_received == "auto" and received and protocol == "dense":
        yield "federation.counts_received", "all" if config.model.transition else default_received(num_items)
    if config.model.kinship is None and attributes is not None and has_experts:
        yield "model.kinship", kinship.default_weight(weight)
