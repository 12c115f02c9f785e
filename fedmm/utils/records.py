"""Typed results that read as objects and as the JSON they become.

A record has its fields as attributes and is a mapping of the same names: ``result.best_round`` and
``result["best_round"]``. What has names that only a run knows (splits, protocols, metrics, baselines) is a ``Named``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, RootModel

from fedmm.utils.trees import plain

V = TypeVar("V")


def _closed(schema: dict[str, Any], record: type[Record]) -> None:
    """Every key is always written, but for those that are left out where nothing was measured."""
    names = {name: field.alias or name for name, field in record.model_fields.items()}
    schema["required"] = [key for name, key in names.items() if name not in record.absent]
    schema.setdefault("additionalProperties", False)


class Record(BaseModel, Mapping[str, Any]):
    """A part of a result. Fields are written in their order; those in ``absent`` are left out where they are None.

    Keys that a newer fedmm added are passed over.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), json_schema_extra=_closed)
    absent: ClassVar[frozenset[str]] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it: plain dicts, lists and numbers."""
        found: dict[str, Any] = plain(self)
        return found

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """What ``to_json`` wrote. Raises ``pydantic.ValidationError``, a ValueError, where it is something else."""
        return cls.model_validate(tree)

    def _entries(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in own.items() if value is not None or name not in self.absent}

    def __getitem__(self, name: str) -> Any:
        return self._entries()[name]

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]  # of a mapping, not pydantic's pairs
        return iter(self._entries())

    def __len__(self) -> int:
        return len(self._entries())

    def __eq__(self, other: object) -> bool:
        return plain(self) == plain(other) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # what compares equal to a dict has none either


class Named(RootModel[dict[str, V]], Mapping[str, V], Generic[V]):
    """Values by name, as attributes and as a mapping, in the order in which they were measured.

    A name with a slash is reached by its parts: ``tests.full.ndcg_at_10`` is ``tests["full/ndcg_at_10"]``. A name that
    is not there raises AttributeError with those that are.

    >>> levels = Named[float]({"hr_at_10": 0.2, "ndcg_at_10": 0.1})
    >>> levels.hr_at_10, levels["ndcg_at_10"], list(levels)
    (0.2, 0.1, ['hr_at_10', 'ndcg_at_10'])
    >>> levels.mrr_at_10
    Traceback (most recent call last):
    AttributeError: 'mrr_at_10' was not measured; measured are hr_at_10, ndcg_at_10
    """

    model_config = ConfigDict(frozen=True)

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        found: dict[str, Any] = plain(self.root)
        return found

    def __getattr__(self, name: str) -> V:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self.root:
            return self.root[name]
        inside = {key.partition("/")[2]: value for key, value in self.root.items() if key.startswith(f"{name}/")}
        if not inside:
            raise AttributeError(unmeasured(name, self.root))
        return Named[V](inside)  # type: ignore[return-value]

    def __getitem__(self, name: str) -> V:
        return self.root[name]

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self.root)

    def __len__(self) -> int:
        return len(self.root)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(key.partition("/")[0] for key in self.root)]

    def __eq__(self, other: object) -> bool:
        return plain(self) == plain(other) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def unmeasured(name: str, measured: Mapping[str, Any]) -> str:
    """What an AttributeError says."""
    return f"{name!r} was not measured; measured are {', '.join(measured) or 'none'}"
