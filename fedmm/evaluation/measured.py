"""Metrics as results have them: by name, with their intervals. Light: results are read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from fedmm.utils.records import Named, Record, unmeasured

Interval = tuple[float | None, float | None]  # its ends; JSON has null where a number is not finite


class Metrics(Record):
    """Metrics of one protocol by name, ``metrics.ndcg_at_10``, with their 95% intervals, ``metrics.ci95.ndcg_at_10``.

    >>> metrics = Metrics(hr_at_10=0.25, num_users=4, ci95={"hr_at_10": (0.0, 0.75)})
    >>> metrics.hr_at_10, metrics.ci95.hr_at_10
    (0.25, (0.0, 0.75))
    """

    model_config = ConfigDict(extra="allow")
    absent: ClassVar[frozenset[str]] = frozenset({"num_users", "num_negatives", "ci95"})
    __pydantic_extra__: dict[str, float | None] = Field(init=False)

    num_users: int | float | None = None  # who were asked; left out of rows that say so themselves
    num_negatives: int | float | None = None  # where they are fewer than the protocol's name says
    ci95: Named[Interval] | None = None  # left out where nothing was resampled

    def __getattr__(self, name: str) -> Any:
        measured: Mapping[str, Any] = object.__getattribute__(self, "__pydantic_extra__") or {}
        if name in measured:
            return measured[name]
        raise AttributeError(unmeasured(name, measured))

    def _entries(self) -> dict[str, Any]:
        return {**(self.__pydantic_extra__ or {}), **super()._entries()}


Protocols = Named[Metrics]  # "full" -> metrics
