"""The server's part in a masked sum: keys and shares go by it, and it opens the sum of those who sent.

Four exchanges: public keys; neighbours' keys, and shares that only they can read; the masked numbers; the shares that
open their sum. A silo that leaves before its numbers came is left out; where more than half of a silo's neighbours are
gone, nothing can be opened, and the sum is begun again with who is there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmm.deployment.masks import SHARE_BYTES, mask_info, threshold_of
from fedmm.deployment.members import Members
from fedmm.deployment.messages import Expected, Header, Message, RefusedError, require
from fedmm.errors import ConfigError
from fedmm.privacy import shamir
from fedmm.privacy.secure_sum import KEY_BYTES, NEIGHBOURS, Words, agreed_key, circle, key_stream, signed
from fedmm.utils.text import counted

FEWEST = 2  # silos: one alone hides nothing
Check = Callable[[str, Message], None]  # raises RefusedError for an answer's body
Enough = Callable[[set[str]], bool]
Plausible = Callable[["Opened"], None]  # raises RefusedError for a sum that cannot be


class UnopenedError(RefusedError):
    """A masked sum that cannot be opened; nothing was revealed."""


def require_silos(number: int) -> None:
    """Raises ConfigError for fewer silos than can hide anything."""
    if number < FEWEST:
        raise ConfigError(f"A masked sum of {number} silo hides nothing.", f"Give --silos {FEWEST} or more.")


@dataclass(frozen=True, eq=False)
class Opened:
    """The sum modulo 2^32 of what the silos ``sent``."""

    words: Words
    sent: frozenset[str]


@dataclass(frozen=True, eq=False)
class MaskedSums:
    """How the server asks its silos for sums that it cannot see the parts of."""

    members: Members

    def total(
        self,
        requests: Mapping[str, Message],
        width: int,
        check: Check,
        enough: Enough,
        again: Callable[[], None],
        plausible: Plausible = lambda _: None,
    ) -> Opened:
        """The sum of ``width`` numbers that the answers to the ``requests`` hold, of silos that are ``enough``; begun
        anew until it can be opened and is ``plausible``, ``again`` before each."""
        while True:
            try:
                opened = self._attempt(requests, width, check, enough)
                plausible(opened)
                return opened
            except UnopenedError as error:
                self.members.conversation.events.add("masked sum not opened", why=str(error)[:200])
                self.members.tell_seldom(f"a masked sum was not opened: {error}")
            except RefusedError as error:
                self.members.conversation.events.add("masked sum not used", why=str(error)[:200])
                self.members.tell_seldom(f"a masked sum is not used, since one of its silos sends nonsense: {error}")
            self.members.pause()
            again()

    def whole(self, requests: Mapping[str, Message], expected: Expected) -> dict[str, Tensor]:
        """The one tensor of whole numbers ``expected``, as all silos that are asked add up to."""

        def check(node: str, found: Message) -> None:
            del node, found

        ((name, (_, shape)),) = expected.items()
        size = int(shape[0] or 0)
        opened = self.total(requests, size, check, lambda there: there == set(requests), lambda: None)
        return {name: torch.from_numpy(opened.words.view(np.int32).astype(np.int64))}

    def _attempt(self, requests: Mapping[str, Message], width: int, check: Check, enough: Enough) -> Opened:
        """Raises UnopenedError."""
        attempt = secrets.token_hex(16)
        about = {"attempt": attempt}
        keys = self._ask({node: Message("keys", about) for node in requests}, "keys", _check_keys)
        self._require(set(keys), requests, enough, "began")
        order = sorted(keys)
        secrets.SystemRandom().shuffle(order)
        near = circle(order, NEIGHBOURS)
        public = {node: [own.body["mask"], own.body["share"]] for node, own in keys.items()}
        asked = {
            node: Message("roster", {**about, "roster": {other: public[other] for other in near[node]}})
            for node in order
        }
        given = self._ask(asked, "shares", lambda node, own: _check_shares(own, set(near[node])))
        self._require(set(given), requests, enough, "shared their secrets")
        hidden = {
            node: replace(
                requests[node],
                body={
                    **requests[node].body,
                    **about,
                    "shares": {other: given[other].body["shares"][node] for other in near[node] if other in given},
                },
            )
            for node in given
        }
        answers = self._masked(hidden, width, check)
        self._require(set(answers), requests, enough, "sent")
        opening = {
            node: Message("open", {**about, "sent": [own for own in (*near[node], node) if own in answers]})
            for node in answers
        }
        told = self._ask(
            opening, "opening", lambda node, own: _check_shares(own, {n for n in near[node] if n in given} | {node})
        )
        total = np.zeros(width, dtype=np.uint32)
        for own in answers.values():
            total = total + own.tensors["masked"].numpy().view(np.uint32)
        shares = {node: own.body["shares"] for node, own in told.items()}
        graph = _Graph(attempt, near, frozenset(given), frozenset(answers), public)
        return Opened(graph.opened(total, shares), frozenset(answers))

    def _require(self, there: set[str], requests: Mapping[str, Message], enough: Enough, did: str) -> None:
        if len(there) < FEWEST or not enough(there):
            raise UnopenedError(f"{len(there)} of {counted(len(requests), 'silo')} {did}, which are too few.")

    def _ask(self, asked: Mapping[str, Message], kind: str, check: Check) -> dict[str, Message]:
        def accept(node: str, header: Header) -> Message:
            require(header, kind)
            found = header.with_tensors({})
            check(node, found)
            return found

        return self.members.conversation.ask(asked, accept, self.members.options.deadline)

    def _masked(self, asked: Mapping[str, Message], width: int, check: Check) -> dict[str, Message]:
        def accept(node: str, header: Header) -> Message:
            require(header, "masked")
            found = header.with_tensors({"masked": (torch.int32, (width,))})
            check(node, found)
            return found

        return self.members.conversation.ask(asked, accept, self.members.options.deadline)


@dataclass(frozen=True, eq=False)
class _Graph:
    """Who shares masks with whom, and who was there."""

    attempt: str
    near: Mapping[str, tuple[str, ...]]
    shared: frozenset[str]  # who shared their secrets: masks are with them alone
    sent: frozenset[str]
    public: Mapping[str, list[str]]

    def opened(self, total: Words, shares: Mapping[str, Mapping[str, str]]) -> Words:
        """The sum behind ``total``, by the ``shares`` that silos handed out. Raises UnopenedError."""
        size = len(total)
        gone = [node for node in self.shared - self.sent if set(self.near[node]) & self.sent]
        own = {node: self._recovered(node, shares) for node in sorted(self.sent)}
        keys = {node: self._recovered(node, shares) for node in sorted(gone)}
        for secret in own.values():
            total = signed(total, key_stream(secret, size), False)
        for node, key in keys.items():
            for other in self.near[node]:
                if other in self.sent:
                    info = mask_info(self.attempt, node, other)
                    agreed = agreed_key(key, bytes.fromhex(self.public[other][0]), info)
                    total = signed(total, key_stream(agreed, size), node < other)
        return total

    def _recovered(self, node: str, shares: Mapping[str, Mapping[str, str]]) -> bytes:
        """The secret of ``node`` that its holders' shares give back."""
        holders = sorted([*self.near[node], node])
        needed = threshold_of(len(holders))
        found = {
            place + 1: int.from_bytes(bytes.fromhex(shares[holder][node]), "little")
            for place, holder in enumerate(holders)
            if holder in shares and node in shares[holder]
        }
        if len(found) < needed:
            raise UnopenedError(
                f"{len(found)} of the {len(holders)} silos that hold shares of {node} are there, and {needed} are "
                "needed; nothing was revealed."
            )
        number = shamir.join(found, needed)
        if number >> (8 * KEY_BYTES):
            raise UnopenedError(f"the shares of {node} do not fit together.")
        return number.to_bytes(KEY_BYTES, "little")


def _check_keys(node: str, found: Message) -> None:
    del node
    for name in ("mask", "share"):
        _require_hex(found.body.get(name), KEY_BYTES, f"a public key ({name})")
        try:
            agreed_key(secrets.token_bytes(KEY_BYTES), bytes.fromhex(found.body[name]), b"tried")
        except ValueError:
            raise RefusedError("a public key that would agree with everybody on the same.") from None


def _check_shares(found: Message, wanted: set[str]) -> None:
    shares: Any = found.body.get("shares")
    if not isinstance(shares, dict) or set(shares) != wanted:
        raise RefusedError("shares that are not those asked for.")
    for own in shares.values():
        if not isinstance(own, str) or len(own) > 8 * SHARE_BYTES:
            raise RefusedError("a share that is none.")
        _require_hex(own, len(own) // 2, "a share")


def _require_hex(value: Any, length: int, what: str) -> None:
    try:
        fits = isinstance(value, str) and len(bytes.fromhex(value)) == length and value == value.strip()
    except ValueError:
        fits = False
    if not fits:
        raise RefusedError(f"{what} of {str(value)[:20]!r}, which is none.")
