"""``fedmm compare``."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmm_cli.options import Debug, Json, Parts, use_parts

if TYPE_CHECKING:
    from fedmm.comparison.claims import Judged
    from fedmm.comparison.types import ComparedRun, Comparison
    from fedmm.tracking.mlflow_search import TrackedRun, TrackedRuns

DEFAULT_LAST = 10


def _path(name: str, what: str) -> Any:
    return typer.Option(name, metavar="FILE", help=f"{what}; - is stdout.", show_default=False)


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN...", help="Run folders, checkpoints, or names or ids of MLflow runs."),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option("--experiment", metavar="TEXT", help="The finished runs of this MLflow experiment.")
    ] = None,
    study: Annotated[
        str | None, typer.Option("--study", metavar="NAME", help="The finished trials of this study, on validation.")
    ] = None,
    last: Annotated[int | None, typer.Option("--last", metavar="INT", help="The newest so many runs.")] = None,
    group_by: Annotated[
        list[str] | None,
        typer.Option("--group-by", metavar="KEY", help="Group by this setting; repeatable. Default: all that differ."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="WORD", help="full/ndcg_at_10, ...; repeatable, the first decides."),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option("--expect", metavar="FILE", help="Claims (TOML) to hold against the runs, or old-document."),
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="One self-contained page.")] = None,
    as_csv: Annotated[str | None, _path("--csv", "A line a run")] = None,
    as_markdown: Annotated[str | None, _path("--markdown", "Tables in Markdown")] = None,
    as_latex: Annotated[str | None, _path("--latex", "Tables in LaTeX (booktabs)")] = None,
    store: Annotated[
        str | None, typer.Option("--tracking-uri", metavar="TEXT", help="MLflow store. Default: that of training.")
    ] = None,
    parts: Parts = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare finished runs user by user, and say which are better, worse, or cannot be told apart."""
    del debug
    use_parts(parts)
    _require(runs or [], last, [as_csv, as_markdown, as_latex], as_json)
    store = _store(store)
    from fedmm.comparison.claims import judge, load_claims
    from fedmm.comparison.compare import compare as compare_runs

    claims = None if expect is None else load_claims(expect)
    keys = [key for text in group_by or [] for key in text.split(",")]
    with tempfile.TemporaryDirectory(prefix="fedmm-compare-") as cache:
        found = _load(runs or [], experiment, study, last, store, Path(cache))
        claimed = [claim.metric for claim in claims or []]
        comparison = compare_runs(found, by=keys, metrics=metric or [], also=claimed)
    judged = None if claims is None else judge(claims, comparison)
    _write_files(comparison, report, as_csv, as_markdown, as_latex)
    if as_json or "-" not in (as_csv, as_markdown, as_latex):
        _show(comparison, judged, _address(comparison, store), as_json=as_json)


def _write_files(
    comparison: Comparison, report: Path | None, as_csv: str | None, as_markdown: str | None, as_latex: str | None
) -> None:
    """The page and the tables that were asked for."""
    from fedmm.comparison.latex import to_latex
    from fedmm.comparison.tables import to_csv, to_markdown

    if report is not None:
        from fedmm.report.comparison_page import write_report

        write_report(comparison, report)
        sys.stderr.write(f"The report is in {report}.\n")
    writers: list[tuple[str | None, Callable[[Comparison], str]]] = [
        (as_csv, to_csv),
        (as_markdown, to_markdown),
        (as_latex, to_latex),
    ]
    for place, write in writers:
        _write(place, write(comparison))


def _show(comparison: Comparison, judged: Sequence[Judged] | None, address: str | None, *, as_json: bool) -> None:
    """The comparison on stdout, for people or for programs."""
    from fedmm.comparison.result import CompareResult
    from fedmm.comparison.tables import to_json
    from fedmm_cli.compare_report import print_comparison
    from fedmm_cli.output import print_json

    if as_json:
        verdicts = None if judged is None else [one.to_json() for one in judged]
        print_json(CompareResult.from_json({**to_json(comparison), "claims": verdicts, "mlflow": address}))
    else:
        print_comparison(comparison, judged, address)


