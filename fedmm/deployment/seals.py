"""Seals: what makes sure that a message arrives as it was sent, and from whom.

Within one machine a checksum does. Between machines every message is signed with its node's key (Ed25519: Bernstein
et al., *High-speed high-security signatures*, 2012). The session and the sequence number that it answers are part of
what is signed, so a message that was recorded says nothing in another session, and nothing twice in its own.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fedmm.deployment.messages import RefusedError

SEAL_BYTES = 64
_CONTEXT = b"fedmm message 1\x00"


class Seal(Protocol):
    """How messages are closed and opened."""

    def close(self, data: bytes) -> bytes:
        """``data`` and its seal."""
        ...

    def open(self, data: bytes, node: str) -> bytes:
        """What ``node`` sealed. Raises RefusedError where it did not, or it was changed on the way."""
        ...


class Checksums:
    """Seals without keys: they find what was changed by accident, not by intent.

    >>> Checksums().open(Checksums().close(b"a message"), "anyone")
    b'a message'
    """

    def close(self, data: bytes) -> bytes:
        """``data`` and its checksum."""
        return data + hashlib.blake2b(_CONTEXT + data, digest_size=SEAL_BYTES).digest()

    def open(self, data: bytes, node: str) -> bytes:
        """What was sealed. Raises RefusedError where it was changed on the way."""
        del node
        own, seal = data[:-SEAL_BYTES], data[-SEAL_BYTES:]
        if not hmac.compare_digest(hashlib.blake2b(_CONTEXT + own, digest_size=SEAL_BYTES).digest(), seal):
            raise RefusedError(f"a message of {len(data):,} bytes that was damaged on the way.")
        return own


@dataclass(frozen=True)
class Signatures:
    """Seals by keys: one's own private key [32 bytes], and the public keys of those who may speak, by node."""

    private: bytes
    public: Mapping[str, bytes] = field(default_factory=dict)

    def close(self, data: bytes) -> bytes:
        """``data`` and its signature."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return data + Ed25519PrivateKey.from_private_bytes(self.private).sign(_CONTEXT + data)

    def open(self, data: bytes, node: str) -> bytes:
        """What ``node`` signed. Raises RefusedError where the node is unknown or the signature is not its own."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        key = self.public.get(node)
        if key is None:
            raise RefusedError(f"a message of {node[:80]!r}, whose key is not known.", "Add its .pub file to nodes/.")
        own, seal = data[:-SEAL_BYTES], data[-SEAL_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(seal, _CONTEXT + own)
        except InvalidSignature:
            raise RefusedError(f"a message that {node[:80]!r} did not sign, or that was changed.") from None
        return own
