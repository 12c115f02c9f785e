"""Checks shared by processes: the same results in the same order, and nothing lost with a process."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from fedmm.config import ExperimentConfig
from fedmm.verification.checks import Check, Finding, Result, run_checks
from fedmm.verification.processes import CHECKS_EACH, MOST, num_processes, run_shared
from fedmm.verification.subject import Subject

PARENT = os.getpid()


def _value(index: int) -> Check:
    return Check("data", f"claim {index}", lambda subject: Finding(float(index), "", index % 3 > 0))


def _raising(subject: Subject) -> Finding:
    raise ZeroDivisionError("by nothing")


def _killed(subject: Subject) -> Finding:
    if os.getpid() != PARENT:
        os.kill(os.getpid(), signal.SIGKILL)
    return Finding(0.0, "= 0", passed=True)


def _plain(results: list[Result]) -> list[dict[str, object]]:
    """Without seconds; NaN as None."""
    return [{**result.to_json(), "seconds": None} for result in results]


def test_results_and_order_are_those_of_one_process() -> None:
    checks = [*map(_value, range(7)), Check("data", "raises", _raising)]
    subject, begun = Subject(ExperimentConfig()), list[str]()
    shared = list(run_shared(checks, subject, lambda check: begun.append(check.name), processes=3))
    assert _plain(shared) == _plain(list(run_checks(checks, subject)))
    assert begun == [check.name for check in checks]
    assert not multiprocessing.active_children()


def test_what_was_loaded_and_changed_here_is_what_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMM_PROBE", "changed")
    probe = Check("data", "probe", lambda subject: Finding(0.0, os.environ["FEDMM_PROBE"], os.getpid() != PARENT))
    (result,) = run_shared([probe], Subject(ExperimentConfig()), processes=2)
    assert (result.tolerance, result.passed) == ("changed", True)


def test_a_killed_process_costs_no_check() -> None:
    checks = [_value(1), Check("data", "killed", _killed), _value(2)]
    results = list(run_shared(checks, Subject(ExperimentConfig()), processes=2))
    assert [(result.name, result.passed) for result in results] == [
        ("claim 1", True),
        ("killed", True),
        ("claim 2", True),
    ]


def test_who_stops_early_leaves_no_process() -> None:
    results = run_shared([*map(_value, range(1, 9))], Subject(ExperimentConfig()), processes=2)
    next(results)
    results.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("checks", "threads", "processes"), [(1, 2, 1), (2 * CHECKS_EACH, 8, 2), (1000, 64, MOST)])
def test_as_many_processes_as_pay(checks: int, threads: int, processes: int) -> None:
    assert num_processes(checks, threads) == processes
