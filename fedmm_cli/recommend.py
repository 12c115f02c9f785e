"""``fedmm recommend``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmm_cli.options import Debug, Json, Parts, PicturesFolder, Quiet, use_parts

if TYPE_CHECKING:
    from fedmm.recommendation.explanations import Explanation
    from fedmm.recommendation.pictures import Pictures
    from fedmm.recommendation.recommend import Recommendation
    from fedmm.runs.trained import TrainedModel
    from fedmm_cli.progress import QuietObserver
    from fedmm_cli.recommend_input import Whom

WHOM, WHAT = "For whom", "What"
TOLD_EVERY = 10_000  # lists


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
    similar: Annotated[
        list[str] | None, _option("--similar", "Nobody: what is like this item; repeatable.", WHOM, "ID")
    ] = None,
    by: Annotated[str | None, _option("--by", "Like in what: model, text or image.", WHAT, "WORD")] = None,
    top: Annotated[int, typer.Option("--top", metavar="INT", help="So many items.", rich_help_panel=WHAT)] = 10,
    only: Annotated[Path | None, _option("--only", "Choose from these items alone, one a line.", WHAT)] = None,
    exclude: Annotated[Path | None, _option("--exclude", "Leave these items out, one a line.", WHAT)] = None,
    keep_seen: Annotated[
        bool, typer.Option("--keep-seen", help="Items of the history may come again.", rich_help_panel=WHAT)
    ] = False,
    min_score: Annotated[float | None, _option("--min-score", "Only items that score so much.", WHAT, "FLOAT")] = None,
    diversity: Annotated[
        float | None, _option("--diversity", "0..1: how unlike the items of a list should be.", WHAT, "FLOAT")
    ] = None,
    items: Annotated[
        Path | None, _option("--items", "New items by their features: item_id, visual, semantic, title.", WHAT)
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say why: on the screen and in JSON.", rich_help_panel=WHAT)
    ] = False,
    pictures: PicturesFolder = None,
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
    from fedmm_cli.recommend_input import Whom, require_possible

    require_possible(top, min_score, diversity, by, items)
    whom = Whom.read(user or [], users, history, histories, similar or [], everyone=everyone)
    of_lists = {"--keep-seen": keep_seen, "--diversity": diversity is not None, "--explain": explain}
    whom.refuse_idle({"--by": by is not None}, of_lists)
    choice = _choice(top, only, exclude, min_score)
    if whom.similar:
        choice |= {"by": by or "model"}
    else:
        choice |= {"keep_seen": keep_seen, "diversity": diversity or 0.0}
    shown = _pictures(pictures, explain=explain)
    _answer(run, data, items, whom, choice, output, shown, explain=explain, as_json=as_json, quiet=quiet)


def _choice(top: int, only: Path | None, exclude: Path | None, min_score: float | None) -> dict[str, Any]:
    """What every list may hold."""
    from fedmm_cli.recommend_input import lines_of

    allowed = None if only is None else lines_of(only)
    return {"k": top, "exclude": lines_of(exclude), "only": allowed, "min_score": min_score}


def _pictures(folder: Path | None, *, explain: bool) -> Pictures | None:
    """The pictures of a folder. Raises ConfigError where nothing would show them."""
    from fedmm.errors import ConfigError
    from fedmm.recommendation.pictures import Pictures

    if folder is not None and not explain:
        raise ConfigError("--pictures has an effect only with --explain.", "Add --explain, or leave --pictures out.")
    return None if folder is None else Pictures.of(folder)


def _answer(
    run: Path,
    data: Path | None,
    items: Path | None,
    whom: Whom,
    choice: dict[str, Any],
    output: Path | None,
    pictures: Pictures | None,
    *,
    explain: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from fedmm.recommendation.tables import LISTS, SIMILAR, require_format, to_json, write_lists

    if output is not None:
        require_format(output, (".json",) if explain else None)
    from fedmm.runs.trained import TrainedModel, with_runtime
    from fedmm.utils.text import counted
    from fedmm_cli.output import print_json
    from fedmm_cli.progress import QuietObserver, StageObserver
    from fedmm_cli.recommend_screen import MOST_SHOWN, print_lists

    observer = QuietObserver(sys.stderr) if quiet else StageObserver(sys.stderr)
    # The full protocol draws no negatives, which would take a while and are not asked for here.
    model = TrainedModel.load(run, change=with_runtime(protocols=("full",)), tell=observer.stage, data=data)
    model = model if items is None else model.with_items(items)
    layout, names = SIMILAR if whom.similar else LISTS, whom.names(model)
    why = (lambda number, found: _why(model, whom, names, number, found, pictures)) if explain else None
    if output is None and not as_json:
        shown = names[:MOST_SHOWN]
        made = list(_lists(model, whom, shown, choice, observer))
        print_lists(made, len(names) - len(shown), layout, why)
        return
    lists: Any = _lists(model, whom, names, choice, observer)
    lists = list(lists) if as_json else lists
    if output is not None:
        number = write_lists(lists, output, layout, why)
        sys.stderr.write(f"{counted(number, 'list')} {'is' if number == 1 else 'are'} in {output}.\n")
    if as_json:
        print_json(to_json(lists, layout, why))


def _why(
    model: TrainedModel,
    whom: Whom,
    names: list[str | None],
    number: int,
    found: Sequence[Recommendation],
    pictures: Pictures | None,
) -> list[Explanation]:
    """Explanations of the items of one list, with the files of their ``pictures``."""
    items = [one.item_id for one in found]
    if whom.rows is not None:
        said = model.explain(whom.rows[number], items, warn=_hush)
    else:
        said = model.explain(items=items, user=names[number])
    if pictures is None:
        return said
    files = {item: pictures.path(item) for item in items}
    return [one.model_copy(update={"picture": str(files[one.item_id])}) if files[one.item_id] else one for one in said]


def _hush(text: str) -> None:
    """Unknown ids were told of when the list was made."""
    del text


def _lists(
    model: TrainedModel, whom: Whom, names: list[str | None], choice: dict[str, Any], observer: QuietObserver
) -> Iterator[tuple[str | None, list[Recommendation]]]:
    """The lists of ``names``, as they are made."""
    observer.stage("comparing items" if whom.similar else f"recommending to {len(names):,}")
    found: Iterator[list[Recommendation]]
    if whom.similar:
        found = (model.similar(item, warn=observer.warn, **choice) for item in whom.similar[: len(names)])
    elif whom.rows is not None:
        found = model.recommend_each(histories=whom.rows[: len(names)], warn=observer.warn, **choice)
    else:
        found = model.recommend_each(users=whom.users_of(names), warn=observer.warn, **choice)
    pairs = zip(names, found, strict=True)
    done = 0
    while some := list(islice(pairs, TOLD_EVERY)):
        yield from some
        done += len(some)
        if done < len(names):
            observer.stage(f"{done:,} of {len(names):,} lists are made")
