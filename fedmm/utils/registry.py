"""Named parts of one kind: those that ship with fedmm, and those that a user registers.

What users register is kept here, light, kind by kind, so that settings know the names before torch loads and a
registry finds the parts whenever its own module loads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

Part = TypeVar("Part")
OWN_PACKAGES = ("fedmm", "fedmm_cli")
PASSED_THROUGH = (*OWN_PACKAGES, "contextlib")  # a ``with`` of fedmm's stands between


@dataclass(frozen=True)
class Origin:
    """Where a part was registered: the module, and its file, None in a notebook or at a prompt."""

    module: str
    file: str | None


@dataclass(frozen=True, eq=False)
class OwnPart:
    """A registered part and where it comes from."""

    part: Any
    origin: Origin


_OWN: dict[str, dict[str, OwnPart]] = {}


def own_parts(kind: str) -> dict[str, OwnPart]:
    """The registered parts of ``kind`` by name; the dictionary is the live one."""
    return _OWN.setdefault(kind, {})


def all_own_parts() -> dict[str, dict[str, OwnPart]]:
    """The registered parts of all kinds that have some."""
    return {kind: dict(parts) for kind, parts in _OWN.items() if parts}


class Registry(Mapping[str, Part], Generic[Part]):
    """The parts of one kind by name: ``built_in`` ones first, then those that users registered under ``kind``.

    >>> from fedmm.utils.registry import Registry
    >>> sizes = Registry("size", {"small": 1, "large": 9})
    >>> sizes["large"], list(sizes), sizes.origin("small").module
    (9, ['small', 'large'], 'fedmm')
    """

    def __init__(self, kind: str, built_in: Mapping[str, Part], complete: Callable[[Any], Part] | None = None) -> None:
        self.kind = kind
        self.built_in = dict(built_in)
        self._complete = complete  # makes a part of the shorter form that a user may register

    def __getitem__(self, name: str) -> Part:
        if name in self.built_in:
            return self.built_in[name]
        part = own_parts(self.kind)[name].part
        return cast(Part, part) if self._complete is None else self._complete(part)

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from own_parts(self.kind)

    def __len__(self) -> int:
        return len(self.built_in) + len(own_parts(self.kind))

    def origin(self, name: str) -> Origin:
        """Where the part ``name`` comes from. Raises KeyError for an unknown one.

        >>> from fedmm.federation.aggregation import AGGREGATIONS
        >>> AGGREGATIONS.origin("mean").module
        'fedmm.federation.aggregation'
        """
        if name not in self.built_in:
            return own_parts(self.kind)[name].origin
        module = getattr(self.built_in[name], "__module__", None) or "fedmm"
        module = module if module.partition(".")[0] in OWN_PACKAGES else "fedmm"
        return Origin(module, _file_of(sys.modules[module].__dict__))


def callers_origin() -> Origin:
    """The module, outside fedmm, that is calling into it, and its file."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in PASSED_THROUGH:
        frame = frame.f_back
    return Origin(str(frame.f_globals.get("__name__", "__main__")), _file_of(frame.f_globals))


def _file_of(names: Mapping[str, Any]) -> str | None:
    """The file of a module's globals, where it is one that can be read again."""
    file = names.get("__file__")
    return str(Path(file).resolve()) if file and Path(file).is_file() else None
