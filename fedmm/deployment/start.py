"""The rounds before the first: what silos count, added up, and the item table that is made of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from fedmm.config import ExperimentConfig
from fedmm.data.types import FloatArray
from fedmm.deployment import noisy_start, sums
from fedmm.deployment.building import counts_wanted
from fedmm.deployment.catalogue import Catalogue
from fedmm.deployment.chained import is_masked
from fedmm.deployment.lead_state import POPULARITY, LeadState
from fedmm.deployment.messages import Expected, Message
from fedmm.federation.count_uses import received_counts
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.private_rounds import PrivateRounds
from fedmm.federation.rounds import ServerState
from fedmm.federation.spectral_sketch import sketched_item_table
from fedmm.federation.spectral_start import spectral_item_table
from fedmm.models.noisy_counts import PREFIX
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params
from fedmm.utils.seeding import torch_stream

Ask = Callable[[list[str], Message, Expected], list[Mapping[str, Tensor]]]


def first_state(config: ExperimentConfig, catalogue: Catalogue, ask: Ask, nodes: list[str]) -> LeadState:
    """The state before the first round, without silos: of its parameters the item table alone, where there is a start.
    ``ask`` asks all ``nodes`` for sums."""
    size = catalogue.num_items + 1
    own, seed, masked = config.federation, config.runtime.seed, is_masked(config.federation)
    begin: Params = {POPULARITY: torch.zeros(size, dtype=torch.int64)}
    if "popularity100" in config.evaluation.protocols:
        name = "sum" if masked else "popularity"
        found = ask(nodes, Message("count", {"what": "popularity"}), {name: (torch.int64, (size,))})
        begin[POPULARITY] = torch.stack([own[name] for own in found]).sum(0)
    sketched = own.spectral_start and own.spectral_sketch_size is not None
    params: Params = {}
    if counts_wanted(config) or (own.spectral_start and not sketched):
        counts = csr_matrix((size, size))
        for each in [] if masked else ask(nodes, Message("count", {"what": "counts"}), sums.COUNTED):
            counts = counts + sums.counts_from_tensors(each, catalogue.num_items)
        if masked:
            total = ask(nodes, Message("count", {"what": "counts"}), {"sum": (torch.int64, (size * size,))})[0]["sum"]
            counts = sums.dense_counts(total, catalogue.num_items)
        if counts_wanted(config):
            begin |= sums.counts_to_tensors(received_counts(config, counts))
        if own.spectral_start and counts.nnz and not sketched:
            params[ITEM_TABLE] = spectral_item_table(counts, config.model.hidden_dim, seed)
    if sketched:
        assert own.spectral_sketch_size is not None
        table = _sketched(config, size, ask, nodes, own.spectral_sketch_size)
        params |= {} if table is None else {ITEM_TABLE: table}
    return LeadState(ServerState(params, {}, 0), (), begin, name=secrets.token_hex(8))


def first_params(config: ExperimentConfig, local: LocalTraining, state: LeadState) -> Params:
    """All parameters before the first round: those of ``state``, the others fresh."""
    params = local.recommender.init(torch_stream(config.runtime.seed, "parameters"), local.dtype)
    return {**params, **{name: value.to(local.dtype) for name, value in state.server.params.items()}}


def private_state(
    config: ExperimentConfig, local: LocalTraining, private: PrivateRounds, num_users: int, seed: int, ask: Ask,
    nodes: list[str], trainable: int,
) -> LeadState:  # fmt: skip
    """As ``first_state`` for a private federation of ``num_users`` users, so many of whom are ``trainable``: two noisy
    sums, where there is a start. ``seed`` is that of their noise."""
    num_items = local.recommender.num_items
    begin: Params = {POPULARITY: torch.zeros(num_items + 1, dtype=torch.int64)}
    start = noisy_start.start_of(config, local, private, num_users, seed)
    params: Params = {}
    if start is not None:
        whole = is_masked(local.config)
        kind, step = (torch.int64, noisy_start.STEP) if whole else (torch.float64, 1.0)

        def total(body: dict[str, Any], tensors: Params, width: int) -> FloatArray:
            found = ask(nodes, Message("count", body, tensors), {"sum": (kind, (width,))})
            return np.asarray(torch.stack([own["sum"] for own in found]).sum(0).numpy() * step, dtype=np.float64)

        own_noise = start.own_noise
        told = {}
        if own_noise is not None:
            told = {"number": own_noise.number, "least": own_noise.least, "trainable": trainable}
        holders = total({"what": "holders", "deviation": start.holders_deviation, **told}, {}, num_items + 1)
        holders = start.noised_holders(holders) if own_noise is None else np.append(0.0, holders[1:])
        head = start.head(holders)
        number = len(head)
        body = {"what": "pairs", "deviation": start.pairs_deviation, **told}
        pairs = noisy_start.square(total(body, {"head": torch.from_numpy(head)}, number * (number - 1) // 2), number)
        counts = (
            start.noised_pairs(holders, head, pairs)
            if own_noise is None
            else start.told(holders, head, pairs + pairs.T)
        )
        vars(start)["counts"] = counts
        begin |= counts.to_tensors()
        begin[POPULARITY][1:] = torch.from_numpy(np.rint(counts.holders[1:]).astype(np.int64))
        params[ITEM_TABLE] = start.item_table(config.model.hidden_dim)
    return LeadState(ServerState(params, {}, 0), (), begin, name=secrets.token_hex(8))


def counts_part(begin: Params) -> Params:
    """The counts among what silos are told as they begin."""
    return {name: value for name, value in begin.items() if name != POPULARITY and not name.startswith(PREFIX)}


def _sketched(config: ExperimentConfig, size: int, ask: Ask, nodes: list[str], columns: int) -> Tensor | None:
    seed = config.runtime.seed
    expected: Expected = {"degrees": (torch.float64, (size,))}
    degrees = torch.stack([own["degrees"] for own in ask(nodes, Message("count", {"what": "degrees"}), expected)]).sum(
        0
    )
    request = Message("count", {"what": "sketch", "size": columns, "seed": seed}, {"degrees": degrees})
    found = ask(nodes, request, {"sketch": (torch.float64, (size, columns))})
    sketch = np.add.reduce([own["sketch"].numpy() for own in found])
    return sketched_item_table(sketch, config.model.hidden_dim, seed) if sketch.any() else None
