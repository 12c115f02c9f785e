"""What travels: the length of the serialised messages, counted by serialising one.

All clients of a round send tensors of the same names, shapes and types, so one message gives the length of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor


@dataclass(frozen=True)
class Ledger:
    """Bytes so far, all clients together; the spectral round included."""

    uplink_bytes: int = 0
    downlink_bytes: int = 0

    def add(self, uplink: int, downlink: int) -> Ledger:
        """The ledger after one more exchange."""
        return Ledger(self.uplink_bytes + uplink, self.downlink_bytes + downlink)


def serialise(message: Mapping[str, Tensor]) -> bytes:
    """A message as it would go over the wire (safetensors)."""
    return bytes(save({name: value.detach().cpu().contiguous() for name, value in message.items()}))


def broadcast_message(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a client receives at the start of a round: all parameters that the round computes with."""
    return dict(params)


def update_message(deltas: Mapping[str, Tensor], num_items: int, *, heat: bool) -> dict[str, Tensor]:
    """What a client sends: its delta, its weight and loss terms, and for heat normalisation which items it holds.

    The indicator is int32, a type that masks of a secure sum can be added to.
    """
    message = dict(deltas)
    message["weight_and_losses"] = torch.zeros(3)
    if heat:
        message["holders"] = torch.zeros(num_items + 1, dtype=torch.int32)
    return message


def counts_message_bytes(num_items: int) -> int:
    """Bytes of one client's transition counts in the spectral round: the upper triangle of a symmetric float32 matrix
    over the items, dense, because a secure sum has no sparse form. Computed, not serialised: it may be gigabytes."""
    entries = num_items * (num_items + 1) // 2
    header = f'{{"counts":{{"dtype":"F32","shape":[{entries}],"data_offsets":[0,{4 * entries}]}}}}'
    padded = -(-len(header) // 8) * 8  # safetensors: eight bytes of length, then JSON padded to a multiple of eight
    return 8 + padded + 4 * entries
