"""Chains whose order would not do what it promises are refused, and the remedy is accepted."""

from typing import Any

import pytest
from pydantic import ValidationError

from fedmm.config import ExperimentConfig

PRIVATE = {"privacy.epsilon": 8.0, "federation.item_table": "trained"}


def with_chain(chain: tuple[str, ...], **more: Any) -> ExperimentConfig:
    return ExperimentConfig().with_values({"federation.update_transforms": chain, **more})


@pytest.mark.parametrize(
    ("chain", "more", "first", "second"),
    [
        (("clip", "noise", "rotate", "round"), PRIVATE, "round", "noise"),
        (("clip", "noise", "round"), PRIVATE, "round", "noise"),
        (("noise", "clip"), PRIVATE, "clip", "noise"),
        (("low_rank", "clip"), {"federation.update_clip_by": "part"}, "clip", "low_rank"),
        (("low_rank", "clip"), {"federation.update_clip_quantile": 0.5}, "clip", "low_rank"),
        (("rotate", "low_rank"), {}, "low_rank", "rotate"),
        (("clip", "round", "low_rank"), {}, "low_rank", "round"),
    ],
)
def test_an_order_that_breaks_its_promise_is_refused_and_the_remedy_is_not(chain, more, first, second):
    with pytest.raises((ValidationError, ValueError), match=f'put "{first}" before "{second}"'):
        with_chain(chain, **more)
    swapped = [own for own in chain if own != first]
    swapped.insert(swapped.index(second), first)
    assert with_chain(tuple(swapped), **more).federation.update_transforms == tuple(swapped)


def test_late_updates_are_not_clipped_to_full_weight():
    late = {"federation.late_updates": "buffered", "federation.over_selection": 2.0}
    with pytest.raises((ValidationError, ValueError), match="clipping would undo"):
        with_chain(("clip",), **late)
    assert with_chain(("low_rank", "rotate"), **late).federation.late_updates == "buffered"


@pytest.mark.parametrize("more", [{"federation.item_table": "frozen"}, {"privacy.epsilon": 8.0}])
def test_low_rank_needs_a_table_that_trains(more):
    chain = ("low_rank", "clip", "noise") if "privacy.epsilon" in more else ("low_rank",)
    with pytest.raises((ValidationError, ValueError), match='item_table "trained"'):
        with_chain(chain, **more)
    assert with_chain(chain, **{**more, "federation.item_table": "trained"}).federation.item_table == "trained"
