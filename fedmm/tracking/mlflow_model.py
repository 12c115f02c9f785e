"""Models in MLflow: a folder in MLflow's format, its record with a run, and names in the registry.

The folder is "models from code" of the flavor ``python_function``: a script, the file it reads, and facts about both.
It is written here, not by ``mlflow.pyfunc.save_model``, which goes through all installed packages for seconds.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmm.errors import ConfigError, StorageError
from fedmm.tracking.mlflow_client import load_mlflow, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient

SCRIPT, ARTIFACT = "model.py", "artifacts/model.safetensors"
LOADER = "mlflow.pyfunc.loaders.code_model"


@dataclass(frozen=True)
class Columns:
    """The signature: what is in a row of the input and of the output, and parameters with their defaults.

    Types are those of MLflow: string, double, long, boolean; every column of a table is a list of its type.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    params: Mapping[str, tuple[str, Any]]


def write_model(
    folder: Path,
    script: Path,
    weights: Path,
    columns: Columns,
    example: Mapping[str, Sequence[str]],
    requirements: Sequence[str],
    *,
    model_id: str | None = None,
    run_id: str | None = None,
) -> None:
    """Writes a model folder that ``mlflow.pyfunc.load_model`` and ``mlflow models serve`` read.

    ``example`` is one row of the input. ``folder`` must not exist, or be empty.
    """
    load_mlflow()
    import mlflow
    from mlflow.models import Model

    (folder / ARTIFACT).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(script, folder / SCRIPT)
    shutil.copyfile(weights, folder / ARTIFACT)
    table = {"columns": list(example), "data": [[list(value) for value in example.values()]]}
    (folder / "input_example.json").write_text(json.dumps(table), encoding="utf-8")
    (folder / "serving_input_example.json").write_text(json.dumps({"dataframe_split": table}), encoding="utf-8")
    pinned = [f"mlflow=={mlflow.__version__}", *requirements]
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in pinned), encoding="utf-8")
    python = f"python: {platform.python_version()}\nbuild_dependencies:\n- pip\ndependencies:\n- -r requirements.txt\n"
    (folder / "python_env.yaml").write_text(python, encoding="utf-8")
    saved = {
        "artifact_path": "input_example.json",
        "pandas_orient": "split",
        "serving_input_path": "serving_input_example.json",
        "type": "dataframe",
    }
    model = Model(
        signature=_signature(columns), saved_input_example_info=saved, model_id=model_id, run_id=run_id
    )  # fmt: skip
    model.add_flavor(
        "python_function",
        loader_module=LOADER,
        python_version=platform.python_version(),
        env={"virtualenv": "python_env.yaml"},
        artifacts={"weights": {"path": ARTIFACT, "uri": ARTIFACT}},
        model_code_path=SCRIPT,
        code=None,
        streamable=False,
    )
    model.save(str(folder / "MLmodel"))


def log_model(client: MlflowClient, run_id: str, folder: Path, name: str, step: int) -> str:
    """Logs a model folder as an output of a run, and returns the model's id. ``folder`` gets the ids.

    Raises FileNotFoundError where there is no such folder.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    if not (folder / "MLmodel").is_file():
        raise FileNotFoundError(folder)
    run = client.get_run(run_id)
    logged = client.create_logged_model(run.info.experiment_id, name, run_id, {}, {}, "recommender")
    model = Model.load(str(folder))
    model.model_id = model.model_uuid = logged.model_id
    model.run_id = run_id
    model.artifact_path = logged.artifact_location
    model.save(str(folder / "MLmodel"))
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])
    return str(logged.model_id)


def logged_model(client: MlflowClient, run_id: str, step: int) -> str | None:
    """The id of the model that a run has as of ``step``; None where it has none."""
    outputs = client.get_run(run_id).outputs
    found = [one.model_id for one in outputs.model_outputs if one.step == step] if outputs is not None else []
    return str(found[0]) if found else None


def model_of_run(client: MlflowClient, address: str, run_id: str, step: int) -> str | None:
    """As ``logged_model``. Raises ConfigError where the store, shown as ``address``, does not have the run."""
    from mlflow.exceptions import MlflowException

    try:
        return logged_model(client, run_id, step)
    except MlflowException:
        raise ConfigError(f"The store {address} has no run {run_id}.", "Name its store: --tracking-uri URI.") from None


def register_model(uri: str, name: str, model_id: str, run_id: str, alias: str | None) -> str:
    """Makes a logged model of the store at ``uri`` the next version of ``name`` in its registry; ``alias`` then names
    that version. Returns the version.

    Raises StorageError where MLflow refuses.
    """
    client = open_client(uri)
    from mlflow.exceptions import MlflowException

    try:
        with _environment("MLFLOW_TRACKING_URI", uri):  # where the registry looks for models by id
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            version = client.create_model_version(name, f"models:/{model_id}", run_id, model_id=model_id)
        if alias is not None:
            client.set_registered_model_alias(name, alias, version.version)
    except MlflowException as error:
        raise StorageError(f"MLflow does not register {name!r}: {error.message}", "Choose another name.") from None
    return str(version.version)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _signature(columns: Columns) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    def table(types: Mapping[str, str]) -> Schema:
        return Schema([ColSpec(Array(kind), name) for name, kind in types.items()])

    params = [ParamSpec(name, kind, default) for name, (kind, default) in columns.params.items()]
    return ModelSignature(table(columns.inputs), table(columns.outputs), ParamSchema(params))
