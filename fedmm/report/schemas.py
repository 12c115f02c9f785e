"""The JSON schemas of what commands print with ``--json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedmm.comparison.result import CompareResult
from fedmm.report.sweep_result import SweepResult
from fedmm.runs.drift import DriftResult
from fedmm.runs.result import EvaluateResult, TrainResult
from fedmm.utils.records import Record
from fedmm.verification.result import VerifyResult

RESULTS: Mapping[str, type[Record]] = {
    "train": TrainResult,
    "evaluate": EvaluateResult,
    "evaluate --new-data": DriftResult,
    "compare": CompareResult,
    "sweep": SweepResult,
    "verify": VerifyResult,
}


def result_schemas() -> dict[str, dict[str, Any]]:
    """Command -> the JSON schema (draft 2020-12) of its result.

    >>> sorted(result_schemas())
    ['compare', 'evaluate', 'evaluate --new-data', 'sweep', 'train', 'verify']
    """
    return {name: kind.model_json_schema() for name, kind in RESULTS.items()}
