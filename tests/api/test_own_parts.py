"""Parts of a user's own, from a script of some twenty lines: they train, sweep, resume and are compared."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fedmm
from fedmm.config.load import dump_toml
from fedmm.config.parts import KINDS
from fedmm.runs.own_parts import OWN_PARTS_FILE
from fedmm.testing import registered, tiny_config
from fedmm.utils.registry import own_parts

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples").glob("own_*.py"))
OWN_LINES = 20


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    config = tiny_config(tmp_path / "world")
    runtime = config.runtime.model_copy(update={"output": None})
    path.write_text(dump_toml(config.model_copy(update={"runtime": runtime}), only_non_default=True))
    return path


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    for kind in KINDS.values():
        for store in kind.stores:
            own_parts(store).clear()


def run(*arguments: str, folder: Path, text: str | None = None) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "example",
    [pytest.param(path, marks=pytest.mark.slow if place else ()) for place, path in enumerate(EXAMPLES)],
    ids=lambda path: path.stem,
)
def test_the_script_trains_resumes_sweeps_and_compares(
    example: Path, settings_file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example), str(settings_file)])
    runpy.run_path(str(example), run_name="__main__")
    told = capsys.readouterr().out
    assert "the sweep's best: {" in told
    assert told.splitlines()[-1].startswith("full/")
    (sweep,) = (tmp_path / "sweeps").iterdir()
    result = json.loads((sweep / "result.json").read_text())
    assert result["trials"]["complete"] == 2
    runs = list((tmp_path / "runs").iterdir())
    origins = [json.loads((folder / OWN_PARTS_FILE).read_text()) for folder in (sweep, *runs)
               if (folder / OWN_PARTS_FILE).exists()]  # fmt: skip
    assert len(runs) == 2
    assert len(origins) >= 2
    assert {own["file"] for kinds in origins for parts in kinds.values() for own in parts.values()} == {str(example)}


def test_the_examples_are_short() -> None:
    """The part and its registration: all that stands before the script's main block, but for imports and words."""
    assert [path.stem for path in EXAMPLES] == ["own_aggregation", "own_expert", "own_metric"]
    for path in EXAMPLES:
        tree = ast.parse(path.read_text())
        main = next(node for node in tree.body if isinstance(node, ast.If))
        before = [node for node in tree.body if node.lineno < main.lineno]
        own = [
            node for node in before if not isinstance(node, ast.Import | ast.ImportFrom) and node is not tree.body[0]
        ]
        assert sum((node.end_lineno or 0) - node.lineno + 1 for node in own) <= OWN_LINES


PROMPT = """
import fedmm
fedmm.register_aggregation("mine", lambda total, config: {k: v / total.weight for k, v in total.deltas.items()})
config = fedmm.load_config(SETTINGS, rounds=1)
fedmm.sweep(space={"federation.aggregation": ["mean", "mine"]}, sampler="grid", config=config, output="s")
"""


@pytest.mark.slow
def test_a_part_from_a_prompt_is_searched_in_the_same_process(settings_file: Path, tmp_path: Path) -> None:
    """There is no file that a worker could import."""
    text = PROMPT.replace("SETTINGS", repr(str(settings_file)))
    run("-", folder=tmp_path, text=text)
    result = json.loads((tmp_path / "s" / "result.json").read_text())
    assert result["trials"]["complete"] == 2
    values = [json.loads(path.read_text())["metrics"] for path in (tmp_path / "s" / "trials").glob("*/result.json")]
    assert len(values) == 2
    assert json.loads((tmp_path / "s" / OWN_PARTS_FILE).read_text())["aggregation"]["mine"]["file"] is None


def halved(total: Any, config: Any) -> Any:
    return {name: value / total.weight / 2 for name, value in total.deltas.items()}


