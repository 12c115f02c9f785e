"""The transport over a post office: messages are left there and fetched by whoever they are for.

Flower's SuperLink is one. Its nodes have numbers, which may change when a node comes back; silos have names, which
they prove (``greeting.py``). What is known of Flower itself stands in ``flower.py``.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedmm.deployment import greeting
from fedmm.deployment.events import Events
from fedmm.deployment.messages import RefusedError
from fedmm.deployment.seals import Checksums, Seal

POLL_SECONDS = 0.2
LOOK_SECONDS = 1.0  # between two looks at who is there
GREETING_SECONDS = 60.0  # that a node has to say its name
AGAIN_SECONDS = 30.0  # before a node that said none is asked again


class PostOffice(Protocol):
    """Keeps messages until they are fetched."""

    def there(self) -> Collection[int]:
        """The numbers of the nodes that are connected now."""
        ...

    def send(self, letters: Sequence[tuple[int, bytes]], seconds: float) -> Sequence[str | None]:
        """Leaves messages for nodes, for ``seconds``. Gives what each is called; None where it was not taken."""
        ...

    def fetch(self, letters: Collection[str]) -> Sequence[tuple[str, bytes | None]]:
        """The answers to ``letters`` that are there; None in place of one that will never come."""
        ...


@dataclass(eq=False)
class MailTransport:
    """The server's end. A node whose name is not known yet is asked for it, and is nobody until it has answered."""

    office: PostOffice
    seal: Seal = field(default_factory=Checksums)
    events: Events = field(default_factory=Events)
    poll: float = POLL_SECONDS
    look: float = LOOK_SECONDS
    _names: dict[int, str] = field(default_factory=dict)
    _asked: dict[str, tuple[int, str]] = field(default_factory=dict)  # questions: to whom, and what was drawn
    _silent: dict[int, float] = field(default_factory=dict)  # nodes without a name, and when they are asked again
    _looked: float = float("-inf")

    def nodes(self) -> Sequence[str]:
        """Whose name is known and who is connected."""
        self._look()
        return sorted(set(self._names.values()))

    def exchange(self, requests: Sequence[tuple[str, bytes]], seconds: float) -> Iterator[tuple[str, bytes]]:
        """Leaves the requests and yields answers as they come. Who comes back under another number is not waited for
        under the old one."""
        until = time.monotonic() + seconds
        places = {name: number for number, name in self._names.items()}
        letters = [(node, places[node], data) for node, data in requests if node in places]
        sent = self.office.send([(number, data) for _, number, data in letters], seconds) if letters else []
        named = zip(sent, letters, strict=True)
        waiting = {letter: (node, number) for letter, (node, number, _) in named if letter is not None}
        while waiting and time.monotonic() < until:
            answers = self.office.fetch(waiting.keys())
            for letter, data in answers:
                node, _ = waiting.pop(letter, ("", 0))
                if node and data is not None:
                    yield node, data
            self._look()
            waiting = {letter: own for letter, own in waiting.items() if self._names.get(own[1]) == own[0]}
            if waiting and not answers:
                time.sleep(self.poll)

    def _look(self) -> None:
        """Sees who is there, asks whoever has no name, and takes the answers."""
        if time.monotonic() - self._looked < self.look:
            return
        self._looked = time.monotonic()
        there = set(self.office.there())
        for number in self._names.keys() - there:
            self.events.add("left", node=self._names.pop(number))
        self._silent = {number: since for number, since in self._silent.items() if number in there}
        for letter, data in self.office.fetch(self._asked.keys()) if self._asked else ():
            number, drawn = self._asked.pop(letter)
            if number in there:
                self._take(number, drawn, data)
        self._ask(there)

    def _ask(self, there: Collection[int]) -> None:
        self._asked = {letter: own for letter, own in self._asked.items() if own[0] in there}
        pending = self._names.keys() | {number for number, _ in self._asked.values()}
        now = time.monotonic()
        new = [own for own in sorted(set(there) - pending) if self._silent.get(own, now) <= now]
        drawn = [greeting.draw() for _ in new]
        if not new:
            return
        letters = [(number, greeting.question(own)) for number, own in zip(new, drawn, strict=True)]
        for letter, number, own in zip(self.office.send(letters, GREETING_SECONDS), new, drawn, strict=True):
            if letter is not None:
                self._asked[letter] = number, own

    def _take(self, number: int, drawn: str, data: bytes | None) -> None:
        """Takes a node's answer to the question for its name."""
        try:
            if data is None:
                raise RefusedError("a node that did not say its name.")
            name = greeting.proven(data, drawn, self.seal)
        except RefusedError as error:
            self._silent[number] = time.monotonic() + AGAIN_SECONDS
            self.events.add("refused", address=str(number), node="", why=str(error)[:200])
            return
        for other in [own for own, known in self._names.items() if known == name]:
            del self._names[other]  # the silo came back before its old number was known to be dead
        self._names[number] = name
        self.events.add("connected", node=name)
