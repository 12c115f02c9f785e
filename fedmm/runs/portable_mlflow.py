"""A portable model as MLflow keeps it."""

from __future__ import annotations

import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import torch

from fedmm import __version__
from fedmm.portable.files import Portable, write_portable
from fedmm.tracking.mlflow_model import Columns, write_model

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
