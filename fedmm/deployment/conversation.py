"""Requests and their answers: who was asked what, whose answer counts, and what is refused."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from fedmm.deployment.events import Events
from fedmm.deployment.messages import Header, Message, RefusedError, encode, read_header
from fedmm.deployment.seals import Checksums, Seal
from fedmm.deployment.transport import Transport
from fedmm.utils.text import one_line

POLL_SECONDS = 0.1
TRIES = 3
MOST_LOGGED = 1000  # refused messages of one silo: more are not written down
Accept = Callable[[str, Header], Message]  # checks an answer; raises RefusedError


@dataclass(eq=False)
class Conversation:
    """What the server says and hears in one session. An answer counts once, for the request that it answers."""

    transport: Transport
    seal: Seal = field(default_factory=Checksums)
    events: Events = field(default_factory=Events)
    grace: float = 10.0  # seconds that a silo which left is waited for
    session: str = field(default_factory=lambda: secrets.token_hex(16))
    sent_bytes: int = 0
    received_bytes: int = 0
    unready: set[str] = field(default_factory=set)  # silos that have to be told again what was agreed
    cannot: dict[str, str] = field(default_factory=dict)  # who refused the last request that was asked, and why
    wrong: dict[str, str] = field(default_factory=dict)  # who answered it with what cannot be, and why
    _sequence: int = 0
    _open: dict[int, str] = field(default_factory=dict)  # sequence numbers that wait for an answer, and whose
    _refused: Counter[str] = field(default_factory=Counter)
    _left: dict[str, float] = field(default_factory=dict)  # when a silo was first missed

    def ask(self, requests: Mapping[str, Message], accept: Accept, seconds: float) -> dict[str, Message]:
        """The answers that counted, by node, after at most ``seconds``. Who does not answer is asked again, ``TRIES``
        times in all; who left longer ago than ``grace`` is not waited for."""
        found: dict[str, Message] = {}
        tries: Counter[str] = Counter()
        self.cannot.clear()
        self.wrong.clear()
        until = time.monotonic() + seconds
        while True:
            waiting = {node for node in requests if node not in found and tries[node] < TRIES}
            there = waiting & set(self.transport.nodes())
            if not waiting or time.monotonic() >= until or not self._hopeful(waiting, there):
                return found
            if there:
                tries.update(there)
                asked = {node: requests[node] for node in sorted(there)}
                self._exchange(asked, accept, found, tries, until - time.monotonic())
            else:
                time.sleep(POLL_SECONDS)

    @property
    def astray(self) -> dict[str, str]:
        """Who answered the last request that was asked, and not with what was asked, and why."""
        return {**self.wrong, **self.cannot}

    def _hopeful(self, waiting: set[str], there: set[str]) -> bool:
        """Whether one of those ``waiting`` is there, or left only just now."""
        now = time.monotonic()
        for node in there:
            self._left.pop(node, None)
        return bool(there) or any(now - self._left.setdefault(node, now) < self.grace for node in waiting)

    def _exchange(
        self,
        requests: Mapping[str, Message],
        accept: Accept,
        found: dict[str, Message],
        tries: Counter[str],
        seconds: float,
    ) -> None:
        """One exchange: what counts goes into ``found``, who cannot follow is not asked again."""
        sealed = []
        self._open.clear()
        for node, message in requests.items():
            self._sequence += 1
            self._open[self._sequence] = node
            stamped = replace(message, session=self.session, sequence=self._sequence)
            sealed.append((node, self.seal.close(encode(stamped))))
        self.sent_bytes += sum(len(data) for _, data in sealed)
        for node, data in self.transport.exchange(sealed, seconds):
            self.received_bytes += len(data)
            try:
                answer = self._opened(node, data, accept)
            except RefusedError as error:
                self._refused[node] += 1
                if self._refused[node] <= MOST_LOGGED:
                    self.events.add("refused", node=node, why=str(error)[:200])
                continue
            if answer.kind in ("refused", "unready"):
                why = one_line(str(answer.body.get("why", "it has to be told again what was agreed")))
                self.events.add("silo cannot follow", node=node, why=why)
                self.cannot[node] = why
                tries[node] = TRIES
                if answer.kind == "unready":
                    self.unready.add(node)
            else:
                found[node] = answer
                self.wrong.pop(node, None)

    def _opened(self, node: str, data: bytes, accept: Accept) -> Message:
        """The answer that ``data`` holds. Raises RefusedError where it does not count."""
        header = read_header(self.seal.open(data, node))
        message = header.message
        if message.node != node:
            raise RefusedError(f"a message that says it is of {message.node[:40]!r}.")
        if message.session != self.session:
            raise RefusedError("an answer of another session: it was recorded, or is very late.")
        if self._open.get(message.sequence) != node:
            raise RefusedError(f"an answer to request {message.sequence}, which is not open: late, or a copy.")
        try:
            answer = message if message.kind in ("refused", "unready") else accept(node, header)
        except RefusedError as error:  # no fault of the line: it is sealed, and of this request
            self.wrong[node] = one_line(str(error))
            raise
        del self._open[message.sequence]
        return answer
