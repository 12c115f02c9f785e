"""Messages of few bits: whole numbers and one scale a row, up by chance, down to the nearest.

Each row of a parameter (its last axis) travels as whole numbers of b bits, -(2^(b-1) - 1) to 2^(b-1) - 1, and the step
between them. Updates are rounded up or down by chance, so that their mean is the update (QSGD: Alistarh et al.,
NeurIPS 2017); parameters go down rounded to the nearest, the same for every client of a round, and the server keeps the
exact ones. Rows have steps of their own, which do not add up: this is for the open mode, not for secure sums, whose
stage is ``round`` in ``federation.update_transforms``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedmm.federation.local_training import UpdateBlock
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params
from fedmm.utils.seeding import torch_stream

SMALL = 64  # a parameter of fewer numbers travels as it is; the item table never does, whatever rows of it travel


def coded(value: Tensor, bits: int, chance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Whole numbers [..., R, D], int32, and the steps [..., R], bfloat16, of the rows of ``value`` [..., R, D].

    ``chance`` in [0, 1) rounds up where the rest is above it; None: to the nearest. Zero rows have step 0.

    >>> numbers, steps = coded(torch.tensor([[0.0, 1.0, -3.0]]), bits=3)
    >>> numbers.tolist(), steps.tolist()
    ([[0, 1, -3]], [1.0])
    """
    most = 2 ** (bits - 1) - 1
    exact = value.abs().amax(-1) / most
    steps = exact.to(torch.bfloat16)
    upwards = torch.nextafter(steps, torch.full_like(steps, torch.inf))
    steps = torch.where(steps.to(exact) < exact, upwards, steps)  # the largest number stays within reach
    wide = steps.to(value).unsqueeze(-1)
    scaled = torch.where(wide > 0, value / wide, torch.zeros_like(value))
    numbers = (scaled + (0.5 if chance is None else chance.to(value))).floor()
    return numbers.clamp(-most, most).to(torch.int32), steps


def restored(numbers: Tensor, steps: Tensor, dtype: torch.dtype) -> Tensor:
    """What the receiver makes of it: numbers [..., R, D] times steps [..., R].

    >>> restored(torch.tensor([[0, 1, -3]]), torch.tensor([0.5]), torch.float32).tolist()
    [[0.0, 0.5, -1.5]]
    """
    return numbers.to(dtype) * steps.to(dtype).unsqueeze(-1)


def downloaded(params: Params, names: Iterable[str], bits: int | None) -> Params:
    """The parameters as a round's clients receive them: those of ``names`` rounded, the others as they are."""
    if bits is None:
        return params
    sent = {name: params[name] for name in names if not travels_whole(name, params[name])}
    return params | {name: restored(*coded(value, bits), value.dtype) for name, value in sent.items()}


def uploaded(
    updates: Iterable[UpdateBlock], bits: int | None, num_items: int, seed: int, number: int
) -> Iterator[UpdateBlock]:
    """The updates of round ``number`` as the server receives them. The chances of a row follow from seed, round, client
    and row, whichever rows travel and however clients are blocked."""
    for block in updates:
        yield block if bits is None else replace(block, deltas=_received(block, bits, num_items, seed, number))


def _received(block: UpdateBlock, bits: int, num_items: int, seed: int, number: int) -> Params:
    deltas = dict(block.deltas)
    for name, rows, chance in chances(block, num_items, seed, number):
        deltas[name] = restored(*coded(rows, bits, chance), rows.dtype).view(block.deltas[name].shape)
    return deltas


def chances(block: UpdateBlock, num_items: int, seed: int, number: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The parameters of round ``number`` that do not travel whole: name, the clients' rows [C, R, D], and the chances
    that round them, likewise."""
    streams = [torch_stream(seed, "upload", number, int(client)) for client in block.clients]
    for name, value in sorted(block.deltas.items()):
        if travels_whole(name, value[0]):
            continue
        sparse = block.touched if name == ITEM_TABLE else None
        stacked = value if value.ndim > 2 else value.unsqueeze(1)
        stacked = stacked.reshape(len(value), -1, value.shape[-1])
        rows = stacked.shape[1] if sparse is None else num_items + 1
        row_chances = torch.stack([torch.rand(rows, generator=stream) for stream in streams]).to(value)
        columns = torch.stack([torch.rand(value.shape[-1], generator=stream) for stream in streams]).to(value)
        if sparse is not None:
            row_chances = row_chances.gather(1, sparse.items)
        # Two entries of a row share a chance, shifted by independent ones: each is uniform, any two independent.
        yield name, stacked, (row_chances.unsqueeze(-1) + columns.unsqueeze(1)).remainder(1.0)


def coded_message(values: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """The parameters of a message as they travel, on the meta device: for each the bytes of its packed numbers and its
    steps; small ones as they are."""
    message: dict[str, Tensor] = {}
    for name, value in values.items():
        if travels_whole(name, value):
            message[name] = value
            continue
        rows = value.numel() // max(value.shape[-1], 1)
        length = -(-value.numel() * bits // 8)
        message[f"{name}.numbers"] = torch.empty(length, dtype=torch.uint8, device="meta")
        message[f"{name}.steps"] = torch.empty(rows, dtype=torch.bfloat16, device="meta")
    return message


def travels_whole(name: str, value: Tensor) -> bool:
    """Whether a parameter travels as it is."""
    return value.numel() < SMALL and name != ITEM_TABLE
