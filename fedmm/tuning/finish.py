"""The end of a sweep: files, figures and the result object, and the one measurement of the winner on test."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from fedmm import __version__
from fedmm.config.toml import dump_toml
from fedmm.errors import CheckpointError, DataError
from fedmm.report.study_text import readings
from fedmm.report.sweep_result import SweepResult
from fedmm.study import Study, dump_study
from fedmm.study.marginals import mapping_of, marginals
from fedmm.study.records import TrialRecord
from fedmm.study.selection import best_trial, pareto_front
from fedmm.tracking.mlflow_run import Tracker
from fedmm.tracking.mlflow_store import redacted
from fedmm.tuning.outcome import (
    Confirmation,
    confirm,
    evaluate_on_test,
    importances,
    summary_of,
)
from fedmm.tuning.queue import counting, read_trials
from fedmm.tuning.storage import JOURNAL
from fedmm.tuning.test_log import entries_of, make_entry, record_entry, write_entries
from fedmm.utils.files import write_atomically
from fedmm.utils.text import counted
from fedmm.utils.trees import plain

if TYPE_CHECKING:
    import pandas

    from fedmm.tuning.sweep import SweepObserver, SweepOptions

TEST = "test"  # study attribute: the last winner on test
STUDY_FILE, BEST_FILE, RESULT_FILE = "study.toml", "best.toml", "result.json"
CSV_FILE, PARQUET_FILE, PAGE_FILE, FIGURES = "trials.csv", "trials.parquet", "report.html", "figures"
ALPHA = 0.05


def finish(
    study: Study,
    trials: optuna.Study,
    confirmed: Sequence[TrialRecord],
    tracker: Tracker,
    options: SweepOptions,
    observer: SweepObserver,
    started: float,
) -> SweepResult:
    """Confirms and evaluates the winner, writes and logs everything; returns the result object."""
    records = counting(read_trials(trials))
    best = best_trial(records)
    confirmation = _confirmation(study, best, confirmed, observer)
    over = not summary_of(records)["waiting"]  # or the best so far would meet test, and another winner after it
    meets_test = study.plan.test_winner and not study.plan.test_every_run and over
    test = _test(study, trials, best, options, observer) if meets_test and best is not None else None
    write_entries(trials, options.folder)
    weights = importances(trials)
    found = marginals(study, records)
    result = SweepResult.from_json(
        {
            "version": __version__,
            "status": "finished" if over else "stopped",
            "study": study.name,
            "study_digest": study.digest,
            "storage": str(options.folder / JOURNAL) if options.storage is None else redacted(options.storage),
            "folder": str(options.folder),
            "metric": study.metric,
            "trials": summary_of(records),
            "best": None if best is None else _best(best, options.folder),
            "verdict": verdict(study, best, confirmation, records),
            "confirmation": None if confirmation is None else confirmation.to_json(),
            "test": test,
            "test_looks": len(entries_of(trials)),
            "reading": readings(study, records, found),
            "marginals": mapping_of(found),
            "importances": weights,
            "pareto": [_point(trial) for trial in pareto_front(records)] if study.plan.minimize else None,
            "parent_run_id": tracker.run_id,
            "seconds": time.monotonic() - started,
        }
    )
    observer.stage("drawing figures and writing the report")
    for path in _write(study, records, weights, result, options.folder):
        tracker.log_artifact(path, FIGURES if path.parent.name == FIGURES else None)
    tracker.log_summary(_metrics(result))
    if best is not None:
        first = best.runs[0].run_id if best.runs else None
        tracker.set_tags(
            {"best.trial": str(best.number), "best.run_id": first or "", "best.params": _json(best.params)}
        )
    return result


def verdict(
    study: Study, best: TrialRecord | None, confirmation: Confirmation | None, records: Sequence[TrialRecord] = ()
) -> dict[str, Any]:
    """Whether there is a winner, and in words why; ``records`` are all trials."""
    if best is None:
        text = "No trial is complete: there is nothing to choose from."
        failed = [record for record in records if record.state == "failed"]
        if failed and len(failed) == len(records):
            text = f"All {len(failed)} trials failed; the first: {failed[0].reason or 'for no known reason'}"
        return {"winner": False, "text": text}
    if study.plan.test_every_run:
        return {"winner": False, "text": "Nothing was selected: every run of this study is measured on test."}
    if best.params == study.default_values():
        return {"winner": False, "text": "No winner: nothing that was tried is better than the default (trial 0)."}
    if confirmation is None:
        text = (
            f"Trial {best.number} is the best of those tried. Whether it is better than the default is not confirmed: "
            "the best of many is partly lucky (--confirm 3 trains both on fresh seeds)."
        )
        return {"winner": None, "text": text}
    test, seeds = confirmation.test, counted(len(confirmation.seeds), "fresh seed")
    figures = f"{confirmation.winner:.4f} against {confirmation.default:.4f}, p = {test.p_value:.3f}"
    if test.p_value < ALPHA and test.difference > 0:
        text = f"Trial {best.number} is better than the default on {seeds} ({figures})."
        return {"winner": True, "text": text}
    text = f"No winner: on {seeds} trial {best.number} cannot be told from the default ({figures})."
    if test.p_value < ALPHA:
        text = f"No winner: on {seeds} trial {best.number} is worse than the default ({figures})."
    return {"winner": False, "text": text}


def best_toml(study: Study, best: TrialRecord) -> str:
    """The winner's settings, under the seed of its first run, as ``fedmm train --config`` takes them."""
    seed = best.runs[0].seed if best.runs else study.trial_seed(best.params)
    head = f"# Trial {best.number} of study {study.name}: {study.metric} {best.value:.6f} on validation.\n"
    return head + dump_toml(study.configure(best.params, seed), only_non_default=True)


