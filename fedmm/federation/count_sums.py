"""How clients' transition counts become a sum: the protocol of the round before the first, and its bytes.

- ``dense``: each client sends its counts of all pairs of items in one secure sum, V (V + 1) / 2 numbers.
- ``grouped``: clients form groups of a size that their pairs together fit one table (``pair_tables``), a few words an
  item. A secure sum in each group yields the group's table, from which the server reads the group's pairs. First all
  clients send how many pairs they have, so that the number of groups can be found. A table that cannot be read is sent
  again by each half of its group, and paid for again. The server learns each group's sum instead of the whole sum.
- ``open``: each client sends its own pairs, a few hundred bytes that the server can read. No secure sum.

Where all clients receive the sum, ``grouped`` and ``open`` send the pairs with the largest counts, at most
``PAIRS_PER_ITEM`` an item; so does ``dense`` where that is asked for, instead of all counts.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix

from fedmm.data.ragged import take_rows
from fedmm.data.transitions import HALF_LIFE, WINDOW, sum_transition_counts, transition_weight
from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.federation.ledger import counts_message_bytes, message_bytes
from fedmm.federation.pair_tables import FIELDS, PairTable
from fedmm.utils.seeding import derive, numpy_stream

Protocol = Literal["dense", "grouped", "open"]
Received = Literal["all", "largest"]
DENSE_ITEMS = 5000  # where nothing is asked for, larger catalogues are summed in groups
FEWEST_CLIENTS = 10  # of a group: a client's pairs take at most this part of a table, closest pairs first
PAIRS_PER_ITEM = 80  # that all clients receive


@dataclass(frozen=True, eq=False)
class CountSums:
    """The sum of all clients' directed counts, as the server and as the clients know it, and what it cost."""

    train: Ragged
    num_items: int
    protocol: Protocol
    seed: int
    received: Received = "all"  # of a dense sum; of another one the largest

    @classmethod
    def of(
        cls,
        train: Ragged,
        num_items: int,
        protocol: Protocol | Literal["auto"],
        seed: int,
        received: Received = "all",
    ) -> CountSums:
        """The sums of the training histories by ``protocol``; "auto" goes by the size of the catalogue."""
        if protocol == "auto":
            return cls(train, num_items, default_protocol(num_items), seed, received)
        return cls(train, num_items, protocol, seed, received)

    @property
    def server(self) -> csr_matrix:
        """Directed counts [V, V] that the server reads from the sums."""
        return self._summed[0]

    @functools.cached_property
    def clients(self) -> csr_matrix:
        """Directed counts [V, V] that all clients receive."""
        return largest_counts(self.server, self.seed) if self._sends_largest else self.server

    @property
    def uplink_bytes(self) -> int:
        """What all clients together send."""
        return self._summed[1]

    def downlink_bytes(self, *, counts: bool) -> int:
        """What all clients together receive: the number of groups, and ``counts`` where they are to have the sum."""
        told = _scalar_bytes("num_groups") if self.protocol == "grouped" else 0
        if not counts:
            return told * len(self.train)
        return (told + self.received_message_bytes) * len(self.train)

    @property
    def received_message_bytes(self) -> int:
        """Bytes of the sum that each client receives."""
        if self._sends_largest:
            return sparse_message_bytes(self.num_items, self.clients.nnz)
        return counts_message_bytes(self.num_items)

    @property
    def note(self) -> str | None:
        """One sentence on a protocol that is not the dense one."""
        if self.protocol == "dense":
            return None
        form = PairTable.of(self.num_items, self.seed)
        if self.protocol == "open":
            return "transition counts: each client sends its own pairs in the open (federation.count_sums)"
        groups = len(_groups(_num_pairs(self.train, form), form, self.seed))
        return (
            f"transition counts: {groups} secure sums of about {len(self.train) // groups} clients, "
            f"{table_message_bytes(form) / 1e6:.2f} MB a client "
            f"(federation.count_sums; dense: {counts_message_bytes(self.num_items) / 1e6:.0f} MB)"
        )

    @property
    def _sends_largest(self) -> bool:
        return self.protocol != "dense" or self.received == "largest"

    @functools.cached_property
    def _summed(self) -> tuple[csr_matrix, int]:
        if self.protocol == "grouped":
            return sum_in_groups(self.train, self.num_items, self.seed)
        counts = sum_transition_counts(self.train, self.num_items)
        if self.protocol == "dense":
            return counts, counts_message_bytes(self.num_items) * len(self.train)
        sizes, times = np.unique(_pairs_of_length(self.train.lengths), return_counts=True)
        sent = sum(pairs_message_bytes(int(size)) * int(number) for size, number in zip(sizes, times, strict=True))
        return counts, sent


def default_protocol(num_items: int) -> Protocol:
    """How counts over ``num_items`` items are summed where nobody asks for a way."""
    return "dense" if num_items <= DENSE_ITEMS else "grouped"


def default_received(num_items: int) -> Received:
    """What clients receive of a dense sum where nobody asks for it: the largest counts where those are fewer bytes."""
    few = sparse_message_bytes(num_items, PAIRS_PER_ITEM * num_items) < counts_message_bytes(num_items)
    return "largest" if few else "all"


