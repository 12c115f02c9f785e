"""The stage that sends the item table's part of an update in few columns: its product with a random basis.

Low-rank updates that add up (CoLR: Nguyen et al., *Towards Efficient Communication and Secure Federated Recommendation
System via Low-rank Training*, WWW 2024, arXiv:2401.03748): in every round all clients share r random directions of the
D, and send [V, r] numbers in place of [V, D]. Here clients train as ever and their change is projected, which for one
local step of plain gradient descent is what training within the directions gives. Sums of projections are projections
of sums, so that masks, rounding and noise go with it. The server puts the sum back as its D / r-fold, whose mean over
the directions is the sum itself.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.errors import ConfigError
from fedmm.federation.transforms.contract import Bound, Stage, TransformRound
from fedmm.utils.seeding import torch_stream


def low_rank(turn: TransformRound, bound: Bound) -> Stage:
    """[V, D] of the item table becomes [V, r], r = ``update_rank`` and at most D. No norm grows by it. Raises
    ConfigError where there is no item table among what is sent, and where it is no longer where it was."""
    if turn.table is None:
        raise ConfigError(
            "The stage low_rank needs an item table that trains.",
            'Set federation.item_table "trained", or leave "low_rank" out of federation.update_transforms.',
        )
    if bound.spread or bound.integers or bound.width != sum(turn.parts):
        raise ConfigError(
            "The stage low_rank needs the item table as it is, and a stage before it has mixed or rounded it.",
            'Put "low_rank" before "rotate" and "round" in federation.update_transforms.',
        )
    start, rows, columns = turn.table
    rank = min(turn.config.update_rank, columns)
    basis = directions(columns, rank, turn.seed, turn.number)
    rest = bound.width - start - rows * columns

    def send(vectors: Tensor, clients: IntArray) -> Tensor:
        del clients
        before, table, after = torch.split(vectors, [start, rows * columns, rest], dim=1)
        small = table.reshape(len(vectors), rows, columns) @ basis.to(vectors)
        return torch.cat([before, small.flatten(1), after], dim=1)

    def receive(total: Tensor) -> Tensor:
        before, small, after = torch.split(total, [start, rows * rank, rest])
        table = small.view(rows, rank) @ basis.to(total).T * (columns / rank)
        return torch.cat([before, table.flatten(), after])

    return Stage(replace(bound, width=bound.width - rows * (columns - rank)), send=send, receive=receive)


def directions(columns: int, rank: int, seed: int, number: int) -> Tensor:
    """[D, r] orthonormal columns by chance, the same for all clients of round ``number``.

    >>> basis = directions(6, 2, seed=0, number=1)
    >>> torch.allclose(basis.T @ basis, torch.eye(2, dtype=torch.float64))
    True
    """
    drawn = torch.randn(columns, rank, generator=torch_stream(seed, "low rank", number), dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(drawn).Q
    return basis
