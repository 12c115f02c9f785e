"""A check that no planted fault can trip is not a check."""

import pytest

from fedmm.config import ExperimentConfig
from fedmm.verification.catalogue import CHECKS
from fedmm.verification.checks import run_checks
from fedmm.verification.subject import Subject
from worlds import (
    edge_faults,
    federation_faults,
    honesty_faults,
    model_faults,
    number_faults,
    private_faults,
    reading_faults,
    reading_rule_faults,
    report_faults,
    round_faults,
    score_faults,
    stage_faults,
)
from worlds.planting import Fault

LATER = (
    *private_faults.FAULTS,
    *round_faults.FAULTS,
    *report_faults.FAULTS,
    *number_faults.FAULTS,
    *reading_faults.FAULTS,
    *reading_rule_faults.FAULTS,
    *stage_faults.FAULTS,
    *edge_faults.FAULTS,
    *score_faults.FAULTS,
)
FAULTS = (*model_faults.FAULTS, *federation_faults.FAULTS, *honesty_faults.FAULTS, *LATER)
BY_NAME = {check.name: check for check in CHECKS}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_verify_names_the_fault(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault.plant(monkeypatch)
    results = list(run_checks([BY_NAME[name] for name in fault.caught_by], Subject(ExperimentConfig())))
    assert [result.name for result in results if result.passed] == []


def test_every_fault_finds_what_it_changes() -> None:
    """The code moves on, and a fault that is planted nowhere proves nothing."""
    for fault in FAULTS:
        with pytest.MonkeyPatch.context() as patch:
            fault.plant(patch)


def test_every_check_can_be_tripped() -> None:
    assert set(BY_NAME) == {name for fault in FAULTS for name in fault.caught_by}


def test_there_are_twenty_faults_at_least() -> None:
    assert len({fault.plant for fault in FAULTS}) >= 20
