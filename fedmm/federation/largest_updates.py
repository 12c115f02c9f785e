"""Updates of which the largest numbers travel alone, and what does not travel waits at the client (error feedback).

A client adds what it held back to its update and sends, of each parameter, the share ``federation.upload_share`` of the
numbers that is largest in absolute value; the rest it keeps until its next visit. What was sent and what is held back
add up to all updates: nothing is lost, it comes late (Stich, Cordonnier & Jaggi, *Sparsified SGD with Memory*, NeurIPS
2018; Karimireddy et al., *Error Feedback Fixes SignSGD*, ICML 2019). Which numbers travel depends on what they are, so
that this is for the open mode: neither masks nor noise can cover places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.federation import scaffold
from fedmm.federation.client_states import ClientStates, Kept
from fedmm.federation.compression import travels_whole
from fedmm.federation.local_training import UpdateBlock
from fedmm.federation.rice import coded_length
from fedmm.utils.params import Params

PREFIX = "residual/"  # of what a client holds back, among its states


def largest(values: Tensor, number: int) -> Tensor:
    """Where the ``number`` numbers of a row of ``values`` [C, n] stand that are largest in absolute value, [C, n] bool:
    the first of equal ones, and no zeros.

    >>> largest(torch.tensor([[0.5, -2.0, 0.5, 0.0]]), 2).tolist()
    [[True, True, False, False]]
    """
    sizes = values.abs()
    if not bool(torch.isfinite(sizes).all()):
        return torch.ones_like(values, dtype=torch.bool)  # training diverged, which the server is to see
    least = sizes.topk(number, dim=1).values[:, -1:]
    above, alike = sizes > least, (sizes == least) & (least > 0)
    room = number - above.sum(1, keepdim=True)
    return above | (alike & (alike.cumsum(1) <= room))


def sent_largest(
    updates: Iterable[UpdateBlock],
    share: float | None,
    states: ClientStates,
    num_items: int,
    keep: Callable[[Kept], None],
) -> Iterator[UpdateBlock]:
    """The updates as the server receives them, with how many numbers each is and the bytes of their places; what
    clients of ``states`` then hold back goes to ``keep``. A share of 1, or None, changes nothing."""
    for block in updates:
        if is_off(share):
            yield block
            continue
        sent, held = _split(block, float(share or 1.0), states, num_items)
        keep((block.clients, held))
        yield sent


def is_off(share: float | None) -> bool:
    """Whether all numbers travel."""
    return share is None or share >= 1


def kept_beside(params: Params, config: FederationConfig) -> Params:
    """What a client may keep beside what is personal, in the shapes of ``params``: control variates, or what it holds
    back; nothing where neither is used."""
    if config.local_algorithm == "scaffold":
        return scaffold.named(params)
    if is_off(config.upload_share):
        return {}
    return {f"{PREFIX}{name}": value for name, value in params.items() if not travels_whole(name, value)}


def _split(block: UpdateBlock, share: float, states: ClientStates, num_items: int) -> tuple[UpdateBlock, Params]:
    """What the clients of a block send, and what they hold back."""
    deltas = block.dense_deltas(num_items)
    large = {name: value for name, value in sorted(deltas.items()) if not travels_whole(name, value[0])}
    zeros = {f"{PREFIX}{name}": torch.zeros_like(value[0]) for name, value in large.items()}
    before, held, sent = states.of(block.clients, zeros), dict[str, Tensor](), dict(deltas)
    numbers, places = np.zeros(len(block.clients), np.int64), list[Tensor]()
    for name, value in large.items():
        whole = (value + before[f"{PREFIX}{name}"].to(value)).reshape(len(value), -1)
        there = largest(whole, number_of(whole.shape[1], share))
        sent[name] = torch.where(there, whole, torch.zeros_like(whole)).view(value.shape)
        held[f"{PREFIX}{name}"] = torch.where(there, torch.zeros_like(whole), whole).view(value.shape)
        places.append(there)
    lengths = np.zeros(len(block.clients), np.int64)
    for place in range(len(block.clients) if places else 0):
        own = np.flatnonzero(torch.cat([there[place] for there in places]).cpu().numpy())
        numbers[place], lengths[place] = len(own), coded_length(np.diff(own, prepend=-1) - 1)
    coded = np.stack([numbers, lengths], axis=1)
    return replace(block, deltas=sent, touched=None, rows=None, coded=coded), held


def number_of(size: int, share: float) -> int:
    """How many of a parameter's ``size`` numbers travel.

    >>> number_of(1000, 0.01), number_of(64, 0.001)
    (10, 1)
    """
    return max(1, math.ceil(share * size - 1e-9))


def largest_message(values: Mapping[str, Tensor], lengths: tuple[int, int], dtype: torch.dtype) -> dict[str, Tensor]:
    """The parameters of a message as they travel, on the meta device: so many numbers, the code of their places, of so
    many bytes, and small parameters as they are."""
    message = {name: value for name, value in values.items() if travels_whole(name, value)}
    if len(message) < len(values):
        message["numbers"] = torch.empty(lengths[0], dtype=dtype, device="meta")
        message["places"] = torch.empty(lengths[1], dtype=torch.uint8, device="meta")
    return message


def expected_largest(values: Mapping[str, Tensor], share: float) -> tuple[int, int]:
    """How many numbers travel, and about how many bytes their places take, before anything is known of the updates: a
    gap of normal length takes some log2(1 / share) + 2.5 bits.

    >>> expected_largest({"table": torch.empty(400, 32)}, 0.01)
    (128, 153)
    """
    sizes = [value.numel() for name, value in values.items() if not travels_whole(name, value)]
    numbers = sum(number_of(size, share) for size in sizes)
    return numbers, coded_length(np.zeros(0, np.int64)) + round(numbers * (math.log2(1 / share) + 2.5) / 8)
