"""Histories that files of sequences repeat in every row (RecBole's ``item_id_list:token_seq``): what only they hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedmm.data.preparation import RawInteractions


def with_lists(raw: RawInteractions, texts: NDArray[np.str_], name: str) -> RawInteractions:
    """``raw`` with the items of each user's first list before its first row, where each row's list is what the rows
    before it tell (or the end of that); as it is where one is not. ``texts`` [n]: the lists, items apart by a space.

    >>> raw = RawInteractions("a", np.array(["u"]), np.array(["5", "7"]), np.array([0, 0]), np.array([0, 1]))
    >>> both = with_lists(raw, np.array(["9", "9 5"]), "item_id_list")
    >>> both.item_ids[both.items].tolist(), both.from_lists.tolist()
    (['9', '5', '7'], [True, False, False])
    """
    if len(texts) != len(raw):
        return raw  # rows were dropped
    item_names = raw.item_ids.tolist()
    place = {name: at for at, name in enumerate(item_names)}
    met: dict[int, list[str]] = {}
    users, items, listed = list[int](), list[int](), list[bool]()
    for user, item, text in zip(raw.users.tolist(), raw.items.tolist(), texts.tolist(), strict=True):
        before = text.split()
        if user in met:
            if before and met[user][-len(before) :] != before:
                return raw
        else:
            met[user] = before
            users += [user] * len(before)
            items += [place.setdefault(one, len(place)) for one in before]
            listed += [True] * len(before)
        met[user].append(item_names[item])
        users.append(user)
        items.append(item)
        listed.append(False)
    notes = [note for note in raw.notes if not note.startswith(f"{name}: lists of items")]
    notes.append(f"{name}: {sum(listed)} items that only the first list of each user holds come before its first row")
    return replace(
        raw,
        item_ids=np.array(list(place), dtype=np.str_),
        users=np.array(users, dtype=np.int64),
        items=np.array(items, dtype=np.int64),
        ratings=None,
        notes=tuple(notes),
        from_lists=np.array(listed, dtype=np.bool_),
    )
