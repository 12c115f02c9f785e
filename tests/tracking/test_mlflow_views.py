"""MLflow's charts and lists: a value stands once at a step, and an experiment comes with columns."""

import json
import math
from pathlib import Path

import pytest

from fedmm.config import ExperimentConfig
from fedmm.tracking.mlflow_run import open_tracker
from fedmm.tracking.mlflow_views import VIEW_TAG, runs_page


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"}})


def history(config: ExperimentConfig, run_id: str | None, key: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    assert run_id is not None
    found = MlflowClient(tracking_uri=config.tracking.uri).get_metric_history(run_id, key)
    return [(metric.step, metric.value) for metric in found]


def test_a_value_stands_once_at_a_step_however_often_it_is_told(config: ExperimentConfig, tmp_path: Path) -> None:
    """A study's ``best/value`` comes with each trial that ends, and again in the sum; so it does after a resume."""
    final = {"best/value": 0.5, "test/full/hr_at_10": 0.25, "odd": math.nan}
    run_id = None
    for _ in range(3):
        with open_tracker(config, tmp_path, tags={}, run_id=run_id, warn=pytest.fail) as tracker:
            for step, value in ((1, 0.5), (2, 0.5), (4, 0.5)):
                tracker.log_round({"best/value": value}, step)
            tracker.log_summary(final)
            run_id = tracker.run_id
    assert history(config, run_id, "best/value") == [(1, 0.5), (2, 0.5), (4, 0.5)]
    assert history(config, run_id, "test/full/hr_at_10") == [(4, 0.25)]
    assert len(history(config, run_id, "odd")) == 1
    with open_tracker(config, tmp_path, tags={}, run_id=run_id, warn=pytest.fail) as tracker:
        tracker.log_summary(final | {"test/full/hr_at_10": 0.75})
    assert history(config, run_id, "test/full/hr_at_10") == [(4, 0.25), (4, 0.75)]


def test_an_experiment_has_the_columns_of_its_run_list(config: ExperimentConfig, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    with open_tracker(config, tmp_path, tags={}, warn=pytest.fail) as tracker:
        run_id = tracker.run_id
    client = MlflowClient(tracking_uri=config.tracking.uri)
    number = client.get_run(run_id or "").info.experiment_id
    columns = json.loads(client.get_experiment(number).tags[VIEW_TAG])["selectedColumns"]
    assert "metrics.`test/full/ndcg_at_10`" in columns
    assert {name.partition("`")[2].rstrip("`") for name in columns if "params" in name} <= config.flat().keys()
    client.set_experiment_tag(number, VIEW_TAG, "mine")
    with open_tracker(config, tmp_path, tags={}, warn=pytest.fail):
        assert client.get_experiment(number).tags[VIEW_TAG] == "mine"  # what somebody changed stays
    assert runs_page(number, client.get_experiment(number).tags).endswith("&viewStateShareKey=fedmm")