def _require(runs: Sequence[str], last: int | None, places: Sequence[str | None], as_json: bool) -> None:
    from fedmm.errors import ConfigError

    if last is not None and last < 1:
        raise ConfigError(f"--last cannot be {last}.", "--last takes an integer of at least 1.")
    if last is not None and runs:
        raise ConfigError(f"--last {last} does not go with runs by name.", "Give one or the other.")
    if places.count("-") + as_json > 1:
        raise ConfigError("stdout can take one of --json, --csv, --markdown and --latex.", "Give files for the others.")


def _store(given: str | None) -> str | None:
    """The MLflow store: the one given, else that of training."""
    from fedmm.config.load import load_config

    return given if given is not None else load_config(environment=os.environ).tracking.uri


def _load(
    names: Sequence[str],
    experiment: str | None,
    study: str | None,
    last: int | None,
    store: str | None,
    cache: Path,
) -> list[ComparedRun]:
    """The runs that were asked for, on the split that all of them have: a study's on validation."""
    from fedmm.comparison.loading import common_split, load_run, run_folder, tracked_folder
    from fedmm.errors import ConfigError
    from fedmm.tracking.mlflow_search import TrackedRuns

    folders: list[tuple[Path, str | None, str | None]] = []
    tracked: TrackedRuns | None = None
    for name in names:
        own = run_folder(name)
        if own is not None:
            folders.append((own, None, None))
            continue
        tracked = tracked or _store_for(name, store)
        run = _the_one(tracked.named(name), name)
        folders.append((tracked_folder(tracked, run, cache), run.name, run.run_id))
    if not names or experiment or study:
        tracked = tracked or TrackedRuns(store)
        if study is not None:
            found = tracked.trials(study, experiment)
            what = f"study {study!r} has no finished trial in {experiment or 'any experiment'}"
        else:
            found = tracked.finished(experiment, last or (None if experiment else DEFAULT_LAST))
            what = f"there is no finished run in {experiment or 'any experiment'}"
        if not found:
            raise ConfigError(
                f"In {tracked.uri} {what}.",
                "Train first, or give run folders; the trials of a sweep are found by --study NAME.",
            )
        found = found[:last] if last else found
        folders += [(tracked_folder(tracked, run, cache), run.name, run.run_id) for run in found]
    split = "validation" if study else common_split([folder for folder, _, _ in folders])
    return [
        load_run(folder, split, name, run_id, fetched=folder.is_relative_to(cache)) for folder, name, run_id in folders
    ]


def _store_for(name: str, store: str | None) -> TrackedRuns:
    """The store to look a name up in that is no folder. Raises ConfigError where there is neither."""
    from fedmm.errors import ConfigError
    from fedmm.tracking.mlflow_search import TrackedRuns

    try:
        return TrackedRuns(store)
    except ConfigError as error:
        raise ConfigError(f"There is no run folder {name!r}. {error.message}", error.remedy) from None


def _the_one(found: Sequence[TrackedRun], name: str) -> TrackedRun:
    from fedmm.errors import ConfigError

    if not found:
        remedy = "See them with: fedmm runs list."
        raise ConfigError(f"There is no run {name!r}: no folder, and no name or id in MLflow.", remedy)
    if len(found) > 1:
        ids = ", ".join(run.run_id for run in found[:3])
        raise ConfigError(f"{len(found)} runs are called {name!r}.", f"Give an id: {ids}{', ..' * (len(found) > 3)}.")
    return found[0]


def _write(place: str | None, text: str) -> None:
    if place == "-":
        sys.stdout.write(text)
    elif place is not None:
        from fedmm.utils.files import write_atomically

        write_atomically(Path(place), text.encode())


def _address(comparison: Comparison, store: str | None) -> str | None:
    """MLflow's page with the same runs side by side; None where not all of them are in one store."""
    from fedmm.errors import ConfigError
    from fedmm.tracking.mlflow_search import TrackedRuns, compare_page

    ids = [run.run_id for group in comparison.groups for run in group.runs]
    known = [run_id for run_id in ids if run_id is not None]
    if len(known) < len(ids) or not known:
        return None
    uris = {run.tracking_uri for group in comparison.groups for run in group.runs}
    try:
        tracked = TrackedRuns(store or next(iter(uris)))
        found = [run for run_id in known for run in tracked.named(run_id)]
    except ConfigError:
        return None
    if len(found) < len(known):
        return None
    host = tracked.uri.rstrip("/") if tracked.uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{host}/{compare_page(known, sorted({run.experiment_id for run in found}))}"
