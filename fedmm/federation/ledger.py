"""What travels: the lengths of the serialised messages (safetensors).

A length follows from the names, shapes and types of the tensors, so that nothing is serialised to know it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor

from fedmm.federation.compression import coded_message
from fedmm.models.sasrec import ITEM_TABLE

# The types' names in safetensors, and the order in which it lays them out.
_NAMES = {
    torch.uint8: "U8", torch.uint16: "U16", torch.float16: "F16", torch.int32: "I32", torch.uint32: "U32",
    torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64", torch.int64: "I64",
}  # fmt: skip
_RANKS = {dtype: rank for rank, dtype in enumerate(_NAMES)}


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


def message_bytes(message: Mapping[str, Tensor]) -> int:
    """The length of ``serialise(message)``; tensors on the meta device do.

    Eight bytes of length, a JSON header padded to a multiple of eight, then the tensors, larger types first.
    """
    header, end = [], 0
    for name in sorted(message, key=lambda name: (-_RANKS[message[name].dtype], name)):
        value = message[name]
        begin, end = end, end + value.numel() * value.element_size()
        fields = f'"dtype":"{_NAMES[value.dtype]}","shape":[{",".join(map(str, value.shape))}]'
        header.append(f'{json.dumps(name, ensure_ascii=False)}:{{{fields},"data_offsets":[{begin},{end}]}}')
    length = len(f"{{{','.join(header)}}}".encode())
    return 8 + -(-length // 8) * 8 + end


def broadcast_message(
    params: Mapping[str, Tensor], rows: int | None = None, bits: int | None = None
) -> dict[str, Tensor]:
    """What a client receives at the start of a round: all parameters that the round computes with, of the item table
    the ``rows`` it asked for (None: all); rounded to ``bits`` bits (None: as they are)."""
    return _coded(_with_rows(params, rows), bits)


def request_message(rows: int | None) -> dict[str, Tensor]:
    """What a client sends for the rows of the item table it wants; nothing where all travel."""
    return {} if rows is None else {"item_rows": torch.empty(rows, dtype=torch.int32, device="meta")}


def update_message(
    deltas: Mapping[str, Tensor],
    num_items: int,
    *,
    holders: bool,
    rows: int | None = None,
    bits: int | None = None,
) -> dict[str, Tensor]:
    """What a client sends: its delta, its weight and loss terms, and for a rule that goes by holders which items it
    holds. Where only ``rows`` rows of the item table travel, the server knows from the request which they are.

    The indicator is int32, a type that masks of a secure sum can be added to; beside deltas of ``bits`` bits, which are
    for the open mode, a bit an item.
    """
    message = _coded(_with_rows(deltas, rows), bits)
    message["weight_and_losses"] = torch.zeros(3)
    if holders:
        length = num_items + 1 if rows is None else rows
        packed = torch.zeros(-(-length // 8), dtype=torch.uint8)
        message["holders"] = torch.zeros(length, dtype=torch.int32) if bits is None else packed
    return message


def _coded(message: dict[str, Tensor], bits: int | None) -> dict[str, Tensor]:
    return message if bits is None else coded_message(message, bits)


def _with_rows(params: Mapping[str, Tensor], rows: int | None) -> dict[str, Tensor]:
    """``params`` with ``rows`` rows of the item table in its place, on the meta device: only their length matters."""
    if rows is None or ITEM_TABLE not in params:
        return dict(params)
    table = params[ITEM_TABLE]
    return {**params, ITEM_TABLE: torch.empty(rows, table.shape[-1], dtype=table.dtype, device="meta")}


def counts_message_bytes(num_items: int) -> int:
    """Bytes of one client's transition counts in the spectral round: the upper triangle of a symmetric float32 matrix
    over the items, dense, because a secure sum has no sparse form."""
    entries = num_items * (num_items + 1) // 2
    return message_bytes({"counts": torch.empty(entries, device="meta")})


def degrees_message_bytes(num_items: int) -> int:
    """Bytes of the items' degrees: what each client sends before its sketch, and of their sum, which it receives."""
    return message_bytes({"degrees": torch.empty(num_items, device="meta")})


def sketch_message_bytes(num_items: int, size: int) -> int:
    """Bytes of one client's sketch of its transition counts, [V, m] dense: a secure sum has no sparse form."""
    return message_bytes({"sketch": torch.empty(num_items, size, device="meta")})
