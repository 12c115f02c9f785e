"""``fedmm config``: see, check and begin settings files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedmm_cli.help_pages import help_if_alone
from fedmm_cli.options import FLAGS, Debug, Given, Json, SettingsCommand, takes_settings
from fedmm_cli.output import print_json

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Show, check and write settings."""
    help_if_alone(context)


@app.command(cls=SettingsCommand)
@takes_settings(FLAGS, old_names=True)
def show(
    given: Given,
    *,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the defaults.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the settings that `fedmm train` would have with the same options, files and variables, as TOML."""
    del debug
    from fedmm.config.idle import idle_settings
    from fedmm.config.load import dump_toml

    settings = given.load()
    idle = idle_settings(settings)
    if as_json:
        from fedmm.config import ExperimentConfig

        defaults = ExperimentConfig().flat()
        flat = {key: value for key, value in settings.flat().items() if not changed or value != defaults[key]}
        print_json({"settings": flat, "digest": settings.digest, "idle": idle})
    else:
        _tell_idle(idle)
        typer.echo(dump_toml(settings, only_non_default=changed), nl=False)


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="TOML files, joined in this order.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check settings files without running anything."""
    del debug
    from fedmm.config.idle import idle_settings
    from fedmm.config.load import load_config

    settings = load_config(files)
    idle = idle_settings(settings)
    if as_json:
        print_json({"valid": True, "digest": settings.digest, "idle": idle})
    else:
        _tell_idle(idle)
        typer.echo(f"valid; digest {settings.digest}")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The file to write.")] = Path("fedmm.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    debug: Debug = False,
) -> None:
    """Write a settings file with every key, its default and what it means."""
    del debug
    from fedmm.config import ExperimentConfig
    from fedmm.config.load import dump_toml
    from fedmm.errors import ConfigError

    if path.is_dir():
        raise ConfigError(f"{str(path)!r} is a folder.", "Give a file name, such as fedmm.toml.")
    if path.exists() and not force:
        raise ConfigError(f"{str(path)!r} exists already.", "Give another name, or --force to replace it.")
    from fedmm.utils.files import write_atomically

    write_atomically(path, dump_toml(ExperimentConfig(), comments=True).encode())
    typer.echo(f"wrote {path}; use it with: fedmm train --config {path}")


def _tell_idle(sentences: list[str]) -> None:
    for sentence in sentences:
        typer.echo(f"- {sentence}", err=True)
