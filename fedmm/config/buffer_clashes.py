"""What updates that arrive late cannot be joined with: refused by name with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmm.config.schema import ExperimentConfig


def refuse_unbuffered(config: ExperimentConfig) -> None:
    """Raises ValueError for the first setting that takes it for granted that a round's updates start from its own
    parameters, where ``federation.late_updates`` is "buffered"."""
    if config.federation.late_updates == "buffered":
        for sentence in _clashes(config):
            raise ValueError(f'federation.late_updates "buffered" {sentence}, or set late_updates "lost"')


def _clashes(config: ExperimentConfig) -> Iterator[str]:
    own = config.federation
    if config.privacy.on:
        yield "has no account of who takes whose place in a private run: unset privacy.epsilon and noise_multiplier"
    if "mask" in own.update_transforms:
        yield 'does not know beforehand whose masks are to cancel: leave "mask" out of federation.update_transforms'
    if "clip" in own.update_transforms:
        yield (
            'makes late updates smaller, which clipping would undo: leave "clip" out of federation.update_transforms '
            "(federation.clip_norm clips steps)"
        )
    if own.local_algorithm == "scaffold":
        yield 'would correct old updates by new control variates: set federation.local_algorithm "fedavg"'
    if config.model.memory.num_prototypes:
        yield "moves no prototypes: set model.memory.num_prototypes 0"
    if own.warmup_rounds:
        yield "would join updates of the backbone alone with later ones: set federation.warmup_rounds 0"
    if own.download_step is not None:
        yield "sends no changes of versions: unset federation.download_step"
    if own.cohort_sampler == "rotation":
        yield 'asks whoever is not at work: set federation.cohort_sampler "uniform"'
