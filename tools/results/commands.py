"""Results of studies as small CSV files, and the documents' tables from them.

    python -m tools.results collect sweeps/claims sweeps/claims_large --to docs/results/claims.csv
    python -m tools.results tables

``collect`` writes one row a finished run, also of a study that still runs, and beside it (``--pairs``, by default
pairs.csv in the same folder) every variant's mean with its 95% interval over users and seeds and the paired tests that
the tables show: they need per-user counts, which the rows do not have. Likewise groups.csv (``--groups``) gets the
metrics by groups of users and of targets. Rows of other studies there are kept. Folders that are given together are
tested against each other where they were asked the same. Runs of ``fedmm train`` are given as ``--run VARIANT=FOLDER``,
each once, in the place of trials of the study named by ``--study``.

``tables`` rewrites what stands between ``<!-- results:NAME -->`` and ``<!-- /results:NAME -->`` on ``--pages`` (by
default the README and all of docs/), for each of glance, headline, claims, defaults, parts, failsafe, price, cold,
groups, benchmarks and unseen that a page has markers for, and draws groups.svg beside the CSV files. All figures come
from these files alone.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedmm.errors import DataError, FedmmError
from fedmm.utils.files import write_atomically

from .benchmarks import benchmarks_table
from .claims import claims_table
from .cold import cold_table
from .defaults import defaults_table
from .glance import glance_table
from .groups import GROUP_COLUMNS, draw_results, group_rows, groups_table
from .headline import headline_table
from .pairs import PAIR_COLUMNS, measure_pairs
from .runs import COLUMNS, Run, find_runs, read_run, row_of
from .tables import Results, failsafe_table, parts_table, price_table
from .unseen import unseen_table

PAIRS, GROUPS, PICTURE = "pairs.csv", "groups.csv", "groups.svg"
TABLES = {
    "glance": glance_table,
    "benchmarks": benchmarks_table,
    "headline": headline_table,
    "claims": claims_table,
    "defaults": defaults_table,
    "parts": parts_table,
    "failsafe": failsafe_table,
    "price": price_table,
    "cold": cold_table,
    "groups": groups_table,
    "unseen": unseen_table,
}
Rows = Sequence[Mapping[str, str]]


def collect(folders: Sequence[Path], to: Path, pairs: Path, groups: Path, others: Sequence[Run] = ()) -> None:
    """Writes the rows of all runs in ``folders``, and the tests and groups of their studies in place of older ones.

    Raises DataError for a folder that holds no study or no finished run.
    """
    runs = [*(run for folder in folders for run in find_runs(folder)), *others]
    if not runs:
        raise DataError(f"{', '.join(map(str, folders))}: no run has finished.", "Give the folders of sweeps.")
    rows = [row_of(run) for run in runs]
    write_csv(to, [column for column in COLUMNS if any(column in row for row in rows)], rows)
    studies = {run.study for run in runs}
    for path, columns, own in ((pairs, PAIR_COLUMNS, measure_pairs(runs)), (groups, GROUP_COLUMNS, group_rows(runs))):
        kept = [row for row in read_csv(path) if row["study"] not in studies]
        write_csv(
            path, columns, sorted([*kept, *own], key=lambda row: row["study"])
        )  # a study's rows stay where they are
    print(f"{to}: {len(runs)} runs of {', '.join(sorted(studies))}")


def rebuild(pages: Sequence[Path], folder: Path) -> None:
    """Rewrites the tables that ``pages`` have markers for from the CSV files in ``folder``, and the picture there."""
    files = [path for path in sorted(folder.glob("*.csv")) if path.name not in (PAIRS, GROUPS)]
    runs = [row for path in files for row in read_csv(path)]
    found = Results(runs, read_csv(folder / PAIRS), read_csv(folder / GROUPS))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for name, table in TABLES.items():
            text = between(text, name, lambda table=table: table(found))
        write_atomically(page, text.encode())
    draw_results(found, folder / PICTURE)


def all_pages() -> list[Path]:
    """The README and the pages of the site that have a marker."""
    pages = (Path("README.md"), *sorted(Path("docs").rglob("*.md")))
    return [page for page in pages if "<!-- results:" in page.read_text(encoding="utf-8")]


def between(text: str, name: str, content: object) -> str:
    """``text`` with what ``content`` returns between the markers of ``name``; as it was without markers."""
    opened, closed = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    start, end = text.find(opened), text.find(closed)
    if start < 0 and end < 0:
        return text
    if start < 0 or end < start or text.count(opened) > 1 or text.count(closed) > 1:
        raise DataError(f"The markers of {name} do not enclose one place.", f"Write {opened} and, below it, {closed}.")
    assert callable(content)
    content_text = content().strip("\n")
    return f"{text[:start]}{opened}\n\n{content_text}\n\n{text[end:]}"


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, columns: Sequence[str], rows: Rows) -> None:
    """Rows in the given columns; what a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _given(study: str | None, text: str) -> Run:
    variant, equals, folder = text.partition("=")
    if study is None or not equals:
        raise DataError(f"--run {text} names no variant of a study.", "Write --study NAME --run VARIANT=FOLDER.")
    return read_run(study, variant, Path(folder))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect", help="rows from the folders of sweeps")
    collecting.add_argument("folders", type=Path, nargs="*", metavar="SWEEP_FOLDER")
    collecting.add_argument("--run", action="append", default=[], metavar="VARIANT=FOLDER")
    collecting.add_argument("--study", metavar="NAME")
    collecting.add_argument("--to", type=Path, required=True, metavar="FILE.csv")
    collecting.add_argument("--pairs", type=Path, metavar="FILE.csv")
    collecting.add_argument("--groups", type=Path, metavar="FILE.csv")
    rebuilding = commands.add_parser("tables", help="the documents' tables from the rows")
    rebuilding.add_argument("--pages", type=Path, nargs="+", metavar="PAGE.md")
    rebuilding.add_argument("--folder", type=Path, default=Path("docs/results"))
    options = parser.parse_args(arguments)
    try:
        if options.command == "collect":
            beside = (options.pairs or options.to.with_name(PAIRS), options.groups or options.to.with_name(GROUPS))
            runs = [_given(options.study, text) for text in options.run]
            collect(options.folders, options.to, *beside, runs)
        else:
            rebuild(options.pages or all_pages(), options.folder)
    except FedmmError as error:
        print(error)
        return error.exit_code
    return 0
