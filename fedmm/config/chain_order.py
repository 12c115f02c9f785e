"""Stages of ``federation.update_transforms`` that mean something else in another order: refused by name with the
remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmm.config.schema import ExperimentConfig


def refuse_disorder(config: ExperimentConfig) -> None:
    """Raises ValueError for the first two stages that stand in an order that does not do what they promise, and for a
    stage that has nothing to act on."""
    _refuse_no_table(config)
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
    yield "low_rank", "rotate", "a rotation mixes the item table's columns with all other numbers"
    yield "low_rank", "round", "directions have no whole numbers"
    if own.update_clip_by == "part":
        yield "clip", "low_rank", 'federation.update_clip_by "part" clips the parts of a whole update'
    if own.update_clip_quantile is not None:
        yield "clip", "low_rank", "federation.update_clip_quantile follows the norms of whole updates"


def _refuse_no_table(config: ExperimentConfig) -> None:
    own = config.federation
    if "low_rank" not in own.update_transforms:
        return
    default = "frozen" if config.privacy.on else "trained"
    if (own.item_table or default) == "frozen":
        said = f'federation.item_table "{own.item_table}"' if own.item_table else "a private run that says nothing else"
        raise ValueError(
            f'federation.update_transforms {list(own.update_transforms)} has "low_rank", which sends the item table in '
            f'few directions, and {said} keeps the table as it is: set federation.item_table "trained", or leave '
            '"low_rank" out'
        )
