"""``fedmm sweep``."""

from __future__ import annotations

import os
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmm_cli.options import FLAGS, RUN, Debug, Given, Json, Quiet, takes_settings

if TYPE_CHECKING:
    from fedmm.report.sweep_result import JoinedResult, SweepResult
    from fedmm.study import Study

STUDY = "Study"
JOIN_SECONDS = 60.0  # to wait for the machine that begins the study
SWEEP_FLAGS = tuple(flag for flag in FLAGS if flag.name not in ("--seed", "--output"))


def _option(*names: str, help: str, metavar: str | None = None, panel: str = STUDY) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel, show_default=False)


StudyOption = Annotated[
    str | None, _option("--study", metavar="NAME|FILE", help="A shipped study or a TOML file. Default: default.")
]
SearchOption = Annotated[
    list[str] | None,
    _option("--search", metavar="KEY=SPACE", help="model.hidden_dim=32,64 or federation.learning_rate=1e-3:1:log."),
]
TrialsOption = Annotated[
    int | None, _option("--trials", metavar="INT", help="Configurations to try. Default: the study's.")
]
SamplerOption = Annotated[str | None, _option("--sampler", metavar="WORD", help="tpe, random or grid.")]
PrunerOption = Annotated[str | None, _option("--pruner", metavar="WORD", help="hyperband, median or none.")]
MetricOption = Annotated[
    str | None, _option("--metric", metavar="WORD", help="The validation metric that decides: full/ndcg_at_10.")
]
MinimizeOption = Annotated[
    str | None, _option("--minimize", metavar="WORD", help="A second objective: communication (bytes).")
]
SeedOption = Annotated[
    int | None, _option("--seed", metavar="INT", help="The study's seed: of its draws and of every trial's.")
]
SeedsOption = Annotated[
    int | None, _option("--seeds", metavar="INT", help="Runs a configuration; their mean is its score.")
]
ConfirmOption = Annotated[
    int | None,
    _option("--confirm", metavar="INT", help="Fresh seeds on which the winner meets the default at the end."),
]
NameOption = Annotated[
    str | None, _option("--name", metavar="TEXT", help="What the study is called. Default: its file's name.")
]
ListAllOption = Annotated[bool, _option("--list", help="Show the shipped studies.")]
JobsOption = Annotated[
    int, _option("--jobs", metavar="INT", help="Worker processes; threads are divided among them.", panel=RUN)
]
TimeoutOption = Annotated[
    float | None, _option("--timeout", metavar="NUMBER", help="Seconds after which no more is tried.", panel=RUN)
]
StorageOption = Annotated[
    str | None, _option("--storage", metavar="URL", help="An Optuna database that machines share.", panel=RUN)
]
JoinOption = Annotated[bool, _option("--join", help="Help a study that another process began.", panel=RUN)]
ResumeOption = Annotated[bool, _option("--resume", help="Go on with a study as it was begun.", panel=RUN)]
RetryFailedOption = Annotated[bool, _option("--retry-failed", help="Try failed trials again.", panel=RUN)]
OutputOption = Annotated[
    Path | None, _option("--output", metavar="FOLDER", help="The study's folder. Default: sweeps/NAME.", panel=RUN)
]


