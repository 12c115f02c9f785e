"""``fedmm recommend``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmm_cli.options import Debug, Json, Parts, Quiet, use_parts

if TYPE_CHECKING:
    from fedmm.recommendation.tables import Lists
    from fedmm.runs.model import TrainedModel

WHOM, WHAT = "For whom", "What"
MOST_SHOWN = 20  # lists on the screen


def _option(name: str, what: str, panel: str, metavar: str = "FILE") -> Any:
    return typer.Option(name, metavar=metavar, help=what, rich_help_panel=panel, show_default=False)


def recommend(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder (its best round) or a checkpoint in it.")],
    user: Annotated[list[str] | None, _option("--user", "A user of the data; repeatable.", WHOM, "ID")] = None,
    users: Annotated[Path | None, _option("--users", "Users of the data, one a line.", WHOM)] = None,
    everyone: Annotated[bool, typer.Option("--all", help="All users of the data.", rich_help_panel=WHOM)] = False,
    history: Annotated[
        str | None, _option("--history", "Somebody new: items met so far, the newest last.", WHOM, "ID,ID,...")
    ] = None,
    histories: Annotated[Path | None, _option("--histories", "Such histories, one a line.", WHOM)] = None,
    top: Annotated[int, typer.Option("--top", metavar="INT", help="So many items.", rich_help_panel=WHAT)] = 10,
    only: Annotated[Path | None, _option("--only", "Choose from these items alone, one a line.", WHAT)] = None,
    exclude: Annotated[Path | None, _option("--exclude", "Leave these items out, one a line.", WHAT)] = None,
    keep_seen: Annotated[
        bool, typer.Option("--keep-seen", help="Items of the history may come again.", rich_help_panel=WHAT)
    ] = False,
    min_score: Annotated[float | None, _option("--min-score", "Only items that score so much.", WHAT, "FLOAT")] = None,
    output: Annotated[
        Path | None, _option("--output", "Write a .csv, .parquet or .json instead of a table.", WHAT)
    ] = None,
    data: Annotated[Path | None, _option("--data", "Where the run's interactions are now, if moved.", WHAT)] = None,
    parts: Parts = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Recommend items to users of the data, by their whole history, or to somebody new, by a history that is given."""
    del debug
    use_parts(parts)
    _require_one(user or [], users, everyone, history, histories)
    from fedmm.recommendation.tables import require_format, to_json, write_lists

    if output is not None:
        require_format(output)
    from fedmm.runs.model import TrainedModel
    from fedmm_cli.output import print_json
    from fedmm_cli.progress import QuietObserver, StageObserver

    observer = QuietObserver(sys.stderr) if quiet else StageObserver(sys.stderr)
    left_out, stock = _lines(exclude), None if only is None else _lines(only)
    asked, rows = [*(user or []), *_lines(users)], [_split(line) for line in _lines(histories)]
    rows = rows if history is None else [_split(history)]
    model = TrainedModel.load(run, tell=observer.stage, data=data)
    observer.stage("recommending")
    choose = partial(model.recommend, k=top, exclude=left_out, only=stock, keep_seen=keep_seen, warn=observer.warn)
    asked = _everyone(model) if everyone else asked
    names: list[str | None] = [*asked] if asked else [None] if history is not None else _numbers(rows)
    found = choose(users=asked) if asked else choose(histories=rows)
    if min_score is not None:
        found = [[one for one in row if one.score >= min_score] for row in found]
    lists: Lists = list(zip(names, found, strict=True))
    if output is not None:
        write_lists(lists, output)
        sys.stderr.write(f"{len(lists)} lists are in {output}.\n")
    if as_json:
        print_json(to_json(lists))
    elif output is None:
        _print(lists)


def _require_one(
    user: list[str], users: Path | None, everyone: bool, history: str | None, histories: Path | None
) -> None:
    from fedmm.errors import ConfigError

    ways = [bool(user) or users is not None, everyone, history is not None, histories is not None]
    if sum(ways) != 1:
        raise ConfigError(
            "It is not said for whom, or in more than one way.",
            "Give --user or --users, --all, --history, or --histories.",
        )


def _everyone(model: TrainedModel) -> list[str]:
    return [str(name) for name in model.experiment.dataset.interactions.user_ids]


def _numbers(rows: Sequence[object]) -> list[str | None]:
    """What stands for the users of histories in a file: the numbers of its lines that say something."""
    return [str(number) for number in range(1, len(rows) + 1)]


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _lines(path: Path | None) -> list[str]:
    """The lines of a file that say something. Raises DataError where it cannot be read."""
    from fedmm.errors import DataError

    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.", "Give a text file with one entry a line.") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _print(lists: Lists) -> None:
    """A table a list, the first few."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for user, found in lists[:MOST_SHOWN]:
        console.print(Text("for the history" if user is None else f"for {user}", style="bold"))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("", justify="right")
        table.add_column("item")
        table.add_column("score", justify="right")
        table.add_column("title", overflow="fold")
        for rank, one in enumerate(found, start=1):
            table.add_row(str(rank), Text(one.item_id), f"{one.score:.3f}", Text(one.title))
        console.print(table)
    if len(lists) > MOST_SHOWN:
        console.print(Text(f"{len(lists) - MOST_SHOWN} more lists: --output FILE, --json.", style="dim"))
