"""Faults of local training, the server and resuming."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedmm.federation import (
    aggregation,
    client_data,
    client_states,
    dropout,
    gradient_rules,
    ledger,
    local_training,
    server_optimizers,
)
from fedmm.models import recommender
from fedmm.runs import folder
from fedmm.utils import params
from worlds.planting import Fault, everywhere


def warm_up_moves_the_router(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        recommender.Recommender,
        "is_backbone",
        staticmethod(lambda name: name.startswith(("backbone.", "router."))),
    )
    trainable = local_training.LocalTraining.trainable

    def also_router(self: Any, params: Any, number: int) -> Any:
        names = trainable(self, params, number)
        return [name for name in params if name in names or name.startswith("router.")]

    patch.setattr(local_training.LocalTraining, "trainable", also_router)

    def decay(value: Any, gradient: Any, name: str, state: Any, config: Any) -> Any:
        return value * (1 - 1e-3) - config.server_rate * gradient, {}

    patch.setitem(server_optimizers.SERVER_OPTIMIZERS.built_in, "adam", decay)


def clipping_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gradient_rules, "clip_factors", lambda norms, clip_norm: torch.ones_like(norms))


def dropout_of_the_block(patch: pytest.MonkeyPatch) -> None:
    def global_dropout(rate: float, *rest: Any) -> Any:
        return lambda x: torch.nn.functional.dropout(x, rate)

    everywhere(patch, dropout.step_dropout, global_dropout)


def norm_shared_by_clients(patch: pytest.MonkeyPatch) -> None:
    norms = params.client_norms
    everywhere(patch, norms, lambda tree: norms(tree).max().expand(len(norms(tree))))


def mean_forgets_the_weights(patch: pytest.MonkeyPatch) -> None:
    def unweighted(total: Any, config: Any) -> Any:
        return {name: value / total.num_clients for name, value in total.deltas.items()}

    patch.setitem(aggregation.AGGREGATIONS.built_in, "mean", unweighted)


def heat_without_its_cap(patch: pytest.MonkeyPatch) -> None:
    heat = aggregation.AGGREGATIONS["heat"]
    uncapped = lambda total, config: heat(total, config.model_copy(update={"heat_cap": 1e9}))  # noqa: E731
    patch.setitem(aggregation.AGGREGATIONS.built_in, "heat", uncapped)


def yogi_is_adam(patch: pytest.MonkeyPatch) -> None:
    optimizers = server_optimizers.SERVER_OPTIMIZERS
    patch.setitem(optimizers.built_in, "yogi", optimizers["adam"])


def resume_loses_the_optimizer(patch: pytest.MonkeyPatch) -> None:
    load = folder.load_state

    def forgetful(*arguments: Any) -> Any:
        state, progress = load(*arguments)  # type: ignore[misc]
        return replace(state, server=replace(state.server, optimizer={})), progress

    everywhere(patch, load, forgetful)


def resume_loses_the_average(patch: pytest.MonkeyPatch) -> None:
    load = folder.load_state

    def forgetful(*arguments: Any) -> Any:
        state, progress = load(*arguments)  # type: ignore[misc]
        return replace(state, server=replace(state.server, average=state.server.params)), progress

    everywhere(patch, load, forgetful)


def resume_repeats_random_numbers(patch: pytest.MonkeyPatch) -> None:
    load = folder.load_state

    def behind(*arguments: Any) -> Any:
        state, progress = load(*arguments)  # type: ignore[misc]
        return replace(state, server=replace(state.server, round=state.server.round - 1)), progress

    everywhere(patch, load, behind)


def ledger_leaves_out_the_spectral_round(patch: pytest.MonkeyPatch) -> None:
    everywhere(patch, ledger.counts_message_bytes, lambda num_items: 0)


def ledger_counts_numbers_not_messages(patch: pytest.MonkeyPatch) -> None:
    everywhere(patch, ledger.message_bytes, lambda message: sum(4 * value.numel() for value in message.values()))


def blocks_share_a_state(patch: pytest.MonkeyPatch) -> None:
    of = client_states.ClientStates.of

    def mixed(self: Any, clients: Any, zeros: Any) -> Any:
        return {name: value.mean(0, keepdim=True) + 0.0 * value for name, value in of(self, clients, zeros).items()}

    patch.setattr(client_states.ClientStates, "of", mixed)


def personal_parameters_travel(patch: pytest.MonkeyPatch) -> None:
    deltas = client_states.Carried.control_deltas

    def everything(self: Any, states: Any) -> Any:
        return deltas(self, states) | {n: value for n, value in states.items() if n.startswith("personal.")}

    patch.setattr(client_states.Carried, "control_deltas", everything)


def rows_weigh_double(patch: pytest.MonkeyPatch) -> None:
    collate = client_data.collate

    def double(*arguments: Any) -> Any:
        examples = collate(*arguments)
        return replace(examples, row_weights=2 * examples.row_weights)

    everywhere(patch, collate, double)


def server_steps_double(patch: pytest.MonkeyPatch) -> None:
    sgd = server_optimizers.SERVER_OPTIMIZERS["sgd"]

    def double(value: Any, gradient: Any, *rest: Any) -> Any:
        return sgd(value, 2 * gradient, *rest)

    patch.setitem(server_optimizers.SERVER_OPTIMIZERS.built_in, "sgd", double)


def server_clips_each_client(patch: pytest.MonkeyPatch) -> None:
    add = aggregation._add_block

    def clipped(total: Any, block: Any, *rest: Any) -> Any:
        deltas = {name: value.clamp(-3.0, 3.0) for name, value in block.deltas.items()}
        return add(total, replace(block, deltas=deltas), *rest)

    patch.setattr(aggregation, "_add_block", clipped)


ENGINES = "vectorized equals sequential"
ENGINES_32 = "vectorized equals sequential in float32"
ENGINES_DATA = "vectorized equals sequential on the configured data"
ORDER = "cohort, order and block do not touch a client's update"
ONE_STEP = "one client, one full-batch step, server SGD 1.0 is plain SGD"
MEANS = "weighted and heat-normalised means as computed by hand"
CLOSED = "server optimizers equal their closed forms"
WARM_UP = "warm-up moves the backbone alone, in clients and server"
RESUMED = "interrupted equals uninterrupted"
LEDGER = "the ledger counts the bytes of serialised messages"
FAULTS = (
    Fault("warm-up moves the router", (WARM_UP,), warm_up_moves_the_router),
    Fault("clipping forgotten", (ENGINES,), clipping_forgotten),
    Fault("dropout of the block", (ENGINES, ENGINES_32, ENGINES_DATA), dropout_of_the_block),
    Fault("clients share a norm", (ORDER,), norm_shared_by_clients),
    Fault("a block shares one state", ("a client's state moves no other client",), blocks_share_a_state),
    Fault(
        "personal parameters travel",
        ("personal parameters are in no message and on no bill",),
        personal_parameters_travel,
    ),
    Fault("rows weigh double", (ONE_STEP,), rows_weigh_double),
    Fault("server steps double", ("FedAvg of identical clients is one client", CLOSED), server_steps_double),
    Fault("server clips each client", ("the server's rules see sums only",), server_clips_each_client),
    Fault("mean forgets the weights", (MEANS,), mean_forgets_the_weights),
    Fault("heat without its cap", (MEANS,), heat_without_its_cap),
    Fault("yogi is adam", (CLOSED,), yogi_is_adam),
    Fault("resume loses the optimizer", (RESUMED,), resume_loses_the_optimizer),
    Fault("resume loses the moving average", (RESUMED,), resume_loses_the_average),
    Fault("resume repeats random numbers", (RESUMED,), resume_repeats_random_numbers),
    Fault("ledger leaves out the spectral round", (LEDGER,), ledger_leaves_out_the_spectral_round),
    Fault("ledger counts numbers, not messages", (LEDGER,), ledger_counts_numbers_not_messages),
)
