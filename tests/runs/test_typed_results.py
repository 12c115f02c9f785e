"""Laws of typed results: they are the JSON that is printed and kept, and every number of it is an attribute."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedmm.errors import DataError
from fedmm.evaluation.measured import Metrics
from fedmm.runs.evaluate import run_evaluation
from fedmm.runs.result import EvaluateResult, PairedTests, TrainResult, read_result
from fedmm.runs.train import run_training
from fedmm.utils.records import Named
from fedmm.utils.trees import plain
from worlds.run_world import Watcher, tiny


@pytest.fixture(scope="module")
def result(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp("results") / "run"
    return run_training(tiny(data, folder, {"data.cold_item_fraction": 0.2}), Watcher())


@pytest.fixture(scope="module")
def evaluated(result: TrainResult) -> EvaluateResult:
    return run_evaluation(Path(result.output), Watcher())


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every entry of a JSON tree that is reached by names alone."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def reached(result: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        for part in name.split("/"):
            result = getattr(result, part)
    return result


@pytest.mark.parametrize("kind", ["result", "evaluated"])
def test_every_entry_of_the_json_is_an_attribute(kind: str, request: pytest.FixtureRequest) -> None:
    own = request.getfixturevalue(kind)
    found = list(leaves(own.to_json()))
    assert len(found) > 100
    for path, value in found:
        assert plain(reached(own, path)) == value


@pytest.mark.parametrize("kind", ["result", "evaluated"])
def test_json_is_read_back_to_the_byte(kind: str, request: pytest.FixtureRequest) -> None:
    own = request.getfixturevalue(kind)
    text = json.dumps(own.to_json(), indent=1, allow_nan=False)
    again = type(own).from_json(json.loads(text))
    assert again == own
    assert json.dumps(again.to_json(), indent=1) == text


def test_the_run_folder_keeps_it(result: TrainResult) -> None:
    path = Path(result.output) / "result.json"
    assert path.read_text() == json.dumps(result.to_json(), indent=1) + "\n"
    assert read_result(path) == result


def test_what_was_not_measured_is_said_with_what_was(result: TrainResult) -> None:
    for ask in (lambda: result.metrics.test.full_, lambda: result.baselines.round_0.full):
        with pytest.raises(AttributeError, match=r"'full_?' was not measured; measured are "):
            ask()
    with pytest.raises(AttributeError, match=r"'ndcg_at_7' was not measured; measured are hr_at_5, "):
        result.metrics.test.full.ndcg_at_7  # noqa: B018 - asking is the test
    assert result.profile is None
    assert "profile" not in result
    assert "cold_items" in result


def test_an_interval_stands_beside_its_metric(result: TrainResult) -> None:
    own = result.metrics.test.full
    low, high = own.ci95.hr_at_10
    assert low <= own.hr_at_10 <= high
    test = result.paired.test.round_0.full.ndcg_at_10
    assert test.difference == pytest.approx(own.ndcg_at_10 - result.baselines.round_0.test.full.ndcg_at_10)


def test_numbers_that_json_lacks_are_null() -> None:
    metrics = Metrics.model_validate({"hr_at_10": math.nan, "ci95": {"hr_at_10": (-math.inf, 1.0)}})
    assert metrics.to_json() == {"hr_at_10": None, "ci95": {"hr_at_10": [None, 1.0]}}
    tests = PairedTests.model_validate({"full/ndcg_at_10": {"difference": 0.5, "ci95": [0, math.nan], "p_value": 1}})
    assert tests.full.ndcg_at_10.to_json() == {"difference": 0.5, "ci95": [0.0, None], "p_value": 1.0}
    assert Named[float]({"a": 1.0}) == {"a": 1.0}


def test_a_result_of_before_is_read(result: TrainResult) -> None:
    """Sections that came later may be missing, and what a later fedmm adds is passed over."""
    tree = result.to_json()
    for later in ("parts", "paired", "groups", "cold_items", "advice", "peak_rss_bytes", "notes"):
        del tree[later]
    old = TrainResult.from_json({**tree, "from_the_future": 1})
    assert (old.metrics, old.cold_items, old.parts) == (result.metrics, None, {})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"metrics": 3}'])
def test_a_damaged_result_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(DataError, match=r"There is no file .*result\.json"):
        read_result(path)
    path.write_text(text)
    with pytest.raises(DataError, match=r"result\.json (cannot be read|is not the result of a run)"):
        read_result(path)
