"""``fedmm export``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmm_cli.options import Debug, Json, Parts, Quiet, use_parts

if TYPE_CHECKING:
    from fedmm.runs.export import Exported

WHAT, MLFLOW = "What", "MLflow"


def _option(name: str, metavar: str, what: str, panel: str) -> Any:
    return typer.Option(name, metavar=metavar, help=what, rich_help_panel=panel, show_default=False)


FORMATS = (
    "onnx, torch (torch.export), safetensors, mlflow (pyfunc) or bundle (ONNX, names, a script). Default: onnx; mlflow "
    "with --register."
)
WEIGHTS = "How matrices are kept: float32, bfloat16 or int8. Default: float32; bfloat16 in a bundle."
TOP = "The onnx or torch graph gives so many best items, without those of the history, not all scores."


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder (its best round) or a checkpoint in it.")],
    format: Annotated[str | None, _option("--format", "WORD", FORMATS, WHAT)] = None,
    output: Annotated[Path | None, _option("--output", "PATH", "A file; a folder for mlflow and bundle.", WHAT)] = None,
    weights: Annotated[str | None, _option("--weights", "WORD", WEIGHTS, WHAT)] = None,
    top: Annotated[int | None, _option("--top", "INT", TOP, WHAT)] = None,
    user: Annotated[
        str | None, _option("--user", "ID", "This user's own model, where the run keeps personal parameters.", WHAT)
    ] = None,
    register: Annotated[
        str | None, _option("--register", "NAME", "Also a new version in MLflow's registry.", MLFLOW)
    ] = None,
    alias: Annotated[str | None, _option("--alias", "WORD", "What that version is called too.", MLFLOW)] = None,
    tracking_uri: Annotated[
        str | None, _option("--tracking-uri", "URI", "The store. Default: the run's.", MLFLOW)
    ] = None,
    parts: Parts = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a trained model for other programs: it takes histories of items and scores the whole catalogue."""
    del debug
    use_parts(parts)
    format = format or ("onnx" if register is None else "mlflow")
    _require(format, output, register, alias, tracking_uri, user)
    from fedmm.runs.export import export_model, require_exportable
    from fedmm.runs.model import TrainedModel
    from fedmm_cli.output import print_json
    from fedmm_cli.progress import QuietObserver, StageObserver

    require_exportable(format, output, weights, top)
    observer = QuietObserver(sys.stderr) if quiet else StageObserver(sys.stderr)
    model = TrainedModel.load(run, tell=observer.stage)
    found, version = None, None
    if output is not None:
        found = export_model(model, format, output, weights=weights, top=top, user=user, tell=observer.stage)
    if register is not None:
        from fedmm.serving.registry import register as register_version

        observer.stage("registering")
        version = register_version(model, run, register, alias, uri=tracking_uri, weights=weights)
    if as_json:
        registered = {} if version is None else {"registered": {"version": version, "alias": alias}}
        print_json({**(found.to_json() if found is not None else {}), **registered})
    else:
        _print(found, version, alias)


def _require(
    format: str,
    output: Path | None,
    register: str | None,
    alias: str | None,
    tracking_uri: str | None,
    user: str | None,
) -> None:
    """Raises ConfigError where it is not said what to do, or what is said has no effect."""
    from fedmm.errors import ConfigError

    if register is None and (output is None or alias is not None or tracking_uri is not None):
        missing = "where to write" if output is None else "what to register"
        raise ConfigError(f"It is not said {missing}.", "Give --output PATH, or --register NAME for MLflow.")
    if register is not None and format != "mlflow":
        raise ConfigError(f"--register is not for --format {format}.", "Leave --format out, or make it mlflow.")
    if register is not None and user is not None:
        raise ConfigError("--user is not for --register: MLflow would show one user's model to all.", "Use --output.")
    if alias is not None and not re.fullmatch(r"(?!latest$|v\d+$)[A-Za-z0-9_-]+", alias):
        raise ConfigError(
            f"--alias cannot be {alias!r}.", "Take letters, digits, _ and -, but not latest or v1, which MLflow gives."
        )


def _print(found: Exported | None, version: str | None, alias: str | None) -> None:
    """What was written and how it is called."""
    from fedmm.utils.text import in_bytes

    if version is not None:
        sys.stdout.write(f"registered: {version}{f', {alias}' if alias else ''}\n")
    if found is None:
        return
    lines = [f"{path}  {in_bytes(size)}" for path, size in found.files.items()]
    opset = "" if found.opset is None else f", ONNX opset {found.opset}"
    lines += [f"weights: {found.weights}{opset}", f"input:   {found.inputs}", f"output:  {found.outputs}"]
    sys.stdout.write("\n".join([*lines, *([found.note] if found.note else [])]) + "\n")
