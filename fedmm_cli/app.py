"""The command ``fedmm``. Heavy packages load inside commands, never here: ``--help`` must answer at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fedmm_cli import config, data, evaluate, train
from fedmm_cli.options import modernise
from fedmm_cli.output import run_command

app = typer.Typer(
    name="fedmm",
    help="Train and study federated multimodal sequential recommenders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")


def _show_version(value: bool) -> None:
    if value:
        from fedmm import __version__

        typer.echo(f"fedmm {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Train and study federated multimodal sequential recommenders."""


def main() -> None:
    """The console script. Names of the old system are understood by ``train`` and said to be old."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["train"]:
        arguments, notes = modernise(arguments)
        for note in notes:
            sys.stderr.write(f"note: {note}\n")
    sys.exit(run_command(lambda: app(args=arguments), arguments))
