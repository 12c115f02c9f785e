"""Which runs belong together: those of one configuration under several seeds, or of equal values of given settings."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedmm.comparison.types import ComparedRun, Group
from fedmm.config import UNDIGESTED
from fedmm.config.describe import known_settings, setting_hint
from fedmm.data.types import FloatArray
from fedmm.errors import ConfigError
from fedmm.evaluation.metrics import one_metric
from fedmm.evaluation.significance import mean_intervals
from fedmm.utils.seeding import numpy_stream
from fedmm.utils.text import setting

SEED = "runtime.seed"
SAME_DATA = frozenset({"data.name", "data.path"})  # the digest says whether two files hold the same interactions


def differing_settings(runs: Sequence[ComparedRun]) -> tuple[str, ...]:
    """Settings that decide numbers and are not the same in all runs, the seed left out, in the catalogue's order.
    Where the data is the same, the name of its file does not matter."""
    same_data = len({run.counts.dataset_digest for run in runs}) == 1
    return tuple(
        key
        for key in runs[0].settings
        if _decides(key, same_data=same_data) and any(run.settings.get(key) != runs[0].settings[key] for run in runs)
    )


def _decides(key: str, *, same_data: bool) -> bool:
    """Whether a setting decides numbers, the seed left out."""
    kept_for_people = key in UNDIGESTED or key.startswith("tracking.")
    return not kept_for_people and key != SEED and not (same_data and key in SAME_DATA)


def trainings(runs: Sequence[ComparedRun]) -> list[list[ComparedRun]]:
    """The runs, those of one configuration under one seed together: the same training, however often it was run."""
    found: dict[str, list[ComparedRun]] = {}
    for run in runs:
        deciding = [item for item in run.settings.items() if _decides(item[0], same_data=True)]
        found.setdefault(repr((run.seed, deciding)), []).append(run)
    return list(found.values())


def group_runs(runs: Sequence[ComparedRun], by: Sequence[str], differing: Sequence[str]) -> list[list[ComparedRun]]:
    """Runs that agree in the settings ``by``; in all ``differing`` ones where ``by`` is empty. In order of appearance.

    Raises ConfigError for an unknown setting.
    """
    for key in by:
        if key not in known_settings():
            raise ConfigError(f"--group-by names {key!r}, which is no setting.", setting_hint(key))
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(repr([run.settings.get(key) for key in by or differing]), []).append(run)
    return list(groups.values())


def title_of(runs: Sequence[ComparedRun], keys: Sequence[str]) -> str:
    """What the runs share of ``keys``: ``model.fusion=competitive``; their name where nothing differs."""
    parts = [
        f"{key}={setting(runs[0].settings.get(key))}"
        for key in keys
        if all(run.settings.get(key) == runs[0].settings.get(key) for run in runs)
    ]
    return ", ".join(parts) or runs[0].name


def per_user(runs: Sequence[ComparedRun], metric: str) -> FloatArray:
    """[trainings, users] of one metric, ``full/ndcg_at_10``; repeats of a training are averaged, for they tell nothing
    of what seeds do."""
    protocol, _, name = metric.partition("/")
    repeats = [[one_metric(run.counts.counts[protocol], name) for run in same] for same in trainings(runs)]
    return np.stack([np.mean(same, axis=0) for same in repeats])


def make_groups(
    grouped: Sequence[Sequence[ComparedRun]], keys: Sequence[str], metrics: Sequence[str], seed: int
) -> tuple[Group, ...]:
    """Groups with means and 95% intervals over users and seeds, lettered from the best by the first metric down."""
    measured = []
    for runs in grouped:
        values = {metric: per_user(runs, metric) for metric in metrics}
        means = {metric: float(value.mean()) for metric, value in values.items()}
        ci95 = mean_intervals(values, numpy_stream(seed, "comparison intervals"))
        measured.append((runs, means, ci95))
    measured.sort(key=lambda one: -one[1][metrics[0]])
    return tuple(
        Group(letter(place), title_of(runs, keys), tuple(runs), means, ci95)
        for place, (runs, means, ci95) in enumerate(measured)
    )


def letter(place: int) -> str:
    """A, B, .., Z, AA, AB, .."""
    letters = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, 26)
        letters = string.ascii_uppercase[rest] + letters
    return letters


def settings_of(group: Group, keys: Sequence[str]) -> Mapping[str, Any]:
    """The group's values of ``keys``; a list where its runs differ."""
    found: dict[str, Any] = {}
    for key in keys:
        values = [run.settings.get(key) for run in group.runs]
        distinct = [value for at, value in enumerate(values) if value not in values[:at]]
        found[key] = distinct[0] if len(distinct) == 1 else distinct
    return found
