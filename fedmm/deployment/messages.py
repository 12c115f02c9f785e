"""Messages between the server and silos: a JSON header, tensors as safetensors, and a seal.

    4 bytes   "FMM" and the protocol's version
    4 bytes   length of the header, little-endian
    header    JSON: kind, session, sequence, round, settings, node, body
    tensors   safetensors; absent where there are none
    seal      64 bytes (``seals.py``)

What arrives is not trusted: the version, the kind, names, types, shapes and lengths are checked before a tensor is
made of it, and numbers that are not finite are refused. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedmm.errors import FedmmError
from fedmm.utils.text import counted

PROTOCOL = 2
MAGIC = b"FMM"
MOST_HEADER = 1_000_000  # bytes
MOST_BYTES = 2**31  # of one message
MOST_DEPTH = 16  # lists and tables within each other, of a header
_FIXED = struct.Struct("<3sBI")
_TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I32": torch.int32, "I64": torch.int64, "F32": torch.float32,
    "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _TYPES.items()}

Shape = tuple[int | None, ...]  # None: any length
Expected = Mapping[str, tuple[torch.dtype, Shape]]


class RefusedError(FedmmError):
    """A message that is not what it should be; nothing was done with it."""

    code = "refused"
    exit_code = 1


@dataclass(frozen=True, eq=False)
class Message:
    """What one side tells the other. ``body`` is small and JSON, ``tensors`` are large."""

    kind: str
    body: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    session: str = ""  # the server's, new at each start
    sequence: int = 0  # of the request, which its answer repeats
    round: int = 0
    settings: str = ""  # digest of what both sides agreed on
    node: str = ""  # who answers


@dataclass(frozen=True, eq=False)
class Header:
    """A message whose tensors are still bytes."""

    message: Message
    content: bytes  # safetensors, or nothing

    def with_tensors(self, expected: Expected) -> Message:
        """The message with its tensors. Raises RefusedError where they are not those ``expected``, or not finite."""
        return Message(**{**vars(self.message), "tensors": _tensors(self.content, expected)})


def encode(message: Message) -> bytes:
    """The message as bytes, not yet sealed."""
    names = ("kind", "session", "sequence", "round", "settings", "node", "body")
    header = json.dumps({name: getattr(message, name) for name in names}, separators=(",", ":")).encode()
    kept = {name: value.detach().cpu().contiguous() for name, value in message.tensors.items()}
    for name, value in kept.items():
        if value.dtype not in _NAMES:
            raise RefusedError(f"{name!r} is of {value.dtype}, which no message carries.", "Set runtime.dtype float32.")
    return _FIXED.pack(MAGIC, PROTOCOL, len(header)) + header + (bytes(save(kept)) if kept else b"")


def read_header(data: bytes) -> Header:
    """The message of ``data`` without its tensors. Raises RefusedError."""
    if len(data) > MOST_BYTES:
        raise RefusedError(f"a message of {len(data):,} bytes is larger than {MOST_BYTES:,}.")
    if len(data) < _FIXED.size or data[:3] != MAGIC:
        raise RefusedError(f"{len(data):,} bytes that are no message of fedmm.", "Use fedmm on both sides.")
    _, version, length = _FIXED.unpack_from(data)
    if version != PROTOCOL:
        raise RefusedError(
            f"a message of protocol {version}, and this fedmm speaks {PROTOCOL}.", "Use one version on both sides."
        )
    if length > min(MOST_HEADER, len(data) - _FIXED.size):
        raise RefusedError(f"a header of {length:,} bytes in a message of {len(data):,}.")
    end = _FIXED.size + length
    return Header(_read_json(data[_FIXED.size : end]), data[end:])


def require(header: Header, kind: str, settings: str | None = None) -> None:
    """Raises RefusedError where the message is of another kind, or made under other settings."""
    found = header.message
    if found.kind != kind:
        raise RefusedError(f"a message of kind {found.kind[:40]!r} where {kind!r} was expected.")
    if settings is not None and found.settings != settings:
        raise RefusedError(
            f"a message under settings {found.settings[:16]!r}, and this federation's are {settings!r}.",
            "Join again, in a folder of its own.",
        )


def whole(body: Mapping[str, Any], name: str, most: int = 2**53) -> int:
    """The whole number ``name``, 0 to ``most``, of a body. Raises RefusedError."""
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise RefusedError(f"{name} is {str(value)[:40]!r}, not a whole number from 0 to {most}.")
    return value


def text(body: Mapping[str, Any], name: str, most: int = 200) -> str:
    """The text ``name`` of a body, one line. Raises RefusedError."""
    value = body.get(name)
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise RefusedError(f"{name} is not a text of at most {most} characters in one line.")
    return value


def _read_json(data: bytes) -> Message:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise RefusedError("a header that is not JSON.") from None
    if not isinstance(found, dict) or not isinstance(found.get("body"), dict):
        raise RefusedError("a header that is not an object with a body.")
    if not _is_plain(found, MOST_DEPTH):
        raise RefusedError("a header with half of a character, or lists too deep within each other.")
    kind, session, settings, node = (text(found, name) for name in ("kind", "session", "settings", "node"))
    return Message(kind, found["body"], {}, session, whole(found, "sequence"), whole(found, "round"), settings, node)


def _is_plain(value: Any, depth: int) -> bool:
    """Whether all texts can be written (JSON may name half of a character), and nothing is nested deeper than so."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= own <= "\udfff" for own in value)
    if isinstance(value, dict):
        return depth > 0 and all(_is_plain(name, 0) and _is_plain(own, depth - 1) for name, own in value.items())
    return not isinstance(value, list) or (depth > 0 and all(_is_plain(own, depth - 1) for own in value))


