"""``fedmm train``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmm.utils.timing import OFF, START_UP, StageTimer
from fedmm_cli import STARTED
from fedmm_cli.options import FLAGS, RUN, Debug, Details, Given, Groups, Json, Quiet, require_files, takes_settings

if TYPE_CHECKING:
    from fedmm.config import ExperimentConfig

Profiling = Annotated[
    bool, typer.Option("--profile", help="Show where the time went, by stage (stderr).", rich_help_panel=RUN)
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with a run that was stopped or crashed.", rich_help_panel=RUN)
]


@takes_settings(FLAGS, old_names=True)
def train(
    given: Given,
    *,
    resume: Resume = False,
    profile: Profiling = False,
    groups: Groups = False,
    details: Details = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train on the bundled data or your own, evaluate the best round, and log everything to MLflow.

    Settings come in layers: defaults, --config files, FEDMM_* variables (FEDMM_MODEL__HIDDEN_DIM=128), --set, flags.
    """
    del debug  # read by whoever reports the error
    timer = StageTimer(began=STARTED, first=START_UP) if profile else OFF
    with timer.stage(START_UP):
        settings = given.load()  # before anything heavy loads: a typing error is answered at once
        if settings.runtime.start_from is not None and not resume:
            settings = _with_settings_of(given, settings.runtime.start_from)
        if resume:
            from fedmm.runs.folder import CONFIG_FILE
            from fedmm.runs.own_parts import require_parts_of
            from fedmm.runs.resuming import require_resumable

            stopped = require_resumable(settings.runtime.output)
            require_parts_of(stopped, CONFIG_FILE)
            settings = given.load([stopped / CONFIG_FILE], {"runtime.output": stopped})
        elif settings.runtime.start_from is None:
            require_files(settings)
        if settings.tracking.enabled:
            from fedmm.tracking.mlflow_store import resolve_uri

            resolve_uri(settings.tracking.uri, os.environ)
        from fedmm.runs.train import run_training
        from fedmm_cli.groups_report import print_groups
        from fedmm_cli.output import print_json
        from fedmm_cli.profile_report import print_profile
        from fedmm_cli.progress import make_observer
        from fedmm_cli.render import print_result

    with make_observer(settings, quiet=quiet, stream=sys.stderr) as observer:
        result = run_training(settings, observer, resume=resume, timer=timer, began=STARTED)
    if as_json:
        print_json(result)
    else:
        print_result(result, details=details)
        if groups:
            print_groups(result, "test")
    if result.profile is not None:
        print_profile(result.profile, sys.stderr)


def _with_settings_of(given: Given, start: Path) -> ExperimentConfig:
    """The settings of the run that this one starts from, with what was typed in their place, and another folder."""
    from fedmm.errors import ConfigError
    from fedmm.runs.folder import CONFIG_FILE
    from fedmm.runs.own_parts import require_parts_of

    folder = next((one for one in (start, *start.absolute().parents[:2]) if (one / CONFIG_FILE).exists()), None)
    if folder is None:
        raise ConfigError(f"There is no run in {start}.", "Give the folder of a run: --start-from RUN.")
    require_parts_of(folder, CONFIG_FILE)
    flags = {} if "runtime.output" in given.flags else {"runtime.output": "none"}
    return given.load([folder / CONFIG_FILE], flags)
