"""Finished runs, read back for a comparison: from their folders, or from MLflow where the folders are gone."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from fedmm.comparison.types import ComparedRun
from fedmm.config import ExperimentConfig
from fedmm.config.load import load_config
from fedmm.errors import ConfigError, DataError
from fedmm.evaluation.user_counts import UserCounts, load_user_counts
from fedmm.runs.checkpoint import FOLDER
from fedmm.runs.folder import CONFIG_FILE, COUNTS_FILE, RESULT_FILE, VALIDATION_COUNTS_FILE
from fedmm.runs.own_parts import OWN_PARTS_FILE, read_origins, sources_of, standing_in
from fedmm.runs.result import read_result
from fedmm.tracking.mlflow_search import TrackedRun, TrackedRuns
from fedmm.utils.files import METRICS_FILE, read_rounds
from fedmm.utils.trees import flatten

FILES = (RESULT_FILE, CONFIG_FILE, COUNTS_FILE, VALIDATION_COUNTS_FILE, METRICS_FILE, OWN_PARTS_FILE)
COUNTS = {"test": COUNTS_FILE, "validation": VALIDATION_COUNTS_FILE}
REMEDY = "Give the folder of a finished run, or a run's name or id in MLflow."


def run_folder(text: str) -> Path | None:
    """The run folder that ``text`` names, itself or by a checkpoint in it; None where there is no such folder.

    Raises DataError for a folder that holds no run, or one that has not finished.
    """
    path = Path(text)
    try:
        if not path.exists():
            return None
        for folder in (path, path.parent.parent if path.absolute().parent.name == FOLDER else path.parent):
            if (folder / RESULT_FILE).is_file():
                return folder
        begun = (path / CONFIG_FILE).exists() or (path / FOLDER).exists()
    except (OSError, ValueError):  # a name too long for a path, or with a NUL
        return None
    if begun:
        raise DataError(f"{path} holds a run that has not finished.", f"Go on: fedmm train --resume --output {path}")
    raise DataError(f"{path} holds no run.", REMEDY)


def splits_of(folder: Path) -> set[str]:
    """On which splits the run in ``folder`` was measured. Raises DataError where it cannot be read."""
    measured = read_result(folder / RESULT_FILE).metrics
    return {split for split, name in COUNTS.items() if split in measured and (folder / name).is_file()}


def load_run(
    folder: Path, split: str, name: str | None = None, run_id: str | None = None, *, fetched: bool = False
) -> ComparedRun:
    """The finished run in ``folder``, measured on "test" or "validation"; a ``fetched`` one has no folder of its own.

    Raises DataError where a file of it is missing, damaged or of another fedmm. The run's own parts need not be
    registered.
    """
    result = read_result(folder / RESULT_FILE)
    settings = _settings(folder)
    counts = load_user_counts(folder / COUNTS[split])
    _require_whole(folder, counts)
    return ComparedRun(
        name=name or folder.absolute().name,
        run_id=run_id or result.run_id,
        folder=None if fetched else folder,
        seed=result.seed,
        settings=settings.flat(),
        split=split,
        dataset=result.dataset,
        metrics=result.metrics[split],
        baselines={key: own[split] for key, own in result.baselines.items() if split in own},
        counts=counts,
        rounds=read_rounds(folder),
        best_round=result.best_round,
        seconds=result.seconds.train,
        uplink_bytes=result.communication.uplink_bytes,
        downlink_bytes=result.communication.downlink_bytes,
        gating_weight=result.model.gating_weight,
        tracking_uri=result.tracking_uri,
        clients=result.clients.get(split),
        parts=sources_of(read_origins(folder)),
    )


def tracked_folder(runs: TrackedRuns, run: TrackedRun, cache: Path) -> Path:
    """Where a tracked run's files are: the folder it was trained in, if that is still its own, else fetched copies.

    Raises DataError where MLflow has no result of it either.
    """
    own = run.output
    if own is not None and (own / RESULT_FILE).is_file() and read_result(own / RESULT_FILE).run_id == run.run_id:
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


def _require_whole(folder: Path, counts: UserCounts) -> None:
    """Raises DataError where the counts are not of all users."""
    for own in counts.counts.values():
        if not len(own.better) == len(own.tied) == len(counts.user_ids):
            raise DataError(f"The per-user counts of {folder} are not of all its users.", REMEDY)


def _settings(folder: Path) -> ExperimentConfig:
    path = folder / CONFIG_FILE
    try:
        flat = flatten(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError):
        flat = {}  # which load_config explains
    try:
        with standing_in(flat):  # what has been measured needs no part of the run's own
            return load_config((path,))
    except ConfigError as error:
        raise DataError(f"{path} holds no settings of this fedmm: {error.message}", REMEDY) from None
