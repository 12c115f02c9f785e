"""Where the gain is: NDCG@10 by users' histories and by targets' holders, as rows, as a table, as a figure.

The groups and their means are those of ``result.json`` (``fedmm/evaluation/groups.py``), on test.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedmm.evaluation.measured import Metrics
from fedmm.runs.figures_groups import TITLES, draw_groups
from fedmm.runs.result import Group
from fedmm.utils.records import Named

from .runs import Run
from .tables import HR, NDCG, QUALITY, UNMEASURED, Results, extent, markdown, under

GROUP_COLUMNS = ("study", "variant", "seed", "kind", "group", "row", "n", HR, NDCG)
GROUPED = ("residual", "best")  # the variants whose groups are kept
SHOWN = "residual"
KINDS = {"history length": "users_by_history", "holders": "targets_by_holders"}  # kind -> its name in result.json
ROWS = ("model", "backbone", "transition_counts", "popularity")
DRAWN = ROWS[:3]


def group_rows(runs: Sequence[Run]) -> Iterator[dict[str, str]]:
    """Rows of ``GROUP_COLUMNS``: one a run of the grouped variants, a group and what was measured there."""
    for run in runs:
        tables = run.result.get("groups", {}).get("test", {})
        if run.variant not in GROUPED or not tables:
            continue
        for kind, name in KINDS.items():
            for entry in tables[name]:
                for row in (row for row in ROWS if row in entry["rows"]):
                    values = [repr(round(entry["rows"][row][metric.partition("/")[2]], 6)) for metric in (HR, NDCG)]
                    place = (run.study, run.variant, str(run.seed), kind, entry["group"], row)
                    yield dict(zip(GROUP_COLUMNS, (*place, str(entry["num_queries"]), *values), strict=True))


def groups_table(found: Results) -> str:
    """NDCG@10 of each group, means over the seeds: the model, its backbone alone, the difference, the baselines."""
    measured = _measured(found)
    if not measured:
        return UNMEASURED
    place = QUALITY, SHOWN
    tables = []
    for kind, name in KINDS.items():
        rows = []
        for group, own in ((group, own) for (other, group), own in measured.items() if other == kind):
            means = {row: f"{statistics.fmean(own[row].values()):.3f}" if row in own else "" for row in ROWS}
            baselines = means["transition_counts"], means["popularity"]
            sizes = extent(_sizes(found, kind, group), "d")
            rows.append((group, sizes, means["model"], means["backbone"], _difference(own), *baselines))
        head = (TITLES[name], "users", "model", "backbone alone", "difference", "transition counts", "popularity")
        tables.append(markdown(head, rows))
    note = (
        f"{found.setup(place)}, test, full NDCG@10, means over seeds {found.seeds(*place)}, the difference with its "
        "range over them."
    )
    command = f"{found.command(*place)}    # N: {found.seeds(*place)}"
    return under(command, "\n\n".join([*(table for table in tables if table.count("\n") > 1), note]))


def draw_results(found: Results, path: Path) -> None:
    """The table's figure as an SVG, whiskers from the lowest seed to the highest; none without groups."""
    tables: dict[str, list[Group]] = {name: [] for name in KINDS.values()}
    for (kind, group), own in _measured(found).items():
        rows = Named[Metrics]({row: _drawn(own[row]) for row in DRAWN if row in own})
        tables[KINDS[kind]].append(Group(group=group, num_queries=max(_sizes(found, kind, group)), rows=rows))
    if all(tables.values()):
        draw_groups(tables, path)


def _drawn(values: Mapping[str, float]) -> Metrics:
    """Mean and range, shaped as a row of ``result.json``."""
    metric = NDCG.partition("/")[2]
    extremes = {metric: (min(values.values()), max(values.values()))}
    return Metrics.from_json({metric: statistics.fmean(values.values()), "ci95": extremes})


def _measured(found: Results) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """(kind, group) -> row -> seed -> NDCG@10, of the variant shown."""
    measured: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in _shown(found):
        own = measured.setdefault((row["kind"], row["group"]), {})
        own.setdefault(row["row"], {})[row["seed"]] = float(row[NDCG])
    return measured


def _shown(found: Results) -> list[Mapping[str, str]]:
    return [row for row in found.groups if (row["study"], row["variant"]) == (QUALITY, SHOWN)]


def _sizes(found: Results, kind: str, group: str) -> list[int]:
    """Users or targets in the group, by run and row: all alike as long as the data are."""
    return [int(row["n"]) for row in _shown(found) if (row["kind"], row["group"]) == (kind, group)]


def _difference(own: Mapping[str, Mapping[str, float]]) -> str:
    if "backbone" not in own:
        return ""
    values = [own["model"][seed] - other for seed, other in own["backbone"].items()]
    return f"{statistics.fmean(values):+.3f} ({extent(values, '+.3f')})"
