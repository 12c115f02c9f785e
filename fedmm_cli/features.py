"""``fedmm data features``: item features made of pictures, texts and attributes, as a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmm_cli.options import DATA_FLAGS, Debug, Given, Json, Quiet, takes_settings
from fedmm_cli.output import print_json

if TYPE_CHECKING:
    from fedmm.data.feature_writing import MadeFile
    from fedmm.encoders.encoding import Watch

Output = Annotated[Path, typer.Option("--output", metavar="FILE", help="The .npz file to write.")]
RAW = ("images", "texts", "attributes")


@takes_settings(DATA_FLAGS)
def features(
    given: Given, *, output: Output, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Make item features of pictures, texts and attributes (--images, --texts, --attributes), once, as a file.

    Pictures go through EfficientNet-lite0, texts through MiniLM (weights of both: Apache-2.0), or through any model of
    timm, open_clip and sentence-transformers (--set data.image_encoder=..., data.text_encoder=...). With --data or
    --dataset the items are those of the data, else all that are met. --set data.feature_dims=64 keeps principal
    components. Vectors are kept by content: stopped, the next call goes on; what did not change is not made again.
    """
    del debug
    settings = given.load().data
    with _watching(quiet=quiet) as watch:
        items = None
        if settings.path is not None or "data.name" in given.names:
            from fedmm.data.datasets import load_dataset

            without = {"visual_features": "none", "text_features": "none"} | dict.fromkeys(RAW)
            items = load_dataset(settings.model_copy(update=without)).interactions.item_ids[1:].tolist()
        from fedmm.data.feature_writing import write_features

        made = write_features(settings, items, output, watch)
    if as_json:
        print_json(
            {
                "path": str(made.path),
                "missing_path": None if made.faults_path is None else str(made.faults_path),
                "features": made.features,
                "missing": made.missing,
                "notes": made.notes,
            }
        )
    else:
        _print(made)


def _print(made: MadeFile) -> None:
    from fedmm.utils.text import counted
    from fedmm_cli.lines import print_facts, say
    from fedmm_cli.render import make_console

    console = make_console()
    facts = {name: str(own["told"]) for name, own in made.features.items()}
    if made.faults_path is not None:
        facts["without"] = f"{counted(len(made.missing), 'item')} without features, listed in {made.faults_path}"
    print_facts(console, {**facts, "written": str(made.path)}, indent=0, wrap=True)
    for note in made.notes:
        say(console, note, mark="-", style="dim")


@contextmanager
def _watching(*, quiet: bool) -> Iterator[Watch]:
    """A bar with the time left on a terminal, lines elsewhere."""
    if quiet:
        yield lambda _: None
        return
    from rich.console import Console

    console = Console(file=sys.stderr, highlight=False)
    if not sys.stderr.isatty() or console.is_dumb_terminal:
        yield _lines(lambda text: console.print(text, soft_wrap=True, markup=False))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from fedmm.utils.text import in_time

    columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, Any] = {}

        def watch(advance: Any) -> None:
            if advance.what not in tasks:
                tasks[advance.what] = progress.add_task(advance.what, total=advance.total, left="")
            left = f"about {in_time(advance.seconds_left)} left" if advance.done else ""
            progress.update(tasks[advance.what], completed=advance.done, left=left)

        yield watch


def _lines(say: Callable[[str], None]) -> Watch:
    from fedmm.data.made_features import lines_of

    return lines_of(say)