def _confirmation(
    study: Study, best: TrialRecord | None, confirmed: Sequence[TrialRecord], observer: SweepObserver
) -> Confirmation | None:
    """The paired test over the seeds that both were trained on; None where there are none."""
    if best is None:
        return None
    default = study.default_values()
    by_seed = [
        {
            trial.runs[0].seed: trial.runs[0]
            for trial in confirmed
            if trial.state == "complete" and trial.params == values
        }
        for values in (best.params, default)
    ]
    common = sorted(set(by_seed[0]) & set(by_seed[1]))
    if not common:
        return None
    winner, other = ([runs[seed] for seed in common] for runs in by_seed)
    try:
        return confirm(study, winner, other)
    except (DataError, CheckpointError) as error:
        observer.warn(f"The winner cannot be confirmed here, some of its runs are on another machine: {error.message}")
        return None


def _test(
    study: Study, trials: optuna.Study, best: TrialRecord, options: SweepOptions, observer: SweepObserver
) -> dict[str, Any] | None:
    """The winner on test. A winner that was evaluated before is not evaluated again: every look is counted."""
    before = trials.user_attrs.get(TEST)
    if before is not None and before["trial"] == best.number:
        return dict(before)
    observer.stage(f"evaluating the winner (trial {best.number}) on test")
    try:
        found = evaluate_on_test(study, best, options.threads * options.jobs)
    except CheckpointError as error:
        observer.warn(str(error))
        return None
    trials.set_user_attr(TEST, found)
    for run in best.runs:
        record_entry(trials, options.folder, make_entry(study, best.number, best.params, run.seed))
    return found


def _best(best: TrialRecord, folder: Path) -> dict[str, Any]:
    return {
        "trial": best.number,
        "value": best.value,
        "params": dict(best.params),
        "seed": best.runs[0].seed if best.runs else None,
        "seeds": [run.seed for run in best.runs],
        "run_id": best.runs[0].run_id if best.runs else None,
        "run_ids": [run.run_id for run in best.runs],
        "config_path": str(folder / BEST_FILE),
    }


def _point(trial: TrialRecord) -> dict[str, Any]:
    value, size = trial.values or (None, None)
    return {"trial": trial.number, "value": value, "bytes": size, "params": dict(trial.params)}


def _write(
    study: Study,
    records: Sequence[TrialRecord],
    weights: Mapping[str, float] | None,
    result: SweepResult,
    folder: Path,
) -> list[Path]:
    """Everything that stays in the study's folder; returns what belongs to the parent run too."""
    from fedmm.report.study_figures import draw_study_figures
    from fedmm.report.study_page import write_study_page

    best = best_trial(records)
    texts = {STUDY_FILE: dump_study(study), CSV_FILE: trials_csv(study, records), RESULT_FILE: _json(result, indent=1)}
    if best is not None:
        texts[BEST_FILE] = best_toml(study, best)
    for name, text in texts.items():
        write_atomically(folder / name, redacted(text).encode())
    _write_parquet(study, records, folder / PARQUET_FILE)
    figures = draw_study_figures(study, records, weights, folder / FIGURES)
    write_study_page(study, records, weights, result, folder / PAGE_FILE)
    return [*(folder / name for name in (*texts, PARQUET_FILE, PAGE_FILE)), *figures]


def trials_csv(study: Study, records: Sequence[TrialRecord]) -> str:
    """One line a trial: number, state, objectives, time, parameters, seeds, runs, folders, reason."""
    return _frame(trial_rows(study, records)).to_csv(index=False, lineterminator="\n")


def trial_rows(study: Study, records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """As ``trials_csv``, a mapping a trial; what a trial does not have is None."""
    return [
        {
            "trial": record.number,
            "state": record.state,
            study.metric: record.value,
            **({"bytes": record.values[1] if record.values else None} if study.plan.minimize else {}),
            "seconds": record.seconds,
            **{parameter.name: record.params.get(parameter.name) for parameter in study.space},
            "seeds": " ".join(str(run.seed) for run in record.runs),
            "run_ids": " ".join(run.run_id or "" for run in record.runs),
            "folders": " ".join(run.folder for run in record.runs),
            "reason": record.reason,
        }
        for record in records
    ]


def _write_parquet(study: Study, records: Sequence[TrialRecord], path: Path) -> None:
    rows = trial_rows(study, records)
    texts = {parameter.name for parameter in study.space if _mixed(row.get(parameter.name) for row in rows)}
    plain = [
        {key: str(value) if key in texts and value is not None else value for key, value in row.items()} for row in rows
    ]
    content = io.BytesIO()
    _frame(plain).to_parquet(content, index=False)
    write_atomically(path, content.getvalue())


def _frame(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """One row a mapping; values keep their kinds, so that a whole number stays one where others are absent."""
    import pandas

    return pandas.DataFrame(rows, columns=list(rows[0]) if rows else ["trial"], dtype=object)


def _mixed(values: Any) -> bool:
    """Whether a column holds more than one kind: Parquet has one a column, choices may be 0.5 and "auto"."""
    kinds = {float if isinstance(value, int) and not isinstance(value, bool) else type(value) for value in values}
    return len(kinds - {type(None)}) > 1


def _metrics(result: SweepResult) -> dict[str, float]:
    """``best/value``, ``test/full/hr_at_10``, ``study/complete`` and so on."""
    metrics = {f"study/{state}": float(number) for state, number in result.trials.items()}
    if result.best is not None and result.best.value is not None:
        metrics["best/value"] = result.best.value
    if result.test is not None:
        for protocol, values in result.test.metrics.items():
            metrics |= {f"test/{protocol}/{name}": float(v) for name, v in values.items() if name != "ci95"}
    return metrics


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(plain(value), indent=indent, allow_nan=False) + ("\n" if indent else "")
