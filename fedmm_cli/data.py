"""``fedmm data``: which datasets there are, fetching them, and what fedmm understands of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmm_cli import features
from fedmm_cli.help_pages import help_if_alone
from fedmm_cli.options import DATA_FLAGS, Debug, Given, Json, Quiet, SettingsCommand, takes_settings
from fedmm_cli.output import print_json

if TYPE_CHECKING:
    from fedmm.config import ExperimentConfig

FETCHABLE = "ml-100k, ml-1m, ml-20m, amazon-toys, amazon-beauty, amazon-sports, ... (all: fedmm data list)"

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich")
app.command("features", cls=SettingsCommand)(features.features)


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """List, fetch, describe and convert datasets."""
    help_if_alone(context)


@app.command("list")
def list_all(as_json: Json = False, debug: Debug = False) -> None:
    """List the named datasets, and what is kept of files that were read before."""
    del debug
    from fedmm.data.datasets import list_datasets
    from fedmm.data.made_features import vector_cache
    from fedmm.data.prepared_store import PreparedStore
    from fedmm_cli.data_report import print_datasets, print_kept

    infos = [dataclasses.asdict(info) for info in list_datasets()]
    store, vectors = PreparedStore.of_user(), vector_cache()
    kept = [dataclasses.asdict(entry) for entry in store.entries()]
    made = {"path": str(vectors.path), "vectors": len(vectors), "bytes": vectors.num_bytes}
    if as_json:
        print_json({"datasets": infos, "prepared": {"folder": str(store.folder), "entries": kept}, "encoded": made})
    else:
        print_datasets(infos)
        print_kept(kept, str(store.folder), made)


@app.command()
def clear(as_json: Json = False, debug: Debug = False) -> None:
    """Remove what is kept of files, pictures and texts that were read before (FEDMM_PREPARED_GB says how much of each
    may be, 0 for nothing)."""
    del debug
    from fedmm.data.made_features import vector_cache
    from fedmm.data.prepared_store import PreparedStore
    from fedmm.errors import StorageError
    from fedmm.utils.text import counted, in_bytes

    store, vectors = PreparedStore.of_user(), vector_cache()
    number, num_bytes = store.clear()
    num_vectors, size = len(vectors), vectors.num_bytes
    try:
        vectors.clear()
    except OSError as error:
        raise StorageError(
            f"{vectors.path} cannot be removed ({error.strerror or error}).", "Remove it by hand."
        ) from None
    if as_json:
        made = {"path": str(vectors.path), "vectors": num_vectors, "bytes": size}
        print_json({"folder": str(store.folder), "entries": number, "bytes": num_bytes, "encoded": made})
    else:
        files = counted(number, "file")
        typer.echo(f"removed the prepared data of {files} ({in_bytes(num_bytes)}) from {store.folder}")
        if size:
            typer.echo(f"removed {counted(num_vectors, 'vector')} of pictures and texts ({in_bytes(size)})")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help=FETCHABLE)],
    source: Annotated[
        Path | None, typer.Option("--from", metavar="PATH", help="The downloaded file, or a folder that holds it.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fetch a dataset that may not be shipped into the cache folder (FEDMM_CACHE says where)."""
    del debug
    from fedmm.config.names import ALIKE, nearest_name, suggestion
    from fedmm.data.fetch import fetch_ml100k
    from fedmm.data.public import PUBLIC, fetch_public
    from fedmm.errors import DataError

    if name != "ml-100k" and name not in PUBLIC:
        meant = suggestion(nearest_name(name, ["ml-100k", *PUBLIC], ALIKE))
        known = f"Those that can are ml-100k, {', '.join(PUBLIC)}."
        raise DataError(f"{name!r} cannot be fetched.", f"{meant} {known}".strip())
    folder = fetch_ml100k(source) if name == "ml-100k" else fetch_public(name, source)
    if as_json:
        print_json({"name": name, "path": str(folder)})
    else:
        typer.echo(f"{name} is in {folder}; train on it with: fedmm train --dataset {name}")


@app.command(cls=SettingsCommand)
@takes_settings(DATA_FLAGS)
def describe(
    given: Given,
    *,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write one page with figures.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say what fedmm understands of a dataset: first rows, sizes, histograms, what was dropped, what is doubtful."""
    del debug
    settings = given.load()
    facts = _facts(settings, None if quiet else lambda text: typer.echo(text, err=True))
    if html is not None:
        from fedmm.drawing.html import write_page
        from fedmm.report.data_page import data_page

        write_page(data_page(facts), html)
    if as_json:
        print_json(facts)
    else:
        from fedmm_cli.data_report import print_dataset

        print_dataset(facts)


@app.command(cls=SettingsCommand)
@takes_settings(DATA_FLAGS)
def convert(
    given: Given,
    *,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The .parquet file to write.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a file of interactions as fedmm understands it, before any filter, as Parquet (user, item, timestamp)."""
    del debug
    from fedmm.data.converting import write_parquet
    from fedmm.errors import ConfigError

    settings = given.load().data
    if settings.path is None:
        raise ConfigError("There is no file to convert.", "Give it: --data FILE.")
    number = write_parquet(settings, output)
    if as_json:
        print_json({"path": str(output), "rows": number})
    else:
        typer.echo(f"{number:,} rows are in {output}")


def _facts(settings: ExperimentConfig, tell: Callable[[str], None] | None) -> dict[str, Any]:
    from fedmm.data.datasets import load_dataset
    from fedmm.data.readers.first_rows import first_rows
    from fedmm.data.splits import make_split
    from fedmm.data.summary import summary_of
    from fedmm.federation.data_rules import settled

    data = settings.data
    loaded = load_dataset(data, tell)
    split = make_split(loaded, data)
    rows = [] if data.path is None else first_rows(data.path.expanduser(), data)
    chosen = settled(settings, split.train, split.num_items, loaded.attributes).flat()
    notes = [*loaded.notes, *split.notes]
    if chosen["model.gate_start"] != "validation" or not loaded.features:  # else it is what nothing was chosen for
        chosen["model.gate_start"] = settings.model.gate_start
    return {
        "name": loaded.name,
        "digest": loaded.digest,
        "num_users": loaded.interactions.num_users,
        "num_items": loaded.interactions.num_items,
        "num_interactions": len(loaded.interactions.histories.values),
        "features": {
            name: {"source": own.source, "width": own.values.shape[1], "coverage": own.coverage}
            for name, own in loaded.features.items()
        },
        "split": {"name": split.name, "validation": len(split.validation), "test": len(split.test)},
        "first_rows": rows,
        **summary_of(loaded, notes),
        "chosen": {key: value for key, value in chosen.items() if value != settings.flat()[key]},
        "notes": notes,
    }
