"""A silo's part in a masked sum: the server sees sums of all silos, and of no single one.

Bonawitz et al., *Practical Secure Aggregation* (CCS 2017), on the sparse graph of Bell et al. (CCS 2020), among silos;
the arithmetic is that of ``fedmm.privacy.secure_sum``, the keys are real. For each sum a silo draws new keys from the
operating system, shares its secrets among its neighbours and itself, adds its masks, and in the end hands out shares of
the own masks of who sent and of the keys of who did not: never both for one, and never for two lists. Beside its
shares each neighbour is told, under a seal that the server cannot open, how many clients of this silo the sum is over:
a sum in which one silo alone has clients is not opened, nor one of less noise than was agreed. What a silo has promised
stands in files that their owner alone can read, so that one that was killed goes on and cannot be asked to break it.

A server may lie of who sent, to each silo something else. So where one is missing, a silo hands out nothing before it
has heard that as many silos as a secret needs, itself among them, were told the same list: each tells its neighbours,
in words that the server cannot make (the consistency round of Bonawitz et al.). Where all sent no share of a key is
handed out, and nobody is asked. Seals among 20 silos or fewer hold among the same silos alone: none can be told of
fewer. A secret of n silos needs t = n // 2 + 1 shares, and each holder gives one of a silo's mask or of its key, so

- both secrets of a silo would take 2 t > n holders, and two lists as many who heard them: one list L is opened at most;
- of the silos C whose sum the server can see, each masked with t - 1 others or more, which are in C too, or whose keys
  are known, and they are not in L. Who opens L masked with all of L: if one of them is in C, then C is L. If none is,
  then no silo of C masked with one of them, and t silos that open, one of C and t - 1 others would be more than n.

So the sum over L is all that is seen, and what L was checked for holds of it. Among more than 20 silos each has
neighbours of its own, lists are always spoken of, and t is 15 of 21: of the holders of a silo's secrets 15 open, no key
of theirs is known, that leaves 6, and the silo masked with 14. So at least 8 others are in its sum, and parts of the
circle that were told different lists may have sums of their own. Silos that work with the server, and a server that
hands out keys of its own, are another matter: nothing of this holds against them.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from fedmm.deployment.hidden import write_secret
from fedmm.deployment.messages import RefusedError
from fedmm.deployment.promises import Promises
from fedmm.privacy import shamir
from fedmm.privacy.secure_sum import KEY_BYTES, NEIGHBOURS, Words, agreed_key, key_stream, public_key, signed

FILE = "masks.json"
FEWEST = 2  # silos with clients in one sum: one alone hides nothing
SHARE_BYTES = 66  # of a number below 2^521
NUMBER_BYTES = 8  # of how many clients; two numbers go with each share
NONCE_BYTES = 12
WORD_BYTES = 16  # by which a silo tells another which list it heard
NOT_SEALED = "that it did not seal for this silo"  # of shares: who sent them lies, or who says so
Shares = Mapping[str, str]  # hex by silo


class SystemDraws:
    """Bytes of the operating system."""

    def bytes(self, length: int) -> bytes:
        """As many as asked for."""
        return os.urandom(length)


def threshold_of(holders: int) -> int:
    """How many of a secret's ``holders``, a silo and its neighbours, must be there: more than half, and where each silo
    has neighbours of its own, more than two thirds.

    >>> threshold_of(2), threshold_of(3), threshold_of(20), threshold_of(21)
    (2, 2, 11, 15)
    """
    return holders // 2 + 1 if holders <= NEIGHBOURS else 2 * holders // 3 + 1


def needs_no_word(holders: int, sent: int) -> bool:
    """Whether a silo opens a sum without hearing that others were told the same list: all of its ``holders`` sent, and
    they are all silos there are, so that it hands out no share of a key."""
    return sent == holders <= NEIGHBOURS


def mask_info(attempt: str, one: str, other: str) -> bytes:
    """What the mask of two silos is for."""
    low, high = sorted((one, other))
    return f"fedmm silo mask {attempt} {low} {high}".encode()


@dataclass(frozen=True)
class Purpose:
    """What a masked sum is for, as the silo itself sees it."""

    name: str  # which sum of which federation: it is opened for one request and one list of silos, ever
    request: str  # digest of the request, and of the settings it was made under
    clients: int  # of this silo, as other silos are told
    least: int = 0  # clients that those who sent must have, where clients add the noise
    most: int = 0  # clients to train that they may have, where the noise is planned for so many


@dataclass(eq=False)
class SiloMasks:
    """The masked sum that silo ``name`` takes part in, one at a time: who begins another forgets the one before."""

    name: str
    folder: Path | None = None
    _kept: dict[str, Any] = field(default_factory=dict)
    _pairs: dict[tuple[str, bytes], bytes] = field(default_factory=dict)  # keys with others, of the sum that it is at

    def __post_init__(self) -> None:
        self.promises = Promises(self.folder)
        path = None if self.folder is None else self.folder / FILE
        if path is not None and path.exists():
            try:
                found = json.loads(path.read_bytes())
            except (OSError, ValueError):
                found = {}
            self._kept = found if _is_whole(found) else {}

    def keys(self, attempt: str) -> dict[str, str]:
        """Public keys of the sum ``attempt``, which begins: for masks, and for shares."""
        if self._kept.get("attempt") != attempt:
            names = ("mask_key", "share_key", "own")
            self._pairs.clear()
            self._keep({"attempt": attempt, **{name: secrets.token_bytes(KEY_BYTES).hex() for name in names}})
        return {
            "mask": public_key(self._secret("mask_key")).hex(),
            "share": public_key(self._secret("share_key")).hex(),
        }

    def shares(self, attempt: str, roster: Mapping[str, Any], clients: int = 1, trainable: int = 0) -> dict[str, str]:
        """For each neighbour of the ``roster`` (public keys by name) its shares of this silo's secrets, which it alone
        can read, of how many ``clients`` the sum is, and how many of this silo's are ``trainable``. Raises RefusedError
        where the roster is none, or another than before."""
        self._require(attempt)
        public = {name: _public_keys(name, own) for name, own in roster.items()}
        if not public or len(public) > NEIGHBOURS or self.name in public:
            raise RefusedError(f"a masked sum with {len(public)} neighbours.", "One silo alone hides nothing.")
        listed = {name: [own.hex() for own in keys] for name, keys in sorted(public.items())}
        if "roster" not in self._kept:
            holders = sorted([*public, self.name])
            drawn = {what: self._split(what, holders) for what in ("own", "mask_key")}
            told = b"".join(number.to_bytes(NUMBER_BYTES, "little") for number in (clients, trainable))
            given = {name: drawn["own"][name] + drawn["mask_key"][name] + told for name in holders}
            about = f"{attempt} {self._among(holders)}"
            sealed = {name: self._seal(about, name, public[name][1], given[name]) for name in public}
            share = given[self.name].hex()
            self._keep({**self._kept, "roster": listed, "clients": clients, "given": sealed, "share": share})
        if (self._kept["roster"], self._kept["clients"]) != (listed, clients):
            raise RefusedError("a second list of neighbours for one masked sum.")
        return dict(self._kept["given"])

    def masked(self, attempt: str, purpose: Purpose, shares: Shares, words: Words) -> Words:
        """``words`` (for the ``purpose``) with the masks of those neighbours whose ``shares`` came. Raises RefusedError
        where others came before, or too few, or the masks have hidden something else, or there is nothing to hide."""
        self._require(attempt, "roster")
        if not set(shares) <= set(self._kept["roster"]):
            raise RefusedError("shares of silos that are no neighbours.")
        if len(shares) + 1 < threshold_of(len(self._kept["roster"]) + 1):
            raise RefusedError(f"a masked sum with {len(shares)} of {len(self._kept['roster'])} neighbours.")
        if purpose.clients != self._kept["clients"]:
            raise RefusedError(f"a sum over {purpose.clients} clients, and {self._kept['clients']} were spoken of.")
        if purpose.clients == 0:
            raise RefusedError("a masked sum without clients of this silo.", "Its masks would hide one other's alone.")
        about = f"{attempt} {self._among(sorted([*self._kept['roster'], self.name]))}"
        opened = {name: self._unseal(about, name, sealed).hex() for name, sealed in sorted(shares.items())}
        hides = [*astuple(purpose), hashlib.blake2b(words.tobytes(), digest_size=16).hexdigest()]
        if "hides" not in self._kept:
            self._keep({**self._kept, "hides": hides, "held": opened})
        if (self._kept["hides"], self._kept["held"]) != (hides, opened):
            raise RefusedError("a second request under one mask.", "What two differ by would be no secret.")
        total = words + key_stream(self._secret("own"), len(words))
        for other in opened:
            public = bytes.fromhex(self._kept["roster"][other][0])
            key = _agreed(self._secret("mask_key"), public, mask_info(attempt, self.name, other))
            total = signed(total, key_stream(key, len(words)), self.name < other)
        return np.asarray(total, dtype=np.uint32)

    def agreed(self, attempt: str, sent: list[str]) -> dict[str, str]:
        """For each neighbour that ``sent``, of all silos, a word by which it knows that this silo heard this list, and
        will open no other. Raises RefusedError as ``opening`` does."""
        near, value = self._heard(attempt, sent)
        self.promises.require(self._kept["hides"][0], value)
        self._keep({**self._kept, "sent": sorted(sent)})
        heard = digest_of_request(sorted(sent))
        return {name: self._word(attempt, self.name, name, heard) for name in near if name != self.name}

    def opening(self, attempt: str, sent: list[str], agreed: Shares | None = None) -> dict[str, str]:
        """Shares, by silo, of the own masks of those who ``sent``, of all silos, and of the keys of those neighbours
        who did not. ``agreed`` are the words of neighbours that heard the same list. Raises RefusedError where too few
        did or sent, or one alone of them has clients, or another list was answered for this sum, in this attempt or an
        earlier one."""
        near, value = self._heard(attempt, sent)
        if not needs_no_word(len(self._kept["roster"]) + 1, len(near)):
            heard, others = digest_of_request(sorted(sent)), set(near) - {self.name}
            words = {name: own for name, own in (agreed or {}).items() if name in others}
            same = [name for name, own in words.items() if own == self._word(attempt, name, self.name, heard)]
            needed = threshold_of(len(self._kept["roster"]) + 1)
            if len(same) + 1 < needed:
                raise RefusedError(
                    f"{len(same) + 1} silos heard this list of who sent, and {needed} have to.",
                    "Two lists would open the sum of one.",
                )
        self.promises.hold(self._kept["hides"][0], value)
        self._keep({**self._kept, "sent": sorted(sent)})
        size = 2 * SHARE_BYTES  # hex digits of one share
        held = self._held
        return {name: own[:size] if name in sent else own[size : 2 * size] for name, own in held.items()}

    def _heard(self, attempt: str, sent: list[str]) -> tuple[list[str], str]:
        """Those who ``sent`` whose shares this silo holds, and what it promises of the sum. Raises RefusedError for a
        list that it opens nothing for."""
        self._require(attempt, "hides")
        held = self._held
        near = [name for name in sent if name in held]
        strangers = len(near) < len(sent) and len(self._kept["roster"]) < NEIGHBOURS
        if strangers or len(set(sent)) < len(sent) or self.name not in sent:
            raise RefusedError("a list of silos that sent which cannot be.")
        needed = threshold_of(len(self._kept["roster"]) + 1)
        if len(near) < needed:
            raise RefusedError(f"{len(near)} silos sent, and {needed} are needed to open a masked sum.")
        purpose = Purpose(*self._kept["hides"][:-1])
        _require_hidden(purpose, [_numbers(held[name]) for name in near], whole=len(near) == len(sent))
        if self._kept.get("sent", sorted(sent)) != sorted(sent):
            raise RefusedError("a second list of silos that sent.", "Both would open the sum of one.")
        return near, digest_of_request(purpose.request, sorted(sent))

    def forget(self) -> None:
        """Leaves no key behind."""
        self._kept = {}
        self._pairs.clear()
        if self.folder is not None:
            (self.folder / FILE).unlink(missing_ok=True)

    def _require(self, attempt: str, reached: str = "attempt") -> None:
        if self._kept.get("attempt") != attempt or reached not in self._kept:
            raise RefusedError("a masked sum that this silo has not begun, or has left.", "Begin another.")

    @property
    def _held(self) -> dict[str, str]:
        """Shares by silo, and what goes with them."""
        return {**self._kept["held"], self.name: self._kept["share"]}

    def _among(self, holders: list[str]) -> str:
        """The silos that shares are sealed among, as far as they are the same for all of them."""
        return digest_of_request(holders) if len(holders) <= NEIGHBOURS else "of many"

    def _word(self, attempt: str, own: str, other: str, heard: str) -> str:
        """What ``own`` tells ``other``, one of whom this silo is, of the list that it ``heard``, by digest."""
        with_whom = other if own == self.name else own
        public = bytes.fromhex(self._kept["roster"][with_whom][1])
        key = self._key_for(with_whom, public, f"fedmm silo list {attempt} {own} {other}")
        return hashlib.blake2b(heard.encode(), digest_size=WORD_BYTES, key=key).hexdigest()

    def _secret(self, name: str) -> bytes:
        return bytes.fromhex(self._kept[name])

    def _split(self, what: str, holders: list[str]) -> dict[str, bytes]:
        """This silo's secret in shares, one for each of the ``holders``."""
        places = {name: place + 1 for place, name in enumerate(holders)}
        number = int.from_bytes(self._secret(what), "little")
        found = shamir.split(number, list(places.values()), threshold_of(len(holders)), SystemDraws())
        return {name: found[place].to_bytes(SHARE_BYTES, "little") for name, place in places.items()}

    def _key_for(self, other: str, public: bytes, info: str) -> bytes:
        """The key that this silo and the ``other`` with this ``public`` key have in common for what ``info`` says."""
        if (other, public) not in self._pairs:
            self._pairs[other, public] = _agreed(self._secret("share_key"), public, b"fedmm silo pair")
        key = self._pairs[other, public]
        return hashlib.blake2b(info.encode(), digest_size=KEY_BYTES, key=key).digest()

    def _seal(self, about: str, other: str, public: bytes, content: bytes) -> str:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        info = f"fedmm silo shares {about} {self.name} {other}"
        nonce = os.urandom(NONCE_BYTES)
        return (nonce + AESGCM(self._key_for(other, public, info)).encrypt(nonce, content, info.encode())).hex()

    def _unseal(self, about: str, other: str, sealed: str) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        info = f"fedmm silo shares {about} {other} {self.name}"
        key = self._key_for(other, bytes.fromhex(self._kept["roster"][other][1]), info)
        try:
            data = bytes.fromhex(sealed)
            found = AESGCM(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], info.encode())
        except (InvalidTag, ValueError, TypeError):
            found = b""
        if len(found) != 2 * (SHARE_BYTES + NUMBER_BYTES):
            raise RefusedError(f"shares of {other[:64]!r} {NOT_SEALED}.")
        return found

    def _keep(self, state: dict[str, Any]) -> None:
        """On disk before anybody hears of it."""
        self._kept = state
        if self.folder is not None:
            write_secret(self.folder / FILE, json.dumps(state).encode())


