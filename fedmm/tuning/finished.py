"""The finished runs in a sweep's folder, for whoever reports on them; the sweep may still be running."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from fedmm.errors import DataError
from fedmm.study.space import VARIANT
from fedmm.tuning.queue import CONFIRMATION, counting, read_trials
from fedmm.tuning.storage import JOURNAL, open_storage
from fedmm.tuning.worker import TRIALS


@dataclass(frozen=True)
class FinishedRun:
    """One run that has a result."""

    study: str
    variant: str  # its name; without variants what its trial searched, ``key=value, ..``
    folder: Path


def finished_runs(folder: Path) -> list[FinishedRun]:
    """In the order of trials and seeds, without those of a confirmation. Raises DataError where ``folder`` is not that
    of a sweep with a journal of its own."""
    if not (folder / JOURNAL).exists():
        raise DataError(f"{folder} holds no study.", "Give the folder of a sweep, such as sweeps/default.")
    storage = open_storage(None, folder)
    names = [name for name in sorted(optuna.get_all_study_names(storage)) if not name.endswith(CONFIRMATION)]
    return [
        FinishedRun(name, _label(record.params), folder / TRIALS / Path(run.folder).name)
        for name in names
        for record in counting(read_trials(optuna.load_study(study_name=name, storage=storage)))
        for run in record.runs
        if run.value is not None
    ]


def _label(params: Mapping[str, Any]) -> str:
    return str(params.get(VARIANT) or ", ".join(f"{key}={value}" for key, value in params.items()))
