"""A world of a few users whose every column matters, and all the numbers of a run in it."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedmm.config import ExperimentConfig
from fedmm.config.load import load_config
from fedmm.experiment import Experiment

NUM_USERS, NUM_ITEMS = 14, 40
NO_NUMBERS = ("seconds", "rounds", "warmup", "transforms")  # of a round's report: what says nothing of the parameters
Given = Mapping[str, Any]
BASE: Given = {
    "model.hidden_dim": 8,
    "model.num_blocks": 1,
    "model.max_length": 6,
    "federation.rounds": 2,
    "evaluation.cutoffs": (5, 10),
    "evaluation.bootstrap_samples": 10,
    "runtime.threads": 1,
    "runtime.device": "cpu",
    "tracking.enabled": False,
}


def write_world(folder: Path) -> None:
    """Two files of interactions, in one of them a second table's worth of columns, and features with gaps."""
    stream = np.random.default_rng(3)
    for name in ("own.csv", "other.csv"):
        lines = ["user,item,rating,timestamp,other_user,other_item,other_rating,other_time"]
        for user in range(NUM_USERS):
            own = stream.permutation(NUM_ITEMS)[: 6 + user % 7]
            for place, item in enumerate(own):
                time = 1000 + 10 * (place // 2) + user  # every second event ties with the one before
                rating, other_rating, other_time = stream.integers(1, 6), stream.integers(1, 6), stream.integers(9999)
                row = (user, item, rating, time, (user + place // 3) % NUM_USERS, (item + place) % 35)
                lines.append(",".join(map(str, (*row, other_rating, other_time))))
        (folder / name).write_text("\n".join(lines) + "\n")
        _write_parts(folder / name, lines)
    attributes = {item: [f"kind {item % 5}", item % 3] for item in range(NUM_ITEMS)}
    (folder / "attributes.json").write_text(json.dumps(attributes))
    for name, width in (("visual.npz", 5), ("text.npz", 4)):
        present = stream.random(NUM_ITEMS) < (0.6 if name == "visual.npz" else 0.9)
        values = stream.normal(size=(NUM_ITEMS, width)).astype(np.float32)
        np.savez(folder / name, item_id=np.arange(NUM_ITEMS), features=values, present=present)


def _write_parts(path: Path, lines: list[str]) -> None:
    """The same events as a split that is made: of each user the last one, the one before and the others. Rows stand by
    user, then time."""
    last = {line.split(",")[0]: number for number, line in enumerate(lines)}
    kinds = {"test": set(last.values()), "valid": {number - 1 for number in last.values()}}
    kinds["train"] = set(range(1, len(lines))) - kinds["test"] - kinds["valid"]
    for kind, numbers in kinds.items():
        content = [line for number, line in enumerate(lines) if not number or number in numbers]
        path.with_name(f"{path.stem}.{kind}.csv").write_text("\n".join(content) + "\n")
        path.with_name(f"{path.stem}.fewer.{kind}.csv").write_text("\n".join(content[:9]) + "\n")


def settings_of(world: Path, given: Given) -> ExperimentConfig:
    """The base with ``given`` in place, files below ``world``."""
    files: dict[str, Any] = {
        "data.path": "own.csv",
        "data.visual_features": "visual.npz",
        "data.text_features": "text.npz",
    }
    flags = {**files, **BASE, **given}
    for key in (*files, *({"data.attributes", "data.validation", "data.test"} & set(flags))):
        flags[key] = flags[key] if flags[key] == "none" else str(world / flags[key])
    return load_config(flags=flags)


def numbers(config: ExperimentConfig) -> Iterator[str]:
    """All that a run computes, piece by piece as it is reached, as JSON: data, losses and validations of each round,
    parameters, bytes, results with intervals, baselines."""
    experiment = Experiment.prepare(config)
    state = experiment.initial_state()
    yield json.dumps([experiment.dataset.digest, *experiment.split.train.lengths.tolist()])
    for reached, report in experiment.rounds(state):
        yield json.dumps({name: value for name, value in vars(report).items() if name not in NO_NUMBERS})
        state = reached
    assert state.best is not None
    best = state.best.snapshot
    digest = hashlib.sha256()
    for name, value in best.params.items():
        digest.update(f"{name}{tuple(value.shape)}".encode() + value.numpy().tobytes())
    yield json.dumps([digest.hexdigest(), best.round, state.best.value, vars(state.ledger)])
    for shown in ("validation", "test"):
        yield json.dumps(experiment.evaluate(best, shown).to_json())
    yield json.dumps({n: experiment.evaluate_scorer(s, "test").to_json() for n, s in experiment.baselines().items()})


class Known:
    """The numbers of one run, computed once and no further than they are asked for."""

    def __init__(self, config: ExperimentConfig) -> None:
        self._kept: list[str] = []
        self._rest = numbers(config)

    def __iter__(self) -> Iterator[str]:
        for place in itertools.count():
            if place == len(self._kept):
                following = next(self._rest, None)
                if following is None:
                    return
                self._kept.append(following)
            yield self._kept[place]


def differ(left: Iterable[str], right: Iterable[str]) -> bool:
    """Whether two runs have other numbers anywhere; neither goes on behind the first of them."""
    return any(one != other for one, other in itertools.zip_longest(left, right))


def known_numbers(world: Path, given: Given) -> Known:
    """The numbers of a run with ``given``, kept for all who ask."""
    return _known_numbers(world, tuple(given.items()))


@functools.cache
def _known_numbers(world: Path, given: tuple[tuple[str, Any], ...]) -> Known:
    return Known(settings_of(world, dict(given)))
