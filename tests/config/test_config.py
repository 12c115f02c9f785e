"""Every setting changes a number or an artifact: for each, two runs that differ in nothing else."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fedmm.config import UNDIGESTED, ExperimentConfig
from fedmm.config.describe import known_settings
from fedmm.config.load import dump_toml, load_config
from fedmm.engines.build import engine_of
from fedmm.engines.precision import with_precision
from fedmm.errors import CheckpointError, ConfigError
from fedmm.experiment import Experiment, choose_device
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.runs.folder import CONFIG_FILE
from fedmm.runs.train import run_training
from fedmm.tracking import mlflow_run
from fedmm.tracking.tracker import LocalTracker, RoundRecord
from worlds.config_world import NUM_USERS, Given, differ, known_numbers, numbers, settings_of
from worlds.data_settings import (
    FEATURES_MADE,
    Observation,
    gate_starts_where_it_is_told,
    name_chooses_the_dataset,
    reads_a_text,
    rows_stand_in_the_order_told,
    titles_are_read,
)
from worlds.federation_settings import MESSAGES, PRIVACY, Case
from worlds.loss_accountant import accountant_sets_the_noise
from worlds.precision_world import kernels_decide_who_computes, precision_rounds_scores

pytestmark = pytest.mark.usefixtures("top_heavy")
TEMPORAL = {"data.split": "temporal", "data.temporal_fraction": 0.2}
MOMENTS = {"data.split": "temporal", "data.validation_from": "1030", "data.test_from": "1045"}
MADE = {"data.split": "files", "data.path": "own.train.csv"}
MEMORY = {"model.experts": "memory", "model.memory.size": 3}
POOLED = {"model.experts": "pooled"}
NEIGHBORS = {"model.experts": "neighbors", "model.neighbors.count": 5}
COMPETITIVE = {"model.fusion": "competitive"}
LONGER = {"federation.rounds": 5}


NUMBERS = {  # settings whose change must show in the numbers of a run
    "data.path": Case("other.csv"),
    "data.visual_features": Case("none"),
    "data.text_features": Case("none"),
    "data.user_column": Case("other_user"),
    "data.item_column": Case("other_item"),
    "data.rating_column": Case("other_rating", {"data.min_rating": 2.0}),
    "data.timestamp_column": Case("other_time"),
    "data.repeats": Case("last", {"data.columns": "-,-,rating,timestamp,user,item,-,-"}),
    "data.columns": Case("-,-,rating,-,user,item,-,timestamp"),
    "data.where": Case("rating > 2"),
    "data.sql": Case("select * from data where rating > 2"),
    "data.header": Case(False, {"data.columns": "user,item,-,-,-,-,-,-", "data.min_user_interactions": 1}),
    "data.min_rating": Case(2.0),
    "data.exclude_users": Case(("1",)),
    "data.min_user_interactions": Case(8),
    "data.min_item_interactions": Case(3),
    "data.feature_corruption": Case("shuffle"),
    "data.tie_order": Case("file"),
    "data.tie_seed": Case(1),
    "data.split": Case("temporal"),
    "data.temporal_fraction": Case(0.3, TEMPORAL),
    **{"data.validation": Case("own.fewer.valid.csv", MADE), "data.test": Case("own.fewer.test.csv", MADE)},
    **{"data.validation_from": Case("1025", MOMENTS), "data.test_from": Case("1050", MOMENTS)},
    "data.cold_item_fraction": Case(0.2),
    "data.cold_item_seed": Case(1, {"data.cold_item_fraction": 0.2}),
    "model.hidden_dim": Case(4),
    **{"model.num_blocks": Case(2), "model.block": Case("ligr"), "model.positions": Case("rotary")},
    "model.num_heads": Case(1),
    "model.max_length": Case(4),
    "model.dropout": Case(0.5),
    "model.fusion": Case("competitive"),
    "model.experts": Case("memory"),
    "model.transition": Case(True),
    **{"model.succession": Case(4.0), "model.succession_softening": Case(1.0, {"model.succession": 4.0})},
    "model.regression": Case(4.0, {"model.succession": 4.0}),
    **{"data.attributes": Case("attributes.json"), "model.kinship": Case(0.5, {"data.attributes": "attributes.json"})},
    "model.scoring": Case("cosine", MEMORY),
    "model.gating_init": Case(0.5, {"model.gate_start": "given"}),
    "model.learn_gating": Case(False),
    "model.personal_gate": Case(True),
    "model.user_vector": Case(True),
    "model.router_bias_init": Case(1.0, COMPETITIVE),
    "model.load_balance_weight": Case(5.0),
    "model.pooling_decay": Case(0.3, POOLED),
    "model.alignment_weight": Case(1.0, POOLED),
    "model.alignment_temperature": Case(1.0, {**POOLED, "model.alignment_weight": 1.0}),
    "model.neighbors.count": Case(2, NEIGHBORS),
    "model.neighbors.sharpness": Case(1.0, NEIGHBORS),
    "model.neighbors.decay": Case(0.5, NEIGHBORS),
    "model.memory.size": Case(1, MEMORY),
    "model.memory.num_heads": Case(1, MEMORY),
    "model.memory.surprise_weight": Case(20.0, MEMORY),
    "model.memory.recency_weight": Case(0.0, MEMORY),
    "model.memory.num_prototypes": Case(4, MEMORY),
    "federation.mode": Case("centralized"),
    "federation.recipe": Case("sparse"),
    "federation.rounds": Case(3),
    "federation.client_fraction": Case(0.5),
    "federation.cohort_size": Case(5),
    "federation.cohort_sampler": Case("rotation"),
    "federation.local_steps": Case(2),
    "federation.local_epochs": Case(1),
    "federation.batch_size": Case(1),
    "federation.local_algorithm": Case("scaffold"),
    "federation.local_optimizer": Case("adam"),
    "federation.learning_rate": Case(0.1),
    "federation.trim_fraction": Case(0.4, {"federation.aggregation": "trimmed_mean"}),
    "federation.learning_rate_schedule": Case("cosine"),
    "federation.weight_decay": Case(0.1),
    "federation.clip_norm": Case(0.2),
    "federation.proximal_mu": Case(1.0),
    "federation.loss": Case("bpr"),
    "federation.gbce_calibration": Case(0.0, {"federation.loss": "gbce", "federation.num_negatives": 3}),
    "federation.num_negatives": Case(3),
    "federation.logq_correction": Case(True, {"federation.num_negatives": 3}),
    "federation.negatives_per": Case("round", {"federation.num_negatives": 3}),
    "federation.item_rows": Case("all", {"federation.num_negatives": 3}),
    "federation.exclude_seen": Case(False),
    "federation.warmup_rounds": Case(1),
    "federation.aggregation": Case("mean"),
    "federation.heat_cap": Case(1.2),
    "federation.client_weighting": Case("positions"),
    "federation.server_optimizer": Case("sgd"),
    "federation.server_learning_rate": Case(0.5),
    "federation.server_beta1": Case(0.5, {"federation.server_optimizer": "momentum"}),
    "federation.server_beta2": Case(0.5, {"federation.server_optimizer": "adam"}),
    "federation.server_epsilon": Case(0.1, {"federation.server_optimizer": "adagrad"}),
    "federation.ema_decay": Case(0.5),
    "federation.spectral_start": Case(False),
    "federation.spectral_sketch_size": Case(9),
    "federation.count_sums": Case("grouped", {"model.transition": True}),
    "federation.item_table": Case("frozen"),
    "federation.backbone": Case("frozen"),
    "federation.trained_size": Case(30),
    **MESSAGES,
    **PRIVACY,
    "evaluation.protocols": Case(("full",)),
    "evaluation.cutoffs": Case((10, 20)),
    "evaluation.extra_metrics": Case(("top_heavy",)),
    "evaluation.every": Case(2),
    "evaluation.selection_metric": Case("uniform100/hr_at_5"),
    "evaluation.patience": Case(1, {**LONGER, "federation.learning_rate": 1e-6}),
    "evaluation.bootstrap_samples": Case(11),
    "evaluation.negatives_seed": Case(1),
    "evaluation.pooled_yardsticks": Case(False),
    "runtime.seed": Case(1),
    "runtime.dtype": Case("float64"),
}


@pytest.mark.parametrize("key", NUMBERS)
def test_the_setting_changes_a_number(key: str, world: Path) -> None:
    case = NUMBERS[key]
    beside, with_it = case.beside, {**case.beside, key: case.value}
    config, changed = settings_of(world, beside), settings_of(world, with_it)
    others = changed.flat()
    assert {name for name, value in config.flat().items() if others[name] != value} == {key}
    assert differ(known_numbers(world, beside), known_numbers(world, with_it))
    assert config.digest != changed.digest


@pytest.mark.parametrize("beside", [{}, MEMORY, POOLED], ids=["base", "memory", "pooled"])
def test_nothing_changed_is_no_number_changed(beside: Given, world: Path) -> None:
    """Or the test above would prove nothing."""
    assert list(numbers(settings_of(world, beside))) == list(known_numbers(world, beside))


class Silent:
    """Watches a run and says nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


