"""``fedmm verify`` and the suite run the same checks: one text, two uses."""

from typing import Any

import pytest

from fedmm.config import ExperimentConfig
from fedmm.verification.catalogue import CHECKS
from fedmm.verification.checks import Check, run_checks
from fedmm.verification.leakage import held_out_changes_nothing
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


@pytest.mark.parametrize(
    "model",
    [
        {"experts": "pooled", "alignment_weight": 0.1},
        {"personal_gate": True},
        {"experts": "memory", "memory": {"num_prototypes": 2}},
    ],
)
def test_parts_of_experts_do_not_keep_held_out_items_from_being_checked(model: dict[str, Any]) -> None:
    """The check's own small run has no features, so settings that are refused without any must be left behind."""
    (check,) = [check for check in CHECKS if check.measure is held_out_changes_nothing]
    (result,) = run_checks([check], Subject(ExperimentConfig.model_validate({"model": model})))
    assert result.passed, result.detail


def test_names_are_distinct() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
