"""Runs of a second or less: a federation of a few kilobytes, someone who watches it, and what two runs must share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmm.config import ExperimentConfig
from fedmm.experiment import RoundReport
from fedmm.runs.checkpoint import load_checkpoint
from fedmm.runs.folder import RESULT_FILE
from fedmm.runs.train import run_training
from fedmm.utils.files import read_rounds

NUM_USERS, NUM_ITEMS = 36, 30
ROUNDS = 6
CLOCK = "seconds/round"  # the one thing recorded that no two runs share


def write_events(folder: Path, num_users: int, num_items: int, stream: np.random.Generator) -> None:
    """``own.csv``: users u0, ..., each of whom met three items in a row and three to eleven others."""
    lines = ["user,item,rating,timestamp"]
    for user in range(num_users):
        met = [*((np.arange(3) + 3 * user) % num_items), *stream.permutation(num_items)[: 3 + user % 9]]
        lines += [f"u{user},i{item},4,{1000 + place}" for place, item in enumerate(dict.fromkeys(map(int, met)))]
    (folder / "own.csv").write_text("\n".join(lines) + "\n")


def write_data(folder: Path) -> None:
    """``own.csv``, ``visual.npy`` and ``text.npy`` (a row an item, in order of first appearance; one item has none)."""
    stream = np.random.default_rng(3)
    write_events(folder, NUM_USERS, NUM_ITEMS, stream)
    for name, width in (("visual", 6), ("text", 5)):
        values = stream.normal(size=(NUM_ITEMS, width)).astype(np.float32)
        values[7] = 0.0
        np.save(folder / f"{name}.npy", values)


def tiny(data: Path, output: Path | None, settings: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """A residual run over both modalities; ``settings`` are ``{"federation.rounds": 3, ...}``."""
    flat: dict[str, Any] = {
        "data.path": data / "own.csv",
        "data.visual_features": str(data / "visual.npy"),
        "data.feature_order": "by_kind",
        "data.text_features": str(data / "text.npy"),
        "model.hidden_dim": 8,
        "model.num_blocks": 1,
        "model.max_length": 6,
        "federation.rounds": ROUNDS,
        "federation.client_fraction": 0.3,
        "federation.local_steps": 2,
        "federation.batch_size": 4,
        "evaluation.cutoffs": (5, 10),
        "evaluation.bootstrap_samples": 20,
        "tracking.enabled": False,
        "runtime.threads": 1,
        "runtime.device": "cpu",
        "runtime.output": output,
    }
    tree: dict[str, dict[str, Any]] = {}
    for key, value in (flat | dict(settings or {})).items():
        section, _, leaf = key.partition(".")
        tree.setdefault(section, {})[leaf] = value
    return ExperimentConfig.model_validate(tree)


def trainer(folder: Path, kinds: Mapping[str, Mapping[str, Any]]) -> Callable[[str], Path]:
    """Writes data with attributes, and gives what trains a kind of run by its settings and returns the run's folder.

    ``"data.attributes": True`` stands for the file of attributes.
    """
    write_data(folder)
    attributes = folder / "attributes.csv"
    lines = [f"i{item},kind{item % 4}" for item in range(NUM_ITEMS)]
    attributes.write_text("item,attribute\n" + "\n".join(lines) + "\n")

    def train(kind: str) -> Path:
        settings = {key: attributes if key == "data.attributes" else value for key, value in kinds[kind].items()}
        return Path(run_training(tiny(folder, folder / kind, settings), Watcher()).output)

    return train


@dataclass
class Watcher:
    """Remembers all it hears; ``act`` is called after each round, while the run holds signals back, and ``at_stage``
    as a stage begins."""

    act: Callable[[RoundReport], object] = lambda report: None
    at_stage: Callable[[str], object] = lambda text: None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reports: list[RoundReport] = field(default_factory=list)

    def stage(self, text: str) -> None:
        self.at_stage(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        pass

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        self.reports.append(report)
        self.act(report)


def train(config: ExperimentConfig, watcher: Watcher | None = None, *, resume: bool = False) -> dict[str, Any]:
    """One run; without a watcher of one's own, warnings are failures."""
    own = watcher or Watcher()
    result = run_training(config, own, resume=resume)
    assert watcher is not None or own.warnings == []
    return result.to_json()


@dataclass(frozen=True)
class Outcome:
    """What a run leaves that does not depend on the clock, the folder or the tracking store."""

    tensors: dict[str, dict[str, bytes]]  # checkpoint -> tensor -> its bytes
    rounds: list[dict[str, Any]]
    result: dict[str, Any]


def bits(tensors: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


def last_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and meta of the newest round."""
    return load_checkpoint(folder, "last")


def outcome(folder: Path) -> Outcome:
    """Reads a finished run's folder. Every checkpoint in it must be whole."""
    checkpoints = sorted((folder / "checkpoints").iterdir())
    result = json.loads((folder / RESULT_FILE).read_text().replace(json.dumps(str(folder))[1:-1], "FOLDER"))
    kept = ("rounds", "best_round", "metrics", "baselines", "model", "communication", "dataset", "advice", "seed")
    rounds = [{key: value for key, value in entry.items() if key != CLOCK} for entry in read_rounds(folder)]
    tensors = {path.name: bits(load_checkpoint(path)[0]) for path in checkpoints}
    return Outcome(tensors, rounds, {key: result[key] for key in kept})


def assert_same(left: Outcome, right: Outcome) -> None:
    """Bit for bit."""
    assert left.rounds == right.rounds
    assert left.tensors.keys() == right.tensors.keys()
    for name, own in left.tensors.items():
        assert own.keys() == right.tensors[name].keys()
        assert [key for key in own if own[key] != right.tensors[name][key]] == []
    assert left.result == right.result
