"""How good a model still is on events that came after its data."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from fedmm import __version__
from fedmm.data.new_events import NewEvents, read_new_events
from fedmm.data.types import FloatArray
from fedmm.evaluation.measured import Metrics
from fedmm.evaluation.metrics import one_metric
from fedmm.evaluation.results import evaluate
from fedmm.runs.observer import Observer
from fedmm.runs.result import DatasetFacts, Difference
from fedmm.runs.trained import TrainedModel, with_runtime
from fedmm.utils.records import Named, Record
from fedmm.utils.seeding import derive

MOST_PERIODS, FEWEST_EVENTS = 8, 20  # of a figure; in each period
MANY_UNKNOWN = 0.1  # share of the events with items that the run does not know
Z95 = 1.959963984540054


class Period(Record):
    """A stretch of the new events: how many, from when, and the metric's mean."""

    begin: str
    num_events: int
    value: float
    popularity: float


class DriftResult(Record):
    """What ``fedmm evaluate --new-data`` gives: the model and popularity on new events beside the run's own test."""

    version: str
    status: Literal["finished"]
    checkpoint: str
    dataset: DatasetFacts
    new_data: str
    metric: str  # "full/ndcg_at_10"
    num_events: int
    num_asked: int
    num_already_known: int
    num_unknown_items: int
    num_without_history: int
    num_users: int
    num_new_users: int
    metrics: Named[Metrics]  # the model's: "test", of the run's own data, and "new"
    popularity: Named[Metrics]  # the same of the items most popular in training
    change: Difference  # of the metric: new minus test, over users
    periods: tuple[Period, ...]
    warnings: tuple[str, ...]


def measure_drift(checkpoint: Path, new_data: Path, observer: Observer, *, data: Path | None = None) -> DriftResult:
    """Asks the model about every event of ``new_data``, without training it on any.

    The change compares users' means on new events with those on the test split, as two groups of users (Welch, 1947).
    Raises DataError where no event can be asked about, CheckpointError where the model cannot be loaded.
    """
    model = TrainedModel.load(checkpoint, change=with_runtime(("full",)), tell=observer.stage, data=data)
    experiment, own = model.experiment, model.config.evaluation
    observer.stage(f"reading {new_data}")
    config = model.config.data.model_copy(update={"path": new_data})
    events = read_new_events(new_data, config, experiment.dataset, experiment.split.candidates)
    observer.stage(f"asking about {len(events.queries):,} events")
    scorers = {"model": experiment.scorer(model.snapshot), "popularity": experiment.baselines()["popularity"]}
    seed = derive(model.config.runtime.seed, "bootstrap")
    rest = (("full",), own.cutoffs, own.bootstrap_samples, seed)
    found = {name: evaluate(one, events.queries, {}, *rest, device=experiment.device) for name, one in scorers.items()}
    test = {name: experiment.evaluate_scorer(one, "test") for name, one in scorers.items()}
    name = own.selection_metric.partition("/")[2]
    values = {key: one_metric(one.counts["full"], name) for key, one in found.items()}
    change = _change(_by_user(values["model"], events.queries.users), one_metric(test["model"].counts["full"], name))
    result = DriftResult(
        version=__version__,
        status="finished",
        checkpoint=str(checkpoint),
        dataset=model.dataset,
        new_data=str(new_data),
        metric=f"full/{name}",
        num_events=events.num_events,
        num_asked=len(events.queries),
        num_already_known=events.num_known,
        num_unknown_items=events.num_unknown_items,
        num_without_history=events.num_without_history,
        num_users=events.num_users,
        num_new_users=events.num_new_users,
        metrics=Named[Metrics]({"test": test["model"].protocols()["full"], "new": found["model"].protocols()["full"]}),
        popularity=Named[Metrics](
            {"test": test["popularity"].protocols()["full"], "new": found["popularity"].protocols()["full"]}
        ),
        change=change,
        periods=_periods(events, values["model"], values["popularity"]),
        warnings=(),
    )
    return result.model_copy(update={"warnings": tuple(_warnings(result))})


def _by_user(values: FloatArray, users: np.ndarray) -> FloatArray:
    """Each user's mean."""
    _, place, counts = np.unique(users, return_inverse=True, return_counts=True)
    return np.asarray(np.bincount(place, values) / counts)


def _change(new: FloatArray, old: FloatArray) -> Difference:
    difference = float(new.mean() - old.mean())
    spread = sum(float(one.var(ddof=1)) / len(one) if len(one) > 1 else np.inf for one in (new, old))
    reach = Z95 * float(np.sqrt(spread))
    return Difference(difference=difference, ci95=(difference - reach, difference + reach))


def _periods(events: NewEvents, model: FloatArray, popularity: FloatArray) -> tuple[Period, ...]:
    """Stretches with as many events each, in the order of time."""
    number = max(1, min(MOST_PERIODS, len(model) // FEWEST_EVENTS))
    return tuple(
        Period(
            begin=_moment(float(events.times[rows[0]]), events.has_times),
            num_events=len(rows),
            value=float(model[rows].mean()),
            popularity=float(popularity[rows].mean()),
        )
        for rows in np.array_split(np.arange(len(model)), number)
    )


def _moment(time: float, has_times: bool) -> str:
    """The day of a time in seconds, or the time itself where it is no such."""
    if not has_times:
        return f"row {time + 1:.0f}"
    if 1e8 < time < 1e10:
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d")
    return f"{time:g}"


def _warnings(result: DriftResult) -> list[str]:
    found = []
    low, high = result.change.ci95
    words = f"{result.metric} is {result.metrics.new[result.metric.partition('/')[2]]:.4f} on new events"
    if high is not None and high < 0:
        found.append(
            f"The model has fallen behind: {words}, {result.change.difference:+.4f} against its test. Train it anew."
        )
    elif low is not None and low > 0:
        found.append(f"New events are easier than the test: {words}, {result.change.difference:+.4f}; are they alike?")
    unknown = result.num_unknown_items / result.num_events
    if unknown > MANY_UNKNOWN:
        found.append(f"{unknown:.0%} of the new events are with items that the model does not know.")
    return found
