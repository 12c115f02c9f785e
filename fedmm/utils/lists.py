"""One text where a list of texts is asked for: Python would walk through its letters, and no one would notice."""

from __future__ import annotations

from typing import Any

from fedmm.errors import ConfigError


def require_list(given: Any, what: str) -> None:
    """Raises ConfigError where ``given`` is one text or number in place of a list; ``what`` ("history", "a history")
    names it.

    >>> require_list(["55"], "history")
    >>> require_list("55", "history")
    Traceback (most recent call last):
    fedmm.errors.ConfigError: history is a list, not '55' alone. Give ['55'].
    """
    if isinstance(given, (str, bytes, int, float)):
        raise ConfigError(f"{what} is a list, not {given!r} alone.", f"Give [{given!r}].")