@takes_settings(SWEEP_FLAGS)
def sweep(
    given: Given,
    *,
    study: StudyOption = None,
    search: SearchOption = None,
    trials: TrialsOption = None,
    sampler: SamplerOption = None,
    pruner: PrunerOption = None,
    metric: MetricOption = None,
    minimize: MinimizeOption = None,
    seed: SeedOption = None,
    seeds: SeedsOption = None,
    confirm: ConfirmOption = None,
    name: NameOption = None,
    list_all: ListAllOption = False,
    jobs: JobsOption = 1,
    timeout: TimeoutOption = None,
    storage: StorageOption = None,
    join: JoinOption = False,
    resume: ResumeOption = False,
    retry_failed: RetryFailedOption = False,
    output: OutputOption = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search settings: a study of many runs, judged on validation, that survives Ctrl-C, kill -9 and reboots.

    A study that was begun goes on. Only its winner is measured on test, once, at the end; a study that selects nothing
    may measure every run there.
    """
    del debug
    if list_all:
        _list(as_json=as_json)
        return
    _require(jobs, timeout)
    plan = {"trials": trials, "sampler": sampler, "pruner": pruner, "metric": metric, "minimize": minimize}
    plan |= {"seed": seed, "seeds": seeds, "confirm": confirm, "name": name}
    if resume or join:
        _refuse_definition(given, plan, search, "--join" if join else "--resume")
        chosen, output = _stored(study, name, output, storage, plan, wait=join)
    else:
        chosen = _chosen(given, study, search or [], plan)
    _require_store(chosen)
    how = {"storage": storage, "timeout": timeout, "join": join, "retry_failed": retry_failed}
    _run(chosen, output, jobs, how, as_json=as_json, quiet=quiet)


def _run(chosen: Study, output: Path | None, jobs: int, how: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Runs the study in its folder and prints what came of it; ``how`` are further ``SweepOptions``."""
    from fedmm.tuning.storage import require_storage
    from fedmm.tuning.sweep import SWEEPS, SweepOptions, run_sweep
    from fedmm_cli.output import print_json
    from fedmm_cli.sweep_report import print_sweep
    from fedmm_cli.sweep_screen import make_observer

    require_storage(how["storage"])
    threads = chosen.base.runtime.threads or max(1, _available_threads() // jobs)
    options = SweepOptions(folder=output or SWEEPS / chosen.name, jobs=jobs, threads=threads, **how)
    with make_observer(quiet=quiet, stream=sys.stderr) as observer:
        result = run_sweep(chosen, options, observer)
    if as_json:
        print_json(result)
    else:
        print_sweep(chosen, result)
    fail_without_a_trial(result)


def fail_without_a_trial(result: SweepResult | JoinedResult) -> None:
    """Ends with exit code 1, and says why on stderr, where the study is over and every trial of it failed."""
    states = result.trials
    if result.status != "finished" or states["complete"] or states["pruned"] or not states["failed"]:
        return
    reasons = Path(result.folder) / "trials.csv"
    sys.stderr.write(f"error: {result.verdict.text}\n")
    sys.stderr.write(f"  remedy: Search other values (--search), or read the reasons in {reasons}.\n")
    raise typer.Exit(1)


def _chosen(given: Given, study: str | None, search: list[str], plan: Mapping[str, Any]) -> Study:
    """The study that was named, with what the command line changes of it."""
    from fedmm.study import Changes, load_study, searched_study

    def overlay(implied: Mapping[str, Any]) -> Any:
        return replace(given, implied={**implied, **given.implied}).load()

    changes = Changes(plan=plan, search=tuple(search), overlay=overlay)
    if study is None and search:
        return searched_study(changes)
    return load_study(study or "default", changes)


def _stored(
    study: str | None,
    name: str | None,
    output: Path | None,
    storage: str | None,
    plan: Mapping[str, Any],
    *,
    wait: bool,
) -> tuple[Study, Path]:
    """The definition of a study that was begun before, out of its storage, and its folder."""
    from fedmm.errors import ConfigError
    from fedmm.study import Changes, read_study
    from fedmm.tuning.queue import stored_definition
    from fedmm.tuning.storage import JOURNAL, open_storage, require_storage
    from fedmm.tuning.sweep import SWEEPS

    require_storage(storage)
    wanted = name or (None if study is None else Path(study).stem) or _latest(output)
    folder = output or SWEEPS / wanted
    deadline = time.monotonic() + (JOIN_SECONDS if wait else 0.0)
    text = None
    if wait:
        sys.stderr.write(f"Waiting for study {wanted} to begin, for {JOIN_SECONDS:.0f} seconds at most ...\n")
    while text is None:
        if storage is not None or (folder / JOURNAL).exists():
            text = stored_definition(open_storage(storage, folder), wanted)
        if text is None and time.monotonic() >= deadline:
            where = storage or str(folder)
            raise ConfigError(f"There is no study {wanted!r} in {where}.", "Begin it without --resume and --join.")
        time.sleep(0.0 if text is not None else 0.5)
    kept = {key: plan[key] for key in ("trials", "confirm")}
    return read_study(tomllib.loads(text), str(folder), wanted, Changes(plan=kept)), folder


def _latest(output: Path | None) -> str:
    """The name of the study in this folder, or of the one that was worked on last."""
    from fedmm.errors import ConfigError
    from fedmm.tuning.queue import study_names
    from fedmm.tuning.storage import JOURNAL, open_storage
    from fedmm.tuning.sweep import SWEEPS

    if output is not None:
        names = study_names(open_storage(None, output)) if (output / JOURNAL).exists() else []
        return names[0] if len(names) == 1 else output.name
    journals = sorted(SWEEPS.glob(f"*/{JOURNAL}"), key=lambda path: path.stat().st_mtime)
    if not journals:
        raise ConfigError(f"There is no study in {SWEEPS}.", "Name it: --name NAME, with --storage if it has one.")
    return journals[-1].parent.name


def _refuse_definition(given: Given, plan: Mapping[str, Any], search: list[str] | None, option: str) -> None:
    """A study that goes on is what it was; only how long and how it runs may change."""
    from fedmm.errors import ConfigError

    changed = [
        f"--{key}" for key, value in plan.items() if value is not None and key not in ("trials", "confirm", "name")
    ]
    changed += ["--search"] * bool(search) + list(given.names.values()) + ["--set"] * bool(given.assignments)
    changed += ["--config"] * bool(given.files)
    if changed:
        raise ConfigError(f"{changed[0]} does not go with {option}: the study keeps its settings.", "Leave it out.")


def _require(jobs: int, timeout: float | None) -> None:
    from fedmm.errors import ConfigError

    if not 1 <= jobs <= 1024:
        raise ConfigError(f"--jobs cannot be {jobs}.", "--jobs takes an integer from 1 to 1024.")
    if timeout is not None and not 0 < timeout < float("inf"):
        raise ConfigError(f"--timeout cannot be {timeout:g}.", "--timeout takes seconds, more than 0.")


def _require_store(study: Study) -> None:
    """A tracking URI that can never work is refused before anything heavy loads."""
    if study.base.tracking.enabled:
        from fedmm.tracking.mlflow_store import resolve_uri

        resolve_uri(study.base.tracking.uri, os.environ)


def _available_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _list(*, as_json: bool) -> None:
    from fedmm.study import list_studies
    from fedmm_cli.output import print_json
    from fedmm_cli.sweep_report import print_studies

    studies = list_studies()
    if as_json:
        keys = ("name", "description", "metric", "sampler", "pruner", "trials", "seeds", "confirm")
        print_json({"studies": [{key: getattr(study.plan, key) for key in keys} for study in studies]})
    else:
        print_studies(studies)
