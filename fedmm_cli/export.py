"""``fedmm export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmm_cli.options import Debug, Json, Parts, Quiet, use_parts

if TYPE_CHECKING:
    from fedmm.serving.export import Exported

WHAT, MLFLOW = "What", "MLflow"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder (its best round) or a checkpoint in it.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="WORD",
            help="onnx, torch (torch.export), safetensors, mlflow (pyfunc) or bundle (ONNX, names, a script).",
            rich_help_panel=WHAT,
        ),
    ] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="PATH", help="A file; a folder for mlflow and bundle.", rich_help_panel=WHAT),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="WORD",
            help="How matrices are kept: float32, bfloat16 or int8. Default: float32; bfloat16 in a bundle.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            metavar="INT",
            help="The onnx or torch graph gives so many best items, without those of the history, not all scores.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    parts: Parts = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a trained model for other programs: it takes histories of items and scores the whole catalogue."""
    del debug
    use_parts(parts)
    from fedmm.errors import ConfigError

    if output is None:
        raise ConfigError("It is not said where to write.", "Give --output PATH.")
    from fedmm.runs.model import TrainedModel
    from fedmm.serving.export import export_model
    from fedmm_cli.output import print_json
    from fedmm_cli.progress import QuietObserver, StageObserver

    observer = QuietObserver(sys.stderr) if quiet else StageObserver(sys.stderr)
    model = TrainedModel.load(run, tell=observer.stage)
    found = export_model(model, format, output, weights=weights, top=top, tell=observer.stage)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)


def _print(found: Exported) -> None:
    """What was written and how it is called."""
    from fedmm.utils.text import in_bytes

    lines = [f"{path}  {in_bytes(size)}" for path, size in found.files.items()]
    opset = "" if found.opset is None else f", ONNX opset {found.opset}"
    lines += [f"weights: {found.weights}{opset}", f"input:   {found.inputs}", f"output:  {found.outputs}"]
    sys.stdout.write("\n".join(lines) + "\n")
