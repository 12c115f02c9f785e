"""Tables of the documents can be taken in, and those of results and speed are what their files give."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from results.commands import TABLES, rebuild

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = ROOT / "docs" / "results"
MARKED = [page for page in PAGES if "<!-- results:" in page.read_text(encoding="utf-8")]
COLUMNS = 7


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tables_of(page: Path) -> list[list[list[str]]]:
    """Each table as rows of cells, the rule below the head left out."""
    found: list[list[list[str]]] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        if not inside:
            found.append([])
        inside = True
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            found[-1].append(cells)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tables_are_narrow_and_say_what_they_mean(page: Path) -> None:
    for table in tables_of(page):
        width = len(table[0])
        assert 2 <= width <= COLUMNS
        assert {len(row) for row in table} == {width}, table[0]
        assert not any(cell.lower() in ("the same", "ditto", '"') for row in table for cell in row), table[0]


def test_every_table_of_results_is_shown_and_is_that_of_the_rows(tmp_path: Path) -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in MARKED}
    shown = {name for text in texts.values() for name in re.findall(r"<!-- results:(\w+) -->", text)}
    assert shown == set(TABLES)
    folder = tmp_path / "results"
    folder.mkdir()
    for path in RESULTS.glob("*.csv"):
        shutil.copy(path, folder)
    copies = {page: tmp_path / f"{at}.md" for at, page in enumerate(MARKED)}
    for page, copy in copies.items():
        copy.write_text(texts[page], encoding="utf-8")
    rebuild(list(copies.values()), folder)
    stale = [name_of(page) for page, copy in copies.items() if copy.read_text(encoding="utf-8") != texts[page]]
    assert stale == [], "run python -m tools.results tables"


@pytest.mark.parametrize(("page", "content"), [("README.md", "glance"), ("docs/explanation/speed.md", "tables")])
def test_figures_of_speed_are_those_of_the_files(page: str, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))
    try:
        import summary

        made = getattr(summary, content)(ROOT / "docs" / "benchmarks")
    finally:
        sys.modules.pop("summary", None)
    text = (ROOT / page).read_text(encoding="utf-8")
    assert f"<!-- speed -->\n\n{made}\n\n<!-- /speed -->" in text, "run tests/benchmarks/summary.py --page --readme"
