"""``fedmm config``: see, check and begin settings files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Show, check and write settings.", no_args_is_help=True, pretty_exceptions_enable=False)

Files = Annotated[list[Path] | None, typer.Option("--config", help="TOML settings; repeatable.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="Any setting: model.dropout=0.1; repeatable.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@app.command()
def show(
    config: Files = None,
    assignments: Assignments = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    debug: Debug = False,
) -> None:
    """Print the settings that a run would have, all layers joined."""
    del debug
    from fedmm.settings import dump_toml, load_config
    from fedmm_cli.output import print_json

    settings = load_config(config or [], os.environ, assignments or [])
    if as_json:
        print_json(settings.model_dump(mode="json"))
    else:
        typer.echo(dump_toml(settings), nl=False)


@app.command()
def validate(files: Annotated[list[Path], typer.Argument(help="TOML files, checked together.")], debug: Debug = False) -> None:
    """Check settings files without running anything."""
    del debug
    from fedmm.settings import load_config

    settings = load_config(files)
    typer.echo(f"valid; config digest {settings.digest}")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("fedmm.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    debug: Debug = False,
) -> None:
    """Write a settings file with every key, its default and what it means."""
    del debug
    from fedmm.config import ExperimentConfig
    from fedmm.errors import ConfigError
    from fedmm.local_record import write_atomically
    from fedmm.settings import dump_toml

    if path.exists() and not force:
        raise ConfigError(f"{path} exists already.", "Give another name, or --force to replace it.")
    write_atomically(path, dump_toml(ExperimentConfig(), comments=True).encode())
    typer.echo(f"wrote {path}; use it with: fedmm train --config {path}")
