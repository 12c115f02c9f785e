"""Writes the problem that every way trains, out of fedmm's own data and model."""

from pathlib import Path

import numpy as np
import torch
from problem import Client, Problem, Settings
from run_fedmm import configure
from sasrec import SASRec, name_in_fedmm

from fedmm.config import DataConfig
from fedmm.data.datasets import load_dataset
from fedmm.data.splits import make_split
from fedmm.data.types import IntArray, Ragged
from fedmm.federation.client_data import Windows, collate
from fedmm.models.recommender import Recommender
from fedmm.utils.seeding import numpy_stream, torch_stream

SEED = 0


def make_problem(train: Ragged, settings: Settings, num_clients: int) -> Problem:
    """Draws clients from those that can train, cuts their windows, and draws the first parameters.

    Raises ValueError where a client has more windows than one local step takes: the peers know no batches.
    """
    model, federation = configure(settings)
    windows = Windows.cut(train, settings.max_length)
    chosen = _draw(windows, num_clients)
    own = Ragged.from_rows([train[client] for client in chosen])
    windows = Windows.cut(own, settings.max_length)
    if int(np.diff(windows.first).max()) > federation.batch_size:
        raise ValueError(f"a client has more than {federation.batch_size} windows")
    recommender = Recommender.build(model, settings.num_items, {})
    server = recommender.init(torch_stream(SEED, "peers"))
    names = [name for name, _ in SASRec(settings).named_parameters()]
    return Problem(
        settings,
        [_client(windows, number) for number in range(len(own))],
        {name: server[name_in_fedmm(name)] for name in names},
        own.values,
        own.offsets,
    )


def _draw(windows: Windows, num_clients: int) -> IntArray:
    """Clients with windows, uniformly; those with most predictions first."""
    stream = numpy_stream(SEED, "peers")
    chosen = np.sort(stream.choice(windows.trainable, size=num_clients, replace=False))
    return chosen[np.argsort(-windows.num_positions(chosen), kind="stable")]


def _client(windows: Windows, number: int) -> Client:
    every = np.arange(windows.first[number], windows.first[number + 1])
    examples = collate(windows, [every], torch.float32, torch.device("cpu"))
    return Client(examples.items[0], examples.rows[0], examples.targets[0] - 1)


def export_ml100k(path: Path, num_clients: int) -> Problem:
    """The problem on ML-100K: leave-one-out, all ratings, fedmm's default backbone, five local steps."""
    data = DataConfig(name="ml-100k", visual_features="none", text_features="none")
    split = make_split(load_dataset(data), data)
    settings = Settings(
        num_items=split.num_items,
        width=64,
        max_length=50,
        num_blocks=2,
        num_heads=2,
        local_steps=5,
        learning_rate=0.3,
        clip_norm=1.0,
    )
    problem = make_problem(split.train, settings, num_clients)
    problem.save(path)
    return problem