def trained(world: Path, output: Path, given: Given) -> dict[str, Any]:
    return run_training(settings_of(world, {"runtime.output": str(output), **given}), Silent())


def opened_store(world: Path, monkeypatch: pytest.MonkeyPatch, given: Given) -> dict[str, Any] | None:
    """What the MLflow run is made with; None where none is."""
    made: list[dict[str, Any]] = []

    class Run:
        run_id, last_step = "r", -1

        def __init__(self, uri: str, experiment: str, run_name: str, *_: Any) -> None:
            made.append({"uri": uri, "experiment": experiment, "run_name": run_name})

        def connect(self) -> None:
            """Always there."""

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(mlflow_run, "MlflowRun", Run)
    config = settings_of(world, {"tracking.enabled": True, **given})
    mlflow_run.open_tracker(config, world, tags={}, warn=lambda text: None)
    return made[0] if made else None


def num_blocks(world: Path, given: Given) -> int:
    """Blocks in which a cohort of everybody is trained."""
    experiment = Experiment.prepare(settings_of(world, {"federation.client_fraction": 1.0, **given}))
    federation, params = experiment.federation, experiment.initial_state().server.params
    return len(list(federation.engine(federation.local, params, federation.clients, 1)))


def enabled_decides_whether_there_is_a_store(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened_store(world, monkeypatch, {}) is not None
    assert opened_store(world, monkeypatch, {"tracking.enabled": False}) is None


def log_model_keeps_the_model(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Path] = []

    def open_tracker(config: ExperimentConfig, folder: Path, **rest: Any) -> LocalTracker:
        return LocalTracker(RoundRecord(folder, print))

    monkeypatch.setattr("fedmm.tracking.mlflow_run.open_tracker", open_tracker)
    monkeypatch.setattr("fedmm.runs.train.log_best", lambda experiment, best, folder, *rest: kept.append(folder))
    for name, value in (("kept", True), ("not", False)):
        trained(world, tmp_path / name, {"tracking.enabled": True, "tracking.log_model": value})
    assert kept == [tmp_path / "kept"]


def reaches_the_store(name: str, value: str, shown: str) -> Observation:
    def observe(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = opened_store(world, monkeypatch, {})
        after = opened_store(world, monkeypatch, {f"tracking.{name}": value})
        assert before is not None
        assert after == {**before, name: shown} != before

    return observe


def device_is_where_parameters_are(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Experiment.prepare(settings_of(world, {})).initial_state().server.params[ITEM_TABLE].device.type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="'mps' is not available"):
        Experiment.prepare(settings_of(world, {"runtime.device": "mps"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(choose_device(name)) for name in ("auto", "cpu", "cuda:1")] == ["cuda", "cpu", "cuda:1"]


def threads_reach_torch(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    for threads in (1, 3):
        trained(world, tmp_path / str(threads), {"runtime.threads": threads, "federation.rounds": 1})
    assert asked[0] == 1
    assert 3 in asked


def engine_decides_who_trains_together(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_blocks(world, {"runtime.engine": "sequential"}) == NUM_USERS
    assert num_blocks(world, {"runtime.engine": "vectorized"}) < NUM_USERS / 2


def reaches_the_cluster(name: str, value: object) -> Observation:
    def observe(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = settings_of(world, {"runtime.engine": "cluster", f"runtime.{name}": value})
        assert getattr(engine_of(settings), name.removeprefix("ray_")) == value

    return observe


def block_size_bounds_the_blocks(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_blocks(world, {"runtime.block_size": 1}) == NUM_USERS
    assert num_blocks(world, {"runtime.block_size": 2}) >= NUM_USERS / 2
    assert num_blocks(world, {"runtime.block_size": 32}) < NUM_USERS / 2


def checkpoint_every_spaces_the_checkpoints(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for every, kept in ((1, [3, 4]), (2, [2, 4]), (9, [0, 4])):
        output = tmp_path / str(every)
        trained(world, output, {"runtime.checkpoint_every": every, "federation.rounds": 4})
        assert sorted(path.name for path in (output / "checkpoints").glob("round-*")) == [
            f"round-0000{n}" for n in kept
        ]


def output_is_where_the_run_is(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("here", "there"):
        assert trained(world, Path(name), {})["output"] == name
        assert (tmp_path / name / "result.json").exists()
    found = run_training(settings_of(world, {}), Silent())["output"]
    assert Path(found).parent == Path("runs")


def start_from_needs_a_run(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError):  # tests/runs/test_warm_start.py says the rest
        run_training(settings_of(world, {"runtime.start_from": str(tmp_path)}), Silent())


OBSERVED: dict[str, Observation] = {  # settings that change no number of a run, and what they do change
    "data.name": name_chooses_the_dataset,
    "data.feature_order": rows_stand_in_the_order_told,
    "data.titles": titles_are_read,
    **FEATURES_MADE,
    "model.gate_start": gate_starts_where_it_is_told,
    "data.encoding": reads_a_text("encoding", "latin-1", "user,item\nü,1\nü,2\nü,3\n"),
    "data.decimal": reads_a_text("decimal", ",", "user;item;timestamp\nu;1;0,5\nu;2;1,5\nu;3;2,5\n"),
    "tracking.enabled": enabled_decides_whether_there_is_a_store,
    "tracking.uri": reaches_the_store("uri", "sqlite:////elsewhere/runs.db", "sqlite:////elsewhere/runs.db"),
    "tracking.experiment": reaches_the_store("experiment", "gates", "gates"),
    "tracking.run_name": reaches_the_store("run_name", "first", "first"),
    "tracking.log_model": log_model_keeps_the_model,
    "runtime.device": device_is_where_parameters_are,
    "runtime.threads": threads_reach_torch,
    "runtime.engine": engine_decides_who_trains_together,
    "runtime.precision": precision_rounds_scores,
    "runtime.kernels": kernels_decide_who_computes,
    "privacy.accountant": accountant_sets_the_noise,
    "runtime.workers": reaches_the_cluster("workers", 3),
    "runtime.ray_address": reaches_the_cluster("ray_address", "10.0.0.1:6379"),
    "runtime.block_size": block_size_bounds_the_blocks,
    "runtime.checkpoint_every": checkpoint_every_spaces_the_checkpoints,
    "runtime.output": output_is_where_the_run_is,
    "runtime.start_from": start_from_needs_a_run,
}


@pytest.mark.parametrize("key", OBSERVED)
def test_the_setting_changes_what_can_be_seen(
    key: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    OBSERVED[key](world, tmp_path, monkeypatch)
    monkeypatch.undo()
    torch.set_num_threads(threads)


def test_every_setting_is_proved_to_have_an_effect() -> None:
    assert NUMBERS.keys() | OBSERVED.keys() == ExperimentConfig().flat().keys()
    assert not NUMBERS.keys() & OBSERVED.keys()


def test_where_and_how_often_a_run_is_kept_is_not_in_its_digest(world: Path) -> None:
    cluster = {"runtime.engine": "cluster"}  # beside which all of them may be set
    base = settings_of(world, cluster)
    others = {
        "tracking.enabled": True, "tracking.uri": "sqlite:///x.db", "tracking.experiment": "x",
        "tracking.run_name": "x", "tracking.log_model": False,
        "data.titles": "x.csv", "runtime.output": "x", "runtime.checkpoint_every": 3, "runtime.threads": 2,
        "runtime.workers": 2, "runtime.ray_address": "auto",
    }  # fmt: skip
    assert {key for key in others if not key.startswith("tracking.")} == UNDIGESTED
    assert {key for key in base.flat() if key.startswith("tracking.")} < others.keys()
    assert all(settings_of(world, {**cluster, key: value}).digest == base.digest for key, value in others.items())


def test_the_settings_a_run_writes_are_its_own(world: Path, tmp_path: Path) -> None:
    """``config.toml`` reads back as the settings of the run, whatever they are."""
    odd = {
        "data.min_rating": 2.0, "federation.clip_norm": "none", "federation.cohort_size": 3,
        "evaluation.cutoffs": (5, 7), "evaluation.selection_metric": "uniform100/mrr_at_7",
        "runtime.output": str(tmp_path / 'a "b" \\ ü'),
        "data.text_features": "none", **MEMORY,
    }  # fmt: skip
    config = settings_of(world, odd)
    run_training(config, Silent())
    assert config.runtime.output is not None
    path = config.runtime.output / CONFIG_FILE
    chosen = {  # by the data's shape (federation.data_rules)
        "model.succession": 0.0, "federation.count_sums": "dense", "federation.recipe": "standard",
        "evaluation.every": config.evaluation.interval, "model.gate_start": "given",
    }  # fmt: skip
    kernels = {"runtime.kernels": with_precision(config, torch.device("cpu"))[0].runtime.kernels}  # by the machine
    assert load_config([path]) == config.with_values({**chosen, **kernels})
    assert load_config([path]).digest == config.with_values(kernels).digest
    assert config.with_values(chosen).digest == config.digest
    assert dump_toml(load_config([path])) == path.read_text(encoding="utf-8")
    assert tomllib.loads(path.read_text(encoding="utf-8"))["federation"]["clip_norm"] == "none"


def test_nothing_in_the_tree_can_be_changed_or_added() -> None:
    config = ExperimentConfig()
    for key in config.flat():
        *sections, leaf = key.split(".")
        section = functools.reduce(getattr, sections, config)
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, leaf, None)
        with pytest.raises(ValidationError, match="Extra inputs"):
            type(section).model_validate({f"{leaf}_": None})
    with pytest.raises(ValidationError, match="frozen"):
        config.model = config.model
    assert known_settings().keys() == config.flat().keys()
