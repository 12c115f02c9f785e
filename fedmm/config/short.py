"""Settings as Python keywords: by their last word, or whole with two underscores for the dot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedmm.config.describe import known_settings, setting_hint
from fedmm.errors import ConfigError


def full_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``{"rounds": 3, "model__num_heads": 1}`` -> ``{"federation.rounds": 3, "model.num_heads": 1}``; None unsets.

    A last word that two settings share means the one whose key is shorter in words. Raises ConfigError for a name that
    no setting has, with the nearest.
    """
    by_word: dict[str, str] = {}
    for key in sorted(known_settings(), key=lambda key: key.count(".")):
        by_word.setdefault(key.rpartition(".")[2], key)
    found: dict[str, Any] = {}
    for name, value in settings.items():
        dotted = name.replace("__", ".")
        key = dotted if dotted in known_settings() else by_word.get(name, "")
        if not key:
            raise ConfigError(f"There is no setting {name!r}.", setting_hint(dotted))
        found[key] = "none" if value is None else value
    return found
