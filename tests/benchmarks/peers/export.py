"""Writes the problem that every way trains, out of fedmm's own data and model."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from generated import generate_histories
from problem import Client, Problem, Settings
from run_fedmm import configure
from sasrec import SASRec, name_in_fedmm

from fedmm.config import DataConfig
from fedmm.data.datasets import load_dataset
from fedmm.data.ragged import take_rows
from fedmm.data.splits import make_split
from fedmm.data.types import IntArray, Ragged
from fedmm.federation.client_data import Windows, collate
from fedmm.federation.local_training import LocalTraining
from fedmm.models.recommender import Recommender
from fedmm.utils.seeding import numpy_stream, torch_stream

SEED = 0
MEAN_LENGTH = 40.0  # of generated histories


def make_problem(train: Ragged, settings: Settings, num_clients: int) -> Problem:
    """Draws clients from those that can train, cuts their windows, and draws the first parameters.

    Raises ValueError where a client has more windows than one local step takes: the peers know no batches.
    """
    windows = Windows.cut(train, settings.max_length)
    return _problem_of(take_rows(train, _draw(windows, num_clients)), settings)


def part_of(problem: Problem, num_clients: int) -> Problem:
    """The same problem for so many of its clients, from the largest to the smallest at even distances."""
    histories = Ragged(problem.history_values, problem.history_offsets)
    places = np.linspace(0, len(histories) - 1, num_clients).round().astype(np.int64)
    return _problem_of(take_rows(histories, places), problem.settings)


def _problem_of(own: Ragged, settings: Settings) -> Problem:
    model, federation = configure(settings)
    windows = Windows.cut(own, settings.max_length)
    if int(np.diff(windows.first).max()) > federation.batch_size:
        raise ValueError(f"a client has more than {federation.batch_size} windows")
    recommender = Recommender.build(model, settings.num_items, {})
    server = recommender.init(torch_stream(SEED, "peers"))
    names = [name for name, _ in SASRec(settings).named_parameters()]
    local = LocalTraining.build(recommender, federation, own, SEED)
    return Problem(
        settings,
        [_client(windows, number, local) for number in range(len(own))],
        {name: server[name_in_fedmm(name)] for name in names},
        own.values,
        own.offsets,
    )


def _draw(windows: Windows, num_clients: int) -> IntArray:
    """Clients with windows, uniformly; those with most predictions first."""
    stream = numpy_stream(SEED, "peers")
    chosen = np.sort(stream.choice(windows.trainable, size=num_clients, replace=False))
    return chosen[np.argsort(-windows.num_positions(chosen), kind="stable")]


def _client(windows: Windows, number: int, local: LocalTraining) -> Client:
    """A client's windows and, with sampled negatives, what its local steps of the first round rank."""
    every = np.arange(windows.first[number], windows.first[number + 1])
    examples = collate(windows, [every], torch.float32, torch.device("cpu"))
    items, rows = examples.items[0], examples.rows[0]
    if not local.config.num_negatives:
        return Client(items, rows, examples.targets[0] - 1, torch.zeros(0, 0, dtype=torch.long))
    stream = local.steps(np.array([number]), 1)
    steps = [stream.step(index, 1) for index in range(int(stream.num_steps[0]))]
    ranked = [step.batch.candidates[0] for step in steps if step.batch.candidates is not None]
    return Client(items, rows, torch.stack([step.questions.targets[0] for step in steps]), torch.stack(ranked))


def export_generated(path: Path, num_clients: int, num_items: int, num_negatives: int) -> Problem:
    """The problem on a generated catalogue: the same model, sampled softmax."""
    train = generate_histories(4 * num_clients, num_items, MEAN_LENGTH, SEED)
    problem = make_problem(train, default_settings(num_items, num_negatives), num_clients)
    problem.save(path)
    return problem


def default_settings(num_items: int, num_negatives: int = 0) -> Settings:
    """fedmm's default backbone, five local steps."""
    return Settings(
        num_items=num_items,
        width=64,
        max_length=50,
        num_blocks=2,
        num_heads=2,
        local_steps=5,
        learning_rate=0.3,
        clip_norm=1.0,
        num_negatives=num_negatives,
    )


def export_ml100k(path: Path, num_clients: int) -> Problem:
    """The problem on ML-100K: leave-one-out, all ratings, full softmax."""
    data = DataConfig(name="ml-100k", visual_features="none", text_features="none")
    split = make_split(load_dataset(data), data)
    problem = make_problem(split.train, default_settings(split.num_items), num_clients)
    problem.save(path)
    return problem
