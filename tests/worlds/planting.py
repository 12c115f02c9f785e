"""How a fault is described and planted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True, eq=False)
class Fault:
    """What is broken, how, and the checks that must fail for it."""

    name: str
    caught_by: tuple[str, ...]
    plant: Callable[[pytest.MonkeyPatch], None]


def everywhere(patch: pytest.MonkeyPatch, original: Any, replacement: Any) -> None:
    """Replaces a function wherever a module of fedmm has imported it."""
    places = 0
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "fedmm":
            for attribute, value in list(vars(module).items()):
                if value is original:
                    patch.setattr(module, attribute, replacement)
                    places += 1
    assert places, f"{original} is imported nowhere"
