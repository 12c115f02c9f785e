"""``fedmm evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or a run folder (its best round).")],
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    evaluation: Annotated[str | None, typer.Option("--eval", help="full, sampled or both.", show_default="the run's")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, mps or auto.", show_default="the run's")] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads.", show_default="the run's")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Evaluate a checkpoint again, under another protocol or on the other split of the same data."""
    del debug
    from fedmm.errors import ConfigError
    from fedmm.evaluating import run_evaluation
    from fedmm_cli.options import evaluation_flags
    from fedmm_cli.output import print_json
    from fedmm_cli.progress import QuietObserver, StageObserver
    from fedmm_cli.render import print_evaluation

    if split not in ("test", "validation"):
        raise ConfigError(f"--split {split!r} is not possible.", "Allowed: test, validation.")
    protocols = evaluation_flags(evaluation, {}).get("evaluation.protocols")
    observer = QuietObserver(sys.stderr) if quiet else StageObserver(sys.stderr)
    result = run_evaluation(
        checkpoint, observer, split=split, protocols=protocols, device=device, threads=threads
    )
    if as_json:
        print_json(result)
    else:
        print_evaluation(result, split)
