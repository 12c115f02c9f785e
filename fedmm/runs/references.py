"""Measures the reference models of every report: baselines and each part of the model alone, with paired tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedmm.data.cold_items import cold_digest
from fedmm.data.negatives import negatives_digest
from fedmm.evaluation.groups import group_tables
from fedmm.evaluation.measured import Protocols
from fedmm.evaluation.metrics import one_metric
from fedmm.evaluation.pooled_yardsticks import POOLED, pooled_wanted
from fedmm.evaluation.ranking import RankCounts
from fedmm.evaluation.results import Evaluation
from fedmm.evaluation.significance import PairedTest, paired_test
from fedmm.evaluation.spread import spread_over_clients
from fedmm.evaluation.user_counts import UserCounts
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.runs.result import ClientSpread, Group, Paired, PairedTests
from fedmm.utils.records import Named
from fedmm.utils.seeding import derive, numpy_stream

FIXED = ("popularity", "transition_counts", "ease", "item_knn")  # nobody trained these, no seed changes them
FIRST = ("round_0", "transition_counts", "backbone")  # of the paired tests, in the order in which they are shown
NUM_BASELINES = 3  # without those of pooled data


@dataclass(frozen=True, eq=False)
class References:
    """One split's rows by name, in the order in which they are shown."""

    baselines: Mapping[str, Evaluation]
    parts: Mapping[str, Evaluation]  # the backbone without experts, then each expert alone
    paired: Mapping[str, Mapping[str, PairedTest]]  # opponent -> "full/ndcg_at_10" -> the model against it

    @property
    def rows(self) -> Mapping[str, Evaluation]:
        """All of them; no part is called like a baseline."""
        return {**self.baselines, **self.parts}


def measure_references(
    experiment: Experiment,
    snapshot: Snapshot,
    split: str,
    model: Evaluation,
    *,
    intervals: bool = True,
    known: Mapping[str, Evaluation] | None = None,
) -> References:
    """Evaluates what stands beside ``model``, the evaluation of ``snapshot`` on ``split``: the same queries, candidates
    and resamples; rows in ``known`` are taken as they are. Tests are on the selection metric's measure, under every
    protocol; one training is one seed, so the seed effect is assumed (``evaluation/significance.py``)."""
    baselines, parts = (
        {
            name: (known or {}).get(name) or experiment.evaluate_scorer(scorer, split, intervals=intervals)
            for name, scorer in scorers.items()
        }
        for scorers in (experiment.baselines(), experiment.parts(snapshot))
    )
    rows = baselines | parts
    measure = experiment.config.evaluation.selection_metric.partition("/")[2]
    paired = {
        name: {
            f"{protocol}/{measure}": _test(experiment, model, rows[name], protocol, measure, fixed=name in FIXED)
            for protocol in model.counts
        }
        for name in (*(name for name in FIRST if name in rows), *(name for name in rows if name not in FIRST))
        if min(int(own.asked.sum()) for own in model.counts.values()) > 1
    }
    return References(baselines, parts, paired)


def num_rows(experiment: Experiment) -> int:
    """How many evaluations a report takes: the model and what stands beside it on validation and on test, and where
    there are cold items the model, its parts and popularity on these."""
    beside = len(experiment.recommender.experts) + len(experiment.additions)
    parts = 1 + beside if beside else 0
    cold = 2 + parts if experiment.split.cold is not None else 0
    asked = experiment.config.evaluation.pooled_yardsticks
    pooled = len(POOLED) if pooled_wanted(asked, experiment.split.num_items) else 0
    return 2 * (1 + NUM_BASELINES + pooled + parts) + cold


def measured(rows: Mapping[str, Evaluation]) -> dict[str, Protocols]:
    """The metrics of rows by name."""
    return {name: row.protocols() for name, row in rows.items()}


def paired_result(paired: Mapping[str, Mapping[str, PairedTest]]) -> Named[PairedTests]:
    """Opponent -> "full/ndcg_at_10" -> the model minus the opponent."""
    return Named[PairedTests](
        {
            name: PairedTests(
                {
                    metric: Paired(difference=test.difference, ci95=test.ci95, p_value=test.p_value)
                    for metric, test in own.items()
                }
            )
            for name, own in paired.items()
        }
    )


def model_counts(experiment: Experiment, found: Evaluation, split: str) -> UserCounts:
    """What a comparison needs of an evaluation on "validation" or "test"."""
    return _counts_of(experiment, found.counts, split)


def reference_counts(experiment: Experiment, beside: References, split: str) -> UserCounts:
    """The same of what stands beside the model, ``round_0/full`` and so on in place of the protocols."""
    rows = beside.rows.items()
    counts = {f"{name}/{protocol}": own for name, row in rows for protocol, own in row.counts.items()}
    return _counts_of(experiment, counts, split)


def groups_result(
    experiment: Experiment, found: Evaluation, beside: References, split: str
) -> Named[tuple[Group, ...]]:
    """The model and what stands beside it by groups of users and of targets (``evaluation/groups.py``)."""
    model, others = model_counts(experiment, found, split), reference_counts(experiment, beside, split)
    config = experiment.config
    seed = derive(config.runtime.seed, "bootstrap")
    samples = config.evaluation.bootstrap_samples
    tables = group_tables(model, others, experiment.queries(split), experiment.split, samples, seed)
    return Named[tuple[Group, ...]].model_validate(tables)


def clients_result(experiment: Experiment, found: Evaluation, beside: References) -> ClientSpread:
    """The metric that decides, over clients, under the first protocol measured where its own was not."""
    protocol, _, measure = experiment.config.evaluation.selection_metric.partition("/")
    protocol = protocol if protocol in found.counts else next(iter(found.counts))
    own, popular = (one_metric(each.counts[protocol], measure) for each in (found, beside.baselines["popularity"]))
    spread = spread_over_clients(own, popular, found.users)
    p10, p50, p90 = spread.percentiles
    return ClientSpread(
        metric=f"{protocol}/{measure}", p10=p10, p50=p50, p90=p90, below_popularity=spread.below_popularity
    )


def _counts_of(experiment: Experiment, counts: Mapping[str, RankCounts], split: str) -> UserCounts:
    queries = experiment.queries(split)
    return UserCounts(
        users=queries.users,
        user_ids=experiment.dataset.interactions.user_ids[queries.users],
        counts=counts,
        dataset_digest=experiment.dataset.digest,
        split=f"{_split_name(experiment)}/{split}",
        negatives_digest=negatives_digest(experiment.negatives[split]),
    )


def _split_name(experiment: Experiment) -> str:
    """The split's name; with cold items also which, since other questions are then asked of the same data."""
    cold = experiment.split.cold
    if cold is None or cold.candidates is None:
        return experiment.split.name
    return f"{experiment.split.name} without cold items {cold_digest(cold.candidates)}"


def _test(
    experiment: Experiment, model: Evaluation, other: Evaluation, protocol: str, measure: str, *, fixed: bool
) -> PairedTest:
    a, b = (one_metric(found.counts[protocol], measure)[None] for found in (model, other))
    stream = numpy_stream(derive(experiment.config.runtime.seed, "beside", protocol, measure), "paired test")
    return paired_test(a, b, stream, b_is_fixed=fixed)
