"""Messages on a stream: eight bytes of length, then so many bytes."""

from __future__ import annotations

import contextlib
import socket
import struct

from fedmm.deployment.messages import MOST_BYTES, RefusedError

_LENGTH = struct.Struct("<Q")
_CHUNK = 2**20


def send_frame(stream: socket.socket, data: bytes) -> None:
    """Sends one message. Raises OSError where nobody takes it."""
    stream.sendall(_LENGTH.pack(len(data)))
    stream.sendall(data)


def receive_frame(stream: socket.socket, most: int = MOST_BYTES) -> bytes:
    """The next message. Raises EOFError where the other side has left, OSError where the line broke, and RefusedError,
    before anything is read of it, where it is larger than ``most`` bytes."""
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if length > most:
        raise RefusedError(f"a message of {length:,} bytes is larger than {most:,}.")
    return _exactly(stream, length)


def _exactly(stream: socket.socket, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = stream.recv(min(left, _CHUNK))
        if not part:
            raise EOFError
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def quiet_close(stream: socket.socket) -> None:
    """Closes a stream, and wakes who reads from it."""
    with contextlib.suppress(OSError):  # of which those of TLS are
        stream.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        stream.close()
