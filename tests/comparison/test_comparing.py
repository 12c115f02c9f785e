"""What may be compared, how runs are grouped, and that a verdict is what its test says."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.comparison.claims import Claim, judge, load_claims
from fedmm.comparison.compare import MOST_GROUPS, _border_cases, compare, verdict_of
from fedmm.comparison.grouping import letter, per_user
from fedmm.comparison.latex import to_latex
from fedmm.comparison.tables import to_csv, to_json, to_markdown
from fedmm.comparison.types import ComparedRun, Pair
from fedmm.config import ExperimentConfig
from fedmm.errors import ConfigError, DataError
from fedmm.evaluation.ranking import RankCounts
from fedmm.evaluation.user_counts import UserCounts
from fedmm.testing import registered

NUM_USERS = 80
METRICS = ("full/ndcg_at_10", "full/hr_at_10", "uniform100/hr_at_10")


def counts_of(rng: np.random.Generator, skill: float) -> dict[str, RankCounts]:
    """Ranks that are the lower the more skill; the sampled ones are never worse than the full ones."""
    better = rng.geometric(min(0.9, 0.02 + skill), NUM_USERS) - 1
    none, many = np.zeros(NUM_USERS, np.int64), np.full(NUM_USERS, 100, np.int64)
    return {"full": RankCounts(better, none, many * 10), "uniform100": RankCounts(better // 4, none, many)}


def a_run(name: str, seed: int, skill: float, **given: Any) -> ComparedRun:
    flat = ExperimentConfig().flat() | {"runtime.seed": seed} | {key.replace("__", "."): v for key, v in given.items()}
    record = UserCounts(
        np.arange(NUM_USERS),
        np.array([f"u{user}" for user in range(NUM_USERS)]),
        counts_of(np.random.default_rng([seed, int(1000 * skill)]), skill),
        "data",
        "leave_one_out/test",
        "negatives",
    )
    data = {"name": "d", "digest": "data"}
    run = ComparedRun(
        name, None, Path(name), seed, flat, "test", data, {}, {}, record, [], 3, 1.0, 2, 3, 0.1, None
    )  # fmt: skip
    found: dict[str, dict[str, float]] = {"full": {}, "uniform100": {}}
    for metric in METRICS:
        protocol, _, measure = metric.partition("/")
        found[protocol][measure] = float(per_user([run], metric).mean())
    return replace(run, metrics=found)


def two_groups(skill_a: float = 0.2, skill_b: float = 0.02, seeds: int = 3) -> list[ComparedRun]:
    runs = [a_run(f"a{s}", s, skill_a) for s in range(seeds)]
    return runs + [a_run(f"b{s}", 50 + s, skill_b, model__fusion="backbone") for s in range(seeds)]


def test_a_large_difference_is_told_and_the_better_group_is_a() -> None:
    comparison = compare(two_groups())
    assert [group.label for group in comparison.groups] == ["A", "B"]
    assert comparison.groups[0].title == "model.fusion=residual"
    assert comparison.differing == ("model.fusion",)
    assert {pair.verdict for pair in comparison.pairs if pair.metric == METRICS[0]} == {"better"}
    assert comparison.warnings == ()


def test_one_file_under_two_paths_is_the_same_data() -> None:
    runs = [a_run(f"a{s}", s, 0.1, data__path=path) for s, path in enumerate(["here/ratings.csv", "there/ratings.csv"])]
    comparison = compare(runs)
    assert comparison.differing == ()
    assert [len(group.runs) for group in comparison.groups] == [2]


def test_the_same_runs_under_two_names_cannot_be_told_apart() -> None:
    runs = [a_run(f"a{s}", s, 0.1) for s in range(3)]
    twins = [
        replace(run, folder=Path("twin") / run.name, settings=run.settings | {"model.dropout": 0.5}) for run in runs
    ]
    (pair, *_) = compare([*runs, *twins]).pairs
    assert pair.difference == 0
    assert pair.p_value == 1
    assert pair.verdict == "cannot be told apart"


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(6)))
def test_the_order_of_runs_changes_nothing(order: list[int]) -> None:
    runs = two_groups(0.1, 0.08)
    expected, found = to_json(compare(runs)), to_json(compare([runs[at] for at in order]))
    assert found["pairs"] == expected["pairs"]
    for own, other in zip(found["groups"], expected["groups"], strict=True):
        assert own["means"] == pytest.approx(other["means"])


@given(st.floats(-1, 1), st.floats(0, 1))
def test_a_verdict_is_the_sign_of_what_is_significant(difference: float, p: float) -> None:
    verdict = verdict_of(difference, p)
    assert (verdict == "cannot be told apart") == (p >= 0.05 or difference == 0)
    if verdict != "cannot be told apart":
        assert (verdict == "better") == (difference > 0)


def test_a_mean_over_users_and_seeds_is_the_mean_of_the_runs_own_metrics() -> None:
    comparison = compare(two_groups())
    for group in comparison.groups:
        for metric in comparison.metrics:
            protocol, _, name = metric.partition("/")
            assert group.means[metric] == pytest.approx(np.mean([run.metrics[protocol][name] for run in group.runs]))
            low, high = group.ci95[metric]
            assert low <= group.means[metric] <= high


def test_the_same_run_twice_is_one_run_and_one_seed_is_warned_about() -> None:
    run, other = two_groups(seeds=1)
    comparison = compare([run, run, other])
    assert [len(group.runs) for group in comparison.groups] == [1, 1]
    assert "2 groups (A and B) with one seed" in comparison.warnings[0]


def test_fewer_negatives_than_a_protocols_name_says_are_told() -> None:
    runs = [a_run("a", 0, 0.1), a_run("b", 0, 0.2, model__hidden_dim=32)]
    few = [replace(run, metrics={**run.metrics, "uniform100": {**run.metrics["uniform100"], "num_negatives": 7}})
           for run in runs]  # fmt: skip
    own, told = compare(runs, metrics=METRICS), compare(few, metrics=METRICS)
    (more,) = set(told.warnings) - set(own.warnings)
    assert more.startswith("Figures against 100 uniform negatives are against 7 in fact")
    assert set(compare(few, metrics=METRICS[:2]).warnings) == set(compare(runs, metrics=METRICS[:2]).warnings)


def test_a_training_that_was_run_twice_is_one_seed() -> None:
    """Its copy tells nothing of what seeds do: every number stays, and a word is said."""
    runs = two_groups(0.06, 0.04)
    copies = [replace(run, folder=Path("copy") / run.name) for run in runs]
    whole, repeated = compare(runs), compare([*runs, *copies])
    assert [to_json(own)["pairs"] for own in (whole, repeated)] == [to_json(whole)["pairs"]] * 2
    for own, other in zip(whole.groups, repeated.groups, strict=True):
        assert (own.means, own.ci95) == (other.means, other.ci95)
    assert any("more than once under one seed" in warning for warning in repeated.warnings)
    assert not any("as if they were apart" in warning for warning in repeated.warnings)


def test_runs_of_one_seed_that_differ_in_what_is_grouped_over_stay_apart() -> None:
    runs = [a_run(f"a{n}", 0, 0.05, model__dropout=n / 10) for n in range(3)]
    comparison = compare([*runs, a_run("b", 1, 0.04, model__fusion="backbone")], by=["model.fusion"])
    assert any("as if they were apart" in warning for warning in comparison.warnings)
    assert not any("more than once" in warning for warning in comparison.warnings)


def test_negatives_matter_where_sampled_metrics_are_compared_and_nowhere_else() -> None:
    first, second = two_groups(seeds=1)
    other = replace(second, counts=replace(second.counts, negatives_digest="other"))
    with pytest.raises(DataError, match="negative samples"):
        compare([first, other])
    (pair,) = compare([first, other], metrics=METRICS[:1]).pairs
    assert pair.p_value == compare([first, second], metrics=METRICS[:1]).pairs[0].p_value
    without = replace(other, metrics={"full": other.metrics["full"]})
    assert compare([first, without]).metrics == METRICS[:2]


def test_one_user_is_too_few() -> None:
    def alone(run: ComparedRun) -> ComparedRun:
        counts = {
            name: RankCounts(*(part[:1] for part in vars(own).values())) for name, own in run.counts.counts.items()
        }
        record = replace(run.counts, users=run.counts.users[:1], user_ids=run.counts.user_ids[:1], counts=counts)
        return replace(run, counts=record)

    with pytest.raises(DataError, match="one user"):
        compare([alone(run) for run in two_groups(seeds=2)])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"dataset_digest": "other"}, "data"),
        ({"split": "temporal/test"}, "split"),
        ({"negatives_digest": "other"}, "negative samples"),
        ({"user_ids": np.array([f"v{user}" for user in range(NUM_USERS)])}, "different users"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(change: dict[str, Any], what: str) -> None:
    first, second = two_groups(seeds=1)
    with pytest.raises(DataError, match=f"(?s)a0 and b0.*{what}"):
        compare([first, replace(second, counts=replace(second.counts, **change))])


def test_the_same_data_under_two_names_is_the_same_data() -> None:
    first, second = two_groups(seeds=1)
    copied = replace(second, dataset={**second.dataset, "name": "copy"})
    assert len(compare([first, copied]).groups) == 2


def test_pairs_that_were_left_out_count_in_the_correction() -> None:
    """The best of many was found by looking at all of them, so what it is tested against is no free choice."""
    runs = [a_run(f"r{n}", n, 0.05, model__dropout=n / 100) for n in range(MOST_GROUPS + 2)]
    comparison = compare([*runs, a_run("low", 99, 0.002, model__dropout=0.9)], metrics=METRICS[:1])
    num_groups = MOST_GROUPS + 3
    assert len(comparison.pairs) == num_groups - 1
    assert {pair.a for pair in comparison.pairs} == {"A"}
    num_pairs = num_groups * (num_groups - 1) // 2
    surest = min(comparison.pairs, key=lambda pair: pair.p_value)
    assert surest.p_adjusted == pytest.approx(min(1.0, num_pairs * surest.p_value))
    assert any(f"corrected for all {num_pairs} pairs" in warning for warning in comparison.warnings)


def test_metrics_of_claims_come_last_where_they_were_measured() -> None:
    comparison = compare(two_groups(), also=["uniform100/hr_at_10", "full/hr_at_99"], metrics=["full/hr_at_10"])
    assert comparison.metrics == ("full/hr_at_10", "uniform100/hr_at_10")


def test_a_metric_of_ones_own_is_needed_where_it_is_compared_and_nowhere_else() -> None:
    with registered("metric", "rbp", lambda places: 0.8**places):
        runs = [replace(run, metrics={"full": {**run.metrics["full"], "rbp_at_10": 0.5}}) for run in two_groups()]
        assert compare(runs, metrics=["full/rbp_at_10"]).metrics == ("full/rbp_at_10",)
    runs[1] = replace(runs[1], parts=("own/rbp.py",))
    assert compare(runs).metrics == METRICS[:2]
    for asked in ({"metrics": ["full/rbp_at_10"]}, {"also": ["full/rbp_at_10"]}):
        with pytest.raises(ConfigError, match=r'metric "rbp" is not registered.*--parts own/rbp\.py'):
            compare(runs, **asked)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("full/ngcd_at_10", "Did you mean full/ndcg_at_10?"),
        ("ndcg_at_10", "Did you mean full/ndcg_at_10?"),
        ("x", "They have full/ with ndcg_at_10, hr_at_10; uniform100/ with hr_at_10."),
    ],
)
def test_the_metric_that_was_meant(typed: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compare(two_groups(), metrics=[typed])
    assert caught.value.remedy == hint


def test_a_metric_or_setting_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="full/hr_at_99"):
        compare(two_groups(), metrics=["full/hr_at_99"])
    with pytest.raises(ConfigError, match=r"model\.fusion"):
        compare(two_groups(), by=["model.fusio"])
    with pytest.raises(DataError, match="no run"):
        compare([])


def test_grouping_by_a_setting_joins_all_that_agree_in_it() -> None:
    runs = [*two_groups(), *(a_run(f"c{s}", s, 0.1, model__dropout=0.5) for s in range(3))]
    assert len(compare(runs).groups) == 3
    by = compare(runs, by=["model.fusion"])
    assert sorted(len(group.runs) for group in by.groups) == [3, 6]
    assert {group.title for group in by.groups} == {"model.fusion=residual", "model.fusion=backbone"}


def test_sampled_metrics_that_disagree_are_named() -> None:
    one, other = (a_run(name, 0, 0.02, model__dropout=rate) for name, rate in (("a", 0.1), ("b", 0.5)))
    full = one.counts.counts["full"]
    worse, first = replace(full, better=full.better + 30), replace(full, better=0 * full.better)
    lifted = replace(other.counts, counts={"full": worse, "uniform100": first})
    warnings = compare([one, replace(other, counts=lifted)]).warnings
    assert any("trust the full ranking" in warning for warning in warnings)


def test_tables_hold_every_run_group_and_pair() -> None:
    comparison = compare(two_groups())
    found = json.loads(json.dumps(to_json(comparison)))
    assert {run["name"] for run in found["runs"]} == {"a0", "a1", "a2", "b0", "b1", "b2"}
    assert set(found["pairs"][0]) >= {"a", "b", "metric", "difference", "ci95", "p_value", "p_adjusted", "verdict"}
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert [row["run"] for row in rows] == [run["name"] for run in found["runs"]]
    assert {row["model.fusion"] for row in rows} == {"residual", "backbone"}
    markdown, latex = to_markdown(comparison), to_latex(comparison)
    assert markdown.count("A against B") == latex.count("A against B") == 3
    widths = {line.count("|") for line in markdown.split("\n\n")[0].splitlines()}
    assert len(widths) == 1
    assert r"model.fusion" in latex
    assert "_" not in latex.replace(r"\_", "")


def test_a_latex_table_can_stand_in_a_paper() -> None:
    """Every row has the columns that its tabular declares, numbers to the right; baselines stand below a rule."""
    own = {"ndcg_at_10": 0.041, "hr_at_10": 0.08, "ci95": {"ndcg_at_10": [0.03, 0.05], "hr_at_10": [0.06, 0.1]}}
    level = {"full": own, "uniform100": {"hr_at_10": 0.4, "ci95": {"hr_at_10": [0.36, 0.44]}}}

    def start(seed: int) -> dict[str, Any]:
        return {"full": {**own, "ndcg_at_10": 0.05 + 0.001 * seed}, "uniform100": level["uniform100"]}

    runs = [replace(run, baselines={"popularity": level, "round_0": start(run.seed)}) for run in two_groups()]
    latex = to_latex(compare(runs))
    blocks = latex.split("\n\n")
    assert len(blocks) == 2
    for block, label in zip(blocks, ("tab:groups", "tab:pairs"), strict=True):
        for word in (r"\begin{table}", r"\caption{", rf"\label{{{label}}}", r"\toprule", r"\midrule", r"\bottomrule"):
            assert word in block
        (columns,) = re.findall(r"\\begin{tabular}{(\w+)}", block)
        for line in (line for line in block.splitlines() if line.endswith(r"\\")):
            spans = sum(int(span) - 1 for span in re.findall(r"\\multicolumn{(\d)}", line))
            assert line.count(" & ") + 1 + spans == len(columns)
    assert "lr" + "rr" * 3 in blocks[0].replace("llr", "lr")
    below = blocks[0].rpartition(r"\midrule")[2]
    assert r"popularity} & 0.0410 & \footnotesize [0.0300, 0.0500] & 0.0800" in below
    assert r"round 0 (mean of 6 runs)} & 0.0760 &  & " in below
    decimals = {len(number.partition(".")[2]) for number in re.findall(r"\d\.\d+", latex)}
    assert decimals == {4}
    assert "| popularity |" in to_markdown(compare(runs))


def test_an_interval_above_0_beside_a_p_above_5_percent_is_explained() -> None:
    def pair(difference: float, low: float, p: float) -> Pair:
        return Pair("A", "B", METRICS[0], difference, (low, 0.05), p / 3, p, 0.1, verdict_of(difference, p))

    (text,) = _border_cases([pair(0.02, 0.001, 0.053), pair(0.02, -0.001, 0.3), pair(0.02, 0.01, 0.001)])
    assert "p .053" in text
    assert "The verdict goes by p" in text
    assert _border_cases([pair(0.02, 0.001, 0.01), pair(0.0, -0.01, 1.0)]) == []


@given(st.integers(0, 2000))
def test_letters_count_like_columns_of_a_sheet(place: int) -> None:
    text = letter(place)
    assert sum((ord(one) - 64) * 26**at for at, one in enumerate(reversed(text))) == place + 1


def claim(**given: Any) -> Claim:
    return Claim.model_validate({"claim": "c", "metric": METRICS[1], "group": {"model.fusion": "residual"}, **given})


def test_a_claim_holds_inside_fails_outside_and_is_open_between() -> None:
    comparison = compare(two_groups())
    group = next(group for group in comparison.groups if group.title == "model.fusion=residual")
    mean, (low, high) = group.means[METRICS[1]], group.ci95[METRICS[1]]
    for expected, verdict in (
        ([mean - 0.001, mean + 0.001], "held"),
        ([high + 0.01, high + 0.02], "did not hold"),
        ([(mean + high) / 2, high + 0.02], "cannot be told apart"),
        ([low - 0.2, low - 0.1], "did not hold"),
    ):
        (judged,) = judge([claim(expected=expected)], comparison)
        assert (judged.verdict, judged.measured) == (verdict, mean)


def test_a_gain_is_the_difference_as_a_share_of_the_baseline() -> None:
    comparison = compare(two_groups())
    a, b = (group.means[METRICS[1]] for group in comparison.groups)
    against = {"measure": "gain", "expected": [0, 100]}
    (own,) = judge([claim(baseline={"model.fusion": "backbone"}, **against)], comparison)
    (published,) = judge([claim(baseline=b, **against)], comparison)
    assert own.measured == pytest.approx((a - b) / b)
    assert published.measured == pytest.approx((a - b) / b)
    (turned,) = judge(
        [claim(group={"model.fusion": "backbone"}, baseline={"model.fusion": "residual"}, **against)], comparison
    )
    assert turned.measured == pytest.approx((b - a) / a)
    assert turned.ci95 is not None
    assert turned.ci95[0] <= turned.ci95[1]


def test_a_claim_about_nobody_or_several_is_not_measured() -> None:
    comparison = compare([*two_groups(), *(a_run(f"c{s}", s, 0.1, model__dropout=0.5) for s in range(3))])
    several, nobody = judge([claim(expected=[0, 1]), claim(group={"model.hidden_dim": 7}, expected=[0, 1])], comparison)
    (near,) = judge([claim(group={"model.dropout": 0.49}, expected=[0, 1])], comparison)
    assert "no group has" in near.reason
    assert (several.verdict, nobody.verdict) == ("not measured", "not measured")
    assert "several groups" in several.reason
    assert "no group has" in nobody.reason


def test_the_shipped_claims_are_read_and_broken_ones_are_explained(tmp_path: Path) -> None:
    assert len(load_claims("old-document")) >= 8
    for text, words in (
        ("x = 1", "no claims"),
        ("[[claims]]\nclaim = 3", "claim"),
        ('[[claims]]\nclaim = "c"\nmetric = "full/hr_at_10"\ngroup = {a = 1}\nexpected = [0, 1]', "'a'"),
        ('[[claims]]\nclaim = "c"\nmetric = "full/hr_at_10"\ngroup = {}\nexpected = [1, 0]', "lower number first"),
        (
            '[[claims]]\nclaim = "c"\nmetric = "full/hr_at_10"\ngroup = {}\nmeasure = "gain"\nexpected = [0, 1]',
            "'gain' and has no baseline",
        ),
        (
            '[[claims]]\nclaim = "c"\nmetric = "full/hr_at_10"\ngroup = {}\nbaseline = 0.5\nmeasure = "value"\n'
            "expected = [0, 1]",
            "'value' and has a baseline",
        ),
        ("[[claims", "not TOML"),
    ):
        path = tmp_path / "claims.toml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            load_claims(str(path))
    with pytest.raises(ConfigError, match="old-document"):
        load_claims(str(tmp_path / "absent.toml"))
