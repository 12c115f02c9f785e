"""The command ``fedmm``. Heavy packages load inside commands, never here: ``--help`` must answer at once."""

from __future__ import annotations

import atexit
import functools
import gc
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

from fedmm_cli import (
    audit,
    compare,
    config,
    data,
    evaluate,
    export,
    federation,
    recommend,
    report,
    runs,
    serve,
    sweep,
    train,
    ui,
    verify,
)
from fedmm_cli.help_pages import help_if_alone, is_narrow, with_readable_help
from fedmm_cli.options import SettingsCommand
from fedmm_cli.output import run_command

app = typer.Typer(
    name="fedmm",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train", cls=SettingsCommand)(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("recommend")(recommend.recommend)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("serve")(serve.serve)
app.command("compare")(compare.compare)
app.command("sweep", cls=SettingsCommand)(sweep.sweep)
app.command("verify")(verify.verify)
app.command("audit")(audit.audit)
app.command("ui")(ui.ui)
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")
app.add_typer(federation.app, name="federation")
app.add_typer(runs.app, name="runs")


def _show_version(value: bool) -> None:
    if value:
        from fedmm import __version__

        typer.echo(f"fedmm {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Train and study federated multimodal sequential recommenders: every user is a client."""
    del version
    help_if_alone(context)


@functools.cache
def _command(narrow: bool) -> Any:
    """The whole command line, for a terminal of that kind; a process that runs several lines makes it once."""
    return with_readable_help(get_command(app), narrow=narrow)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; returns the exit code."""
    if arguments is None:  # the process ends with this command: what is left is not searched for cycles, for a second
        atexit.register(gc.freeze)
    typed = list(sys.argv[1:] if arguments is None else arguments)

    def body() -> Any:
        return _command(is_narrow()).main(args=typed, prog_name="fedmm", standalone_mode=False)

    return run_command(body, typed)
