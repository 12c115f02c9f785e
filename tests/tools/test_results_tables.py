"""The documents' tables of results: their figures are those of the rows, their verdicts follow the stated rules."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fedmm.errors import DataError
from fedmm.study import list_studies, load_study
from results.benchmarks import BENCHMARKS, MODELS, TOYS, benchmarks_table
from results.claims import BIASES, CLAIMS, GATES, claims_table, gates_row, verdict
from results.cold import VARIANTS
from results.commands import PAIRS, TABLES, between, main, rebuild, write_csv
from results.defaults import STUDIES, defaults_table
from results.groups import GROUPED, SHOWN
from results.headline import headline_table
from results.pairs import OPPONENTS, PAIR_COLUMNS
from results.runs import COLUMNS
from results.tables import (
    DEFAULTS,
    FROZEN,
    HR,
    HR50,
    NDCG,
    PRICED,
    REFERENCES,
    UNIFORM,
    UNMEASURED,
    Interval,
    Results,
    failsafe_table,
    parts_table,
    price_table,
)
from results.unseen import HEAD, unseen_table
from results.unseen import STUDIES as UNSEEN
from worlds.results_world import claims_world, pair, run

WITH_VARIANTS = ("claims", "parts", "quality", "benchmarks")


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (Interval(0.41, 0.38, 0.44), "held"),
        (Interval(0.43, 0.41, 0.45), "cannot be told apart"),
        (Interval(0.43, 0.42001, 0.45), "did not hold: above"),
        (Interval(0.30, 0.28, 0.39), "did not hold: below"),
    ],
)
def test_a_range_holds_by_the_measured_value_and_fails_by_the_whole_interval(measured: Interval, expected: str) -> None:
    assert verdict(measured, 0.40, 0.42) == expected


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (Interval(0.7, 0.61, 0.8), "held"),
        (Interval(0.7, 0.59, 0.8), "cannot be told apart"),
        (Interval(0.5, 0.4, 0.59), "did not hold: below"),
    ],
)
def test_a_direction_holds_by_the_whole_interval(measured: Interval, expected: str) -> None:
    assert verdict(measured, 0.60, math.inf) == expected


def test_claims_show_what_was_measured_and_say_what_was_not() -> None:
    table = claims_table(claims_world(0.41, 0.005, 0.5))
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines() if line.startswith("| (")}
    assert len(lines) == len(CLAIMS) + 1
    assert lines["(b) residual at gate .1 reaches .40 to .42"].endswith("| HR@10 | 0.4100 [0.4050, 0.4150] | held |")
    assert "did not hold: above" in lines["(a) competitive fusion, .3606"]
    assert "+6.5% [+5.2%, +7.8%] | held" in lines["(b) 4 to 9% over the old best, .3849"]
    assert "+0.0% [-1.2%, +1.2%] | did not hold: below" in lines["(a) router bias (strategy 1) adds 5%"]
    assert "-70.0% [-71.2%, -68.8%] | did not hold: below" in lines["(g) full evaluation adds 10 to 15% to HR@10"]
    assert "did not hold: below" in lines["(i) all combined reaches .60 and more"]
    assert "cannot be told apart" in lines["(f) the best gating_init is about .1"]
    assert claims_table(Results([], [])).count("not measured") == len(CLAIMS) + 1


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ({0.0: -0.02, 0.01: -0.01, 0.05: 0.0, 0.2: 0.0, 0.5: -0.02}, "held"),
        ({0.0: 0.0, 0.01: 0.0, 0.05: 0.0, 0.2: 0.0, 0.5: -0.02}, "cannot be told apart"),
        ({0.0: -0.02, 0.01: -0.01, 0.05: 0.0, 0.2: 0.0, 0.5: 0.02}, "did not hold"),
    ],
)
def test_the_best_gate_is_told_by_paired_tests(differences: dict[float, float], expected: str) -> None:
    runs = [run("claims", "residual", seed, 0.4) for seed in (0, 1)]
    pairs = []
    for gate, difference in differences.items():
        runs += [run("claims", GATES[gate], seed, 0.4 + difference) for seed in (0, 1)]
        p = 0.001 if difference else 0.9
        pairs.append(pair("claims", GATES[gate], "residual", UNIFORM, difference, 0.01, p))
    assert gates_row(Results(runs, pairs))[3] == expected


def test_a_part_that_the_defaults_have_is_judged_by_its_absence() -> None:
    names = {"base": 0.0, "no spectral start": -0.02, "median": -0.03, "width 128": 0.02, "heat cap 2": 0.001}
    costs = {"width 128": (300, 50.0), "no spectral start": (50, 200.0)}
    facts = {"data": "movielens-small", "rounds": 15}
    runs = []
    for name, own in names.items():
        sent, took = costs.get(name, (100, 100.0))
        cost = {**facts, "uplink_bytes": sent, "seconds": took}
        runs += [run("parts", name, seed, 0.1 + own, **cost) for seed in (0, 1, 2)]
    pairs = [
        pair("parts", name, "base", NDCG, own, 0.005, 0.001 if abs(own) > 0.01 else 0.7)
        for name, own in names.items()
        if name != "base"
    ]
    table = parts_table(Results(runs, [*pairs, pair("parts", "base", "", NDCG, 0.1, 0.01)]))
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert [(row[0], row[1], *row[4:]) for row in cells] == [
        ("spectral start", "yes", "raises it", "2.00x", "0.50x"),
        ("width 128", "no", "raises it", "3.00x", "0.50x"),
        ("heat cap 2", "no", "cannot be told apart", "1.00x", "1.00x"),
        ("median", "no", "lowers it", "1.00x", "1.00x"),
    ]
    assert "\n\nmovielens-small, 15 rounds, validation, seeds 0, 1, 2. The base has pooled" in table
    assert "its NDCG@10 is 0.1000 [0.0900, 0.1100]. Each" in table
    assert table.startswith("    fedmm sweep --study parts\n\n| part |")
    assert cells[0][2] == "+0.0200 [+0.0150, +0.0250]"
    assert cells[0][3] == "0.0040", "Holm: the smallest of four"


def quality() -> Results:
    levels = {"residual": 0.2, "noise": 0.1, "shuffle": 0.1, "backbone": 0.1, "centralized": 0.25, "100 rounds": 0.24}
    runs = [run("quality", name, seed, own) for name, own in levels.items() for seed in (11, 12, 13)]
    pairs = [pair("quality", "residual", "", "full/hr_at_10", 0.212, 0.02)]
    pairs += [
        pair("quality", name, "backbone", NDCG, own, 0.004, 0.04)
        for name, own in (("residual", 0.01), ("noise", 0.0), ("shuffle", -0.003))
    ]
    pairs.append(pair("quality", "100 rounds", "centralized", NDCG, -0.01, 0.002, 0.2))
    return Results(runs, pairs)


def test_the_headline_has_the_command_means_intervals_and_reference_models() -> None:
    table = headline_table(quality())
    assert table.startswith(
        "### ML-100K, the default\n\n    fedmm train --dataset ml-100k --seed N --set model.dropout=0.2"
    )
    assert "    # N: 11, 12, 13\n\n| model | HR@10 | NDCG@10 | HR@50 | HR@10 of 100 | NDCG@10 of 100 |" in table
    assert "| **fedmm** | **0.212** [0.192, 0.232] | **0.212** | " in table
    assert "| round 0 | 0.100 | 0.100 | " in table


def test_paired_tests_have_difference_interval_p_and_verdict() -> None:
    found = quality()
    pairs = [pair("quality", "residual", "round_0", NDCG, 0.1, 0.02, 0.01)]
    pairs += [pair("quality", "residual", "transition_counts", NDCG, -0.01, 0.02, 0.3)]
    table = headline_table(Results(found.runs, [*found.pairs, *pairs]))
    assert "| ML-100K, the default | round 0 | +0.1000 | +0.0800 to +0.1200 | 0.0100 | better |" in table
    assert "| transition counts | -0.0100 | -0.0300 to +0.0100 | 0.3000 | cannot be told apart |" in table


def test_where_hr_at_50_was_measured_the_table_has_it() -> None:
    name, facts = "5core, best", {"data": "movielens-small-5core", "test/round_0/full/hr_at_50": 0.3}
    runs = [run("quality", name, seed, 0.1, **facts, **{"test/full/hr_at_50": 0.4}) for seed in (11, 12)]
    table = headline_table(Results(runs, [pair("quality", name, "", HR50, 0.4, 0.03)]))
    assert table.startswith("### movielens-small-5core, with the transition expert\n")
    assert "| model | HR@10 | NDCG@10 | HR@50 |" in table
    assert "| round 0 | 0.050 | 0.050 | 0.300 |" in table
    plain = [run("quality", name, seed, 0.1, **{"test/full/hr_at_50": ""}) for seed in (11, 12)]
    assert "HR@50" not in headline_table(Results(plain, []))


def test_the_fail_safe_holds_where_the_lower_end_is_above_its_bar() -> None:
    lines = [line for line in failsafe_table(quality()).splitlines() if line.startswith("| quality")]
    assert [line.split(" | ")[1] for line in lines] == ["real", "noise", "shuffled across items"]
    assert [line.strip("| ").split(" | ")[-1] for line in lines] == ["holds", "holds", "not shown"]
    assert all("| 0.1 | 0.100 (0.100) |" in line for line in lines)
    assert "ML-100K, 30 rounds, test" in failsafe_table(quality())


def test_the_price_is_a_share_of_the_centralised_model_of_the_same_kind() -> None:
    found = quality()
    table = price_table(found)
    assert "-0.0100 [-0.0120, -0.0080] | 96.2% |" in table
    assert "80.9%" in table
    assert "with the transition expert" not in table
    levels = {"best, centralized": 0.1, "best, 100 rounds": 0.3, "best": 0.05}
    facts = {"settings": "federation.rounds=70"}
    best = [run("quality", name, seed, own, **facts) for name, own in levels.items() for seed in (11, 12, 13)]
    table = price_table(Results([*found.runs, *best], found.pairs))
    own = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| with the")]
    shares = ["100%", "278.6%", "55.4%"]
    assert [(row[1], row[5]) for row in own] == [
        (f"{words}, 70 {unit}", share)
        for (words, unit), share in zip(
            [("centralised", "epochs"), ("federated", "rounds"), ("federated", "rounds")], shares, strict=True
        )
    ]


def test_the_defaults_stand_beside_what_they_were_chosen_over() -> None:
    levels = {"base": 0.2, "pooled experts": 0.1}
    runs = [run("defaults", name, seed, own) for name, own in levels.items() for seed in (0, 1, 2)]
    pairs = [pair("defaults", name, "", NDCG, level, 0.01) for name, level in levels.items()]
    pairs.append(pair("defaults", "pooled experts", "base", NDCG, -0.1, 0.02, 0.03))
    table = defaults_table(Results(runs, pairs))
    assert table.startswith("### ML-100K\n\n    fedmm sweep --study defaults\n\n| model |")
    assert "| **the defaults** | `model.dropout=0.2` | 0.2000 [0.1900, 0.2100] |  |  |" in table
    assert "| 0.1000 [0.0900, 0.1100] | -0.1000 [-0.1200, -0.0800] | 0.0300 |" in table
    assert "seeds 0, 1, 2" in table
    assert defaults_table(Results([], [])) == UNMEASURED


def test_tables_replace_what_is_between_their_markers_and_nothing_else(tmp_path: Path) -> None:
    found = quality()
    write_csv(tmp_path / "quality.csv", COLUMNS, found.runs)
    assert tmp_path.joinpath("quality.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    write_csv(tmp_path / PAIRS, PAIR_COLUMNS, found.pairs)
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- results:price -->\nold\n<!-- /results:price -->\nz\n")
    assert main(["tables", "--pages", str(readme), "--folder", str(tmp_path)]) == 0
    once = readme.read_text()
    assert once.startswith("a\n<!-- results:price -->\n\n    fedmm sweep --study quality\n\n| model | training |")
    assert once.endswith("<!-- /results:price -->\nz\n")
    assert "old" not in once
    assert price_table(found) in once
    rebuild([readme], tmp_path)
    assert readme.read_text() == once
    text = (tmp_path / "quality.csv").read_text().replace("0.263", "0.463")
    (tmp_path / "quality.csv").write_text(text)
    rebuild([readme], tmp_path)
    assert readme.read_text() != once, "the figures come from the file"


@pytest.mark.parametrize("text", ["<!-- results:x -->", "<!-- /results:x --> <!-- results:x -->"])
def test_markers_that_enclose_nothing_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="markers of x"):
        between(text, "x", str)


def test_every_row_names_a_variant_of_the_shipped_studies() -> None:
    variants = {name: {one.name for one in load_study(name).variants} for name in WITH_VARIANTS}
    assert {"residual", *GATES.values(), *BIASES} <= variants["claims"]
    assert set(DEFAULTS) <= variants["parts"]
    assert set(STUDIES) <= {study.name for study in list_studies()}
    assert {"residual", "noise", "shuffle", "backbone"} <= variants["quality"]
    assert {name for _, central, others in PRICED for name in (central, *others)} <= variants["quality"]
    assert set(FROZEN) | set(VARIANTS) | set(GROUPED) | {SHOWN} <= variants["quality"]
    assert set(OPPONENTS) <= set().union(*variants.values())
    assert set(MODELS) == variants[BENCHMARKS]
    assert {*REFERENCES, *REFERENCES.values()} <= variants["parts"]
    assert set(REFERENCES.values()) <= set(OPPONENTS)
    assert all(set(variants) == {one.name for one in load_study(study).variants} for study, variants in UNSEEN.items())
    names = {"glance", "headline", "claims", "defaults", "parts", "failsafe", "price", "cold", "groups", "benchmarks"}
    assert set(TABLES) == names | {"unseen"}


def test_benchmarks_stand_in_the_order_of_their_figures_and_say_what_was_sent() -> None:
    costs = {"uplink_bytes": 6e9, "downlink_bytes": 9e9, "clients": 1000, "processor_seconds": 90}
    beside = {f"test/ease/{metric}": 0.036 for metric in (HR, NDCG)}
    runs = [run(BENCHMARKS, "federated", seed, 0.07, **costs, **beside) for seed in (1, 2)]
    runs += [run(BENCHMARKS, "centralized", seed, 0.06, **costs) for seed in (1, 2)]
    pairs = [pair(BENCHMARKS, name, "", metric, 0.07, 0.01) for name in MODELS for metric in (HR, NDCG)]
    pairs.append(pair(BENCHMARKS, "federated", "centralized", NDCG, 0.01, 0.002, 0.04))
    text = benchmarks_table(Results(runs, pairs))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    table = lines[1 : lines.index(["model", "against", "difference of NDCG@10", "p", "seeds"])]
    values = [float(row[3].split()[0]) for row in table]
    assert values == sorted(values)
    assert len(table) == len(TOYS) + 2 + 2  # EASE and round 0
    assert table[-1][0] == "fedmm, central" or table[-1][0].startswith("**fedmm**")
    rows = {row[0]: row for row in table}
    assert rows["**fedmm**, the default command"][4:] == ["1, 2", "6.0, 9.0", "1.5"]
    assert rows["fedmm, central"][5] == ""
    assert rows["EASE"][2:5] == ["0.0360", "0.0360", ""]
    assert lines[-1] == [
        "**fedmm**, the default command",
        "fedmm, central",
        "+0.0100 [+0.0080, +0.0120]",
        "0.0400",
        "3",
    ]
    assert benchmarks_table(Results([], [])) == UNMEASURED


def test_unseen_data_stand_beside_what_they_are_tested_against() -> None:
    beside = {f"test/{name}/{NDCG}": level for name, level in (("transition_counts", 0.04), ("round_0", 0.05))}
    runs = [run("halves", "half", seed, 0.06, **beside) for seed in (1, 2)]
    runs += [run("shops", "crisp", 1, 0.06, **beside)]
    pairs = [
        pair(study, variant, opponent, NDCG, value, 0.002, p)
        for study, variant in (("halves", "half"), ("shops", "crisp"), ("shops", "lines"))
        for opponent, value, p in (("", 0.06, ""), ("round_0", 0.01, 0.01), ("transition_counts", 0.02, 0.2))
    ]
    text = unseen_table(Results(runs, pairs[:-1]))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == list(HEAD)
    assert [line[0] for line in lines[1:]] == ["half of Toys' users", 'made-up shop "crisp"']
    assert lines[1][1:] == [
        "0.0400", "0.0500", "0.0600 [0.0580, 0.0620]",
        "+0.0100 [+0.0080, +0.0120], p 0.0100", "+0.0200 [+0.0180, +0.0220], p 0.2000", "1, 2",
    ]  # fmt: skip
    assert "better (p < 0.05) than round 0 on 3 of 3 and than transition counts on 0 of 2." in text
    assert unseen_table(Results([], [])) == UNMEASURED
