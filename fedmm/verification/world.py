"""A small federation in float64: ragged histories, features with gaps, every part small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fedmm.config import FederationConfig, ModelConfig
from fedmm.data.transitions import sum_transition_counts
from fedmm.data.types import IntArray, Ragged
from fedmm.engines import sequential, vectorized
from fedmm.federation import scaffold
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.rounds import Federation, RoundStatistics, ServerState, run_round
from fedmm.models.recommender import Recommender
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream, torch_stream
from fedmm.verification.subject import SMALL_ITEMS, small_features

LENGTHS = (2, 3, 25, 9, 14, 2, 31, 18)
# Pooled experts have parameters of their own, so there is something of theirs to train, send and aggregate.
TINY_MODEL: Mapping[str, Any] = {
    "hidden_dim": 8,
    "max_length": 6,
    "dropout": 0.0,
    "num_blocks": 1,
    "experts": "pooled",
}
TINY_FEDERATION: Mapping[str, Any] = {"server_optimizer": "sgd", "server_learning_rate": 1.0}
ClientUpdate = tuple[Params, float, float]  # delta, loss, load-balance loss
Engine = Callable[..., Iterator[UpdateBlock]]
ENGINES: Mapping[str, Engine] = {"sequential": sequential.train_cohort, "vectorized": vectorized.train_cohort}


def histories(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> Ragged:
    """One client a length, no item twice in a history."""
    stream = numpy_stream(seed, "verify histories")
    return Ragged.from_rows([stream.permutation(SMALL_ITEMS)[:length] + 1 for length in lengths])


def make_local(
    model: Mapping[str, Any] | None = None,
    federation: Mapping[str, Any] | None = None,
    *,
    train: Ragged | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[LocalTraining, Params]:
    """Local training over the small world, and the server's parameters."""
    config = ModelConfig.model_validate({**TINY_MODEL, **(model or {})})
    train = histories() if train is None else train
    counts = sum_transition_counts(train, SMALL_ITEMS) if config.transition else None
    recommender = Recommender.build(config, SMALL_ITEMS, small_features(), dtype, transition_counts=counts)
    own = FederationConfig.model_validate({**TINY_FEDERATION, **(federation or {})})
    local = LocalTraining.build(recommender, own, train, 0, dtype)
    return local, recommender.init(torch_stream(0, "verify world"), dtype)


def make_federation(local: LocalTraining, cohort_size: int = 4, block_size: int = 3) -> Federation:
    """Everybody may take part; the vectorized engine."""

    def engine(local: LocalTraining, params: Params, cohort: IntArray, number: int) -> Iterator[UpdateBlock]:
        return vectorized.train_cohort(local, params, cohort, number, block_size=block_size)

    return Federation(local.config, local, local.windows.trainable, cohort_size, engine, 0)


def watched_round(
    federation: Federation, state: ServerState
) -> tuple[ServerState, RoundStatistics, list[UpdateBlock], list[Params]]:
    """One round without clients' states, with every block that clients sent and the parameters they began from."""
    blocks, starts = list[UpdateBlock](), list[Params]()

    def watched(*called: Any) -> Iterator[UpdateBlock]:
        starts.append(called[1])
        for block in federation.engine(replace(called[0], sums_only=False), *called[1:]):
            blocks.append(block)
            yield block

    after, _, told = run_round(state, NO_STATES, replace(federation, engine=watched))
    return after, told, blocks, starts


def with_states(local: LocalTraining, params: Params, number: int = 1) -> LocalTraining:
    """The same training, in which every second client has kept something from earlier rounds, at random, and the server
    a control variate; as it was where the settings know of no such thing."""
    stream = numpy_stream(0, "verify states")

    def noise(zeros: Params) -> Params:
        return {
            name: torch.from_numpy(np.asarray(0.1 * stream.normal(size=v.shape))).to(v) for name, v in zeros.items()
        }

    clients = local.windows.trainable[::2]
    empty = local.carried(params, clients, number)
    kept = noise(empty.personal | scaffold.named(empty.controls))
    control = noise({name: params[name] for name in empty.controls})
    return replace(local, clients=NO_STATES.after([(clients, kept)]), control=control)


def all_by_client(blocks: Iterator[UpdateBlock]) -> dict[int, ClientUpdate]:
    """As ``by_client``, with what a client sends of its control variates and all that it keeps besides its delta."""
    listed = list(blocks)
    found = by_client(iter(listed))
    for block in listed:
        for place, client in enumerate(map(int, block.clients)):
            more = {f"sent/{name}": value[place] for name, value in block.control_deltas.items()}
            more |= {f"kept/{name}": value[place] for name, value in block.states.items()}
            delta, loss, balance = found[client]
            found[client] = ({**delta, **more}, loss, balance)
    return found


def by_client(blocks: Iterator[UpdateBlock]) -> dict[int, ClientUpdate]:
    """Each client's delta, loss and load-balance loss."""
    found: dict[int, ClientUpdate] = {}
    for block in blocks:
        deltas = block.dense_deltas(SMALL_ITEMS)
        for place, client in enumerate(block.clients):
            delta = {name: value[place] for name, value in deltas.items()}
            found[int(client)] = (delta, float(block.losses[place]), float(block.load_balance_losses[place]))
    return found


def update_gap(left: Mapping[int, ClientUpdate], right: Mapping[int, ClientUpdate]) -> float:
    """The largest difference of any delta or loss; infinite where clients or names differ or a value is not finite."""
    if left.keys() != right.keys():
        return float("inf")
    gaps = [0.0]
    for client, (delta, loss, balance) in left.items():
        other, other_loss, other_balance = right[client]
        gaps += [params_gap(delta, other), abs(loss - other_loss), abs(balance - other_balance)]
    return max(gap if np.isfinite(gap) else float("inf") for gap in gaps)


def params_gap(left: Params, right: Params) -> float:
    """The largest difference of any entry; infinite where names differ or an entry is not finite."""
    if left.keys() != right.keys():
        return float("inf")
    gap = max((float((left[name] - right[name]).abs().max()) for name in left), default=0.0)
    return gap if np.isfinite(gap) else float("inf")