def _tensors(content: bytes, expected: Expected) -> dict[str, Tensor]:
    if not expected:
        if content:
            raise RefusedError(f"{len(content):,} bytes of tensors where none were expected.")
        return {}
    described = _described(content)
    wrong = sorted(described.keys() ^ expected.keys())
    if wrong:
        what = "lacks" if wrong[0] in expected else "has"
        raise RefusedError(f"it {what} {wrong[0][:80]!r} ({counted(len(described), 'tensor')}).")
    for name, (dtype, shape) in expected.items():
        kind, found = described[name]
        fits = len(found) == len(shape) and all(own in (None, there) for own, there in zip(shape, found, strict=True))
        if kind != _NAMES[dtype] or not fits:
            raise RefusedError(
                f"{name!r} is {str(kind)[:10]} {list(found)[:6]} instead of {_NAMES[dtype]} {list(shape)}."
            )
    try:
        read = load(content)
    except (SafetensorError, ValueError, OverflowError) as error:
        raise RefusedError(f"tensors that cannot be read: {str(error)[:100]}.") from None
    # In the order expected, in which norms are summed; in memory of their own, since products of what begins at odd
    # places of a buffer differ in their last bits.
    tensors = {name: read[name].clone() for name in expected}
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise RefusedError(f"{name!r} has numbers that are NaN or infinite.")
    return tensors


def _described(content: bytes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Types and shapes as the tensors' own header gives them, checked against the bytes that are there."""
    length = int.from_bytes(content[:8], "little") if len(content) >= 8 else MOST_HEADER
    if length > min(MOST_HEADER, len(content) - 8):
        raise RefusedError(f"{len(content):,} bytes that are no tensors.")
    try:
        entries = json.loads(content[8 : 8 + length])
        entries.pop("__metadata__", None)
        found = {str(name): (own["dtype"], tuple(own["shape"])) for name, own in entries.items()}
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise RefusedError("tensors whose header cannot be read.") from None
    if any(not isinstance(size, int) or size < 0 for _, shape in found.values() for size in shape):
        raise RefusedError("tensors with lengths that are no numbers.")
    return found
