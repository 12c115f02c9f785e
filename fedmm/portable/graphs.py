"""Graphs of a portable model: a program of torch.export, and ONNX made from it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fedmm.errors import ConfigError
from fedmm.portable.model import PortableModel
from fedmm.utils.files import write_atomically

if TYPE_CHECKING:
    from torch.export import ExportedProgram

OPSET = 20
EXTRA = 'pip install "fedmm[export]"'
HISTORY = "history"


class TopItems(nn.Module):
    """The best k items of each history that are not in it: indices [B, k] and scores [B, k], best first."""

    def __init__(self, model: PortableModel, k: int) -> None:
        super().__init__()
        self.model, self.k = model, k

    def forward(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """Of histories [B, T] int64. Places beyond the last item that may be recommended score minus infinity."""
        scores = self.model(history).scatter(1, history, -torch.inf)
        found = scores.topk(self.k, dim=1)
        return found.indices, found.values


def outputs_of(top: int | None) -> tuple[str, ...]:
    """Names of the graph's outputs."""
    return ("scores",) if top is None else ("items", "scores")


def traced(model: PortableModel, top: int | None = None) -> ExportedProgram:
    """The program of torch.export: ``history`` [batch, time] int64 to ``scores`` [batch, V], or with ``top`` to the
    best items that are not in the history and their scores. Batch and time are dynamic. Raises ConfigError where
    ``top`` is more than there are items."""
    if top is not None and not 1 <= top <= model.facts.num_items:
        items = f"{model.facts.num_items} items"
        raise ConfigError(f"--top cannot be {top}: the model has {items}.", "Ask for 1 item, up to all of them.")
    module: nn.Module = model if top is None else TopItems(model, top)
    example = torch.ones(2, 3, dtype=torch.int64)
    with torch.no_grad(), _quiet():
        return torch.export.export(module.eval(), (example,), dynamic_shapes=_shapes())


def write_torch(program: ExportedProgram, path: Path) -> None:
    """Writes a program that ``torch.export.load`` reads, atomically."""
    from io import BytesIO

    content = BytesIO()
    with _quiet():
        torch.export.save(program, content)
    write_atomically(path, content.getvalue())


def write_onnx(program: ExportedProgram, path: Path, names: tuple[str, ...], about: dict[str, str]) -> None:
    """Writes ONNX of opset ``OPSET``, atomically; ``names`` are those of the outputs, ``about`` its metadata.

    Raises ConfigError where the packages of the extra ``export`` are not installed.
    """
    require("onnx", "onnxscript")
    with torch.no_grad(), _quiet():
        found: Any = torch.onnx.export(
            program,
            dynamic_shapes=_shapes(),
            input_names=[HISTORY],
            output_names=list(names),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            custom_translation_table={torch.ops.aten.sort.stable: _stable_sort()},
        )
    proto = _bare(found.model_proto)
    for key, value in about.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    write_atomically(path, proto.SerializeToString())


def _shapes() -> dict[str, dict[int, Any]]:
    return {HISTORY: {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}}


def _stable_sort() -> Any:
    """ONNX's TopK of all there is: of two equals the first comes first, which is what makes a sort stable."""
    from onnxscript import opset18 as op

    def sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> tuple[Any, Any]:
        del stable
        last = op.Constant(value_ints=[dim])
        size: Any = op.Gather(op.Shape(self), last)  # type: ignore[type-var]
        values, indices = op.TopK(self, size, axis=dim, largest=descending, sorted=True)
        return values, indices

    return sort


def _bare(proto: Any) -> Any:
    """Without the exporter's notes on every node: they name files of this machine and weigh as much as a small
    model."""
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.initializer, *proto.functions):
        del part.metadata_props[:]
    for node in (node for function in proto.functions for node in function.node):
        del node.metadata_props[:]
    del proto.graph.value_info[:]
    return proto


def require(*packages: str) -> None:
    """Raises ConfigError where one of ``packages`` is not installed."""
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigError(f"This needs {' and '.join(missing)}.", f"Install the extra: {EXTRA}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what the exporter prints, logs and warns of: packages that nothing here needs, and its own
    future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
