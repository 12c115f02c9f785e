"""Logs every model that a study measured on the test split, each once.

The study's storage has one attribute for each model, so that no worker overwrites another's and a resumed run is not
counted twice; the study's folder has the same entries as lines of JSON, appended as they happen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna

from fedmm.study import Study
from fedmm.study.space import VARIANT
from fedmm.utils.files import append_line, read_lines, storage_error

TEST_LOG = "test_looks.jsonl"
PREFIX = "test_look:"  # of a study attribute; the digest of the run's settings, seed included, follows


@dataclass(frozen=True)
class Entry:
    """One model on test."""

    time: str  # UTC, ISO 8601
    study: str
    trial: int
    variant: str | None
    seed: int
    config_digest: str


def make_entry(study: Study, trial: int, values: Mapping[str, Any], seed: int) -> Entry:
    """Makes the entry of a measurement now: the run of ``trial`` with ``values`` under ``seed``."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Entry(now, study.name, trial, values.get(VARIANT), seed, study.configure(values, seed).digest)


def record_entry(trials: optuna.Study, folder: Path, look: Entry) -> None:
    """Stores and logs the entry, unless that model was measured before: it gives the same numbers again. Raises
    StorageError where the folder cannot be written."""
    key = f"{PREFIX}{look.config_digest}"
    if key not in trials.user_attrs:
        trials.set_user_attr(key, asdict(look))
        _append(folder, look)


def entries_of(trials: optuna.Study) -> list[Entry]:
    """Returns every entry of the study, of all machines, the earliest first."""
    found = [Entry(**value) for key, value in trials.user_attrs.items() if key.startswith(PREFIX)]
    return sorted(found, key=lambda look: (look.time, look.trial, look.seed))


def write_entries(trials: optuna.Study, folder: Path) -> None:
    """Appends the lines that are not in the folder's log: of other machines, and of workers that died before theirs."""
    there = {line.get("config_digest") for line in read_lines(folder / TEST_LOG)}
    for look in entries_of(trials):
        if look.config_digest not in there:
            _append(folder, look)


def _append(folder: Path, look: Entry) -> None:
    path = folder / TEST_LOG
    try:
        append_line(path, asdict(look))
    except OSError as error:
        raise storage_error(path, error) from error
