"""``fedmm export``: a trained model as a file or folder that others can use.

| format | what is written | read by |
|---|---|---|
| onnx | one graph | onnxruntime and others |
| torch | one program of torch.export | ``torch.export.load`` |
| safetensors | all tensors, settings and names | ``fedmm.portable.ranker.Ranker.load``, safetensors |
| mlflow | a folder of the flavor python_function | ``mlflow.pyfunc.load_model``, ``mlflow models serve`` |
| bundle | model.onnx, items.json, recommend.py | Python with onnxruntime and numpy, any onnxruntime |
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmm.errors import ConfigError
from fedmm.portable import graphs
from fedmm.portable.files import Portable, write_portable
from fedmm.portable.weights import PRECISIONS
from fedmm.runs.portable_mlflow import write_mlflow
from fedmm.runs.portable_model import has_personal, portable_of
from fedmm.utils.files import storage_error, write_atomically

if TYPE_CHECKING:
    from fedmm.runs.trained import TrainedModel

FORMATS = ("onnx", "torch", "mlflow", "safetensors", "bundle")
FOLDERS = ("mlflow", "bundle")
FILE_OF = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}
WITH_TOP = ("onnx", "torch")
SCRIPT = Path(graphs.__file__).parent / "on_device.py"
LEFT_OUT = (
    "Users' personal parameters are not in it: lists are those of recommend --history. A user's own model: --user ID."
)
COUNTS_AN_ITEM = 20  # in a bundle, which is to be small
CUT = (
    f"Of the counts of what followed recent items the {COUNTS_AN_ITEM} largest an item are in it, so lists differ from "
    "those of recommend; --format onnx keeps all."
)
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """What was written: sizes in bytes, and how to call it."""

    format: str
    path: str
    files: dict[str, int]  # path -> bytes
    weights: str
    inputs: str
    outputs: str
    opset: int | None  # of ONNX
    note: str | None = None  # what is not in it

    def to_json(self) -> dict[str, Any]:
        """The object that ``fedmm export --json`` prints."""
        return {
            "format": self.format,
            "path": self.path,
            "files": self.files,
            "bytes": sum(self.files.values()),
            "weights": self.weights,
            "opset": self.opset,
            "note": self.note,
            "signature": {"inputs": self.inputs, "outputs": self.outputs},
        }


def export_model(
    model: TrainedModel,
    format: str,
    path: Path,
    *,
    weights: str | None = None,
    top: int | None = None,
    user: str | None = None,
    tell: Tell | None = None,
) -> Exported:
    """Writes ``model`` in one of ``FORMATS`` to ``path``, a folder for mlflow and the bundle, else a file.

    ``weights`` are float32, bfloat16 or int8 (by default float32, in the bundle bfloat16); arithmetic is float32.
    A bundle keeps the ``COUNTS_AN_ITEM`` largest counts an item of those that are added to the scores.
    ``user`` exports that user's model, with its personal parameters; else they are left out and a note says so.
    ``top`` makes an onnx or torch graph return the best items that are not in the history, not all scores. Files of
    graphs get item ids and titles beside them, ``<name>.items.json``. Raises ConfigError for what cannot be, or needs
    packages that are not there, StorageError where ``path`` cannot be written.

    >>> import fedmm.testing, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = export_model(fedmm.testing.tiny_run().model, "safetensors", Path(folder) / "model.safetensors")
    >>> found.inputs
    'history [batch, time] int64: item indices, 0 is padding'
    """
    require_exportable(format, path, weights, top)
    chosen = weights or ("bfloat16" if format == "bundle" else "float32")
    most = COUNTS_AN_ITEM if format == "bundle" else None
    portable = portable_of(model.experiment, model.snapshot, chosen, user, most)
    if tell is not None:
        tell(f"writing {format}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = _write(portable, format, path, top)
    except OSError as error:
        raise storage_error(path, error) from error
    note = _note(model, format, user)
    files = {str(one): one.stat().st_size for one in written}
    return Exported(format, str(path), files, chosen, *_signature(portable, format, top), _opset(format), note)


def _note(model: TrainedModel, format: str, user: str | None) -> str | None:
    """What is not in it."""
    left = [LEFT_OUT] if user is None and has_personal(model.snapshot) else []
    counts, size = model.experiment.succession, model.experiment.split.num_items
    if format == "bundle" and counts is not None and counts.kernel.nnz > COUNTS_AN_ITEM * size:
        left.append(CUT)
    return " ".join(left) or None


def require_exportable(format: str, path: Path | None, weights: str | None, top: int | None) -> None:
    """Raises ConfigError for what can be said to be wrong without a model. ``path`` None: nothing is written here."""
    if format not in FORMATS:
        raise ConfigError(f"--format cannot be {format!r}.", f"Take one of {', '.join(FORMATS)}.")
    if weights is not None and weights not in PRECISIONS:
        raise ConfigError(f"--weights cannot be {weights!r}.", f"Take one of {', '.join(PRECISIONS)}.")
    if top is not None and format not in WITH_TOP:
        raise ConfigError(f"--top has no effect on --format {format}.", f"It is for {' and '.join(WITH_TOP)}.")
    if top is not None and top < 1:
        raise ConfigError(f"--top cannot be {top}.", "--top takes an integer of at least 1.")
    if path is None:
        return
    if format in ("onnx", "bundle"):
        graphs.require("onnx", "onnxscript")
    if format in FOLDERS:
        _require_empty(path)
    elif path.is_dir():
        raise ConfigError(f"--output {path} is a folder.", f"Name a file: --output {path / FILE_OF[format]}.")


def _write(portable: Portable, format: str, path: Path, top: int | None) -> list[Path]:
    """Writes it and returns the files."""
    if format == "safetensors":
        write_portable(portable, path)
        return [path]
    if format == "mlflow":
        with tempfile.TemporaryDirectory() as folder:
            write_mlflow(portable, Path(folder) / "model")
            shutil.copytree(Path(folder) / "model", path, dirs_exist_ok=True)
        return _files_in(path)
    program = graphs.traced(portable.model, top)
    if format == "torch":
        graphs.write_torch(program, path)
        return [path, _write_items(portable, path.with_suffix(".items.json"))]
    about = {f"fedmm.{key}": str(value) for key, value in portable.about.items()}
    if format == "onnx":
        graphs.write_onnx(program, path, graphs.outputs_of(top), about)
        return [path, _write_items(portable, path.with_suffix(".items.json"))]
    path.mkdir(parents=True, exist_ok=True)
    graphs.write_onnx(program, path / "model.onnx", graphs.outputs_of(None), about)
    _write_items(portable, path / "items.json")
    shutil.copyfile(SCRIPT, path / "recommend.py")
    return _files_in(path)


def _write_items(portable: Portable, path: Path) -> Path:
    """Item ids and titles by index, and where the model comes from."""
    content = {"item_ids": portable.item_ids, "titles": portable.titles, "about": dict(portable.about)}
    write_atomically(path, json.dumps(content, ensure_ascii=False).encode())
    return path


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _require_empty(path: Path) -> None:
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ConfigError(f"--output {path} exists already.", "Name a folder that is not there yet.")


def _signature(portable: Portable, format: str, top: int | None) -> tuple[str, str]:
    """The input and the output, in words."""
    if format == "mlflow":
        return "history: list of item ids", "item_ids, scores, titles: lists, best first"
    size = portable.model.facts.num_items + 1
    given = "history [batch, time] int64: item indices, 0 is padding"
    if top is None:
        return given, f"scores [batch, {size}] float32: by item index"
    return given, f"items [batch, {top}] int64, scores [batch, {top}] float32: best first, without the history"


def _opset(format: str) -> int | None:
    return graphs.OPSET if format in ("onnx", "bundle") else None
