"""What a client trains on: its history cut into windows, and which windows each local step takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray, Ragged
from fedmm.utils.seeding import numpy_stream


@dataclass(frozen=True, eq=False)
class Windows:
    """Every client's windows. Window w reads ``length[w]`` items from ``start[w]`` and predicts the item after each."""

    items: IntArray  # [n] all training histories, end to end
    start: IntArray  # [W] where in ``items``
    length: IntArray  # [W] positions, 1..max_length
    first: IntArray  # [U + 1] a client's windows are first[u]..first[u + 1]

    @classmethod
    def cut(cls, train: Ragged, max_length: int) -> Windows:
        """Cuts each history's pairs (item, next item) into windows of ``max_length``, full ones last: the most recent
        window of training then looks like the query at evaluation. A history of one item has no pair and no window."""
        pairs = np.maximum(train.lengths - 1, 0)
        num_windows = -(-pairs // max_length)
        first = np.concatenate([np.zeros(1, np.int64), np.cumsum(num_windows)])
        owner = np.repeat(np.arange(len(train)), num_windows)
        from_last = first[owner + 1] - 1 - np.arange(len(owner))
        end = pairs[owner] - from_last * max_length
        begin = np.maximum(end - max_length, 0)
        return cls(train.values, train.offsets[owner] + begin, end - begin, first)

    @property
    def trainable(self) -> IntArray:
        """Clients with at least one window, ascending."""
        return np.flatnonzero(np.diff(self.first))

    def num_positions(self, clients: IntArray) -> IntArray:
        """[C]: how many predictions each client's windows make."""
        begin = self.first[clients]
        number = self.first[clients + 1] - begin
        end = np.cumsum(number)
        own = np.arange(number.sum()) + np.repeat(begin - end + number, number)  # these clients' windows and no others
        total = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.length[own])])
        positions: IntArray = total[end] - total[end - number]
        return positions


@dataclass(frozen=True, eq=False)
class Examples:
    """Collated windows of C clients, one local step each. Padding stands at the end of every axis."""

    items: Tensor  # [C, B, L]
    rows: Tensor  # [C, R] predicting positions, flat over B * L
    targets: Tensor  # [C, R] the next item
    row_weights: Tensor  # [C, R] 1 / (the client's predictions), 0 for padding
    places: IntArray  # [C, R] where in its client's history each row stands, counted from 0
    num_windows: IntArray  # [C] each client's own B
    longest: IntArray  # [C] each client's own L


def plan_steps(num_windows: int, config: FederationConfig, stream: np.random.Generator) -> list[IntArray]:
    """The windows (0..num_windows-1) of each local step of one client.

    An epoch is a pass over all windows in a fresh order, ``batch_size`` at a time; local steps go on into further
    epochs.
    """
    batches_per_epoch = -(-num_windows // config.batch_size)
    epochs = config.local_epochs
    num_steps = config.steps_per_round if epochs is None else epochs * batches_per_epoch
    steps: list[IntArray] = []
    while len(steps) < num_steps:
        order = stream.permutation(num_windows) if batches_per_epoch > 1 else np.arange(num_windows)
        steps += [np.sort(order[i : i + config.batch_size]) for i in range(0, num_windows, config.batch_size)]
    return steps[:num_steps]


def plan_cohort(
    windows: Windows,
    clients: IntArray,
    config: FederationConfig,
    seed: int,
    round_number: int,
    names: IntArray | None = None,
) -> list[list[IntArray]]:
    """``plan_steps`` for each client, from its own random stream, as window numbers of ``windows``. ``names`` [C] are
    what the streams call the clients, where that is not their numbers here."""
    return [
        [
            chosen + windows.first[client]
            for chosen in plan_steps(
                int(windows.first[client + 1] - windows.first[client]),
                config,
                numpy_stream(seed, "batches", round_number, int(name)),
            )
        ]
        for client, name in zip(clients, clients if names is None else names, strict=True)
    ]


def collate(windows: Windows, chosen: Sequence[IntArray], dtype: torch.dtype, device: torch.device) -> Examples:
    """Gathers each client's chosen windows into padded tensors."""
    num_windows = np.array([len(own) for own in chosen], dtype=np.int64)
    C, B = len(chosen), int(num_windows.max())
    table = np.zeros((C, B), dtype=np.int64)
    real = np.arange(B) < num_windows[:, None]
    table[real] = np.concatenate(list(chosen))
    length = windows.length[table] * real
    longest = length.max(axis=1)
    L = int(longest.max())
    steps = np.arange(L)
    inside = steps < length[:, :, None]  # [C, B, L]
    source = np.where(inside, windows.start[table][:, :, None] + steps, 0)
    # The first window of a client starts where its history does.
    origin = np.array([windows.start[windows.first[owner]] for owner in owners(windows, chosen)])
    items = np.where(inside, windows.items[source], 0)
    targets = np.where(inside, windows.items[np.minimum(source + 1, len(windows.items) - 1)], 0)

    flat = inside.reshape(C, B * L)
    num_rows = flat.sum(axis=1)
    # A stable sort of "not inside" brings each client's real positions to the front, in order.
    rows = np.argsort(~flat, axis=1, kind="stable")[:, : int(num_rows.max())]
    is_row = np.arange(rows.shape[1]) < num_rows[:, None]
    row_weights = is_row / np.maximum(num_rows, 1)[:, None]
    return Examples(
        items=torch.from_numpy(items).to(device),
        rows=torch.from_numpy(np.where(is_row, rows, 0)).to(device),
        targets=torch.from_numpy(np.where(is_row, np.take_along_axis(targets.reshape(C, B * L), rows, 1), 0)).to(
            device
        ),
        row_weights=torch.from_numpy(row_weights).to(device=device, dtype=dtype),
        places=np.where(is_row, np.take_along_axis(source.reshape(C, B * L), rows, 1) - origin[:, None], 0),
        num_windows=num_windows,
        longest=longest,
    )


def owners(windows: Windows, chosen: Sequence[IntArray]) -> IntArray:
    """[C]: the client that each set of window numbers belongs to."""
    firsts = np.array([own[0] for own in chosen], dtype=np.int64)
    return np.searchsorted(windows.first, firsts, side="right") - 1
