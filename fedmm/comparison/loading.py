"""Finished runs, read back for a comparison: from their folders, or from MLflow where the folders are gone."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedmm.checkpoint import FOLDER
from fedmm.comparison.types import ComparedRun
from fedmm.config import ExperimentConfig
from fedmm.errors import ConfigError, DataError
from fedmm.evaluation.user_counts import load_user_counts
from fedmm.local_record import METRICS_FILE, read_rounds
from fedmm.run_folder import CONFIG_FILE, COUNTS_FILE, RESULT_FILE, VALIDATION_COUNTS_FILE
from fedmm.tracking_runs import TrackedRun, TrackedRuns

FILES = (RESULT_FILE, CONFIG_FILE, COUNTS_FILE, VALIDATION_COUNTS_FILE, METRICS_FILE)
COUNTS = {"test": COUNTS_FILE, "validation": VALIDATION_COUNTS_FILE}
REMEDY = "Give the folder of a finished run, or a run's name or id in MLflow."


def run_folder(text: str) -> Path | None:
    """The run folder that ``text`` names, itself or by a checkpoint in it; None where it names none."""
    try:
        path = Path(text)
        for folder in (path, path.parent.parent if path.parent.name == FOLDER else path.parent):
            if (folder / RESULT_FILE).is_file():
                return folder
        if path.is_dir() and ((path / CONFIG_FILE).exists() or (path / FOLDER).exists()):
            raise DataError(
                f"{path} holds a run that has not finished.", "Finish it: fedmm train --resume --output it."
            )
    except (OSError, ValueError):  # a name too long for a path, or with a NUL
        return None
    return None


def splits_of(folder: Path) -> set[str]:
    """On which splits the run in ``folder`` was measured. Raises DataError where it cannot be read."""
    return {split for split in _result(folder).get("metrics", {}) if (folder / COUNTS.get(split, "")).is_file()}


def load_run(folder: Path, split: str, name: str | None = None, run_id: str | None = None) -> ComparedRun:
    """The finished run in ``folder``, measured on "test" or "validation".

    Raises DataError where a file of it is missing, damaged or of another fedmm.
    """
    result = _result(folder)
    settings = _settings(folder)
    counts = load_user_counts(folder / COUNTS[split])
    try:
        sent, model = result["communication"], result["model"]
        return ComparedRun(
            name=name or folder.name,
            run_id=run_id or result["run_id"],
            folder=folder,
            seed=int(result["seed"]),
            settings=settings.flat(),
            split=split,
            dataset=dict(result["dataset"]),
            metrics=result["metrics"][split],
            baselines={key: own[split] for key, own in result["baselines"].items() if split in own},
            counts=counts,
            rounds=read_rounds(folder),
            best_round=int(result["best_round"]),
            seconds=float(result["seconds"]["train"]),
            uplink_bytes=int(sent["uplink_bytes"]),
            downlink_bytes=int(sent["downlink_bytes"]),
            gating_weight=model.get("gating_weight"),
            tracking_uri=result.get("tracking_uri"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / RESULT_FILE} is not the result of a run ({error!r}).", REMEDY) from None


def tracked_folder(runs: TrackedRuns, run: TrackedRun, cache: Path) -> Path:
    """Where a tracked run's files are: the folder it was trained in, if that is still its own, else fetched copies.

    Raises DataError where MLflow has no result of it either.
    """
    own = run.output
    if own is not None and (own / RESULT_FILE).is_file() and _result(own).get("run_id") == run.run_id:
        return own
    folder = runs.fetch(run, cache, FILES)
    if not (folder / RESULT_FILE).is_file():
        what = "has not finished" if run.status != "FINISHED" else "has no result among its artifacts"
        raise DataError(f"Run {run.name} ({run.run_id}) {what}.", "Compare finished runs of fedmm train.")
    return folder


def common_split(folders: Sequence[Path]) -> str:
    """ "test" where all runs were measured on it, else "validation". Raises DataError where neither holds."""
    measured = [splits_of(folder) for folder in folders]
    for split in COUNTS:
        if all(split in own for own in measured):
            return split
    without = next(folder for folder, own in zip(folders, measured, strict=True) if "validation" not in own)
    raise DataError(f"{without} has no per-user counts of validation, others none of test.", "Train it again.")


def _result(folder: Path) -> dict[str, Any]:
    path = folder / RESULT_FILE
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.", REMEDY) from None
    if not isinstance(result, dict):
        raise DataError(f"{path} is not the result of a run.", REMEDY)
    return result


def _settings(folder: Path) -> ExperimentConfig:
    path = folder / CONFIG_FILE
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
        return ExperimentConfig.model_validate(_unset(tree))
    except (OSError, ValueError, ConfigError) as error:
        detail = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise DataError(f"{path} holds no settings of this fedmm ({detail}).", REMEDY) from None


def _unset(tree: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null: settings files say "none"."""
    return {
        key: _unset(value) if isinstance(value, dict) else None if value == "none" else value
        for key, value in tree.items()
    }