def sum_in_groups(train: Ragged, num_items: int, seed: int) -> tuple[csr_matrix, int]:
    """The directed counts [V, V] read from the groups' tables, and the bytes that all clients together sent.

    Weights are rounded to 2^-16. A client with more pairs than a tenth of a table sends its closest ones.
    """
    form = PairTable.of(num_items, seed)
    pending = _groups(_num_pairs(train, form), form, seed)
    sent, attempt = len(train) * _scalar_bytes("num_pairs"), 0
    total = csr_matrix((num_items + 1, num_items + 1))
    while pending:
        again: list[IntArray] = []
        form = PairTable.of(num_items, derive(seed, "pair table", attempt))
        for clients in pending:
            sent += len(clients) * table_message_bytes(form)
            read = form.decode(form.encode(*client_pairs(take_rows(train, clients), _limit(form))))
            if read is None:
                again += [half for half in np.array_split(clients, 2) if len(half)]
            else:
                total = total + csr_matrix((read[2], read[:2]), shape=total.shape)
        pending, attempt = again, attempt + 1
    return total, sent


def client_pairs(train: Ragged, limit: int) -> tuple[IntArray, IntArray, FloatArray]:
    """The pairs (rows, columns, weights) of each client of ``train``, its ``limit`` closest ones, end to end."""
    owner, items = train.row_of_value, train.values
    place = np.arange(len(items)) - np.repeat(train.offsets[:-1], train.lengths)
    before = np.zeros(len(train), dtype=np.int64)
    rows, columns, weights = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for gap in range(1, WINDOW + 1):
        kept = owner[:-gap] == owner[gap:]
        kept &= before[owner[:-gap]] + place[:-gap] < limit
        if not kept.any():
            break
        rows.append(items[:-gap][kept])
        columns.append(items[gap:][kept])
        weights.append(np.full(int(kept.sum()), transition_weight(gap, HALF_LIFE)))
        before += np.maximum(train.lengths - gap, 0)
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(weights)


def table_message_bytes(form: PairTable) -> int:
    """Bytes of a client's table of its pairs."""
    return message_bytes({"pairs": torch.empty(form.cells, FIELDS, dtype=torch.uint32, device="meta")})


def pairs_message_bytes(number: int) -> int:
    """Bytes of ``number`` pairs in the open, each with its gap."""
    return message_bytes(
        {
            "pairs": torch.empty(number, 2, dtype=torch.int32, device="meta"),
            "gaps": torch.empty(number, dtype=torch.uint8, device="meta"),
        }
    )


def sparse_message_bytes(num_items: int, number: int) -> int:
    """Bytes of a sum with ``number`` pairs: where each row begins, columns, and counts in half precision."""
    narrow = torch.uint16 if num_items < 2**16 else torch.int32
    return message_bytes(
        {
            "offsets": torch.empty(num_items + 2, dtype=torch.int32, device="meta"),
            "columns": torch.empty(number, dtype=narrow, device="meta"),
            "counts": torch.empty(number, dtype=torch.float16, device="meta"),
        }
    )


def _scalar_bytes(name: str) -> int:
    return message_bytes({name: torch.empty((), dtype=torch.int32, device="meta")})


def largest_counts(counts: csr_matrix, seed: int) -> csr_matrix:
    """The pairs [V, V] with the largest ``counts`` [V, V], ``PAIRS_PER_ITEM`` an item, in half precision; ties in a
    random order."""
    kept, number = counts.tocoo(), PAIRS_PER_ITEM * (counts.shape[0] - 1)
    if kept.nnz > number:
        order = numpy_stream(seed, "largest counts").permutation(kept.nnz)
        chosen = order[np.argsort(-kept.data[order], kind="stable")[:number]]
        kept = csr_matrix((kept.data[chosen], (kept.row[chosen], kept.col[chosen])), shape=counts.shape)
    result = kept.tocsr()
    result.data = result.data.astype(np.float16).astype(np.float64)
    return result


def _pairs_of_length(lengths: IntArray) -> IntArray:
    """How many pairs histories of these lengths have: of each gap g up to the window, length - g."""
    gaps = np.clip(lengths - 1, 0, WINDOW)
    return np.asarray(gaps * lengths - gaps * (gaps + 1) // 2, dtype=np.int64)


def _limit(form: PairTable) -> int:
    return max(form.capacity // FEWEST_CLIENTS, 1)


def _num_pairs(train: Ragged, form: PairTable) -> IntArray:
    return np.minimum(_pairs_of_length(train.lengths), _limit(form))


def _groups(num_pairs: IntArray, form: PairTable, seed: int) -> list[IntArray]:
    """Random groups of clients of nearly equal size, as few as their tables can be expected to hold."""
    number = max(-(-int(num_pairs.sum()) // form.capacity), -(-len(num_pairs) // form.most_clients), 1)
    order = numpy_stream(seed, "groups of counts").permutation(len(num_pairs))
    return [group for group in np.array_split(order, number) if len(group)]
