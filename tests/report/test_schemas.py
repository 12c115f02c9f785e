"""What commands print with ``--json`` follows the schemas, and the schemas refuse what is something else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fedmm.comparison.result import CompareResult
from fedmm.comparison.tables import to_json
from fedmm.config import ExperimentConfig
from fedmm.config.toml import dump_toml
from fedmm.report.schemas import RESULTS, result_schemas
from fedmm.verification.checks import Result, summary
from fedmm_cli.app import main
from worlds.report_world import usual
from worlds.run_world import tiny, write_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schemas")
    write_data(folder)
    settings = {"data.cold_item_fraction": 0.2, "federation.rounds": 1}
    (folder / "own.toml").write_text(dump_toml(tiny(folder, folder / "run", settings)))
    return folder


def test_every_command_with_json_follows_its_schema(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, schemas = str(folder / "run"), result_schemas()
    for name, arguments in (
        ("train", ["--config", str(folder / "own.toml"), "--profile", "--quiet"]),
        ("evaluate", [run, "--quiet"]),
        ("compare", [run, run]),
    ):
        assert main([name, *arguments, "--json"]) == 0
        text = capsys.readouterr().out
        jsonschema.validate(json.loads(text), schemas[name])
        assert RESULTS[name].from_json(json.loads(text)).to_json() == json.loads(text)


def printed() -> dict[str, dict[str, Any]]:
    comparison = CompareResult.from_json({**to_json(usual()), "claims": None, "mlflow": None})
    checks = [Result("data", "a check", True, value, "<= 1", "", 0.1) for value in (0.5, float("inf"), float("nan"))]
    return {"compare": comparison.to_json(), "verify": summary(checks, ExperimentConfig(), "quick").to_json()}


@pytest.mark.parametrize("name", ["compare", "verify"])
def test_comparisons_and_verifications_follow_theirs(name: str) -> None:
    tree, schema = printed()[name], result_schemas()[name]
    jsonschema.validate(tree, schema)
    assert json.loads(json.dumps(tree, allow_nan=False)) == RESULTS[name].from_json(tree).to_json()
    for key in tree:
        lacking = {other: value for other, value in tree.items() if other != key}
        with pytest.raises(jsonschema.ValidationError, match=f"'{key}' is a required property"):
            jsonschema.validate(lacking, schema)
    with pytest.raises(jsonschema.ValidationError, match="Additional properties"):
        jsonschema.validate({**copy.deepcopy(tree), "more": 1}, schema)


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_a_schema_is_one(name: str) -> None:
    schema = result_schemas()[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["required"]) <= set(schema["properties"])