def _is_whole(kept: Any) -> bool:
    """Whether a file holds all that it should where a masked sum has come to; else the silo begins another."""
    hex_names = ("mask_key", "share_key", "own")
    if not isinstance(kept, dict) or not all(isinstance(kept.get(name), str) for name in ("attempt", *hex_names)):
        return False
    later = {"roster": dict, "clients": int, "given": dict, "share": str}, {"hides": list, "held": dict}
    for parts in later:
        there = [name in kept for name in parts]
        if any(there) and not all(isinstance(kept.get(name), kind) for name, kind in parts.items()):
            return False
    try:
        secrets_fit = all(len(bytes.fromhex(kept[name])) == KEY_BYTES for name in hex_names)
        shares = [kept["share"], *kept["held"].values()] if "held" in kept else []
        shares_fit = all(len(bytes.fromhex(own)) == 2 * (SHARE_BYTES + NUMBER_BYTES) for own in shares)
        purposes = "hides" not in kept or ("roster" in kept and len(kept["hides"]) == len(fields(Purpose)) + 1)
    except (ValueError, TypeError, KeyError):
        return False
    return secrets_fit and shares_fit and purposes


def _require_hidden(purpose: Purpose, told: list[tuple[int, int]], *, whole: bool) -> None:
    """Raises RefusedError for a sum of neighbours, by what they ``told``, in which one of them stands alone, or, where
    they are all who sent, with less noise than was agreed."""
    clients, trainable = sum(own for own, _ in told), sum(own for _, own in told)
    if sum(own > 0 for own, _ in told) < FEWEST:
        raise RefusedError("a masked sum in which one silo alone has clients.", "It would be that silo's own.")
    if whole and clients < purpose.least:
        raise RefusedError(f"a sum with the noise of {clients} clients, where {purpose.least} were agreed on.")
    if whole and purpose.most and trainable > purpose.most:
        raise RefusedError(f"a sum of silos with {trainable} clients to train, where {purpose.most} were agreed on.")


def _numbers(share: str) -> tuple[int, int]:
    """How many clients the silo has whose share this is, and how many to train."""
    told = bytes.fromhex(share)[-2 * NUMBER_BYTES :]
    return int.from_bytes(told[:NUMBER_BYTES], "little"), int.from_bytes(told[NUMBER_BYTES:], "little")


def digest_of_request(*parts: object) -> str:
    """What makes two requests under a mask the same."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _agreed(private: bytes, public: bytes, info: bytes) -> bytes:
    try:
        return agreed_key(private, public, info)
    except ValueError:
        raise RefusedError("a public key that would agree with everybody on the same.") from None


def _public_keys(name: str, given: Any) -> tuple[bytes, bytes]:
    try:
        one, other = (bytes.fromhex(own) for own in given)
    except (ValueError, TypeError):
        one = other = b""
    if len(one) != KEY_BYTES or len(other) != KEY_BYTES:
        raise RefusedError(f"public keys of {str(name)[:64]!r} that are none.")
    return one, other
