"""``fedmm verify``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmm_cli.options import Debug, Json, Parts, Quiet, use_parts

if TYPE_CHECKING:
    from fedmm.verification.checks import Level

LEVELS: dict[str, Level] = {"quick": "quick", "full": "full"}


CheckpointOption = Annotated[
    Path | None,
    typer.Option("--checkpoint", metavar="PATH", help="Verify the model of this checkpoint or run folder."),
]
ConfigOption = Annotated[
    list[Path] | None, typer.Option("--config", metavar="FILE", help="Verify the model of these settings (TOML).")
]
AssignmentsOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, as in fedmm train.")
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", metavar="NAME", help="On this named dataset rather than the bundled one.")
]
LevelOption = Annotated[str, typer.Option("--level", metavar="WORD", help="quick (under a minute) or full.")]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="GROUP", help="architecture, federation, honesty, statistics or data; repeatable."),
]
InventoryOption = Annotated[
    bool, typer.Option("--inventory", help="List what decides a number, with the checks that hold it; check nothing.")
]
ThreadsOption = Annotated[str | None, typer.Option("--threads", metavar="INT", help="Cores to use; 0 = all.")]


def verify(
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    assignments: AssignmentsOption = None,
    dataset: DatasetOption = None,
    level: LevelOption = "quick",
    only: OnlyOption = None,
    threads: ThreadsOption = None,
    inventory: InventoryOption = False,
    parts: Parts = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Prove the architecture, the federation, the honesty of the numbers and the data; exit 0 only if all holds."""
    del debug
    use_parts(parts)
    if inventory:
        _list_inventory(as_json=as_json)
        return
    _require(level, checkpoint, own_settings=bool(config or assignments or dataset))
    from fedmm.config.load import load_config
    from fedmm.errors import ConfigError

    flags = {"data.name": dataset, "runtime.threads": threads}
    names = {"data.name": "--dataset", "runtime.threads": "--threads"}
    settings = load_config(config or (), os.environ, assignments or (), flags, flag_names=names)
    from fedmm.verification.checks import GROUPS

    unknown = [group for group in only or () if group not in GROUPS]
    if unknown:
        raise ConfigError(f"--only cannot be {unknown[0]!r}.", f"--only takes one of {', '.join(GROUPS)}.")
    from fedmm.utils.parallel import set_threads
    from fedmm.verification.catalogue import CHECKS
    from fedmm.verification.checks import choose, summary
    from fedmm.verification.loading import subject_of_checkpoint, subject_of_config
    from fedmm.verification.processes import num_processes, run_shared
    from fedmm_cli.output import print_json
    from fedmm_cli.verify_report import Report

    set_threads(settings.runtime.threads)
    chosen, full = LEVELS[level], level == "full"
    if checkpoint is not None:
        subject = subject_of_checkpoint(checkpoint, full=full)
    else:
        subject = subject_of_config(settings, only_own_model=bool(config or assignments), full=full)
    checks = choose(CHECKS, chosen, only or ())
    results, processes = [], num_processes(len(checks), settings.runtime.threads)
    with Report(sys.stderr if as_json else sys.stdout, len(checks), quiet=quiet) as report:
        for result in run_shared(checks, subject, report.begin, processes=processes):
            results.append(result)
            report.add(result)
    outcome = summary(results, subject.config, chosen)
    if as_json:
        print_json(outcome)
    else:
        report.close(outcome)
    if not outcome.passed:
        raise typer.Exit(1)


def _list_inventory(*, as_json: bool) -> None:
    from fedmm.verification.inventory import inventory
    from fedmm_cli.output import print_json

    entries = inventory()
    if as_json:
        print_json({"inventory": [entry.to_json() for entry in entries]})
        return
    for entry in entries:
        typer.echo(f"{entry.kind}  {entry.name}")
        for check in entry.checks:
            typer.echo(f"    {check}")
        if entry.reason:
            typer.echo(f"    ({entry.reason})")


def _require(level: str, checkpoint: Path | None, *, own_settings: bool) -> None:
    from fedmm.errors import ConfigError

    if level not in LEVELS:
        raise ConfigError(f"--level cannot be {level!r}.", f"--level takes one of {', '.join(LEVELS)}.")
    if checkpoint is not None and own_settings:
        raise ConfigError(
            f"--checkpoint {checkpoint} brings its own settings; --config, --set and --dataset do not go with it.",
            "Give one or the other.",
        )
