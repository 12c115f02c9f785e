"""The server's part in a masked sum: keys and shares go by it, and it opens the sum of those who sent.

Four exchanges: public keys; neighbours' keys, and shares that only they can read; the masked numbers; the shares that
open their sum. Where one is missing, or there are more silos than know each other, silos first tell each other that
they heard the same list of who sent. A silo that leaves before its numbers came is left out; where too few of a silo's
neighbours are there, nothing can be opened, and the sum is begun again with who is there.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from fedmm.deployment.astray import TIMES, Strikes
from fedmm.deployment.hidden_sum import HiddenSum, UnfitError, UnopenedError, is_sure
from fedmm.deployment.masks import FEWEST, SHARE_BYTES, WORD_BYTES, digest_of_request, threshold_of
from fedmm.deployment.members import Members
from fedmm.deployment.messages import Expected, Header, Message, RefusedError, require
from fedmm.errors import ConfigError
from fedmm.privacy.secure_sum import KEY_BYTES, NEIGHBOURS, Words, agreed_key, circle
from fedmm.utils.text import counted

Check = Callable[[str, Message], None]  # raises RefusedError for an answer's body
Enough = Callable[[set[str]], bool]
Wrong = Mapping[str, tuple[list[str], bool]]  # whose shares are wrong, of whom, and whether it lies for sure
Plausible = Callable[["Opened"], None]  # raises RefusedError for a sum that cannot be


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
    """How the server asks its silos for sums that it cannot see the parts of. ``folder`` keeps what is to be opened."""

    members: Members
    folder: Path | None = None

    @property
    def round_to_open(self) -> int:
        """The round of the sum that silos were asked to open last; 0 where there is none on the disk."""
        return HiddenSum.round_of(self.folder)

    @property
    def start_to_open(self) -> frozenset[str]:
        """The silos of the sum of a start that they were asked to open, of the same offer; nobody where there is none
        on the disk."""
        return HiddenSum.silos_of_start(self.folder, self.members.offer_digest)

    def total(
        self,
        requests: Mapping[str, Message],
        width: int,
        check: Check,
        enough: Enough,
        again: Callable[[], None],
        plausible: Plausible = lambda _: None,
        clients: Mapping[str, int] | None = None,
        *,
        bounded: bool = False,
    ) -> Opened:
        """The sum of ``width`` numbers that the answers to the ``requests`` hold, each over so many ``clients``, of
        silos that are ``enough``; tried until it can be opened and is ``plausible``, ``again`` before each time.

        A sum that silos were asked to open is opened again while they may come back; one that was kept is begun anew
        where they are there and have left it. Raises UnopenedError where that
        takes longer than a round waits for its silos, or, ``bounded``, whatever is missing, and where one silo or more
        send nonsense ``TIMES`` times; AstrayError, ``bounded``, where one never answers with what was asked.
        """
        seconds, own = self.members.options.deadline, digest_of_requests(requests)
        hidden, until = HiddenSum.load(self.folder, own), time.monotonic() + self.members.options.deadline
        kept = hidden  # of a server that was killed
        spoken, strikes, nonsense = hidden is not None, Strikes(), 0
        while True:
            try:
                if hidden is None or time.monotonic() > until:
                    hidden = None
                    hidden = self._hidden(own, requests, width, check, enough, clients or dict.fromkeys(requests, 1))
                    hidden.save(self.folder)
                    spoken = True
                words, wrong = self._opened(hidden)
                opened = Opened(words, hidden.sent)
                nonsense += 1
                plausible(opened)
                self._name(wrong, hidden.round)
                return opened
            except UnopenedError as error:
                why, nonsense = str(error), nonsense + isinstance(error, UnfitError)
                self.members.conversation.events.add("masked sum not opened", why=why[:200])
                self.members.tell_seldom(f"a masked sum was not opened: {why}")
            except RefusedError as error:
                hidden, why = None, str(error)
                self.members.conversation.events.add("masked sum not used", why=why[:200])
                self.members.tell_seldom(f"a masked sum is not used, since one of its silos sends nonsense: {why}")
            if nonsense >= TIMES:
                raise UnopenedError(f"{why} It is so each time, and nothing tells which silo it is.")
            if kept is not None and self._is_over(kept):
                hidden, kept = None, None
            elif bounded:
                strikes.note(self.members.conversation.astray, self.members.conversation.wrong)
                strikes.require(asked=spoken)
            if time.monotonic() > until + (0.0 if bounded else seconds) and (bounded or spoken):
                raise UnopenedError(why)
            self.members.pause()
            again()

    def whole(
        self,
        requests: Mapping[str, Message],
        expected: Expected,
        clients: Mapping[str, int],
        again: Callable[[], None],
        *,
        least: int | None,
    ) -> dict[str, Tensor]:
        """The one tensor of whole numbers ``expected``, none below ``least``, as all silos that are asked add up to.
        Raises UnopenedError where they have not sent within the time that a round waits."""

        def check(node: str, found: Message) -> None:
            del node, found

        def numbers(opened: Opened) -> Tensor:
            return torch.from_numpy(opened.words.view(np.int32).astype(np.int64))

        def plausible(opened: Opened) -> None:
            if least is not None and bool((numbers(opened) < least).any()):
                raise RefusedError(f"counts that add up to less than {least}.")

        ((name, (_, shape)),) = expected.items()
        everyone = set(requests)
        opened = self.total(
            requests,
            int(shape[0] or 0),
            check,
            lambda there: there == everyone,
            again,
            plausible,
            clients,
            bounded=True,
        )
        return {name: numbers(opened)}

    def _hidden(
        self,
        own: str,
        requests: Mapping[str, Message],
        width: int,
        check: Check,
        enough: Enough,
        clients: Mapping[str, int],
    ) -> HiddenSum:
        """A sum whose parts have come, and which nobody was asked to open. Raises UnopenedError."""
        attempt = secrets.token_hex(16)
        about = {"attempt": attempt}
        keys = self._ask({node: Message("keys", about) for node in requests}, "keys", _check_keys)
        self._require(set(keys), requests, enough, "began")
        order = sorted(keys)
        secrets.SystemRandom().shuffle(order)
        near = circle(order, NEIGHBOURS)
        public = {node: [own.body["mask"], own.body["share"]] for node, own in keys.items()}
        asked = {
            node: Message(
                "roster", {**about, "roster": {other: public[other] for other in near[node]}, "clients": clients[node]}
            )
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
        total = np.zeros(width, dtype=np.uint32)
        for one in answers.values():
            total = total + one.tensors["masked"].numpy().view(np.uint32)
        number = max(one.round for one in requests.values())
        offer = self.members.offer_digest
        found = HiddenSum(own, attempt, near, frozenset(given), frozenset(answers), public, total, number, offer)
        found.require_openable()
        return found

    def _opened(self, hidden: HiddenSum) -> tuple[Words, Wrong]:
        """Asks those who sent to open it; who sent wrong shares is given too. Raises UnopenedError."""
        about, order = {"attempt": hidden.attempt, "sent": sorted(hidden.sent)}, sorted(hidden.sent)
        heard: Mapping[str, Message] = {}
        if not hidden.is_of_all:
            heard = self._ask(
                dict.fromkeys(order, Message("agree", about)),
                "agreed",
                lambda node, own: _check_words(own, set(hidden.near[node]) & hidden.sent),
            )
            if len(heard) + 1 < min(threshold_of(len(hidden.near[node]) + 1) for node in order):
                what = f"{len(heard)} of {counted(len(order), 'silo')} said which list of who sent they heard."
                raise UnopenedError(f"{what} {self._refused}".strip())
        told = self._ask(
            {
                node: Message(
                    "open",
                    {**about, "agreed": {n: heard[n].body["agreed"][node] for n in hidden.near[node] if n in heard}},
                )
                for node in order
            },
            "opening",
            lambda node, own: _check_shares(own, {n for n in hidden.near[node] if n in hidden.shared} | {node}),
        )
        shares = {node: own.body["shares"] for node, own in told.items()}
        try:
            words, wrong = hidden.opened(shares)
        except UnopenedError as error:
            raise type(error)(f"{error.message} {self._refused}".strip()) from None
        return words, {node: (others, is_sure(node, others, len(shares[node]))) for node, others in wrong.items()}

    def _is_over(self, hidden: HiddenSum) -> bool:
        """Whether silos have left a sum that they were asked to open, for another: all are there, and some refused."""
        talk = self.members.conversation
        return bool(talk.cannot) and hidden.sent <= set(talk.transport.nodes())

    def _name(self, wrong: Wrong, number: int) -> None:
        """Says whose shares were wrong in round ``number``, and of whom. Who lies for sure is left out from then on."""
        for node, (others, sure) in sorted(wrong.items()):
            told = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            why = f"its shares of {told} do not fit those of the others, by which the masked sum was opened"
            if not sure:
                why += f"; or {told} dealt it wrong ones, which cannot be told"
            self.members.conversation.events.add("wrong shares", node=node, why=why[:200])
            self.members.tell(f"{node} sends wrong shares: {why}")
            if sure:
                self.members.name(node, f"wrong shares: {why}", number)

    def _require(self, there: set[str], requests: Mapping[str, Message], enough: Enough, did: str) -> None:
        if len(there) < FEWEST or not enough(there):
            what = f"{len(there)} of {counted(len(requests), 'silo')} {did}, which are too few."
            raise UnopenedError(f"{what} {self._refused}".strip())

    @property
    def _refused(self) -> str:
        """Why one of those who refused did so, to the last question."""
        return "".join(f"{node} refused {why}" for node, why in sorted(self.members.conversation.cannot.items())[:1])

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


def digest_of_requests(requests: Mapping[str, Message]) -> str:
    """What makes two sums the same: who is asked for what. Tensors that requests share are read once."""
    known: dict[int, str] = {}

    def of(tensor: Tensor) -> str:
        if id(tensor) not in known:
            content = save({"": tensor.detach().cpu().contiguous()})
            known[id(tensor)] = hashlib.blake2b(content, digest_size=16).hexdigest()
        return known[id(tensor)]

    parts = [
        (node, own.kind, own.round, own.settings, sorted(own.body.items()), {n: of(t) for n, t in own.tensors.items()})
        for node, own in sorted(requests.items())
    ]
    return digest_of_request(*parts)


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


def _check_words(found: Message, wanted: set[str]) -> None:
    words: Any = found.body.get("agreed")
    if not isinstance(words, dict) or set(words) != wanted:
        raise RefusedError("words to other silos than those asked for.")
    for own in words.values():
        _require_hex(own, WORD_BYTES, "a word")


def _require_hex(value: Any, length: int, what: str) -> None:
    try:
        fits = isinstance(value, str) and len(bytes.fromhex(value)) == length and value == value.strip()
    except ValueError:
        fits = False
    if not fits:
        raise RefusedError(f"{what} of {str(value)[:20]!r}, which is none.")
