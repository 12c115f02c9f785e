"""Engines against a plain PyTorch loop: the same backbone, clients, windows and local steps, outputs checked equal
first.

    python tests/benchmarks/engines.py [--clients 60] [--repeats 3] [--threads N]

Prints ratios measured in one run, with the thread count and versions.
"""

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fedmm.config import DataConfig, FederationConfig, ModelConfig
from fedmm.data.datasets import load_dataset
from fedmm.data.splits import make_split
from fedmm.engines import sequential, vectorized
from fedmm.federation.local_training import LocalTraining
from fedmm.models.recommender import Recommender
from fedmm.params import Params
from fedmm.seeding import torch_stream


class PlainSASRec(nn.Module):
    """The backbone as one would write it with torch.nn for a single model."""

    def __init__(self, num_items: int, config: ModelConfig) -> None:
        super().__init__()
        D = config.hidden_dim
        self.items = nn.Embedding(num_items + 1, D)
        self.positions = nn.Embedding(config.max_length, D)
        self.blocks = nn.ModuleList(PlainBlock(D, config.num_heads) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(D, eps=1e-6)

    def forward(self, items: Tensor) -> Tensor:
        x = self.items(items) * math.sqrt(self.items.embedding_dim) + self.positions.weight[: items.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class PlainBlock(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.query, self.value, self.output = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        normed = self.attention_norm(x)
        split = (
            part(normed).view(B, L, self.num_heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(*split, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(B, L, D))
        return x + self.outer(torch.relu(self.inner(self.feedforward_norm(x))))


NAMES = {"items.weight": "backbone.item_embedding", "positions.weight": "backbone.position_embedding"}


def our_name(name: str) -> str:
    """torch.nn's name of a parameter in fedmm's terms."""
    return NAMES.get(name, "backbone." + name.replace("blocks.", "block"))


def plain_loop(local: LocalTraining, server: Params, clients: np.ndarray) -> Params:
    """One client after the other; returns the last one's delta."""
    config, windows = local.config, local.windows
    for client in clients:
        model = PlainSASRec(local.recommender.num_items, local.recommender.config)
        model.load_state_dict({name: server[our_name(name)] for name in model.state_dict()})
        optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate)
        own = range(windows.first[client], windows.first[client + 1])
        parts = [windows.items[windows.start[w] : windows.start[w] + windows.length[w] + 1] for w in own]
        items = nn.utils.rnn.pad_sequence([torch.from_numpy(part[:-1]) for part in parts], batch_first=True)
        targets = nn.utils.rnn.pad_sequence([torch.from_numpy(part[1:]) for part in parts], batch_first=True)
        for _ in range(config.steps_per_round):
            hidden = model(items)[targets > 0]
            logits = hidden @ model.items.weight[1:].T
            loss = nn.functional.cross_entropy(logits, targets[targets > 0] - 1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
    return {our_name(name): value.detach() - server[our_name(name)] for name, value in model.named_parameters()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    split = make_split(load_dataset(DataConfig()), DataConfig())
    model = ModelConfig(fusion="backbone", dropout=0.0)
    federation = FederationConfig(exclude_seen=False)
    recommender = Recommender.build(model, split.num_items, {})
    server = recommender.init(torch_stream(0, "benchmark"))
    local = LocalTraining.build(recommender, federation, split.train, 0)
    clients = local.windows.trainable[: arguments.clients]

    (last,) = sequential.train_cohort(local, server, clients[-1:], 1)
    plain = plain_loop(local, server, clients[-1:])
    gap = max(float((plain[name] - last.deltas[name][0]).abs().max()) for name in plain)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, {len(clients)} clients")
    print(f"backbone D = {model.hidden_dim}, {federation.steps_per_round} local steps, full softmax, dropout 0")
    print(f"largest difference of a delta from the plain loop's: {gap:.1e}")
    if gap > 1e-5:
        raise SystemExit("the loops do not compute the same")
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: plain_loop(local, server, clients),
        "sequential": lambda: list(sequential.train_cohort(local, server, clients, 1)),
        "vectorized": lambda: sum(len(block.clients) for block in vectorized.train_cohort(local, server, clients, 1)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:<11}{1000 * value / len(clients):7.1f} ms a client   {value / medians['plain']:.2f} of plain")
    print(f"sequential / vectorized = {medians['sequential'] / medians['vectorized']:.2f}")


if __name__ == "__main__":
    main()
