"""What settings need to know of the kinds of experts that ship, before anything heavy loads.

The kinds themselves are in ``fedmm.models.experts``, and the tests hold both to the same. A user's own kind says all
this of itself, and is asked when the model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ExpertTraits:
    """What a kind of expert reads and can do."""

    settings: tuple[str, ...]  # settings, or sections of them, that mean something to it
    represents: bool = False  # has a representation, which cosine scoring normalises
    projects: bool = False  # projects features, which the alignment loss compares
    factorises: bool = True  # where not, it trains on sampled negatives unless their number is set

    def reads(self, setting: str) -> bool:
        """Whether it reads ``setting``, a dotted key or a section."""
        return any(setting == own or setting.startswith(f"{own}.") for own in self.settings)


EXPERT_TRAITS: Mapping[str, ExpertTraits] = {
    "hybrid": ExpertTraits(("model.pooling_decay", "model.neighbors"), projects=True),
    "pooled": ExpertTraits(("model.pooling_decay",), projects=True),
    "neighbors": ExpertTraits(("model.neighbors",)),
    "memory": ExpertTraits(("model.memory",), represents=True, projects=True, factorises=False),
}


def kinds_that(can: Callable[[ExpertTraits], bool]) -> str:
    """The kinds of which ``can`` holds, in words: ``"hybrid" or "pooled"``."""
    names = [f'"{name}"' for name, traits in EXPERT_TRAITS.items() if can(traits)]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
