"""Assembles the parts of a run from its settings, and runs them: a generator of round reports.

Nothing here writes, prints or catches signals; that is the caller's loop (``runs/train.py``).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from fedmm.config import DataConfig, ExperimentConfig
from fedmm.data.datasets import load_dataset, read_by
from fedmm.data.negatives import DrawnNegatives, Negatives, shortage_notes
from fedmm.data.splits import make_split
from fedmm.data.types import Dataset, FloatArray, Queries, Split
from fedmm.engines.build import build_federation, spread_of
from fedmm.engines.precision import require_trainable, with_precision
from fedmm.evaluation.baselines import popularity_scorer, transition_scorer
from fedmm.evaluation.gate_start import choose_gate, gate_notes
from fedmm.evaluation.metrics import one_metric
from fedmm.evaluation.model_scorer import Addition, addition_scorer, model_scorer, with_additions
from fedmm.evaluation.pooled_yardsticks import pooled_note, pooled_scorers
from fedmm.evaluation.ranking import Scorer
from fedmm.evaluation.results import Evaluation, evaluate
from fedmm.federation import count_uses, largest_updates
from fedmm.federation.averaging import averaged
from fedmm.federation.centralized import run_epoch
from fedmm.federation.count_sums import CountSums
from fedmm.federation.data_rules import settled, training_notes
from fedmm.federation.kind_start import NoisyStart
from fedmm.federation.ledger import Ledger
from fedmm.federation.private_parts import private_model, promises
from fedmm.federation.private_start import private_start_bytes
from fedmm.federation.reports import RoundReport as RoundReport
from fedmm.federation.reports import TrainState as TrainState
from fedmm.federation.reports import report_of
from fedmm.federation.rounds import Federation, ServerState, run_round
from fedmm.federation.snapshot import Best, Snapshot
from fedmm.federation.start_table import start_item_table
from fedmm.federation.warm_start import WarmStart, kept_of
from fedmm.models.alignment import check_alignment
from fedmm.models.fusion import GATE, expert_notes
from fedmm.models.personal import personal_zeros
from fedmm.models.recommender import Recommender
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.models.succession import Succession
from fedmm.utils.devices import choose_device as choose_device
from fedmm.utils.params import Params
from fedmm.utils.seeding import derive, torch_stream
from fedmm.utils.text import metric_words
from fedmm.utils.timing import OFF, Timer

Tell = Callable[[str], None]
NO_START = {"federation.spectral_start": False, "federation.spectral_sketch_size": None}  # a warm start is one
COLD = "cold"  # evaluated like a split: the questions about items that no client trains on


@dataclass(frozen=True, eq=False)
class Experiment:
    """One configured run over one dataset.

    Rounds by hand, without a folder or files:

    >>> import fedmm, fedmm.testing
    >>> experiment = fedmm.Experiment.prepare(fedmm.testing.tiny_config())
    >>> for state, report in experiment.rounds(experiment.initial_state()):
    ...     print(report.round, report.num_clients, state.best is not None)
    1 3 True
    2 3 True
    """

    config: ExperimentConfig  # as given, and what the data's shape chose where it was open
    dataset: Dataset
    split: Split
    recommender: Recommender
    federation: Federation
    sums: CountSums  # of transition counts, made where something reads them
    private_start: NoisyStart | None  # None: the run is not private, or begins without counts
    negatives: Mapping[str, Negatives]  # "validation" | "test" -> protocol -> [Q, N]
    notes: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype
    warm: WarmStart | None = None  # the run that this one starts from

    @classmethod
    def prepare(
        cls,
        config: ExperimentConfig,
        tell: Tell | None = None,
        timer: Timer = OFF,
        *,
        data: DataConfig | None = None,
        warm: WarmStart | None = None,
    ) -> Experiment:
        """Loads the data and builds every part. ``tell`` hears what is being done; ``data`` are the settings with paths
        at which the files are now, where those of ``config`` have moved. ``warm`` is the run that this one starts from.

        Raises DataError or ConfigError where data and settings leave nothing to train or to evaluate.

        >>> import fedmm, fedmm.testing
        >>> fedmm.Experiment.prepare(fedmm.testing.tiny_config()).recommender.experts
        ('visual', 'semantic')
        """
        tell = tell or (lambda _: None)
        device = choose_device(config.runtime.device)
        given, (config, dtype) = config, with_precision(config, device)
        data = read_by(data or config.data, config.model.fusion)
        tell(f"loading {data.source}")
        with timer.stage("loading data"):
            dataset = load_dataset(data, tell) if warm is None else warm.dataset
            config = config if warm is None else config.with_values(NO_START)
            split = make_split(dataset, config.data)
            config = settled(config, split.train, split.num_items, dataset.attributes)
        tell("building the model")
        with timer.stage("building the model"):
            sums = count_uses.count_sums(config, split.train, split.num_items)
            own = split.num_items, dataset.features, dtype, device, sums.clients if config.model.transition else None
            recommender = Recommender.build(private_model(config), *own)
            check_alignment(config.model, recommender.tables)
            if split.candidates is not None:
                recommender = replace(recommender, trained=torch.from_numpy(split.candidates).to(device))
            federation, start = build_federation(config, split, recommender, dtype, device)
            recommender = replace(recommender, compiled=federation.local.recommender.compiled)
        tell("preparing the evaluation")
        with timer.stage("evaluation negatives"):
            asked = {"validation": split.validation, "test": split.test}
            negatives = DrawnNegatives(config.evaluation, split, asked)
            short = shortage_notes(asked, split.num_items, config.evaluation.protocols, dataset.interactions.user_ids)
        notes = (
            *dataset.notes,
            *split.notes,
            *expert_notes(config.model, recommender.experts),
            *short,
            pooled_note(config.evaluation.pooled_yardsticks, split.num_items),
            *promises(federation.plan),
        )
        made = cls(config, dataset, split, recommender, federation, sums, start, negatives, notes, device, dtype, warm)
        counted = count_uses.count_notes(given, config, sums, received=made._receives_counts)
        made = replace(made, notes=(*notes, *counted, *training_notes(given, config, split.num_items)))
        return made._with_gate() if config.model.gate_start == "validation" else made

    def _with_gate(self) -> Experiment:
        """With the start of the gate that validation chose; as it is given where there is none to choose for."""
        if self.warm or self.config.privacy.on or not (self.recommender.tables and self.recommender.has_gate):
            return replace(self, config=self.config.with_values({"model.gate_start": "given"}))
        state, metric = self.initial_state(), self.config.evaluation.selection_metric

        def start(gate: float) -> Params:
            return {**state.server.params, GATE: torch.full_like(state.server.params[GATE], gate)}

        def measure(gate: float) -> FloatArray:
            met = self.evaluate_scorer(self._untrained(start(gate)), "validation", intervals=False).counts
            return one_metric(met[metric.split("/")[0]], metric.split("/")[1])

        gate, found = choose_gate(self.config.model.gating_init, measure)
        config = self.config.with_values({"model.gating_init": gate})
        recommender = replace(self.recommender, config=config.model)
        federation, _ = build_federation(config, self.split, recommender, self.dtype, self.device)
        told = gate_notes(gate, found, metric_words(metric))
        made = replace(self, config=config, recommender=recommender, federation=federation, notes=(*self.notes, *told))
        made.__dict__["_initial_state"] = replace(state, server=replace(state.server, params=start(gate)))  # kept
        return made

    @property
    def centralized(self) -> bool:
        """Whether one trainer sees all data: rounds are epochs then, and nothing travels.

        >>> import fedmm.testing
        >>> fedmm.testing.tiny_run().model.experiment.centralized
        False
        """
        return self.config.federation.mode == "centralized"

    def initial_state(self) -> TrainState:
        """Round 0: fresh parameters, and the spectral start with its bytes where it is on.

        >>> import fedmm.testing
        >>> fedmm.testing.tiny_run().model.experiment.initial_state().server.round
        0
        """
        return self._initial_state

    @functools.cached_property  # a run begins with it and both splits' tables end with it: an eigendecomposition each
    def _initial_state(self) -> TrainState:
        seed = self.config.runtime.seed
        params = self.recommender.init(torch_stream(seed, "parameters"), self.dtype)
        if self.warm is not None:
            params = self.warm.begin(params)
        elif self.private_start is not None:
            params[ITEM_TABLE] = self.private_start.item_table(self.config.model.hidden_dim).to(self.dtype)
        elif self.config.federation.spectral_start:
            table = start_item_table(self.sums, self.config)
            if table is not None:
                params[ITEM_TABLE] = table.to(self.dtype)
        on_device = {name: value.to(self.device) for name, value in params.items()}
        ledger = count_uses.start_ledger(self.config, self.sums, received=self._receives_counts)
        if self.private_start is not None:
            ledger = Ledger().add(*private_start_bytes(self.private_start, len(self.split.train)))
        return TrainState(ServerState(on_device, {}, 0), ledger, kept_of(self.warm, on_device[ITEM_TABLE]))

    @functools.cached_property
    def succession(self) -> Succession | None:
        """What has followed recent items, where that is added to the scores.

        >>> import fedmm.testing
        >>> fedmm.testing.tiny_run().model.experiment.succession
        """
        return None if self.config.privacy.on else count_uses.added_succession(self.config, self.sums)

    @functools.cached_property
    def additions(self) -> Mapping[str, Addition]:
        """What is added when the model scores, by name.

        >>> import fedmm, fedmm.testing
        >>> list(fedmm.Experiment.prepare(fedmm.testing.tiny_config(succession=4.0)).additions)
        ['succession']
        """
        noisy = None if self.private_start is None else self.private_start.weighted(self.config.privacy.counts_weight)
        found: dict[str, Addition | None] = {"succession": self.succession}
        found["regression"] = count_uses.added_regression(self.config, self.sums)
        found |= {"kinship": count_uses.added_kinship(self.config, self.dataset.attributes), "noisy_counts": noisy}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def _receives_counts(self) -> bool:
        return self.recommender.reads_counts or self.succession is not None

    def initial_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the model's parameters.

        >>> import fedmm.testing
        >>> fedmm.testing.tiny_run().model.experiment.initial_shapes()["backbone.item_embedding"]
        (31, 8)
        """
        params = self.recommender.init(torch_stream(0, "shapes"), self.dtype)
        return {name: tuple(value.shape) for name, value in params.items()}

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all that one client may keep (``ClientStates``).

        >>> import fedmm, fedmm.testing
        >>> fedmm.Experiment.prepare(fedmm.testing.tiny_config(personal_gate=True)).state_shapes()
        {'personal.gate': ()}
        """
        params = self.recommender.init(torch_stream(0, "shapes"), self.dtype)
        personal = personal_zeros(self.config.model, params[ITEM_TABLE], gate=self.recommender.has_gate)
        kept = personal | largest_updates.kept_beside(params, self.federation.config)
        return {name: tuple(value.shape) for name, value in kept.items()}

    @property
    def last_round(self) -> int:
        """The last round that was asked for, and that the privacy budget pays.

        >>> import fedmm, fedmm.testing
        >>> fedmm.Experiment.prepare(fedmm.testing.tiny_config(rounds=7)).last_round
        7
        """
        rounds, plan = self.config.federation.rounds, self.federation.plan
        return rounds if plan is None else min(rounds, plan.rounds)

    def rounds(self, state: TrainState, timer: Timer = OFF) -> Iterator[tuple[TrainState, RoundReport]]:
        """Runs on from ``state`` until the last round or until patience runs out. Raises ConfigError as ``train`` does.

        >>> import fedmm.testing
        >>> experiment = fedmm.testing.tiny_run().model.experiment
        >>> [report.round for _, report in experiment.rounds(experiment.initial_state())]
        [1, 2]
        """
        require_trainable(self.config, self.device)
        while state.server.round < self.last_round and not state.exhausted(self.config.evaluation.patience):
            own, started = self.federation, time.perf_counter()
            if self.centralized:
                (server, statistics), clients = run_epoch(state.server, self.federation, timer), state.clients
            else:
                server, clients, statistics = run_round(state.server, state.clients, self.federation, timer)
            if self.config.federation.ema_decay:
                with timer.stage("moving average"):
                    server = averaged(server, state.server, self.config.federation)
            ledger = state.ledger.add(statistics.uplink_bytes, statistics.downlink_bytes)
            state = replace(state, server=server, ledger=ledger, clients=clients)
            with timer.stage("validation"):
                validation = self.validate(state.snapshot) if self._validates(server.round) else None
            if validation is not None:
                state = self._keep_best(state, validation)
            yield state, report_of(state, statistics, own.local, own.plan, validation, time.perf_counter() - started)

    def validate(self, snapshot: Snapshot) -> dict[str, float]:
        """Validation metrics, ``"full/ndcg_at_10" -> value``, without intervals.

        >>> import fedmm.testing
        >>> model = fedmm.testing.tiny_run().model
        >>> sorted(model.experiment.validate(model.snapshot))[0]
        'full/hr_at_10'
        """
        result = self.evaluate(snapshot, "validation", intervals=False).metrics
        return {f"{protocol}/{name}": value for protocol, own in result.items() for name, value in own.items()}

    def evaluate(self, snapshot: Snapshot, split: str, *, intervals: bool = True) -> Evaluation:
        """Evaluates a model on "validation", "test" or "cold", each user with its own personal parameters.

        >>> import fedmm.testing
        >>> model = fedmm.testing.tiny_run().model
        >>> list(model.experiment.evaluate(model.snapshot, "test", intervals=False).metrics)
        ['full', 'uniform100', 'popularity100']
        """
        return self.evaluate_scorer(self.scorer(snapshot), split, intervals=intervals)

    def scorer(self, snapshot: Snapshot) -> Scorer:
        """Scores of a model: the backbone's up to the last warm-up round, then the full fusion's. Column 0 is padding.

        >>> import fedmm.testing
        >>> model, asked = fedmm.testing.tiny_run().model, fedmm.testing.tiny_run().model.experiment.queries("test")
        >>> model.experiment.scorer(model.snapshot)(asked.users, asked.histories).shape
        torch.Size([16, 31])
        """
        experts = snapshot.round > self.config.federation.warmup_rounds
        model = model_scorer(self.recommender, snapshot.params, self.device, experts=experts, clients=snapshot.clients)
        return with_additions(model, self.additions.values())

    def evaluate_scorer(self, scorer: Scorer, split: str, *, intervals: bool = True) -> Evaluation:
        """Evaluates any scorer on this run's queries, candidates and resamples; cold items among themselves alone.

        >>> import fedmm.testing
        >>> experiment = fedmm.testing.tiny_run().model.experiment
        >>> experiment.evaluate_scorer(experiment.baselines()["popularity"], "test").metrics["full"]["hr_at_10"] >= 0.0
        True
        """
        evaluation = self.config.evaluation
        samples = evaluation.bootstrap_samples if intervals else None
        seed = derive(self.config.runtime.seed, "bootstrap")
        protocols = ("full",) if split == COLD else evaluation.protocols
        return evaluate(
            scorer, self.queries(split), self.negatives.get(split, {}), protocols, evaluation.cutoffs, samples, seed,
            device=self.device, extra_metrics=evaluation.extra_metrics, spread=spread_of(self.federation.engine),
        )  # fmt: skip

    def queries(self, split: str) -> Queries:
        """The queries of "validation", "test" or, where there are cold items, "cold".

        >>> import fedmm.testing
        >>> len(fedmm.testing.tiny_run().model.experiment.queries("test"))
        16
        """
        if split == COLD and self.split.cold is not None:
            return self.split.cold
        return self.split.test if split == "test" else self.split.validation

    def baselines(self) -> dict[str, Scorer]:
        """The reference models that every report shows. Round 0 is the model before training; it scores by the full
        fusion.

        >>> import fedmm.testing
        >>> list(fedmm.testing.tiny_run().model.experiment.baselines())
        ['popularity', 'transition_counts', 'ease', 'item_knn', 'round_0']
        """
        return {
            "popularity": popularity_scorer(self.split),
            "transition_counts": transition_scorer(self.split),
            **self._pooled_yardsticks,
            "round_0": self._untrained(self.initial_state().server.params),
        }

    def _untrained(self, params: Params) -> Scorer:
        scorer = model_scorer(self.recommender, params, self.device, experts=True, clients=self.initial_state().clients)
        return with_additions(scorer, self.additions.values())

    @functools.cached_property
    def _pooled_yardsticks(self) -> Mapping[str, Scorer]:
        return pooled_scorers(self.config.evaluation.pooled_yardsticks, self.split)

    def parts(self, snapshot: Snapshot) -> dict[str, Scorer]:
        """What a model is made of, each scoring alone: the backbone without experts, then every expert without gate,
        router and backbone, and what is added to the scores. Nothing where the backbone is all there is.

        >>> import fedmm.testing
        >>> model = fedmm.testing.tiny_run().model
        >>> list(model.experiment.parts(model.snapshot))
        ['backbone', 'visual', 'semantic']
        """
        if snapshot.round <= self.config.federation.warmup_rounds:
            return {}
        build = functools.partial(
            model_scorer, self.recommender, snapshot.params, self.device, clients=snapshot.clients
        )
        own: dict[str, Scorer] = {name: build(experts=True, only=name) for name in self.recommender.experts}
        own |= {name: addition_scorer(part, self.dtype, self.device) for name, part in self.additions.items()}
        return {"backbone": build(experts=False), **own} if own else {}

    def _validates(self, round_number: int) -> bool:
        return round_number % self.config.evaluation.interval == 0 or round_number == self.last_round

    def _keep_best(self, state: TrainState, validation: Mapping[str, float]) -> TrainState:
        value = validation[self.config.evaluation.selection_metric]
        if state.best is not None and value <= state.best.value and not self.config.privacy.on:  # else: the last round
            return replace(state, stale=state.stale + 1)
        return replace(state, best=Best(replace(state.snapshot, clients=state.clients.personal()), value), stale=0)
