"""Cold items: a share of the catalogue that takes no part in training, and what is asked about it afterwards.

They are taken out of every history before anything else is split: no client trains on one, counts one, draws one as a
negative or ranks one as a candidate, and the ordinary questions are those of a catalogue without them. So leave-one-out
asks for a user's last two *other* items, and what users did with cold items changes nothing but the questions below.

A further set of questions then asks for every cold item in every history, given the training items that the user met
before it, among the cold items alone: who knows nothing of items scores at chance.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from fedmm.data.preparation import StrArray
from fedmm.data.ragged import distinct, keep_values, prefixes, take_rows
from fedmm.data.types import BoolArray, Interactions, Queries, Ragged
from fedmm.errors import DataError

FEWEST_COLD_ITEMS = 2  # one alone would be ranked first among itself


def choose_cold_items(item_ids: StrArray, fraction: float, seed: int) -> BoolArray:
    """[V]: the ``fraction`` of the real items whose ids hash lowest under ``seed``; padding is none of them.

    Nobody's interactions have a say in it. Raises ``DataError`` where that is fewer than two items or leaves fewer than
    two to train on.
    """
    num_items = len(item_ids) - 1
    num_cold = round(fraction * num_items)
    if num_cold < FEWEST_COLD_ITEMS or num_items - num_cold < FEWEST_COLD_ITEMS:
        raise DataError(
            f"data.cold_item_fraction {fraction:g} of {num_items} items makes {num_cold} cold items and leaves "
            f"{num_items - num_cold} to train on: either side needs {FEWEST_COLD_ITEMS}.",
            "Change data.cold_item_fraction or give data with more items.",
        )
    keys = [hashlib.blake2b(f"fedmm cold item\x1f{seed}\x1f{item}".encode()).digest() for item in item_ids[1:].tolist()]
    cold = np.zeros(len(item_ids), dtype=np.bool_)
    cold[1 + np.array(sorted(range(num_items), key=keys.__getitem__)[:num_cold])] = True
    return cold


def without_items(interactions: Interactions, dropped: BoolArray) -> Interactions:
    """The interactions with items that are not ``dropped`` [V]; the catalogue and its indices stay."""
    kept = ~dropped[interactions.histories.values]
    histories = keep_values(interactions.histories, kept)
    return replace(interactions, histories=histories, timestamps=interactions.timestamps[kept])


def cold_queries(interactions: Interactions, cold: BoolArray, train: Ragged) -> tuple[Queries, tuple[str, ...]]:
    """All pairs of a user and a ``cold`` [V] item of its history, and what is to be said of those that are left out.

    The known history is what the user's training history ``train`` [U] holds of the items before the cold one; pairs
    without any are not asked. The candidates are the cold items without the user's other ones. Raises ``DataError``
    where no pair is left.
    """
    histories = interactions.histories
    owner, is_cold = histories.row_of_value, cold[histories.values]
    num_warm = np.concatenate([np.zeros(1, np.int64), np.cumsum(~is_cold)])
    before = num_warm[:-1] - num_warm[histories.offsets[:-1]][owner]  # [n] the user's warm items before each event
    known = np.minimum(before, train.lengths[owner])[is_cold]
    asked = known > 0
    users, targets = owner[is_cold][asked], histories.values[is_cold][asked]
    if not len(users):
        raise DataError(
            f"none of the {len(known)} interactions with cold items follows an item that its user trains on.",
            "Lower data.cold_item_fraction or give data with longer histories.",
        )
    own_cold = take_rows(keep_values(histories, is_cold), users)
    others = keep_values(own_cold, own_cold.values != np.repeat(targets, own_cold.lengths))
    known_histories = prefixes(take_rows(train, users), known[asked])
    return Queries(users, known_histories, targets, distinct(others), cold), _notes(cold, is_cold, asked)


def _notes(cold: BoolArray, is_cold: BoolArray, asked: BoolArray) -> tuple[str, ...]:
    num_cold, num_events = int(cold.sum()), int(is_cold.sum())
    held_out = (
        f"{num_cold} of {len(cold) - 1} items are cold: their {num_events} interactions are held out of training, and "
        "the ordinary questions and candidates are those of a catalogue without them"
    )
    if asked.all():
        return (held_out,)
    left_out = int((~asked).sum())
    return held_out, f"{left_out} of {num_events} interactions with cold items precede all that their user trains on"


def cold_digest(cold: BoolArray) -> str:
    """Eight hex digits of which items are ``cold`` [V]."""
    return hashlib.sha256(np.packbits(cold).tobytes()).hexdigest()[:8]
