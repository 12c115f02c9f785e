"""``fedmm runs``: what is kept on this disk, removing it, and forgetting one client of a run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmm_cli.help_pages import help_if_alone
from fedmm_cli.options import Debug, Details, Json, Parts, Quiet, use_parts
from fedmm_cli.output import print_json

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A run's or a study's folder.")]
Folders = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FOLDER...", help="Folders of runs and studies, or what holds them. Default: runs, sweeps."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """List, show and remove runs and studies; forget one client of a run."""
    help_if_alone(context)


@app.command("list")
def list_all(folders: Folders = None, as_json: Json = False, debug: Debug = False) -> None:
    """List runs and studies with state, best value, seed, size on disk and age."""
    del debug
    from fedmm.runs.listing import FOLDERS, list_entries
    from fedmm_cli.runs_report import print_entries

    entries = list_entries(folders or FOLDERS)
    if as_json:
        print_json({"entries": [entry.to_json() for entry in entries], "bytes": sum(one.num_bytes for one in entries)})
    else:
        print_entries(entries)


@app.command()
def show(folder: Folder, details: Details = False, as_json: Json = False, debug: Debug = False) -> None:
    """Show one run or study: state, sizes and, where it has finished, its result."""
    del debug
    from fedmm.runs.listing import RESULT_FILE, entry_of, result_of
    from fedmm.runs.result import read_result
    from fedmm_cli.runs_report import print_entry

    entry = entry_of(folder)
    result = result_of(folder)
    if as_json:
        print_json({**entry.to_json(), "result": result or None})
    else:
        finished = entry.kind == "run" and bool(result)
        print_entry(entry, read_result(folder / RESULT_FILE) if finished else None, details=details)


@app.command()
def remove(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Runs' or studies' folders.")],
    yes: Yes = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Remove runs or studies from the disk. What is running is refused; MLflow keeps what it has."""
    del debug
    from fedmm.runs.listing import entry_of, require_removable
    from fedmm.runs.listing import remove as remove_entry
    from fedmm.utils.text import counted, in_bytes

    entries = [entry_of(folder) for folder in folders]
    for entry in entries:
        require_removable(entry)
    total = in_bytes(sum(entry.num_bytes for entry in entries))
    if not yes:
        _ask(f"Remove {', '.join(str(entry.folder) for entry in entries)} ({total})?")
    for entry in entries:
        remove_entry(entry)
    if as_json:
        print_json({"removed": [entry.to_json() for entry in entries]})
        return
    typer.echo(f"removed {counted(len(entries), 'folder')} ({total})")
    tracked = [entry.run_id for entry in entries if entry.run_id]
    if tracked:
        typer.echo(f"MLflow keeps its own record of {', '.join(tracked)}")


@app.command()
def forget(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    user: Annotated[str, typer.Option("--user", metavar="ID", help="The client: a user's id in the data.")],
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Then train the run anew without this client's data.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Of the new run. Default: RUN-retrained.")
    ] = None,
    yes: Yes = False,
    parts: Parts = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove what a run keeps of one client, say what the model still holds of it, and retrain on request."""
    del debug
    from fedmm.errors import ConfigError
    from fedmm.runs.listing import kind_of

    use_parts(parts)
    if kind_of(folder) != "run":
        raise ConfigError(f"{folder} holds no run.", "See the runs with: fedmm runs list.")
    if output is not None and not retrain:
        raise ConfigError("--output is the folder of a retrained run.", "Give --retrain too, or leave it out.")
    place = output or folder.with_name(f"{folder.name}-retrained")
    if retrain:
        from fedmm.runs.folder import require_free

        require_free(place)
    if not yes:
        _ask(f"Remove what {folder} keeps of user {user}? It does not come back.")
    from fedmm.runs.forgetting import forget_client

    forgotten = forget_client(folder, user)
    result = _retrain(folder, user, place, quiet=quiet) if retrain else None
    if as_json:
        print_json({**forgotten.to_json(), "retrained": result})
        return
    from fedmm_cli.runs_report import print_forgotten

    print_forgotten(forgotten, None if result is None else place)


def _retrain(folder: Path, user: str, output: Path, *, quiet: bool) -> Mapping[str, Any]:
    """The run anew, without the client's data."""
    from fedmm.config.load import load_config
    from fedmm.runs.folder import CONFIG_FILE
    from fedmm.runs.forgetting import without_client
    from fedmm.runs.train import run_training
    from fedmm_cli.progress import make_observer

    config = without_client(load_config([folder / CONFIG_FILE]), (user,), output)
    with make_observer(config, quiet=quiet, stream=sys.stderr) as observer:
        return run_training(config, observer)


def _ask(question: str) -> None:
    """Goes on only after a yes. Raises ConfigError where there is nobody to ask."""
    from fedmm.errors import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError(f"{question} There is no terminal to ask on.", "Give --yes.")
    typer.confirm(question, abort=True, err=True)
