"""Stages of ``federation.update_transforms`` that mean something else in another order: refused by name with the
remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmm.config.schema import ExperimentConfig


def refuse_disorder(config: ExperimentConfig) -> None:
    """Raises ValueError for the first two stages that stand in an order that does not do what they promise."""
    for first, second, why in _orders(config):
        chain = config.federation.update_transforms
        if {first, second} <= set(chain) and chain.index(second) < chain.index(first):
            raise ValueError(
                f'federation.update_transforms {list(chain)} has "{second}" before "{first}": {why}; put "{first}" '
                f'before "{second}"'
            )


def _orders(config: ExperimentConfig) -> Iterator[tuple[str, str, str]]:
    """(what comes first, what comes after it, why)."""
    own = config.federation
    yield "clip", "noise", "noise hides a client whose update is clipped"
    yield "round", "noise", "noise has the size of what it is added to, and rounding would make that larger"
    if own.update_clip_by == "part":
        yield "clip", "low_rank", 'federation.update_clip_by "part" clips the parts of a whole update'
    if own.update_clip_quantile is not None:
        yield "clip", "low_rank", "federation.update_clip_quantile follows the norms of whole updates"
