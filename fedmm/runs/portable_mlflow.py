"""A portable model as MLflow keeps it."""

from __future__ import annotations

import shutil
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import torch

from fedmm import __version__
from fedmm.errors import ConfigError
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.portable.files import Portable, write_portable
from fedmm.runs.observer import Observer
from fedmm.runs.portable_model import portable_of
from fedmm.tracking.mlflow_model import Columns, write_model
from fedmm.tracking.tracker import Tracker

NAME = "recommender"  # of models in MLflow
FOLDER = "mlflow_model"  # of a run folder, until MLflow has taken it
COLUMNS = Columns(
    inputs={"history": "string"},
    outputs={"item_ids": "string", "scores": "double", "titles": "string"},
    params={"k": ("long", 10), "keep_seen": ("boolean", False)},
)


def write_mlflow(portable: Portable, folder: Path) -> None:
    """Writes a model folder of the flavor python_function, whose input is a history of item ids."""
    example = {"history": list(portable.item_ids[1:4])}
    requirements = [f"fedmm=={__version__}", f"torch=={torch.__version__.partition('+')[0]}"]
    with tempfile.TemporaryDirectory() as temporary, as_file(files("fedmm.portable") / "pyfunc_script.py") as script:
        weights = Path(temporary) / "model.safetensors"
        write_portable(portable, weights)
        write_model(folder, script, weights, COLUMNS, example, requirements)


def log_best(experiment: Experiment, snapshot: Snapshot, folder: Path, tracker: Tracker, observer: Observer) -> None:
    """Hands the model of a run to MLflow, by way of ``folder`` / ``FOLDER``. A model that cannot be exported is said
    and left out."""
    place = folder / FOLDER
    try:
        portable = portable_of(experiment, snapshot)
    except ConfigError as error:
        observer.note(f"the model is not kept in MLflow: {error.message}")
        return
    shutil.rmtree(place, ignore_errors=True)
    write_mlflow(portable, place)
    tracker.log_model(place, NAME, snapshot.round)
    if not tracker.num_unsent:
        shutil.rmtree(place, ignore_errors=True)
