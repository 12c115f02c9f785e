"""A transport on which messages are lost, late, copied, out of order and damaged, all drawn from a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedmm.deployment.transport import Answer

FAULTS = ("lost request", "lost answer", "late", "copied", "damaged request", "damaged answer")


@dataclass(eq=False)
class FaultyTransport:
    """Silos in this process behind a bad line: ``rate`` of the exchanges suffer one of ``FAULTS``; answers come in any
    order."""

    silos: Mapping[str, Answer]
    rate: float = 0.1
    seed: int = 0
    done: Counter[str] = field(default_factory=Counter)
    held: list[tuple[str, bytes]] = field(default_factory=list)  # late answers, which come with a later exchange

    def __post_init__(self) -> None:
        self.stream = np.random.default_rng(self.seed)

    def nodes(self) -> Sequence[str]:
        """All of them."""
        return sorted(self.silos)

    def exchange(self, requests: Sequence[tuple[str, bytes]], seconds: float) -> Iterator[tuple[str, bytes]]:
        """Asks each, with faults."""
        del seconds
        answers, self.held = self.held, []
        for node, request in requests:
            fault = FAULTS[self.stream.integers(len(FAULTS))] if self.stream.random() < self.rate else "none"
            self.done[fault] += 1
            answers += self._one(node, request, fault)
        for place in self.stream.permutation(len(answers)):
            yield answers[place]

    def _one(self, node: str, request: bytes, fault: str) -> list[tuple[str, bytes]]:
        if fault == "lost request":
            return []
        answer = self.silos[node](self._damaged(request) if fault == "damaged request" else request)
        if fault == "lost answer":
            return []
        if fault == "late":
            self.held.append((node, answer))
            return []
        if fault == "copied":
            return [(node, answer), (node, answer)]
        return [(node, self._damaged(answer) if fault == "damaged answer" else answer)]

    def _damaged(self, data: bytes) -> bytes:
        damaged = bytearray(data)
        damaged[int(self.stream.integers(len(data)))] ^= int(self.stream.integers(1, 256))
        return bytes(damaged)
