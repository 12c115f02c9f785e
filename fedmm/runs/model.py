"""A trained model, loaded: the one place that reads a checkpoint, restores it and prepares its data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.config import ExperimentConfig
from fedmm.config.load import load_config
from fedmm.data.negatives import all_negatives
from fedmm.data.types import BoolArray, IntArray, Ragged
from fedmm.errors import ConfigError, DataError
from fedmm.evaluation.measured import Protocols
from fedmm.experiment import Experiment, Tell
from fedmm.federation.snapshot import Snapshot
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.recommendation.recommend import NOBODY, ItemId, Names, Recommendation, named, rank, score_all
from fedmm.runs.checkpoint import load_checkpoint
from fedmm.runs.data_files import find_data
from fedmm.runs.facts import dataset_facts
from fedmm.runs.folder import (
    CONFIG_FILE,
    RESULT_FILE,
    evaluated_params,
    require_complete,
    restore,
    restore_clients,
    stored_settings,
)
from fedmm.runs.own_parts import require_parts_of
from fedmm.runs.result import DatasetFacts, TrainResult, read_result
from fedmm.utils.files import read_rounds

Warn = Callable[[str], None]
History = Sequence[ItemId]
Changes = Callable[[ExperimentConfig], ExperimentConfig]


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model as of one round over the data it was trained on. Ids are strings as in the data; integers are taken.

    >>> import fedmm.testing
    >>> model = fedmm.testing.tiny_run().model
    >>> model.round <= 2, len(model.item_ids), model.dataset.num_users
    (True, 30, 16)
    """

    experiment: Experiment
    snapshot: Snapshot
    path: Path | None = None

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        change: Changes | None = None,
        tell: Tell | None = None,
        data: Path | str | None = None,
    ) -> TrainedModel:
        """The model of a run folder (its best round), of a checkpoint in it, or of a folder of checkpoints.

        ``change`` may alter settings that the model does not depend on (device, threads, protocols). ``tell`` hears
        what is being done. ``data`` says where the run's file of interactions is now, if it has moved. Raises
        CheckpointError where the checkpoint cannot be read, or does not fit the data or the model; ConfigError where it
        needs a part that nobody registers.

        >>> import fedmm, fedmm.testing
        >>> fedmm.TrainedModel.load(fedmm.testing.tiny_run().folder).config.model.hidden_dim
        8
        """
        path = Path(path)
        tensors, meta = load_checkpoint(path)
        require_complete(meta, path)
        config = stored_settings(meta, path)
        config = config if change is None else change(config)
        now = find_data(config.data, meta, path, None if data is None else Path(data))
        experiment = Experiment.prepare(config, tell, data=now)
        params = restore(evaluated_params(tensors), meta, experiment, path)
        clients = restore_clients(tensors, "clients", experiment, path)
        return cls(experiment, Snapshot(params, int(meta["round"]), clients), path)

    @property
    def config(self) -> ExperimentConfig:
        """The settings it was trained with.

        >>> import fedmm.testing
        >>> fedmm.testing.tiny_run().model.config.federation.rounds
        2
        """
        return self.experiment.config

    @property
    def round(self) -> int:
        """After how many rounds it is taken.

        >>> import fedmm.testing
        >>> fedmm.testing.tiny_run().model.round in (1, 2)
        True
        """
        return self.snapshot.round

    @property
    def dataset(self) -> DatasetFacts:
        """Name, sizes and digest of its data.

        >>> import fedmm.testing
        >>> fedmm.testing.tiny_run().model.dataset.num_items
        30
        """
        return dataset_facts(self.experiment)

    @property
    def item_ids(self) -> tuple[str, ...]:
        """[V]: the real items' ids as in the data, in the order of all that this class returns.

        >>> import fedmm.testing
        >>> sorted(fedmm.testing.tiny_run().model.item_ids)[:2]
        ['i0', 'i1']
        """
        return tuple(map(str, self.experiment.dataset.interactions.item_ids[1:]))

    @property
    def titles(self) -> tuple[str, ...]:
        """[V]: the items' titles; "" where unknown.

        >>> import fedmm.testing
        >>> set(fedmm.testing.tiny_run().model.titles)
        {''}
        """
        return tuple(map(str, self.experiment.dataset.titles[1:]))

    def item_embeddings(self) -> NDArray[np.float32]:
        """[V, D]: the item table, a copy, in the order of ``item_ids``.

        >>> import fedmm.testing
        >>> fedmm.testing.tiny_run().model.item_embeddings().shape
        (30, 8)
        """
        table: NDArray[np.float32] = self.snapshot.params[ITEM_TABLE][1:].float().cpu().numpy()
        return table.copy()

    def evaluate(self, split: str = "test", protocols: Sequence[str] | None = None) -> Protocols:
        """Metrics with 95% intervals on "test" or "validation", those of ``fedmm evaluate``.

        ``protocols`` are some of full, uniform100 and popularity100; None takes the run's.

        >>> import fedmm.testing
        >>> metrics = fedmm.testing.tiny_run().model.evaluate("test", ["full"])
        >>> metrics.full.hr_at_10 == fedmm.testing.tiny_run().result.metrics.test.full.hr_at_10
        True
        """
        if split not in ("test", "validation"):
            raise ConfigError(f"There is no split {split!r}.", "Take test or validation.")
        experiment = self.experiment
        if protocols is not None:
            config = with_runtime(protocols=tuple(protocols))(self.config)
            drawn = {name: all_negatives(config.evaluation, experiment.split, experiment.queries(name))
                     for name in ("validation", "test")}  # fmt: skip
            experiment = replace(experiment, config=config, negatives=drawn)
        return experiment.evaluate(self.snapshot, split).protocols()

    def score(
        self, history: History | None = None, *, histories: Sequence[History] | None = None, warn: Warn | None = None
    ) -> NDArray[np.float32]:
        """[N, V]: the score of every item after each history, in the order of ``item_ids``; N is 1 for one ``history``.

        Raises DataError for a history of which no item is known.

        >>> import fedmm.testing
        >>> fedmm.testing.tiny_run().model.score(["i3", "i4"]).shape
        (1, 30)
        """
        rows = self._rows(history, histories)
        known, unknown = self._names.histories(rows)
        _tell_unknown(unknown, warn)
        users = np.full(len(known), NOBODY, np.int64)
        experiment = self.experiment
        return score_all(experiment.scorer(self.snapshot), users, known, experiment.split.num_items, experiment.device)

    def recommend(
        self,
        history: History | None = None,
        *,
        histories: Sequence[History] | None = None,
        user: ItemId | None = None,
        users: Sequence[ItemId] | None = None,
        k: int = 10,
        exclude: Sequence[ItemId] = (),
        only: Sequence[ItemId] | None = None,
        keep_seen: bool = False,
        warn: Warn | None = None,
    ) -> Any:
        """The ``k`` best items, best first, as ``Recommendation(item_id, score, title)``.

        One ``history`` or ``user`` gives a list, several ``histories`` or ``users`` a list of lists. A user stands for
        the whole of its history in the data and for its personal parameters where the run has them; a history is
        exactly what is given. Items of the history are left out unless ``keep_seen``; ``exclude`` leaves out more,
        ``only`` (a stock list) leaves out all others. Items held out as cold take part where ``only`` names them.
        ``warn`` hears of unknown ids; by default a warning is raised for them.

        Raises DataError for an unknown user and where no id of a history or of ``only`` is known, ConfigError unless
        exactly one of the four ways to ask is taken.

        >>> import fedmm.testing
        >>> model = fedmm.testing.tiny_run().model
        >>> best = model.recommend(["i3", "i4"], k=3, only=["i5", "i6", "i7", "i3"])
        >>> len(best), sorted(one.item_id for one in best)
        (3, ['i5', 'i6', 'i7'])
        """
        if k < 1:
            raise ConfigError(f"k cannot be {k}.", "Ask for at least one item.")
        if sum(way is not None for way in (history, histories, user, users)) != 1:
            raise ConfigError("One of history, histories, user and users is needed.", "Give exactly one of them.")
        if user is not None or users is not None:
            asked = self._names.users([user] if user is not None else [] if users is None else users)
            rows = Ragged.from_rows([self.experiment.dataset.interactions.histories[index] for index in asked])
        else:
            rows, unknown = self._names.histories(self._rows(history, histories))
            _tell_unknown(unknown, warn)
            asked = np.full(len(rows), NOBODY, np.int64)
        found = self._lists(asked, rows, k, exclude, only, keep_seen=keep_seen)
        return found if history is None and user is None else found[0]

    def _lists(
        self,
        users: IntArray,
        rows: Ragged,
        k: int,
        exclude: Sequence[ItemId],
        only: Sequence[ItemId] | None,
        *,
        keep_seen: bool,
    ) -> list[list[Recommendation]]:
        more, _ = self._names.items(exclude)
        excluded = Ragged.from_rows([[*([] if keep_seen else dict.fromkeys(row.tolist())), *more] for row in rows])
        items, scores = rank(
            self.experiment.scorer(self.snapshot),
            users,
            rows,
            min(k, self.experiment.split.num_items),
            excluded=excluded,
            candidates=self._candidates(only),
            device=self.experiment.device,
        )
        return [self._names.listed(*pair) for pair in zip(items, scores, strict=True)]

    def _candidates(self, only: Sequence[ItemId] | None) -> BoolArray | None:
        if only is None:
            return self.experiment.split.candidates
        known, unknown = self._names.items(only)
        if not known:
            raise DataError(f"None of the items to choose from is known ({named(unknown)}).", "Give ids of the data.")
        mask = np.zeros(self.experiment.split.num_items + 1, dtype=bool)
        mask[known] = True
        return mask

    def _rows(self, history: History | None, histories: Sequence[History] | None) -> Sequence[History]:
        if (history is None) == (histories is None):
            raise ConfigError("One of history and histories is needed.", "Give exactly one of them.")
        return [history] if history is not None else [] if histories is None else histories

    @cached_property
    def _names(self) -> Names:
        return Names(self.experiment.dataset)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, read back from its folder.

    >>> import fedmm.testing
    >>> run = fedmm.testing.tiny_run()
    >>> run.config.federation.rounds, run.result.status, len(run.rounds)
    (2, 'finished', 2)
    """

    folder: Path
    config: ExperimentConfig
    result: TrainResult
    data: Path | None = None  # where its file of interactions is now; None: where it was

    @classmethod
    def load(cls, folder: Path | str, *, data: Path | str | None = None) -> Run:
        """The run in ``folder``; ``data`` says where its file of interactions is now, if it has moved.

        Raises DataError where it holds no finished run, ConfigError where it used a part that is not registered.

        >>> import fedmm, fedmm.testing
        >>> fedmm.Run.load(fedmm.testing.tiny_run().folder).result.seed
        0
        """
        folder = Path(folder)
        require_parts_of(folder, CONFIG_FILE)
        result = read_result(folder / RESULT_FILE)
        return cls(folder, load_config([folder / CONFIG_FILE]), result, None if data is None else Path(data))

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """What was known after each round: the learning curve.

        >>> import fedmm.testing
        >>> [entry["round"] for entry in fedmm.testing.tiny_run().rounds]
        [1, 2]
        """
        return list(read_rounds(self.folder))

    @cached_property
    def model(self) -> TrainedModel:
        """The best round's model; data and parameters load when it is first asked for.

        >>> import fedmm.testing
        >>> fedmm.testing.tiny_run().model.round == fedmm.testing.tiny_run().result.best_round
        True
        """
        return TrainedModel.load(self.folder, data=self.data)


def with_runtime(
    protocols: tuple[str, ...] | None = None, device: str | None = None, threads: int | None = None
) -> Changes:
    """A change of stored settings: what is measured and where, never what the model is."""

    def change(config: ExperimentConfig) -> ExperimentConfig:
        tree = config.model_dump()
        if protocols is not None:
            selection = f"{protocols[0]}/{config.evaluation.selection_metric.partition('/')[2]}"
            tree["evaluation"] |= {"protocols": protocols, "selection_metric": selection}
        runtime = {"device": device, "threads": threads}
        tree["runtime"] |= {key: value for key, value in runtime.items() if value is not None}
        return ExperimentConfig.model_validate(tree)

    return change


def _tell_unknown(unknown: Sequence[str], warn: Warn | None) -> None:
    if not unknown:
        return
    text = f"{len(unknown)} unknown item ids are passed over: {named(unknown)}."
    if warn is None:
        warnings.warn(text, stacklevel=4)
    else:
        warn(text)
