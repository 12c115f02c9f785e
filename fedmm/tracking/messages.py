"""What a tracker tells a tracking store: plain values that can wait in a file."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclasses.dataclass(frozen=True)
class Params:
    """Settings as text."""

    values: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Tags:
    """Tags of the run."""

    values: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Metrics of one step; ``time`` is in milliseconds since 1970."""

    values: dict[str, float]
    step: int
    time: int


@dataclasses.dataclass(frozen=True)
class DatasetInput:
    """A dataset that the run reads; ``profile`` has its counts."""

    name: str
    digest: str
    profile: dict[str, int]
    context: str


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A file or folder to copy, by its absolute path."""

    path: str
    folder: str | None


@dataclasses.dataclass(frozen=True)
class Model:
    """A model folder in MLflow's format to keep as an output of the run, as of one step."""

    path: str
    name: str
    step: int


@dataclasses.dataclass(frozen=True)
class Finish:
    """The end of the run; ``time`` is in milliseconds since 1970."""

    status: Status
    time: int


Message = Params | Tags | Metrics | DatasetInput | Artifact | Model | Finish
_KINDS = {kind.__name__: kind for kind in (Params, Tags, Metrics, DatasetInput, Artifact, Model, Finish)}


def serialise(message: Message) -> dict[str, Any]:
    """The message as a JSON object: its kind and its fields."""
    return {"kind": type(message).__name__, **dataclasses.asdict(message)}


def parse(entry: Mapping[str, Any]) -> Message | None:
    """The message that ``serialise`` wrote, None where it is no message. NaN, which JSON lacks, returns as NaN."""
    fields = {name: value for name, value in entry.items() if name != "kind"}
    try:
        message: Message = _KINDS[entry["kind"]](**fields)
    except (KeyError, TypeError):
        return None
    if isinstance(message, Metrics):
        values = {name: math.nan if value is None else value for name, value in message.values.items()}
        return dataclasses.replace(message, values=values)
    return message


def as_text(value: Any) -> str:
    """A setting as text: ``none``, ``true``, numbers as Python writes them, lists as JSON."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return json.dumps(list(value)) if isinstance(value, (list, tuple)) else str(value)
