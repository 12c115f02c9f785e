"""Ids as programs spoil them: decimals of whole numbers, characters that nobody sees, spreadsheets' rounding."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from fedmm.data.preparation import RawInteractions
from fedmm.errors import DataError

UNSEEN = "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
_DECIMAL = re.compile(r"-?\d+\.0")
_ROUNDED = re.compile(r"-?\d(?:[.,]\d+)?E\+\d+")


def tidy(text: str) -> str:
    """An id without white space and unseen characters around it.

    >>> tidy(" u1\\u200b ")
    'u1'
    """
    text = text.strip()
    return text if text.isascii() else text.strip(UNSEEN).strip()


def is_spoiled(text: str) -> bool:
    """Whether an id is written as the decimal of a whole number, or as a spreadsheet rounds one."""
    return text[-1] in "0123456789" and (_DECIMAL.fullmatch(text) or _ROUNDED.fullmatch(text)) is not None


def with_whole_ids(raw: RawInteractions) -> RawInteractions:
    """``raw`` with ids such as 7.0, as programs write whole numbers beside missing ones, as 7, where all are such.

    Raises DataError for ids that a spreadsheet has rounded (1.23457E+11): several are one there.
    """
    changes: dict[str, Any] = {}
    notes = list(raw.notes)
    for role, ids in (("user", raw.user_ids), ("item", raw.item_ids)):
        texts = ids.tolist()
        rounded = next((text for text in texts if _ROUNDED.fullmatch(text)), None)
        if rounded is not None:
            raise DataError(
                f"{raw.source}: the {role} id {rounded!r} was rounded by a spreadsheet, so that several ids are one.",
                "Export the ids as text from where they come.",
            )
        if _DECIMAL.fullmatch(texts[0]) and all(map(_DECIMAL.fullmatch, texts)):
            changes[f"{role}_ids"] = np.array([text[:-2] for text in texts], dtype=np.str_)
            notes.append(f"{role} ids are written as decimals ({texts[0]}) and read as whole numbers ({texts[0][:-2]})")
    return replace(raw, notes=tuple(notes), **changes) if changes else raw
