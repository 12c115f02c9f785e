"""Updates in steps: whole numbers, mostly 0, and a power of two a row, both coded without loss (``rice.py``).

A row's step is the least power of two that is ``federation.upload_step`` times its largest number or more; its numbers
are rounded up or down by chance, so that their mean is the update. At a share of 1 and above they are -1, 0 or 1, the
fewer of them not 0 the larger the step (TernGrad: Wen et al., NeurIPS 2017; sparse ternary compression: Sattler et
al., IEEE TNNLS 2020). For the open mode: steps of one's own do not add up under masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.federation.compression import chances, travels_whole
from fedmm.federation.local_training import UpdateBlock
from fedmm.federation.rice import coded_length
from fedmm.models.sasrec import ITEM_TABLE

LEAST = -40  # the smallest exponent of a step; a row of zeros has it
MOST = 40


def stepped(value: Tensor, share: float, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers [..., R, D], int32, and the exponents [..., R], int32, of the steps of rows ``value`` [..., R, D];
    ``chance`` in [0, 1) rounds up where the rest is above it.

    >>> numbers, exponents = stepped(torch.tensor([[0.2, 0.0, -0.5]]), 1.0, torch.tensor(0.3))
    >>> numbers.tolist(), exponents.tolist()
    ([[0, 0, -1]], [-1])
    """
    largest = value.abs().amax(-1).double() * share
    fraction, exponents = torch.frexp(largest)
    exponents = torch.where(fraction == 0.5, exponents - 1, exponents)  # a power of two is its own step
    exponents = torch.where(largest > 0, exponents.clamp(LEAST, MOST), LEAST)
    numbers = (torch.ldexp(value.double(), -exponents.unsqueeze(-1)) + chance).floor()
    return numbers.to(torch.int32), exponents.to(torch.int32)


def unstepped(numbers: Tensor, exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """What the receiver makes of it.

    >>> unstepped(torch.tensor([[0, 1, -3]]), torch.tensor([-1]), torch.float32).tolist()
    [[0.0, 0.5, -1.5]]
    """
    return torch.ldexp(numbers.to(torch.float64), exponents.unsqueeze(-1)).to(dtype)


def sent_in_steps(
    updates: Iterable[UpdateBlock], share: float | None, num_items: int, seed: int, number: int
) -> Iterator[UpdateBlock]:
    """The updates of round ``number`` as the server receives them, with the bytes of their codes."""
    for block in updates:
        yield block if share is None else _received(block, share, num_items, seed, number)


def _received(block: UpdateBlock, share: float, num_items: int, seed: int, number: int) -> UpdateBlock:
    deltas = dict(block.deltas)
    numbers: list[list[IntArray]] = [[] for _ in block.clients]
    exponents: list[list[IntArray]] = [[] for _ in block.clients]
    for name, rows, chance in chances(block, num_items, seed, number):
        whole, powers = stepped(rows, share, chance)
        deltas[name] = unstepped(whole, powers, rows.dtype).view(block.deltas[name].shape)
        for place in range(len(block.clients)):
            own, steps = whole[place].cpu().numpy(), powers[place].cpu().numpy()
            if name == ITEM_TABLE:
                order = sent_rows(block, place)
                own, steps = own[order], steps[order]
            numbers[place].append(own.ravel())
            exponents[place].append(np.diff(steps, prepend=0))
    coded = [
        (coded_length(np.concatenate(whole)), coded_length(np.concatenate(steps))) if whole else (0, 0)
        for whole, steps in zip(numbers, exponents, strict=True)
    ]
    return replace(block, deltas=deltas, coded=np.array(coded, dtype=np.int64))


def sent_rows(block: UpdateBlock, place: int) -> IntArray | slice:
    """Where the rows of the item table stand, ascending by item, that the client at ``place`` sends."""
    if block.touched is None:
        return slice(None) if block.rows is None else block.rows[place]
    items = block.touched.items[place].cpu().numpy()
    order = np.argsort(items, kind="stable")
    return np.asarray(order[items[order] > 0], dtype=np.int64)


def stepped_message(values: Mapping[str, Tensor], lengths: tuple[int, int]) -> dict[str, Tensor]:
    """The parameters of a message as they travel, on the meta device: the codes of ``lengths`` bytes of all numbers and
    of all exponents; small ones as they are."""
    message = {name: value for name, value in values.items() if travels_whole(name, value)}
    if len(message) < len(values):
        for name, length in zip(("numbers", "steps"), lengths, strict=True):
            message[name] = torch.empty(length, dtype=torch.uint8, device="meta")
    return message


def expected_lengths(values: Mapping[str, Tensor], rows: int | None, share: float) -> tuple[int, int]:
    """About how many bytes the two codes take, before anything is known of the updates: as of normal numbers, of which
    one in steps of ``share`` times its row's largest takes some log2(1 + 1.4 / share) bits.

    >>> expected_lengths({ITEM_TABLE: torch.empty(400, 32)}, None, 1.0)
    (2028, 107)
    """
    numbers = steps = 0
    for name, value in values.items():
        if travels_whole(name, value):
            continue
        width = value.shape[-1]
        own = rows if name == ITEM_TABLE and rows is not None else value.numel() // max(width, 1)
        numbers, steps = numbers + own * width, steps + own
    header = coded_length(np.zeros(0, np.int64))
    return header + round(numbers * math.log2(1 + 1.4 / share) / 8), header + round(steps * 2 / 8)
