"""``fedmm verify`` and the suite run the same checks: one text, two uses."""

import pytest

from fedmm.config import ExperimentConfig
from fedmm.verification.catalogue import CHECKS
from fedmm.verification.checks import Check, run_checks
from fedmm.verification.subject import Subject


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(ExperimentConfig())


@pytest.mark.parametrize(
    "check", [check for check in CHECKS if check.level == "quick"], ids=lambda check: check.name.replace(" ", "-")
)
def test_holds(check: Check, subject: Subject) -> None:
    (result,) = run_checks([check], subject)
    assert result.passed, f"{result.value} against {result.tolerance}: {result.detail}"


def test_names_are_distinct() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
