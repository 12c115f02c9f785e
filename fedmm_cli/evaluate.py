"""``fedmm evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedmm_cli.options import Debug, Details, Groups, Json, Parts, Quiet, protocols_of, use_parts

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
    """Evaluate a checkpoint again, under another protocol or on the other split of the same data."""
    del debug
    use_parts(parts)
    _require_split(split)
    from fedmm.config.load import load_config
    from fedmm_cli.output import print_json

    chosen = None if protocols is None else protocols_of(protocols)
    flags = {"runtime.device": device, "runtime.threads": threads}
    checked = load_config(flags=flags, flag_names={key: f"--{key.removeprefix('runtime.')}" for key in flags}).runtime
    from fedmm.runs.evaluate import run_evaluation
    from fedmm_cli.groups_report import print_groups
    from fedmm_cli.progress import QuietObserver, StageObserver
    from fedmm_cli.render import print_evaluation

    observer = QuietObserver(sys.stderr) if quiet else StageObserver(sys.stderr)
    result = run_evaluation(
        checkpoint,
        observer,
        split=split,
        protocols=chosen,
        device=None if device is None else checked.device,
        threads=None if threads is None else checked.threads,
        data=data,
    )
    if as_json:
        print_json(result)
    else:
        print_evaluation(result, split, details=details)
        if groups:
            print_groups(result, split)


def _require_split(split: str) -> None:
    from fedmm.errors import ConfigError

    if split not in SPLITS:
        raise ConfigError(f"--split cannot be {split!r}.", f"--split takes one of {', '.join(SPLITS)}.")
