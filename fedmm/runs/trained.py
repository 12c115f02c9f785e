"""A trained model, loaded: the one place that reads a checkpoint, restores it and prepares its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from fedmm.config import ExperimentConfig
from fedmm.data.negatives import DrawnNegatives
from fedmm.data.new_items import read_new_items
from fedmm.errors import ConfigError
from fedmm.evaluation.measured import Protocols
from fedmm.experiment import Experiment, Tell
from fedmm.federation.snapshot import Snapshot
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.recommendation.choosing import Choice, Chooser, History, Warn
from fedmm.recommendation.explanations import Explanation
from fedmm.recommendation.new_items import with_new_items
from fedmm.recommendation.recommend import ItemId, Recommendation
from fedmm.runs.checkpoint import load_checkpoint
from fedmm.runs.data_files import find_data
from fedmm.runs.facts import dataset_facts
from fedmm.runs.folder import (
    evaluated_params,
    require_complete,
    restore,
    restore_clients,
    restore_params,
    stored_settings,
)
from fedmm.runs.led import is_led, led_experiment, led_settings, require_users
from fedmm.runs.result import DatasetFacts
from fedmm.runs.warm import started_from, warm_start
from fedmm.utils.lists import require_list

if TYPE_CHECKING:
    from fedmm.runs.export import Exported

Changes = Callable[[ExperimentConfig], ExperimentConfig]


class Choosing(TypedDict, total=False):
    """What ``TrainedModel.recommend`` takes beyond whom the lists are for."""

    k: int
    exclude: Sequence[ItemId]
    only: Sequence[ItemId] | None
    keep_seen: bool
    min_score: float | None
    diversity: float
    warn: Warn | None


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
        """The model of a run folder (its best round), of a checkpoint in it, or of a folder of checkpoints; of a
        federation too, where there are no users.

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
        if is_led(meta):
            config = led_settings(meta, path)
            experiment = led_experiment(config if change is None else change(config), path)
            found = restore_params(evaluated_params(tensors), experiment, path)
            return cls(experiment, Snapshot(found, int(meta["round"])), path)
        require_complete(meta, path)
        config = stored_settings(meta, path)
        config = config if change is None else change(config)
        now = find_data(config.data, meta, path, None if data is None else Path(data))
        warm = warm_start(started_from(config, meta, path), now, tell or (lambda _: None))
        experiment = Experiment.prepare(config, tell, data=now, warm=warm)
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
        require_users(experiment, self.path)
        require_list(protocols, "protocols")
        if protocols is not None:
            config = with_runtime(protocols=tuple(protocols))(self.config)
            drawn = DrawnNegatives(config.evaluation, experiment.split, {split: experiment.queries(split)})
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
        if (history is None) == (histories is None):
            raise ConfigError("One of history and histories is needed.", "Give exactly one of them.")
        return self._chooser.score([history] if history is not None else histories or [], warn)

    @overload
    def recommend(self, history: History, **how: Unpack[Choosing]) -> list[Recommendation]: ...

    @overload
    def recommend(self, *, user: ItemId, **how: Unpack[Choosing]) -> list[Recommendation]: ...

    @overload
    def recommend(self, *, histories: Sequence[History], **how: Unpack[Choosing]) -> list[list[Recommendation]]: ...

    @overload
    def recommend(self, *, users: Sequence[ItemId], **how: Unpack[Choosing]) -> list[list[Recommendation]]: ...

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
        min_score: float | None = None,
        diversity: float = 0.0,
        warn: Warn | None = None,
    ) -> list[Recommendation] | list[list[Recommendation]]:
        """The ``k`` best items, best first, as ``Recommendation(item_id, score, title)``.

        One ``history`` or ``user`` gives a list, several ``histories`` or ``users`` a list of lists. A user stands for
        the whole of its history in the data and for its personal parameters where the run has them; a history is
        exactly what is given. Items of the history are left out unless ``keep_seen``; ``exclude`` leaves out more,
        ``only`` (a stock list) leaves out all others, ``min_score`` what scores less. Items held out as cold take part
        where ``only`` names them. ``diversity`` from 0 to 1 weighs how unlike the items of a list are (maximal
        marginal relevance over their features, Carbonell and Goldstein, 1998); items then stand in the order of choice.
        ``warn`` hears of unknown ids; by default a warning is raised for them.

        Raises DataError for an unknown user and where no id of a history or of ``only`` is known, ConfigError unless
        exactly one of the four ways to ask is taken.

        >>> import fedmm.testing
        >>> model = fedmm.testing.tiny_run().model
        >>> best = model.recommend(["i3", "i4"], k=3, only=["i5", "i6", "i7", "i3"])
        >>> len(best), sorted(one.item_id for one in best)
        (3, ['i5', 'i6', 'i7'])
        """
        choice = Choice(k, exclude, only, keep_seen, min_score, diversity)
        asked = self._chooser.asked(history, histories, user, users, warn)
        found = list(self._chooser.each(asked, choice, warn))
        return found if history is None and user is None else found[0]

    def recommend_each(
        self,
        *,
        users: Sequence[ItemId] | None = None,
        histories: Sequence[History] | None = None,
        k: int = 10,
        exclude: Sequence[ItemId] = (),
        only: Sequence[ItemId] | None = None,
        keep_seen: bool = False,
        min_score: float | None = None,
        diversity: float = 0.0,
        warn: Warn | None = None,
    ) -> Iterator[list[Recommendation]]:
        """The lists of ``recommend``, one after the other, made in batches as they are taken: for more users than lists
        fit into memory.

        >>> import fedmm.testing
        >>> model = fedmm.testing.tiny_run().model
        >>> [len(found) for found in model.recommend_each(users=["u1", "u2"], k=3)]
        [3, 3]
        """
        choice = Choice(k, exclude, only, keep_seen, min_score, diversity)
        return self._chooser.each(self._chooser.asked(None, histories, None, users, warn), choice, warn)

    def with_items(self, path: Path | str) -> TrainedModel:
        """The model with new items, which may be recommended though nobody has met them: those of a feature file with
        ``item_id``, ``visual`` and ``semantic`` (what the run has), and ``title`` where known.

        Rows are as the encoder of the run's features makes them. In the item table a new item stands where the 20
        nearest trained items stand by features. Raises DataError for a file that cannot be read or does not fit,
        ConfigError where an expert of one's own has parameters an item.

        >>> import numpy as np, fedmm.testing
        >>> run = fedmm.testing.tiny_run()
        >>> np.savez(run.folder / "new.npz", item_id=["n1"], visual=np.ones((1, 5)), semantic=np.ones((1, 4)))
        >>> model = run.model.with_items(run.folder / "new.npz")
        >>> len(model.item_ids), [one.item_id for one in model.recommend(["i3"], only=["n1"])]
        (31, ['n1'])
        """
        dataset = self.experiment.dataset
        new = read_new_items(Path(path), dataset.features, dataset.interactions.item_ids)
        experiment, snapshot = with_new_items(self.experiment, self.snapshot, new)
        return replace(self, experiment=experiment, snapshot=snapshot)

    def similar(
        self,
        item: ItemId,
        *,
        by: str = "model",
        k: int = 10,
        exclude: Sequence[ItemId] = (),
        only: Sequence[ItemId] | None = None,
        min_score: float | None = None,
        warn: Warn | None = None,
    ) -> list[Recommendation]:
        """The ``k`` items most like ``item``, best first; scores are cosines.

        ``by`` "model" compares what the model learned of items (their embeddings), "text" and "image" compare features.
        Raises DataError for an unknown item or one without what is compared, ConfigError where the run has no such
        features.

        >>> import fedmm.testing
        >>> found = fedmm.testing.tiny_run().model.similar("i3", by="text", k=2)
        >>> len(found), found[0].score >= found[1].score
        (2, True)
        """
        return self._chooser.similar(item, by, Choice(k, exclude, only, min_score=min_score), warn)

    def explain(
        self,
        history: History | None = None,
        items: Sequence[ItemId] | None = None,
        *,
        user: ItemId | None = None,
        k: int = 3,
        warn: Warn | None = None,
    ) -> list[Explanation]:
        """Why ``items`` score as they do after a ``history``, or for a ``user`` of the data; None: the ``k`` best.

        Each ``Explanation`` has every part's share of the score (they sum to it), the router's weights and what leaving
        each entry of the history out would change, exactly. Raises DataError for an unknown user or item, ConfigError
        unless a history or a user is given.

        >>> import fedmm.testing
        >>> (found,) = fedmm.testing.tiny_run().model.explain(["i3", "i4"], ["i5"])
        >>> list(found.shares), abs(sum(found.shares.values()) - found.score) < 1e-5
        (['backbone', 'visual', 'semantic'], True)
        >>> sorted(entry.item_id for entry in found.entries)
        ['i3', 'i4']
        """
        return self._chooser.explain(self._chooser.asked(history, None, user, None, warn), items, k, warn)

    def export(
        self,
        format: str,
        output: Path | str,
        *,
        weights: str | None = None,
        top: int | None = None,
        user: ItemId | None = None,
        tell: Tell | None = None,
    ) -> Exported:
        """Writes the model for other programs, as ``fedmm export`` does: ``format`` is onnx, torch, safetensors, mlflow
        or bundle, ``output`` a file, for the last two a folder. With a ``user`` it is that user's own model, by its
        personal parameters; else they are left out.

        ``weights`` are float32, bfloat16 or int8 (by default float32, in a bundle bfloat16), ``top`` makes an onnx or
        torch graph return so many best items. Raises ConfigError for what cannot be or needs packages of the extra
        ``export``, StorageError where ``output`` cannot be written.

        >>> import fedmm.testing, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = fedmm.testing.tiny_run().model.export("safetensors", f"{folder}/model.safetensors")
        >>> found.weights, found.format
        ('float32', 'safetensors')
        """
        from fedmm.runs.export import export_model

        whose = None if user is None else str(user)
        return export_model(self, format, Path(output), weights=weights, top=top, user=whose, tell=tell)

    @cached_property
    def _chooser(self) -> Chooser:
        return Chooser(self.experiment, self.snapshot)


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