def test_a_callback_ends_a_run_and_resume_goes_on_bit_for_bit() -> None:
    with registered("aggregation", "mine", halved):
        whole, stopped = (tiny_config(rounds=4, aggregation="mine") for _ in range(2))

        def stop(report: fedmm.RoundReport) -> None:
            if report.round == 2:
                raise fedmm.StoppedEarly("enough")

        with pytest.raises(fedmm.StoppedEarly, match="enough"):
            fedmm.train(stopped, callbacks=[stop])
        seen: list[int] = []
        runs = [fedmm.train(whole), fedmm.train(stopped, resume=True, callbacks=[lambda r: seen.append(r.round)])]
        assert seen == [3, 4]
        assert runs[0].result["metrics"] == runs[1].result["metrics"]
        tables = [one.model.item_embeddings() for one in runs]
        assert (tables[0] == tables[1]).all()
    with pytest.raises(fedmm.ConfigError, match='used the aggregation "mine", which is not registered'):
        fedmm.load_run(runs[0].folder)


def test_data_loaded_before_decide_what_is_trained_on(tmp_path: Path) -> None:
    world = tiny_config(tmp_path / "world")
    data = fedmm.load_dataset(path=world.data.path, visual="none", text="none", min_user_interactions=8)
    config = tiny_config(tmp_path / "other", split="temporal", temporal_fraction=0.2)
    run_ = fedmm.train(config, data=data, output=tmp_path / "run")
    assert run_.result["dataset"]["digest"] == data.digest
    assert run_.config.data.split == "temporal"
    assert run_.config.data.min_user_interactions == 8
    again = fedmm.train(config, data=str(world.data.path), output=tmp_path / "again")
    assert again.config.data.path == world.data.path
    with pytest.raises(fedmm.ConfigError, match="two datasets"):
        fedmm.load_dataset("ml-100k", path="x.csv")


@pytest.mark.parametrize(
    ("kind", "key", "part"),
    [
        ("local_optimizer", "local_optimizer", lambda params, config: lambda v, g, n, a, s: v.sub_(0.1 * g)),
        ("server_optimizer", "server_optimizer", lambda v, g, n, s, c: (v - g, {})),
        ("learning_rate_schedule", "learning_rate_schedule", lambda progress: 1.0 - progress / 2),
        ("cohort_sampler", "cohort_sampler", lambda clients, size, seed, number: clients[-size:]),
    ],
)
def test_engines_train_alike_by_parts_of_ones_own(kind: str, key: str, part: Any) -> None:
    with registered(kind, "mine", part):
        found = [losses(tiny_config(**{key: "mine"}, engine=engine, dtype="float64")) for engine in ENGINES]
        assert found[0] == pytest.approx(found[1], abs=1e-9)
        assert found[0] != pytest.approx(losses(tiny_config(dtype="float64")), abs=1e-6)


ENGINES = ("sequential", "vectorized")


def losses(config: fedmm.ExperimentConfig) -> list[float]:
    """The loss of every round, and the norm of the last one's aggregate."""
    experiment = fedmm.Experiment.prepare(config)
    reports = [report for _, report in experiment.rounds(experiment.initial_state())]
    return [*(report.loss for report in reports), reports[-1].update_norm]


def test_studies_and_settings_are_told_what_is_wrong() -> None:
    for wrong in ({}, {"space": {}}, {"space": {"model.hiden_dim": [1, 2]}}, {"study": "no-such"}):
        with pytest.raises(fedmm.ConfigError):
            fedmm.sweep(**wrong)
    with pytest.raises(fedmm.ConfigError, match="files first"):
        fedmm.load_config({"model.hidden_dim": 8})  # type: ignore[arg-type]
    with pytest.raises(fedmm.ConfigError, match=r"load_dataset\(path='ratings.csv'\)"):
        fedmm.load_dataset("ratings.csv")
    with pytest.raises(fedmm.ConfigError, match="nothing to compare"):
        fedmm.compare("runs/x")
    with pytest.raises(fedmm.ConfigError, match="no group of checks 'dta'"):
        fedmm.verify(only=["dta"])
