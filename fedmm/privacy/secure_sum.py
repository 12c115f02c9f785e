"""Sums of which nobody sees a part: pairwise masks that cancel, with recovery where clients drop out.

Bonawitz et al., *Practical Secure Aggregation* (CCS 2017), on the sparse graph of Bell et al. (CCS 2020), against a
server that follows the protocol and is curious. Every client agrees on a key with each of its neighbours (X25519,
HKDF), adds the stream of numbers that AES makes of it or subtracts it, whichever its place says, and adds one more
stream of its own, so that a late message is covered too. Both secrets are shared among its neighbours
(``shamir.py``). When all is in, neighbours hand out shares of the own streams of who sent, and of the keys of who did
not; never both for one.

In a simulation all keys are drawn from the run's seed, in one process: the arithmetic is the protocol's, and nothing
is secret.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmm.errors import FedmmError
from fedmm.privacy import shamir
from fedmm.utils.seeding import numpy_stream

Words = NDArray[np.uint32]
NEIGHBOURS = 20
KEY_BYTES = 32
Member = TypeVar("Member", int, str)


class SecureSumError(FedmmError):
    """A masked sum that cannot be opened."""

    code = "secure_sum"
    exit_code = 1


@dataclass(frozen=True, eq=False)
class SecureSum:
    """One sum modulo 2^bits over ``clients``, which are named by their indices.

    >>> session = SecureSum((3, 5, 8), seed=0, occasion=1, bits=16)
    >>> masked = {client: session.mask(client, np.array([client], dtype=np.uint32)) for client in (3, 5, 8)}
    >>> session.open(masked).tolist()
    [16]
    """

    clients: tuple[int, ...]
    seed: int
    occasion: int  # tells the sums of a run apart
    bits: int = 32
    num_neighbours: int = NEIGHBOURS
    _keys: dict[int, bytes] = field(default_factory=dict)

    @property
    def modulus_mask(self) -> int:
        """2^bits - 1."""
        return (1 << self.bits) - 1

    @functools.cached_property
    def neighbours(self) -> Mapping[int, tuple[int, ...]]:
        """Whom each client shares masks with: those next to it on a circle in random order, equally many a side."""
        order = numpy_stream(self.seed, "secure sum order", self.occasion).permutation(np.array(self.clients)).tolist()
        return circle(order, self.num_neighbours)

    @property
    def threshold(self) -> int:
        """How many neighbours must be there to open what a client sent or left: more than half of them."""
        return min(map(len, self.neighbours.values()), default=0) // 2 + 1

    def mask(self, client: int, vector: Words) -> Words:
        """What ``client`` sends of its ``vector``: numbers that look like any others."""
        total = vector + key_stream(self._own_secret(client), len(vector))
        for other in self.neighbours[client]:
            total = signed(total, self._shared_stream(self._key(client), client, other, len(vector)), client < other)
        return np.asarray(total & np.uint32(self.modulus_mask), dtype=np.uint32)

    def open(self, masked: Mapping[int, Words]) -> Words:
        """The sum of the vectors of who sent. Raises SecureSumError where too few neighbours of somebody are there."""
        size = len(next(iter(masked.values()))) if masked else 0
        total = np.zeros(size, dtype=np.uint32)
        for sent in masked.values():
            total = total + sent
        return self.unmask(total, tuple(masked))

    def unmask(self, total: Words, present: Collection[int]) -> Words:
        """The sum behind ``total``, what the clients ``present`` sent added up modulo 2^bits. Raises SecureSumError as
        ``open`` does, before anything is undone."""
        there, size = set(present), len(total)
        gone = [client for client in self.clients if client not in there]
        affected = [client for client in gone if there & set(self.neighbours[client])]
        secrets = {client: self._recovered(client, there, "own") for client in sorted(there)}
        keys = {client: self._recovered(client, there, "key") for client in affected}
        opened = total.astype(np.uint32)  # a copy, which is opened in place
        for secret in secrets.values():
            opened = signed(opened, key_stream(secret, size), False)
        for client, key in keys.items():
            for other in self.neighbours[client]:
                if other in there:  # the mask that ``other`` added for the one that is gone
                    opened = signed(opened, self._shared_stream(key, client, other, size), client < other)
        return np.asarray(opened & np.uint32(self.modulus_mask), dtype=np.uint32)

    def shares(self, client: int, what: str) -> dict[int, int]:
        """What ``client`` gave each neighbour before the sum: a share of its "own" stream's secret or of its "key"."""
        secret = self._own_secret(client) if what == "own" else self._key(client)
        held = self.neighbours[client]
        if not held:
            return {}
        stream = numpy_stream(self.seed, "secure sum shares", self.occasion, client, what)
        places = {other: place + 1 for place, other in enumerate(held)}
        found = shamir.split(int.from_bytes(secret, "little"), list(places.values()), self.threshold, stream)
        return {other: found[place] for other, place in places.items()}

    def _recovered(self, client: int, there: set[int], what: str) -> bytes:
        held = self.neighbours[client]
        if not held:
            return self._own_secret(client)
        found = self.shares(client, what)
        given = {place + 1: found[other] for place, other in enumerate(held) if other in there}
        if len(given) < self.threshold:
            raise SecureSumError(
                f"{len(self.clients) - len(there)} of {len(self.clients)} clients dropped out: {len(given)} of "
                f"{len(held)} neighbours of client {client} are there, and {self.threshold} are needed to open it.",
                "Nothing was revealed; repeat the round with those who are there.",
            )
        return shamir.join(given, self.threshold).to_bytes(KEY_BYTES, "little")

    def _key(self, client: int) -> bytes:
        return self._drawn("secure sum key", client)

    def _own_secret(self, client: int) -> bytes:
        return self._drawn("secure sum own", client)

    def _drawn(self, name: str, client: int) -> bytes:
        return bytes(numpy_stream(self.seed, name, self.occasion, client).bytes(KEY_BYTES))

    def _shared_stream(self, key: bytes, client: int, other: int, size: int) -> Words:
        """The numbers that the two have in common, made from the key of one and the public key of the other."""
        low, high = sorted((client, other))
        info = f"fedmm mask {self.occasion} {low} {high}".encode()
        return key_stream(agreed_key(key, self._public(other), info), size)

    def _public(self, client: int) -> bytes:
        if client not in self._keys:
            self._keys[client] = public_key(self._key(client))
        return self._keys[client]


