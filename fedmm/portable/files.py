"""One file for a whole model: safetensors, with its settings, item ids and titles as JSON in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as encode

from fedmm.config import ModelConfig
from fedmm.errors import CheckpointError
from fedmm.portable.model import Facts, PortableModel
from fedmm.utils.files import write_atomically

FORMAT = 1
KEY = "fedmm"  # in the header


@dataclass(frozen=True, eq=False)
class Portable:
    """A model with the names of what it recommends; index 0 of both lists is padding, "" ."""

    model: PortableModel
    item_ids: tuple[str, ...]  # [V]
    titles: tuple[str, ...]  # [V], "" where unknown
    about: Mapping[str, Any] = field(default_factory=dict)  # where it comes from: dataset, round, digests


def write_portable(portable: Portable, path: Path) -> None:
    """Writes the model to ``path``, atomically. Raises StorageError where it cannot be written."""
    tensors = {name: value.contiguous() for name, value in portable.model.tensors().items()}
    header = {
        "format": FORMAT,
        "facts": {**asdict(portable.model.facts), "config": portable.model.facts.config.model_dump(mode="json")},
        "item_ids": portable.item_ids,
        "titles": portable.titles,
        "tensors": list(tensors),  # in the order of the router's outputs; the format sorts them
        "about": dict(portable.about),
    }
    write_atomically(path, encode(tensors, {KEY: json.dumps(header)}))


def read_portable(path: Path | str) -> Portable:
    """The model that ``write_portable`` wrote. Raises CheckpointError where ``path`` holds none, or a newer one."""
    try:
        with safe_open(path, framework="pt") as opened:
            text = (opened.metadata() or {}).get(KEY)
            found: dict[str, torch.Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is no exported model: {error}.", "Give what `fedmm export` wrote.") from None
    try:
        header = json.loads(text or "")
        if header["format"] > FORMAT:
            raise CheckpointError(f"{path} was written by a newer fedmm.", "Update fedmm, or export again.")
        facts = Facts(**{**header["facts"], "config": ModelConfig.model_validate(header["facts"]["config"])})
        model = PortableModel(facts, {name: found[name] for name in header["tensors"]}).eval()
    except (ValueError, KeyError, TypeError, ValidationError):
        raise CheckpointError(f"{path} is no exported model.", "Give what `fedmm export` wrote.") from None
    return Portable(model, tuple(header["item_ids"]), tuple(header["titles"]), header["about"])
