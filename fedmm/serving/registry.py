"""A run's model in MLflow's registry."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fedmm.errors import ConfigError, DataError
from fedmm.portable.files import Portable
from fedmm.runs.folder import RESULT_FILE
from fedmm.runs.portable_mlflow import NAME, write_mlflow
from fedmm.runs.portable_model import portable_of
from fedmm.runs.result import read_result
from fedmm.tracking.mlflow_client import open_client
from fedmm.tracking.mlflow_model import log_model, model_of_run, register_model
from fedmm.tracking.mlflow_store import redacted, resolve_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from fedmm.runs.model import TrainedModel


def register(
    model: TrainedModel, run: Path, name: str, alias: str | None, *, uri: str | None = None, weights: str | None = None
) -> str:
    """Registers the model of the run folder ``run`` as the next version of ``name``, which ``alias`` then names.

    The model that training logged is taken where there is one, else it is logged to the run now, as it is with
    ``weights``. ``uri`` is the store, by default that of the run. Returns "NAME version N". Raises ConfigError where
    the run was not tracked, or the store does not have it.
    """
    address = resolve_uri(uri if uri is not None else model.config.tracking.uri, os.environ)
    run_id = _run_id(run)
    client = open_client(address)
    found = model_of_run(client, redacted(address), run_id, model.round)
    if found is None or weights is not None:
        portable = portable_of(model.experiment, model.snapshot, weights or "float32")
        found = _log(client, run_id, portable, model.round)
    version = register_model(address, name, found, run_id, alias)
    return f"{name} version {version}"


def _log(client: MlflowClient, run_id: str, portable: Portable, step: int) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_mlflow(portable, folder)
        return log_model(client, run_id, folder, NAME, step)


def _run_id(run: Path) -> str:
    remedy = "Train with tracking, or give the folder of a run that has it."
    try:
        run_id = read_result(run / RESULT_FILE).run_id
    except DataError:
        run_id = None
    if run_id is None:
        raise ConfigError(f"{run} is no run that MLflow knows.", remedy)
    return run_id