def circle(order: Sequence[Member], num_neighbours: int) -> dict[Member, tuple[Member, ...]]:
    """The neighbours of each of ``order``, which stand on a circle: equally many a side, or all others where those are
    no more.

    >>> circle("abcde", 2)["a"], circle("abc", 20)["a"]
    (('e', 'b'), ('b', 'c'))
    """
    reach = min(num_neighbours // 2, (len(order) - 1) // 2)
    offsets = [step for step in range(-reach, reach + 1) if step]
    if len(order) - 1 <= num_neighbours:
        offsets = list(range(1, len(order)))
    return {own: tuple(order[(place + step) % len(order)] for step in offsets) for place, own in enumerate(order)}


def public_key(private: bytes) -> bytes:
    """The public half [32 bytes] of an X25519 key."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agreed_key(private: bytes, public: bytes, info: bytes) -> bytes:
    """The key [32 bytes] that two have in common for what ``info`` says (X25519, HKDF). Raises ValueError for a public
    key that gives everybody the same."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(hashes.SHA256(), KEY_BYTES, None, info).derive(shared)


def key_stream(key: bytes, size: int) -> Words:
    """As many numbers of 32 bits as asked for, by AES in counter mode."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(_zeros(4 * size)), dtype="<u4")


@functools.lru_cache(maxsize=2)
def _zeros(size: int) -> bytes:
    return bytes(size)


def signed(total: Words, stream: Words, plus: bool) -> Words:
    """``total`` with the stream added or subtracted, in place."""
    return np.add(total, stream, out=total) if plus else np.subtract(total, stream, out=total)
