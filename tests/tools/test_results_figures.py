"""Cold items and groups in the documents, and what holds for every table: no figure that is not in the CSV files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from results.benchmarks import TOYS as PUBLISHED
from results.claims import BIASES, CLAIMS, GATES
from results.cold import cold_table
from results.commands import GROUPS, PAIRS, PICTURE, TABLES, main, write_csv
from results.groups import GROUP_COLUMNS, KINDS, group_rows, groups_table
from results.pairs import PAIR_COLUMNS
from results.runs import COLUMNS, Run
from results.tables import ALPHA, FAIL_SAFE, Results
from worlds.results_world import drawn_world, group, run

FIGURE = re.compile(r"\d*\.\d+")


def write_world(folder: Path, found: Results) -> Path:
    """The CSV files of a world, and a README with a place for every table."""
    write_csv(folder / "all.csv", COLUMNS, found.runs)
    write_csv(folder / PAIRS, PAIR_COLUMNS, found.pairs)
    write_csv(folder / GROUPS, GROUP_COLUMNS, found.groups)
    readme = folder / "README.md"
    readme.write_text("".join(f"<!-- results:{name} -->\n<!-- /results:{name} -->\n" for name in TABLES))
    return readme


def stated() -> set[str]:
    """Figures that are rules: levels, the claims' own words and the variants' names."""
    rules = [f"{ALPHA:g}", f"{FAIL_SAFE:g}", *(f"{gate:g}" for gate in (0.1, *GATES)), *BIASES, "1.0x"]
    rules += [f"{claim.words} {claim.what}" for claim in CLAIMS]
    rules += ["(f) the best gating_init is about .1", *(f"{row.hr:.4f} {row.ndcg:.4f}" for row in PUBLISHED)]
    return {figure for rule in rules for figure in FIGURE.findall(rule)}


def test_every_figure_changes_with_the_rows_and_none_stands_without(tmp_path: Path) -> None:
    worlds = [drawn_world(seed) for seed in (1, 2, 3)]
    for name, table in TABLES.items():
        texts = [table(found) for found in worlds]
        figures = [FIGURE.findall(text) for text in texts]
        assert len(figures[0]) > 20, name
        same = {each[0] for each in zip(*figures, strict=True) if len(set(each)) == 1}
        assert same <= stated(), name
        assert set(FIGURE.findall(table(Results([], [])))) <= stated(), name


def test_tables_twice_are_the_same_files(tmp_path: Path) -> None:
    readme = write_world(tmp_path, drawn_world(1))
    command = ["tables", "--pages", str(readme), "--folder", str(tmp_path)]
    assert main(command) == 0
    once = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(once) == {"README.md", "all.csv", PAIRS, GROUPS, PICTURE}
    assert main(command) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == once
    write_world(tmp_path, drawn_world(2))
    assert main(command) == 0
    assert readme.read_bytes() != once["README.md"]
    picture = (tmp_path / PICTURE).read_bytes()
    assert picture != once[PICTURE]
    assert b"dc:date" not in picture
    assert b"fill: #ffffff" in picture, "white paper"


def cold_runs() -> list[dict[str, str]]:
    own = {"cold items": {"model": 0.3, "visual": 0.15, "backbone": 0.06}, "cold items, backbone": {"model": 0.06}}
    runs = []
    for variant, rows in own.items():
        for seed in (11, 12):
            facts: dict[str, Any] = {"cold/chance": 0.06, "cold/num_items": 168, "cold/num_queries": 1000 + seed}
            facts |= {f"cold/{name}/hr_at_10": value + (seed - 11.5) / 50 for name, value in rows.items()}
            runs.append(run("quality", variant, seed, 0.1, **facts))
    return runs


def test_cold_items_are_shown_with_their_multiple_of_chance() -> None:
    table = cold_table(Results(cold_runs(), []))
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert [[cell.strip() for cell in row] for row in cells] == [
        ["**fedmm**", "**0.300 (0.290 to 0.310)**", "**5.0x**", "**0.060 (0.050 to 0.070)**", "**1.0x**"],
        ["the backbone alone", "0.060 (0.050 to 0.070)", "1.0x"],
        ["the visual expert alone", "0.150 (0.140 to 0.160)", "2.5x"],
        ["chance", "0.060 (0.060)", "1.0x", "0.060 (0.060)", "1.0x"],
    ]
    assert "ML-100K, 30 rounds. 168 items" in table
    assert "1,011 to 1,012 pairs" in table
    assert table.startswith("    fedmm train --dataset ml-100k --seed N")
    assert cold_table(Results([], [])) == "Not measured yet."


def test_groups_show_means_over_seeds_and_paired_differences() -> None:
    levels = {"model": (0.2, 0.3), "backbone": (0.15, 0.2), "transition_counts": (0.1, 0.1)}
    rows = [
        group("residual", 11 + at, "holders", "0-9", name, 38, level)
        for name, both in levels.items()
        for at, level in enumerate(both)
    ]
    rows += [group("best", 11, "holders", "0-9", "model", 38, 0.9)]
    table = groups_table(Results([run("quality", "residual", seed, 0.1) for seed in (11, 12)], [], rows))
    assert "| training histories with the target | users | model |" in table
    assert "| 0-9 | 38 | 0.250 | 0.175 | +0.075 (+0.050 to +0.100) | 0.100 |" in table
    assert "0.900" not in table
    assert "ML-100K, 30 rounds, test, full NDCG@10, means over seeds 11, 12" in table
    assert groups_table(Results([], [])) == "Not measured yet."


@pytest.mark.parametrize(("variant", "count"), [("residual", 2), ("noise", 0)])
def test_the_groups_of_a_result_become_rows_for_two_variants(variant: str, count: int) -> None:
    entry = {"group": "1-19", "num_queries": 7, "rows": {"model": {"hr_at_10": 0.5, "ndcg_at_10": 0.25}}}
    result = {"seed": 11, "groups": {"test": {name: [entry] for name in KINDS.values()}, "validation": {}}}
    rows = list(group_rows([Run("quality", variant, Path(), result), Run("quality", variant, Path(), {"seed": 1})]))
    assert len(rows) == count
    for row, kind in zip(rows, KINDS, strict=False):
        assert list(row.values()) == ["quality", variant, "11", kind, "1-19", "model", "7", "0.5", "0.25"]
