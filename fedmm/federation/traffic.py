"""Bytes of a round: what each client sends and receives, by the shapes of messages and the lengths of codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from fedmm.data.types import IntArray
from fedmm.federation import scaffold
from fedmm.federation.availability import asked
from fedmm.federation.largest_updates import expected_largest, is_off, largest_message
from fedmm.federation.ledger import broadcast_message, message_bytes, request_message, update_message
from fedmm.federation.local_training import UpdateBlock
from fedmm.federation.private_rounds import layout_of, turn_of
from fedmm.federation.prototypes import prototype_messages
from fedmm.federation.step_updates import expected_lengths, stepped_message
from fedmm.federation.transforms.chain import final_bound, vector_bytes
from fedmm.federation.versions import Versions, changes_message, expected_length
from fedmm.utils.params import Params, select

if TYPE_CHECKING:
    from fedmm.federation.rounds import Federation


class Sent(NamedTuple):
    """What one client's update came to."""

    client: int
    rows: int | None  # of the item table; None: all
    coded: tuple[int, int] | None  # what the codes of an update come to; None: its length follows from its shapes


def sent_by(block: UpdateBlock) -> list[Sent]:
    """One entry a client."""
    rows = [None] * len(block.clients) if block.num_rows is None else block.num_rows.tolist()
    coded = [None] * len(block.clients) if block.coded is None else [(int(n), int(s)) for n, s in block.coded]
    return [Sent(int(client), *rest) for client, *rest in zip(block.clients, rows, coded, strict=True)]


def traffic(
    federation: Federation,
    params: Params,
    round_number: int,
    rows: int | None = None,
    coded: tuple[int, int] | None = None,
    change: int | None = None,
) -> tuple[int, int]:
    """Bytes that one client sends and receives in a round. ``rows`` of the item table travel (None: all); down they all
    do where the model reads all, and where changes of versions travel. ``coded`` are the lengths of an update's codes
    and ``change`` the length of a change of versions; about what they will be where they are not given."""
    config, num_items = federation.config, federation.local.recommender.num_items
    travelling = select(params, federation.local.trainable(params, round_number))
    # c goes down beside the parameters, its change comes up beside the delta
    controls = scaffold.named(travelling) if federation.local.uses_controls else {}
    by_holders = config.aggregation != "mean"  # heat counts them, robust rules let them vote
    if config.update_transforms:
        update = transformed_message(federation, travelling | controls, round_number, holders=by_holders)
    elif config.upload_share is not None and not is_off(config.upload_share):
        lengths = coded or expected_largest(travelling, config.upload_share)
        update = largest_message(travelling, lengths, federation.local.dtype)
        update |= update_message({}, num_items, holders=by_holders, rows=rows, bits=2)
    elif config.upload_step is not None:
        lengths = coded or expected_lengths(travelling, rows, config.upload_step)
        update = stepped_message(travelling, lengths) | controls
        update |= update_message({}, num_items, holders=by_holders, rows=rows, bits=2)  # a bit an item
    else:
        update = update_message(travelling, num_items, holders=by_holders, rows=rows, bits=config.upload_bits)
        update |= controls
    request, received = _begun(federation, params, round_number, rows, change)
    sent = {} if federation.local.warming_up(round_number) else prototype_messages(params)[0]
    return request + message_bytes(update | sent), received


def _begun(
    federation: Federation, params: Params, round_number: int, rows: int | None, change: int | None
) -> tuple[int, int]:
    """Bytes that one client sends and receives before it trains: its request for rows, and what it asked for."""
    local, config = federation.local, federation.config
    travelling = select(params, local.trainable(params, round_number))
    controls = scaffold.named(travelling) if local.uses_controls else {}
    reads = None if local.reads_all_rows(round_number) else rows
    received = {} if local.warming_up(round_number) else prototype_messages(params)[1]
    if config.download_step is None:
        downlink = broadcast_message(travelling, reads, config.download_bits)
    else:
        travelling = select(params, local.trainable(params, config.warmup_rounds + 1))
        length = expected_length(travelling, config.download_step) if change is None else change
        downlink = changes_message(travelling, length)
    request = 0 if rows is None else message_bytes(request_message(rows))
    return request, message_bytes(downlink | controls | received)


def transformed_message(
    federation: Federation, travelling: Params, round_number: int, *, holders: bool
) -> dict[str, torch.Tensor]:
    """What a client sends whose update goes through the chain: the vector as its last stage leaves it and, where the
    run is not private, what is summed beside it."""
    config, private = federation.config, federation.private
    cohort = federation.clients[: asked(federation.cohort_size, config, len(federation.clients))]
    layout = layout_of(config, {name: value.shape for name, value in travelling.items()}, private)
    turn = layout.known_to(turn_of(config, federation.seed, round_number, cohort, private))
    sent = {"update": torch.empty(vector_bytes(final_bound(turn)), dtype=torch.uint8, device="meta")}
    if private is not None:
        return sent
    return sent | update_message({}, federation.local.recommender.num_items, holders=holders)


def traffic_of_all(
    federation: Federation,
    params: Params,
    round_number: int,
    sent: Iterable[Sent],
    lost: IntArray,
    versions: Versions | None = None,
) -> tuple[int, int]:
    """Bytes sent and received, all clients together; who is lost has received all, and sent its request."""
    uplink, downlink = 0, 0
    sent = list(sent)
    changes = _changes([one.client for one in sent], versions)
    each = zip(((one.rows, one.coded) for one in sent), changes, strict=True)
    for ((rows, coded), change), num_clients in Counter(each).items():
        up, down = traffic(federation, params, round_number, rows, coded, change)
        uplink, downlink = uplink + num_clients * up, downlink + num_clients * down
    asked_for = zip(_rows_asked(federation, lost, round_number), _changes(lost.tolist(), versions), strict=True)
    for (rows, change), num_clients in Counter(asked_for).items():
        up, down = _begun(federation, params, round_number, rows, change)
        uplink, downlink = uplink + num_clients * up, downlink + num_clients * down
    return uplink, downlink


def _changes(clients: list[int], versions: Versions | None) -> list[int | None]:
    if versions is None:
        return [None] * len(clients)
    return [int(length) for length in versions.bytes_for(np.array(clients, dtype=np.int64))]


def _rows_asked(federation: Federation, clients: IntArray, round_number: int) -> list[int | None]:
    """How many rows of the item table each of ``clients`` asks for, as if it had trained; None: all."""
    local = federation.local
    if not local.sends_touched_rows:
        return [None] * len(clients)
    found: list[int | None] = []
    for client in clients:
        stream = local.steps(np.array([client]), round_number)
        for _ in range(int(stream.num_steps[0])):
            stream.negatives(1)
        rows = stream.num_rows
        found.append(None if rows is None else int(rows[0]))
    return found
