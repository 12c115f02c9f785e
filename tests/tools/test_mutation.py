"""Mutation testing: changes are small, they are made where they are said to be, and a fork alone meets them."""

import ast
from pathlib import Path

import pytest
from mutation.commands import sampled, wilson
from mutation.forks import CAUGHT, SURVIVED, TIMED_OUT, tried
from mutation.judges import Proved
from mutation.reach import Kept, Reach
from mutation.sites import Mutant, mutants, mutated

from fedmm.federation import schedules

MODULE, PATH = "fedmm.federation.schedules", Path(str(schedules.__file__))
FOUND = mutants(MODULE, PATH)


@pytest.mark.parametrize("mutant", FOUND, ids=lambda mutant: f"{mutant.number}")
def test_a_mutant_is_the_module_with_one_function_changed(mutant: Mutant) -> None:
    before = {n.name: ast.dump(n) for n in ast.parse(PATH.read_text()).body if isinstance(n, ast.FunctionDef)}
    after = {n.name: ast.dump(n) for n in mutated(PATH, mutant).body if isinstance(n, ast.FunctionDef)}
    assert [name for name in before if before[name] != after[name]] == [mutant.function]


def test_keys_are_distinct() -> None:
    assert len({mutant.key for mutant in FOUND}) == len(FOUND) > 8


def test_a_fork_meets_the_mutant_and_nobody_else() -> None:
    mutant = next(m for m in FOUND if m.function == "linear" and m.before == "1.0 - progress" and m.kind == "operator")
    outcome, who = tried(mutant, lambda: "changed" if schedules.linear(0.25) == 1.25 else "", 20)
    assert (outcome, who) == (CAUGHT, "changed")
    assert tried(mutant, lambda: "", 20)[0] == SURVIVED
    assert schedules.linear(0.25) == 0.75


def test_whatever_does_not_end_is_caught() -> None:
    def forever() -> str:
        while True:
            pass

    assert tried(FOUND[0], forever, 0.3)[0] == TIMED_OUT


def test_a_share_has_its_interval() -> None:
    low, high = wilson(220, 300)
    assert (round(low, 3), round(high, 3)) == (0.681, 0.78)


def test_those_who_run_a_statement_are_told_by_its_lines() -> None:
    mutant = next(m for m in FOUND if m.function == "linear" and m.before == "1.0 - progress")
    assert PATH.read_text().splitlines()[mutant.lines[0] - 1].strip().startswith("return")
    reach = Reach()
    reach.add("runs it", {MODULE: [mutant.lines[0]]}, 2.0)
    reach.add("runs another", {MODULE: [mutant.lines[1] + 1]}, 1.0)
    reach.add("another module's", {"fedmm.errors": [mutant.lines[0]]}, 1.0)
    assert reach.of(mutant) == {"runs it"}


def test_the_likeliest_for_its_time_comes_first() -> None:
    mutant = next(m for m in FOUND if m.function == "linear")
    proved, seconds = Proved(), {"quick": 0.1, "slow": 1.0}
    assert proved.order(mutant, seconds, seconds) == ["quick", "slow"]
    proved.add(MODULE, "linear", "slow")
    assert proved.order(mutant, seconds, seconds) == ["slow", "quick"]


def test_what_a_survey_has_found_is_not_looked_for_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "reach.jsonl")
    assert kept.get((b"a text",), lambda: [1]) == [1]
    assert Kept(tmp_path / "reach.jsonl").get((b"a text",), lambda: [2]) == [1]
    assert kept.get((b"another",), lambda: [2]) == [2]
    with pytest.raises(RuntimeError):
        kept.get((b"a third",), lambda: 1 / 0)


def test_a_sample_stays_drawn_while_code_is_added() -> None:
    few = FOUND[: len(FOUND) // 2]
    assert [one for one in sampled(FOUND, 8, 1) if one in few] == sampled(few, 8, 1)[
        : len(set(sampled(FOUND, 8, 1)) & set(few))
    ]
    assert sampled(FOUND, 8, 1) != sampled(FOUND, 8, 2)
