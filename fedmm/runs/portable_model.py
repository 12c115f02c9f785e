"""The portable form of a model of a run: what `fedmm export` writes and MLflow keeps."""

from __future__ import annotations

from pathlib import Path

import torch

from fedmm import __version__
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.models.kinship import Kinship
from fedmm.models.succession import Succession
from fedmm.portable.files import Portable
from fedmm.portable.model import take_apart


def portable_of(experiment: Experiment, snapshot: Snapshot, weights: str = "float32") -> Portable:
    """The model that all users share, with item ids and titles; ``weights`` are float32, bfloat16 or int8.

    Items held out as cold are not recommended. Raises ConfigError for experts that are no built-in ones.

    >>> import fedmm.testing
    >>> model = fedmm.testing.tiny_run().model
    >>> portable = portable_of(model.experiment, model.snapshot)
    >>> portable.model(torch.tensor([[0, 3, 4], [0, 0, 5]])).shape
    torch.Size([2, 31])
    """
    dataset, candidates = experiment.dataset, experiment.split.candidates
    succession, kinship = (experiment.additions.get(name) for name in ("succession", "kinship"))
    model = take_apart(
        experiment.recommender,
        snapshot.params,
        experts=snapshot.round > experiment.config.federation.warmup_rounds,
        succession=succession if isinstance(succession, Succession) else None,
        kinship=kinship if isinstance(kinship, Kinship) else None,
        candidates=None if candidates is None else torch.from_numpy(candidates),
        weights=weights,
    )
    about = {
        "fedmm_version": __version__,
        "dataset": Path(dataset.name).name,
        "dataset_digest": dataset.digest,
        "config_digest": experiment.config.digest,
        "round": snapshot.round,
    }
    ids, titles = dataset.interactions.item_ids[1:], dataset.titles[1:]
    return Portable(model, ("", *map(str, ids)), ("", *map(str, titles)), about)
