"""Whether every exported form of a real model gives the lists of the evaluator: python tests/benchmarks/exports.py
[--kinds hybrid,pooled,...] [--rounds 5] [--histories 1000] [--clients 0.2] [--run RUN] [--json FILE].

Trains each kind on the bundled data (or takes ``--run``), exports it in every format and asks all of them, the server
and ``recommend`` for the first ten items after the same histories: those of the test questions, then of validation.
``equal`` counts lists with the same items in the same places, ``level`` those that are equal but for items whose scores
are within 1e-5; ``overlap`` is the mean share of common items, and ``bytes`` what was written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serving import exchange, fedmm

from fedmm.evaluation.ranking import rank_queries
from fedmm.runs.export import export_model
from fedmm.runs.trained import TrainedModel

KINDS: dict[str, list[str]] = {
    "hybrid": [],
    "pooled": ["--set", "model.experts=pooled"],
    "neighbors": ["--set", "model.experts=neighbors"],
    "transition": ["--set", "model.transition=true"],
    "succession": ["--set", "model.succession=2"],
    "memory": ["--set", "model.experts=memory"],
    "competitive": ["--set", "model.fusion=competitive"],
}
TOP, CLOSE = 10, 1e-5
Row = list[int]
Lists = list[tuple[list[str], list[float]]]  # of each history: item ids, best first, and scores


def main() -> None:
    """Measures every kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=float, default=0.2)
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--json", type=Path)
    own = parser.parse_args()
    found = {}
    for kind in ["run"] if own.run is not None else own.kinds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            run = own.run or train(Path(folder) / "run", KINDS[kind], own)
            found[kind] = measured(run, Path(folder), own.histories)
        print(json.dumps({kind: found[kind]}, indent=1), flush=True)
    if own.json is not None:
        own.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def train(folder: Path, settings: Sequence[str], own: argparse.Namespace) -> Path:
    """A run of the bundled data."""
    words = ["--rounds", str(own.rounds), "--client-fraction", str(own.clients), "--no-tracking", "--eval", "full"]
    command = [sys.executable, "-m", "fedmm_cli", "train", *words, *settings, "--quiet", "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def measured(run: Path, folder: Path, number: int) -> dict[str, Any]:
    """Every form against ``recommend``, and ``recommend`` against the evaluator."""
    model = TrainedModel.load(run)
    queries = [model.experiment.queries(split) for split in ("test", "validation")]
    rows = [row.tolist() for own in queries for row in own.histories][:number]
    ids = [str(one) for one in model.experiment.dataset.interactions.item_ids]
    asked = [[ids[item] for item in row] for row in rows]
    wanted: Lists = [([one.item_id for one in best], [one.score for one in best])
                     for best in model.recommend(histories=asked, k=TOP)]  # fmt: skip
    scorer = model.experiment.scorer(model.snapshot)
    tops = rank_queries(scorer, queries[0], {}, ["full"], keep_top=TOP).top_items[:number]
    found: dict[str, Any] = {"round": model.round, "histories": len(rows)}
    same = sum([ids[item] for item in top] == own for top, (own, _) in zip(tops.tolist(), wanted, strict=False))
    found["evaluator"] = {"lists": len(tops), "equal": same}
    for weights in ("float32", "bfloat16", "int8"):
        path = folder / f"{weights}.onnx"
        size = sum(export_model(model, "onnx", path, weights=weights).files.values())
        found[f"onnx {weights}"] = {**against(wanted, of_scores(onnx(path), rows, ids)), "bytes": size}
    export_model(model, "torch", folder / "model.pt2")
    program = torch.export.load(folder / "model.pt2").module()
    with torch.no_grad():
        found["torch"] = against(wanted, of_scores(lambda one: program(torch.from_numpy(one)).numpy(), rows, ids))
    export_model(model, "mlflow", folder / "mlflow")
    found["mlflow"] = against(wanted, pyfunc(folder / "mlflow", asked))
    found["served"] = against(wanted, served(run, asked))
    size = sum(export_model(model, "bundle", folder / "bundle").files.values())
    found["bundle"] = {**against(wanted, of_scores(onnx(folder / "bundle" / "model.onnx"), rows, ids)), "bytes": size}
    return found


def onnx(path: Path) -> Callable[[Any], Any]:
    """The scores of a graph."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda one: session.run(["scores"], {"history": one})[0]


def of_scores(scores: Callable[[Any], Any], rows: list[Row], ids: list[str]) -> Lists:
    """The lists of a graph's scores, without the history."""
    found: Lists = []
    for row in rows:
        own = np.array(scores(np.array([row])))[0]
        own[row] = -np.inf
        best = np.argsort(-own, kind="stable")[:TOP]
        found.append(([ids[item] for item in best], own[best].tolist()))
    return found


def pyfunc(folder: Path, asked: list[list[str]]) -> Lists:
    """The lists of the MLflow model."""
    import mlflow.pyfunc
    import pandas as pd

    found = mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame({"history": asked}))
    return list(zip(found["item_ids"], found["scores"], strict=True))


def served(run: Path, asked: list[list[str]]) -> Lists:
    """The lists of a server of its own."""

    async def ask(port: int) -> Lists:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found: Lists = []
        for history in asked:
            _, content = await exchange(reader, writer, json.dumps({"history": history, "k": TOP}).encode())
            items = json.loads(content)["items"]
            found.append(([one["item_id"] for one in items], [one["score"] for one in items]))
        writer.close()
        return found

    with fedmm(run) as (_, port, _):
        return asyncio.run(ask(port))


def against(wanted: Lists, found: Lists) -> dict[str, Any]:
    """How many lists are equal, how many but for level items, and what they have in common."""
    pairs = list(zip(wanted, found, strict=True))
    equal = sum(mine == list(own) for (mine, _), (own, _) in pairs)
    level = sum(
        len(mine) == len(own) and bool(np.abs(np.subtract(scores, others)).max(initial=0.0) <= CLOSE)
        for (mine, scores), (own, others) in pairs
    )
    overlap = float(np.mean([len({*mine} & {*own}) / max(1, len(mine)) for (mine, _), (own, _) in pairs]))
    return {"equal": equal, "level": level, "overlap": round(overlap, 4)}


if __name__ == "__main__":
    main()
