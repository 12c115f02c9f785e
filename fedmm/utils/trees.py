"""Nested dicts: by dotted keys, and as JSON has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Gives every leaf its dotted key; dotted keys may stand there already.

    >>> flatten({"model": {"memory": {"size": 4}}, "data.name": "x"})
    {'model.memory.size': 4, 'data.name': 'x'}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def plain(value: Any) -> Any:
    """Makes dicts, lists, strings and numbers of a value, as JSON has them; NaN and infinities become None.

    >>> plain({"ci95": (0.1, float("nan"))})
    {'ci95': [0.1, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [plain(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
