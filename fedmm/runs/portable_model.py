"""The portable form of a model of a run: what `fedmm export` writes and MLflow keeps."""

from __future__ import annotations

from pathlib import Path

import torch

from fedmm import __version__
from fedmm.errors import ConfigError
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.models.kinship import Kinship
from fedmm.models.personal import personal_zeros
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.models.succession import Succession
from fedmm.portable.files import Portable
from fedmm.portable.model import take_apart
from fedmm.recommendation.recommend import Names
from fedmm.utils.params import Params


def portable_of(
    experiment: Experiment,
    snapshot: Snapshot,
    weights: str = "float32",
    user: str | None = None,
    counts_an_item: int | None = None,
) -> Portable:
    """The model that all users share, with item ids and titles; ``weights`` are float32, bfloat16 or int8. With a
    ``user`` it is that user's own, by the personal parameters that the run keeps. ``counts_an_item`` keeps so many of
    the largest counts of what followed recent items, on average over items; None keeps all.

    Items held out as cold are not recommended. Raises ConfigError for experts that are no built-in ones and for a
    ``user`` where nobody has parameters of its own, DataError for a user that the data do not have.

    >>> import fedmm.testing
    >>> model = fedmm.testing.tiny_run().model
    >>> portable = portable_of(model.experiment, model.snapshot)
    >>> portable.model(torch.tensor([[0, 3, 4], [0, 0, 5]])).shape
    torch.Size([2, 31])
    """
    dataset, candidates = experiment.dataset, experiment.split.candidates
    if "regression" in experiment.additions:
        raise ConfigError(
            f"model.regression {experiment.config.model.regression:g} cannot be exported: V^2 numbers for V items.",
            "Set model.regression 0 for a model to export; serve and recommend read run folders with it.",
        )
    succession, kinship = (experiment.additions.get(name) for name in ("succession", "kinship"))
    if isinstance(succession, Succession) and counts_an_item is not None:
        succession = succession.strongest(counts_an_item * experiment.split.num_items)
    own = {} if user is None else _personal(experiment, snapshot, user)
    model = take_apart(
        experiment.recommender,
        snapshot.params | own,
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
    } | ({} if user is None else {"user_id": user})
    ids, titles = dataset.interactions.item_ids[1:], dataset.titles[1:]
    return Portable(model, ("", *map(str, ids)), ("", *map(str, titles)), about)


def has_personal(snapshot: Snapshot) -> bool:
    """Whether users have parameters of their own."""
    return bool(snapshot.clients.personal().entries)


def _personal(experiment: Experiment, snapshot: Snapshot, user: str) -> Params:
    """The parameters that are the user's alone, without an axis of clients; zeros where it never trained."""
    index = Names(experiment.dataset).users([user])
    recommender, own = experiment.recommender, snapshot.clients.personal()
    zeros = personal_zeros(recommender.config, snapshot.params[ITEM_TABLE], gate=recommender.has_gate)
    if not zeros or not own.entries:
        raise ConfigError("--user has no effect: the run keeps no personal parameters.", "Leave --user out.")
    return {name: value[0] for name, value in own.of(index, zeros).items()}
