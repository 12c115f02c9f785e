"""What carries messages: two verbs. Neither the server nor a silo knows more of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Answer = Callable[[bytes], bytes]  # a silo: a request to its answer


class Transport(Protocol):
    """Carries requests to nodes and their answers back."""

    def nodes(self) -> Sequence[str]:
        """Who is there now, by name, in order."""
        ...

    def exchange(self, requests: Sequence[tuple[str, bytes]], seconds: float) -> Iterator[tuple[str, bytes]]:
        """Sends each request to its node and yields what comes back, as it comes, for ``seconds`` or until as many
        answers came as requests went out, or nobody is left who could answer. What comes back may be late, damaged, a
        copy or missing; whoever asks finds out."""
        ...


@dataclass(frozen=True)
class InProcess:
    """Silos in this process, asked one after the other."""

    silos: Mapping[str, Answer]

    def nodes(self) -> Sequence[str]:
        """All of them."""
        return sorted(self.silos)

    def exchange(self, requests: Sequence[tuple[str, bytes]], seconds: float) -> Iterator[tuple[str, bytes]]:
        """Asks each in turn."""
        del seconds
        for node, request in requests:
            yield node, self.silos[node](request)
