"""The model of a federation, from the folder that its server leaves: there are items and sums, and nobody's history.

Beside the checkpoints stands ``catalogue``: the items' ids, titles and features, and what all silos were told as the
federation began.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.sparse import csr_matrix

from fedmm.config import ExperimentConfig
from fedmm.data.types import Dataset, Interactions, ItemFeatures, Queries, Ragged, Split
from fedmm.engines import build
from fedmm.engines.precision import with_precision
from fedmm.errors import CheckpointError, ConfigError
from fedmm.experiment import Experiment
from fedmm.federation.count_uses import added_succession, count_sums
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.private_parts import private_federation, private_model
from fedmm.federation.rounds import Federation
from fedmm.models.features import MODALITIES
from fedmm.models.noisy_counts import NoisyCounts
from fedmm.models.recommender import Recommender
from fedmm.runs.checkpoint import load_checkpoint, save_checkpoint
from fedmm.utils.devices import choose_device
from fedmm.utils.params import Params

NAME = "catalogue"
IDS, TITLES, BEGIN = "item_ids", "titles", "begin/"
COUNTS = ("rows", "columns", "counts")


def save_catalogue(
    folder: Path, tensors: Mapping[str, torch.Tensor], titles: NDArray[np.str_] | None, begin: Params, digest: str
) -> None:
    """Writes the catalogue of a federation, and what silos were told, beside its checkpoints. Raises StorageError."""
    kept = {**tensors, **{f"{BEGIN}{name}": value for name, value in begin.items()}}
    if titles is not None:
        kept[TITLES] = torch.frombuffer(bytearray(json.dumps(titles[1:].tolist()).encode()), dtype=torch.uint8)
    save_checkpoint(folder, NAME, kept, {"digest": digest})


def is_led(meta: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of a federation whose users are with their silos."""
    return bool(meta.get("federation"))


def led_settings(meta: Mapping[str, Any], path: Path) -> ExperimentConfig:
    """The settings that a federation agreed on. Raises CheckpointError where this fedmm cannot read them."""
    try:
        return ExperimentConfig.model_validate(meta["terms"])
    except (KeyError, ValidationError):
        raise CheckpointError(
            f"{path} has settings that this fedmm cannot read.", "Use the version that led."
        ) from None


def led_experiment(config: ExperimentConfig, path: Path) -> Experiment:
    """The parts of a federation's model around nobody's data. ``path`` is its folder, or a checkpoint in it. Raises
    CheckpointError where the catalogue is not there."""
    tensors, digest = _catalogue(path)
    device = choose_device(config.runtime.device)
    config, dtype = with_precision(config, device)
    dataset = _dataset(tensors, digest)
    size = len(dataset.interactions.item_ids)
    nobody, none = Ragged(np.zeros(0, np.int64), np.zeros(1, np.int64)), np.zeros(0, np.int64)
    asked = Queries(none, nobody, none, nobody)
    split = Split(config.data.split, size - 1, nobody, asked, asked)
    sums = count_sums(config, nobody, size - 1)
    vars(sums)["clients"] = _counts(tensors, size)
    counts = sums.clients if config.model.transition else None
    recommender = Recommender.build(private_model(config), size - 1, dataset.features, dtype, device, counts)
    own = private_federation(config.federation, config, experts=bool(recommender.experts))
    local = LocalTraining.build(recommender, own, nobody, config.runtime.seed, dtype, device)
    federation = Federation(own, local, none, 0, build.engine_of(config), config.runtime.seed)
    negatives: dict[str, dict[str, NDArray[np.int32]]] = {"validation": {}, "test": {}}
    made = Experiment(config, dataset, split, recommender, federation, sums, None, negatives, (), device, dtype)
    if config.privacy.on:
        vars(made)["additions"] = _noisy_counts(config, tensors)
    else:
        vars(made)["succession"] = added_succession(config, sums)
    return made


def require_users(experiment: Experiment, path: Path | None) -> None:
    """Raises ConfigError where there is nobody to be asked: a federation's users are with their silos."""
    if not experiment.dataset.interactions.num_users:
        raise ConfigError(
            f"{path} holds a federation's model, and its users are with their silos.",
            "What they measured is in its outcome.json; recommend --history, serve and export need no users.",
        )


def _catalogue(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    for folder in (path, *path.absolute().parents[:2]):
        if (folder / NAME).is_dir():
            tensors, meta = load_checkpoint(folder / NAME)
            return tensors, str(meta["digest"])
    raise CheckpointError(
        f"{path} is of a federation without its catalogue.",
        "Give the whole folder that lead wrote; an older one gets it when lead goes on in it.",
    )


def _dataset(tensors: Mapping[str, torch.Tensor], digest: str) -> Dataset:
    ids = np.array(["", *json.loads(tensors[IDS].numpy().tobytes())], dtype=np.str_)
    titles = json.loads(tensors[TITLES].numpy().tobytes()) if TITLES in tensors else [""] * (len(ids) - 1)
    nobody = Ragged(np.zeros(0, np.int64), np.zeros(1, np.int64))
    features = {
        name: ItemFeatures(tensors[f"{name}.values"].numpy(), tensors[f"{name}.present"].numpy())
        for name in MODALITIES
        if f"{name}.values" in tensors
    }
    whole = Interactions(np.zeros(0, dtype=np.str_), ids, nobody, np.zeros(0))
    return Dataset("federation", whole, features, np.array(["", *titles], dtype=np.str_), digest)


def _noisy_counts(config: ExperimentConfig, tensors: Mapping[str, torch.Tensor]) -> dict[str, NoisyCounts]:
    """The noisy counts that all silos were told, at the weight of the settings."""
    told = {name.removeprefix(BEGIN): value for name, value in tensors.items() if name.startswith(BEGIN)}
    found, weight = NoisyCounts.from_tensors(told), config.privacy.counts_weight
    return {"noisy_counts": found.weighted(weight)} if found is not None and weight else {}


def _counts(tensors: Mapping[str, torch.Tensor], size: int) -> csr_matrix:
    """Directed counts [V, V] that all silos were told; none where nothing reads them."""
    if f"{BEGIN}rows" not in tensors:
        return csr_matrix((size, size))
    rows, columns, values = (tensors[f"{BEGIN}{name}"].numpy() for name in COUNTS)
    return csr_matrix((values, (rows, columns)), shape=(size, size))
