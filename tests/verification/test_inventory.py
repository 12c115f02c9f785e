"""Whatever decides a number is in the inventory, with checks that exist and that look at it."""

import ast
import dataclasses
import importlib
import pkgutil
from functools import reduce
from pathlib import Path

import pytest

import fedmm
from fedmm.comparison.types import Group, Pair
from fedmm.config import ExperimentConfig
from fedmm.config.schema import METRIC_NAMES
from fedmm.evaluation.ranking import RankCounts
from fedmm.evaluation.significance import PairedTest
from fedmm.experiment import RoundReport
from fedmm.federation.ledger import Ledger
from fedmm.federation.rounds import RoundStatistics
from fedmm.study.marginals import Marginal, Row
from fedmm.utils.registry import Registry
from fedmm.verification.catalogue import CHECKS
from fedmm.verification.checks import run_checks
from fedmm.verification.inventory import Entry, inventory
from fedmm.verification.subject import Subject
from worlds.planting import member, plain_function

PACKAGES = ("fedmm.evaluation", "fedmm.federation")
MODULES = (
    *(
        f"{package}.{module.name}"
        for package in PACKAGES
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__)
    ),
    "fedmm.data.splits", "fedmm.data.negatives", "fedmm.data.transitions", "fedmm.data.cold_items",
    "fedmm.data.corruption", "fedmm.models.alignment", "fedmm.models.regression", "fedmm.models.router",
    "fedmm.models.succession", "fedmm.models.surprise", "fedmm.study.marginals", "fedmm.study.selection",
    "fedmm.comparison.compare", "fedmm.comparison.grouping", "fedmm.comparison.claims", "fedmm.runs.references",
    "fedmm.runs.metrics", "fedmm.runs.cold", "fedmm.utils.statistics", "fedmm.experiment",
)  # fmt: skip
REPORTS = (RoundReport, RoundStatistics, Ledger, PairedTest, Group, Pair, RankCounts, Row, Marginal)
BY_NAME = {check.name: check for check in CHECKS}
ENTRIES = inventory()
LISTED = {entry.name for entry in ENTRIES}


def functions_of(module: str) -> list[str]:
    """Public functions and methods of a module, as the inventory calls them."""
    found = []
    tree = ast.parse(Path(str(importlib.import_module(module).__file__)).read_text(encoding="utf-8"))
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        if prefix.startswith("_"):
            continue
        found += [f"{module}:{prefix}{own.name}" for own in members if isinstance(own, ast.FunctionDef)]
    return [name for name in found if not name.rpartition(":")[2].rpartition(".")[2].startswith("_")]


def parts() -> list[str]:
    """Everything registered in any registry that any module has."""
    found = []
    for info in pkgutil.walk_packages(fedmm.__path__, "fedmm."):
        if info.name.startswith(("fedmm.tuning", "fedmm.tracking", "fedmm.testing", "fedmm.serving")):
            continue  # nothing registered there, heavy to load, or a script of a bundle
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, Registry):
                found += [f"{value.kind}:{name}" for name in value.built_in]
    return sorted(set(found))


@pytest.mark.parametrize("module", MODULES)
def test_every_function_is_listed(module: str) -> None:
    assert [name for name in functions_of(module) if name not in LISTED] == []


def test_every_registered_part_is_listed() -> None:
    assert [name for name in parts() if name not in LISTED] == []
    assert {f"metric:{name}" for name in METRIC_NAMES} <= LISTED


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.__name__)
def test_every_field_of_a_report_is_listed(report: type) -> None:
    names = [f"{report.__name__}.{field.name}" for field in dataclasses.fields(report)]
    assert [name for name in names if name not in LISTED] == []


def test_nothing_is_listed_that_is_not_there() -> None:
    there = {name for module in MODULES for name in functions_of(module)} | set(parts())
    there |= {f"{report.__name__}.{field.name}" for report in REPORTS for field in dataclasses.fields(report)}
    assert LISTED - there == set()


def test_checks_exist_and_what_has_none_says_why() -> None:
    assert {name for entry in ENTRIES for name in entry.checks} <= BY_NAME.keys()
    assert [entry.name for entry in ENTRIES if not entry.checks and len(entry.reason) < 15] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "entry", [e for e in ENTRIES if e.kind == "function" and e.checks], ids=lambda entry: entry.name
)
def test_the_first_check_named_falls_with_the_function(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, names = entry.name.partition(":")
    function = plain_function(reduce(member, names.split("."), importlib.import_module(module)))
    function = getattr(function, "__wrapped__", function)

    def broken(*arguments: object, **named: object) -> None:
        raise ZeroDivisionError

    assert not function.__code__.co_freevars
    monkeypatch.setattr(function, "__code__", broken.__code__)
    (result,) = run_checks([BY_NAME[entry.checks[0]]], Subject(ExperimentConfig()))
    assert not result.passed
