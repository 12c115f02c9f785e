"""``fedmm evaluate``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmm_cli.options import Debug, Details, Groups, Json, Parts, Quiet, protocols_of, use_parts

if TYPE_CHECKING:
    from fedmm.runs.result import EvaluateResult

SPLITS = ("test", "validation")


def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A run folder (its best round) or a checkpoint in it.")
    ],
    split: Annotated[
        str, typer.Option("--split", metavar="WORD", help="Whose held-out items: test, validation.")
    ] = "test",
    protocols: Annotated[
        str | None, typer.Option("--eval", metavar="WORD", help="full, sampled or both. Default: the run's.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="Where the run's file of interactions is now, if it has moved."),
    ] = None,
    new_data: Annotated[
        Path | None,
        typer.Option("--new-data", metavar="FILE", help="Ask about events that came after the run's data instead."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FILE", help="Draw the new events over time: .png or .svg.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="TEXT", help="cpu, cuda, cuda:N, mps or auto. Default: the run's.")
    ] = None,
    threads: Annotated[
        str | None, typer.Option("--threads", metavar="INT", help="CPU threads; 0 = all. Default: the run's.")
    ] = None,
    groups: Groups = False,
    parts: Parts = None,
    details: Details = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Evaluate a checkpoint again: under another protocol, on the other split of its data, or on new events."""
    del debug
    use_parts(parts)
    _require_split(split)
    others = {"split": split != "test", "eval": protocols, "groups": groups, "details": details, "device": device}
    if new_data is not None:
        _refuse_idle({**others, "threads": threads}, "beside --new-data")
        _print_drift(checkpoint, new_data, data, figure, as_json=as_json, quiet=quiet)
        return
    _refuse_idle({"figure": figure}, "without --new-data")
    chosen = None if protocols is None else protocols_of(protocols)
    result = _again(checkpoint, split, chosen, data, device, threads, quiet=quiet)
    from fedmm_cli.groups_report import print_groups
    from fedmm_cli.output import print_json
    from fedmm_cli.render import print_evaluation

    if as_json:
        print_json(result)
    else:
        print_evaluation(result, split, details=details)
        if groups:
            print_groups(result, split)


def _again(
    checkpoint: Path,
    split: str,
    protocols: tuple[str, ...] | None,
    data: Path | None,
    device: str | None,
    threads: str | None,
    *,
    quiet: bool,
) -> EvaluateResult:
    from fedmm.config.load import load_config

    flags = {"runtime.device": device, "runtime.threads": threads}
    checked = load_config(flags=flags, flag_names={key: f"--{key.removeprefix('runtime.')}" for key in flags}).runtime
    from fedmm.runs.evaluate import run_evaluation
    from fedmm_cli.progress import QuietObserver, StageObserver

    return run_evaluation(
        checkpoint,
        QuietObserver(sys.stderr) if quiet else StageObserver(sys.stderr),
        split=split,
        protocols=protocols,
        device=None if device is None else checked.device,
        threads=None if threads is None else checked.threads,
        data=data,
    )


def _print_drift(
    checkpoint: Path, new_data: Path, data: Path | None, figure: Path | None, *, as_json: bool, quiet: bool
) -> None:
    from fedmm.runs.drift import measure_drift
    from fedmm.runs.figures_drift import draw_drift, require_figure
    from fedmm_cli.drift_report import print_drift
    from fedmm_cli.output import print_json
    from fedmm_cli.progress import QuietObserver, StageObserver

    if figure is not None:
        require_figure(figure)
    observer = QuietObserver(sys.stderr) if quiet else StageObserver(sys.stderr)
    result = measure_drift(checkpoint, new_data, observer, data=data)
    if figure is not None:
        draw_drift(result, figure)
    if as_json:
        print_json(result)
    else:
        print_drift(result)


def _refuse_idle(given: Mapping[str, object], where: str) -> None:
    from fedmm.errors import ConfigError

    for flag, value in given.items():
        if value:
            raise ConfigError(f"--{flag} has no effect {where}.", f"Leave --{flag} out.")


def _require_split(split: str) -> None:
    from fedmm.errors import ConfigError

    if split not in SPLITS:
        raise ConfigError(f"--split cannot be {split!r}.", f"--split takes one of {', '.join(SPLITS)}.")
