"""Estimates how long a run still takes, and gives the seconds that it took by named parts.

An estimate rests on what the run itself has measured: the rounds so far, and one evaluation of a whole split with
intervals (round 0 on validation, which every report shows anyway). What follows the last round is so many evaluations
of that size, one for each row of the report that is not known yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedmm.utils.timing import OTHER, START_UP, Profile

ROUND_0 = "round 0"
ROUNDS = "rounds"
# Named part -> the stages that it holds; what else lies within the rounds is training, what else lies outside is rest.
PARTS: Mapping[str, tuple[str, ...]] = {
    "start_up": (START_UP,),
    "data": ("loading data", "building the model", "evaluation negatives"),
    "start": ("spectral start", "initial parameters"),
    ROUNDS: (),
    "evaluation": (ROUND_0, "final evaluation", "baselines", "per-user counts", "cold items"),
    "tracking": ("tracking",),
    "checkpoints": ("checkpoints",),
    "drawing": ("drawing",),
    OTHER: (),
}
_ANYWHERE = ("tracking", "checkpoints", "drawing")  # parts of their own within the rounds, too
_PART_OF = {stage: part for part, stages in PARTS.items() for stage in stages}


@dataclass(frozen=True)
class Pace:
    """What the estimate rests on.

    >>> Pace(evaluation=0.5, num_final=4).after(rounds=2, seconds=6.0).left(3)
    11.0
    """

    evaluation: float = 0.0  # seconds of one evaluation of a split, with intervals
    num_final: int = 0  # such evaluations after the last round
    rounds: int = 0  # done since this process began to train
    seconds: float = 0.0  # that they took, with all that is done between them

    def after(self, rounds: int, seconds: float) -> Pace:
        """The pace once ``rounds`` rounds have taken ``seconds``."""
        return Pace(self.evaluation, self.num_final, rounds, seconds)

    @property
    def final(self) -> float:
        """Seconds of what follows the last round."""
        return self.evaluation * self.num_final

    def left(self, rounds: int) -> float:
        """Seconds until the result is there, with ``rounds`` rounds to go; 0 a round before the first is known."""
        return (self.seconds / self.rounds if self.rounds else 0.0) * rounds + self.final


def seconds_by_part(profile: Profile) -> dict[str, float]:
    """Every part of ``PARTS`` with its seconds; they sum to ``profile.total``.

    >>> profile = Profile(7.0, {"loading data": 2.0, "local training": 4.0, "other": 1.0}, {"local training": 4.0}, 2)
    >>> {name: seconds for name, seconds in seconds_by_part(profile).items() if seconds}
    {'data': 2.0, 'rounds': 4.0, 'other': 1.0}
    """
    found = dict.fromkeys(PARTS, 0.0)
    for stage, seconds in profile.stages.items():
        own = _PART_OF.get(stage, OTHER)
        within = 0.0 if own in _ANYWHERE else profile.round_stages.get(stage, 0.0)
        found[own] += seconds - within
        found[ROUNDS] += within
    return found
