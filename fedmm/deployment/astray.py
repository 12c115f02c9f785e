"""Silos that answer and never give what was asked: they are named, and not waited for as those who are away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from fedmm.deployment.masks import NOT_SEALED
from fedmm.errors import FedmmError

TIMES = 3  # that a silo is asked again after a wrong answer, or a refusal


class GoneError(FedmmError):
    """Silos that were there, and have not sent what the start needs of all."""

    code = "silos_gone"
    exit_code = 1


class AstrayError(GoneError):
    """Silos that were asked ``TIMES`` times for a sum of the start, and answered with something else."""

    def __init__(self, why: Mapping[str, str], lied: Collection[str] = ()) -> None:
        told = "; ".join(f"{node}: {own.rstrip('.')}" for node, own in sorted(why.items()))
        unsure = (
            " Which of the two silos lies cannot be told." if any(NOT_SEALED in own for own in why.values()) else ""
        )
        super().__init__(
            f"The start lacks what {', '.join(sorted(why))} should send ({told}).{unsure}",
            "Mend those silos or lead without them, in another --output with silos that join from new folders.",
        )
        self.why = dict(why)
        self.lied = frozenset(lied) & why.keys()  # who answered with what cannot be; the others refused
        self.sums = 0  # of the start that were there before, or that silos were asked to open

    def can_be_left(self, *, secret: bool, noise_of_silos: bool) -> bool:
        """Whether the start can be made anew without them. Under masks or noise (``secret``) a sum that was there would
        show theirs beside the new one, and silos refuse another than they were asked to open; silos that add noise
        have planned it for all."""
        disputed = any(NOT_SEALED in own for own in self.why.values())
        return not disputed and not noise_of_silos and not (secret and self.sums)


@dataclass(eq=False)
class Strikes:
    """Who went astray how often, and how the last time."""

    number: Counter[str] = field(default_factory=Counter)
    last: dict[str, str] = field(default_factory=dict)
    lied: set[str] = field(default_factory=set)

    def note(self, why: Mapping[str, str], lied: Collection[str]) -> None:
        """Notes those who went astray once more, and who of them ``lied``; the others refused."""
        self.number.update(why.keys())
        self.last |= why
        self.lied.update(lied)

    def require(self, *, asked: bool = False) -> None:
        """Raises AstrayError where some did ``TIMES`` times; ``asked``: silos were asked to open the sum before."""
        out = {node: self.last[node] for node, times in self.number.items() if times >= TIMES}
        if out:
            error = AstrayError(out, self.lied)
            error.sums = int(asked)
            raise error
