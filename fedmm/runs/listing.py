"""Lists what is kept in a folder: runs and studies with their sizes on disk, state, best value, seed and age.

Everything is read from small files (TOML and JSON), so that a list is there at once, whatever the runs' sizes.
"""

from __future__ import annotations

import json
import shutil
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fedmm.errors import ConfigError
from fedmm.runs.state import LOCK_FILE, STUDY_LOCK, State, run_state, study_state
from fedmm.utils.files import storage_error

CONFIG_FILE, RESULT_FILE, CHECKPOINTS, META_FILE = "config.toml", "result.json", "checkpoints", "state.json"
JOURNAL, STUDY_FILE = "journal.log", "study.toml"
FOLDERS = (Path("runs"), Path("sweeps"))  # where runs and studies are kept unless told otherwise
METRIC = "full/ndcg_at_10"


@dataclass(frozen=True)
class Entry:
    """One run, or one study with all its trials."""

    kind: Literal["run", "study"]
    folder: Path
    state: State
    reason: str | None  # why it crashed
    num_bytes: int  # on disk, everything in the folder
    metric: str  # the one that selects, on validation
    value: float | None  # of the best round or trial so far; None where nothing is known
    seed: int | None
    done: int | None  # rounds or complete trials
    planned: int | None  # rounds or trials
    age_seconds: float  # since anything in it changed
    run_id: str | None  # in MLflow

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "folder": str(self.folder)}


def list_entries(folders: Sequence[Path] = FOLDERS) -> list[Entry]:
    """The runs and studies directly in ``folders``, or that these are, the newest first.

    Raises ConfigError for a folder that is not there; ``FOLDERS`` need not be.
    """
    found: dict[Path, Entry] = {}
    for folder in folders:
        if not folder.is_dir() and folder not in FOLDERS:
            raise ConfigError(
                f"There is no folder {folder}.", "Give a run's folder, a study's, or one that holds them."
            )
        own = [folder] if kind_of(folder) else sorted(folder.iterdir()) if folder.is_dir() else []
        found |= {path: entry_of(path) for path in own if kind_of(path)}
    return sorted(found.values(), key=lambda entry: entry.age_seconds)


def kind_of(folder: Path) -> Literal["run", "study"] | None:
    """What the folder holds; None where that is neither a run nor a study."""
    if any((folder / name).is_file() for name in (JOURNAL, STUDY_FILE)):
        return "study"
    return "run" if (folder / CONFIG_FILE).is_file() else None


def entry_of(folder: Path) -> Entry:
    """What is known of the run or study in ``folder``. Raises ConfigError where there is none."""
    kind = kind_of(folder)
    if kind is None:
        raise ConfigError(f"{folder} holds no run and no study.", "See them with: fedmm runs list.")
    num_bytes, touched = _disk(folder)
    read = _study if kind == "study" else _run
    return Entry(
        kind=kind, folder=folder, num_bytes=num_bytes, age_seconds=max(0.0, time.time() - touched), **read(folder)
    )


def result_of(folder: Path) -> Mapping[str, Any]:
    """The result object of a finished run or study; an empty one where there is none."""
    return _json(folder / RESULT_FILE)


def require_removable(entry: Entry) -> None:
    """Raises ConfigError where the run or study is running, or part of a study."""
    if entry_of(entry.folder).state == "running":
        raise ConfigError(f"{entry.folder} is running.", "Stop it first (Ctrl-C, or SIGTERM), or wait for it.")
    study = next((parent for parent in entry.folder.absolute().parents if kind_of(parent) == "study"), None)
    if study is not None:
        remedy = "Remove the whole study, or keep both."
        raise ConfigError(f"{entry.folder} is a trial of the study in {study}.", remedy)


def remove(entry: Entry) -> None:
    """Removes the folder of a run or study and all in it.

    Raises ConfigError as ``require_removable`` does, and StorageError where the disk refuses.
    """
    require_removable(entry)
    try:
        shutil.rmtree(entry.folder)
    except OSError as error:
        raise storage_error(entry.folder, error) from error


def _run(folder: Path) -> dict[str, Any]:
    settings, result = _toml(folder / CONFIG_FILE), _json(folder / RESULT_FILE)
    metric = _at(settings, "evaluation", "selection_metric") or METRIC
    newest = max(_checkpoints(folder), key=lambda meta: _at(meta, "round") or 0, default={})
    value = _at(result, "metrics", "validation", *metric.split("/"))
    if value is None and _at(newest, "best_round"):
        value = _at(newest, "best_value")
    state, reason = run_state(folder, finished=bool(result))
    return {
        "state": state,
        "reason": reason,
        "metric": metric,
        "value": value,
        "seed": _at(settings, "runtime", "seed"),
        "done": _at(result, "rounds") or _at(newest, "round"),
        "planned": _at(settings, "federation", "rounds"),
        "run_id": _at(result, "run_id") or _at(newest, "progress", "run_id"),
    }


def _study(folder: Path) -> dict[str, Any]:
    plan, result = _at(_toml(folder / STUDY_FILE), "study") or {}, _json(folder / RESULT_FILE)
    state, reason = study_state(folder, finished=_at(result, "status") == "finished")
    return {
        "state": state,
        "reason": reason,
        "metric": _at(result, "metric") or plan.get("metric", METRIC),
        "value": _at(result, "best", "value"),
        "seed": plan.get("seed"),
        "done": _at(result, "trials", "complete"),
        "planned": sum(_at(result, "trials").values()) if _at(result, "trials") else plan.get("trials"),
        "run_id": _at(result, "parent_run_id"),
    }


def _checkpoints(folder: Path) -> Iterator[Mapping[str, Any]]:
    for path in (folder / CHECKPOINTS).glob(f"*/{META_FILE}"):
        meta = _at(_json(path), "meta")
        if isinstance(meta, Mapping):
            yield meta


def _disk(folder: Path) -> tuple[int, float]:
    """Bytes of all files below ``folder``, and when the newest of them changed. What vanishes meanwhile is left out."""
    size, touched = 0, folder.stat().st_mtime
    for path in folder.rglob("*"):
        try:
            about = path.lstat()
        except OSError:
            continue
        if path.name not in (LOCK_FILE, STUDY_LOCK):
            size += about.st_size if path.is_file() else 0
            touched = max(touched, about.st_mtime)
    return size, touched


def _json(path: Path) -> Mapping[str, Any]:
    """The object in a file; an empty one where there is none or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _toml(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _at(value: Any, *keys: str) -> Any:
    """The value below ``keys``; None where one of them is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
