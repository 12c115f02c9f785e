"""``fedmm report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedmm_cli.options import Debug, Json, Parts, PicturesFolder, Quiet, use_parts

PAGE = "report.html"


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Where the page goes.", show_default="RUN/report.html"),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option("--card", metavar="FILE", help="Write a model card as Markdown too.", show_default=False),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", metavar="INT", help="Show so many users' lists with reasons; 0: none.")
    ] = 3,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="Where the run's interactions are now.", show_default=False),
    ] = None,
    pictures: PicturesFolder = None,
    parts: Parts = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write one run as a page of its own: numbers, curves, groups, samples with reasons, data, privacy, commands."""
    del debug
    use_parts(parts)
    from fedmm.errors import ConfigError
    from fedmm.recommendation.pictures import Pictures
    from fedmm.runs.model import Run
    from fedmm_cli.output import print_json
    from fedmm_cli.progress import QuietObserver, StageObserver

    if samples < 0:
        raise ConfigError(f"--samples cannot be {samples}.", "Give 0 or more.")
    if pictures is not None and not samples:
        raise ConfigError("--pictures has no effect with --samples 0.", "Leave one of them out.")
    shown = None if pictures is None else Pictures.of(pictures)
    observer = QuietObserver(sys.stderr) if quiet else StageObserver(sys.stderr)
    found = Run.load(run, data=data)
    from fedmm.report.model_card import write_model_card
    from fedmm.report.run_page import draw_samples, write_run_page

    page = output or run / PAGE
    drawn = []
    if samples:
        observer.stage("loading the model")
        drawn = draw_samples(found.model, samples, found.result.seed)
    observer.stage("writing the page")
    write_run_page(found, drawn, page, shown)
    if card is not None:
        write_model_card(found, card)
    if as_json:
        print_json({"report": str(page), "card": None if card is None else str(card)})
    else:
        sys.stderr.write(f"The report is {page}.\n" + ("" if card is None else f"The model card is {card}.\n"))
