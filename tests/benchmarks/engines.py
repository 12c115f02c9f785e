"""Engines against each other and a plain PyTorch loop: the same clients, windows and local steps, outputs checked equal
first.

    python tests/benchmarks/engines.py [--clients 188] [--repeats 3] [--threads N] [--data NAME] [--memory] [--json F]

Two models: the backbone alone without dropout, which the plain loop has too, and the residual fusion (two pooled
experts, dropout); with ``--memory`` two memory experts as well. Prints ratios measured in one run, and how much of a
tall-skinny matrix product's rate is used.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from machine import describe, headline, tall_skinny_rate
from torch import Tensor, nn

from fedmm.config import DataConfig, FederationConfig, ModelConfig
from fedmm.data.datasets import load_dataset
from fedmm.data.splits import make_split
from fedmm.engines import sequential, vectorized
from fedmm.federation.local_training import LocalTraining
from fedmm.kernels.build import library
from fedmm.models.recommender import Recommender
from fedmm.utils.devices import has_bfloat16
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream, torch_stream


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


def useful_flops(local: LocalTraining, clients: np.ndarray) -> float:
    """Multiplications and additions of one round's matrix products, forward and backward (three products for each one
    of the forward pass), of real positions alone: the blocks' linear maps, attention, and the catalogue's scores."""
    model, width = local.recommender.config, local.recommender.config.hidden_dim
    rows = int(local.windows.num_positions(clients).sum())
    windows = np.concatenate(
        [local.windows.length[local.windows.first[c] : local.windows.first[c + 1]] for c in clients]
    )
    linear = rows * 6 * width**2 * model.num_blocks
    attention = int((windows.astype(np.int64) ** 2).sum()) * width * model.num_blocks  # causal: half of 2 L^2 D
    scores = rows * (local.recommender.num_items + 1) * width
    return 3 * 2.0 * (linear + attention + scores) * local.config.steps_per_round


def compare(name: str, local: LocalTraining, server: Params, clients: np.ndarray, repeats: int) -> dict[str, float]:
    """Milliseconds a client of each way, in turns, after one round of each that is not counted."""

    def blocks(**how: bool) -> Callable[[], object]:
        own = replace(local, recommender=replace(local.recommender, **how))
        return lambda: sum(len(block.clients) for block in vectorized.train_cohort(own, server, clients, 1))

    native = library() is not None  # runtime.kernels "auto"
    ways: dict[str, Callable[[], object]] = {
        "sequential": lambda: list(sequential.train_cohort(local, server, clients, 1)),
        "vectorized": blocks(compiled=native),
    }
    if native:
        ways["by torch"] = blocks()
    if has_bfloat16(local.device):
        ways["bfloat16"] = blocks(rounded=True, compiled=native)
    if name == "backbone":
        ways = {"plain loop": lambda: plain_loop(local, server, clients), **ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(1 + repeats):
        for way, run in ways.items():
            began = time.perf_counter()
            run()
            if repeat:
                seconds[way].append(time.perf_counter() - began)
    model = local.recommender.config
    experts = model.experts if name != "backbone" else "none"
    print(
        f"{name}: D = {model.hidden_dim}, experts {experts}, "
        f"dropout {model.dropout}, {local.config.steps_per_round} local steps, "
        f"{f'{local.num_negatives} negatives' if local.num_negatives else 'full softmax'}, {len(clients)} clients"
    )
    milliseconds = {way: 1000 * statistics.median(values) / len(clients) for way, values in seconds.items()}
    for way, value in milliseconds.items():
        low, high = (1000 * bound(seconds[way]) / len(clients) for bound in (min, max))
        print(f"  {way:<12}{value:7.1f} ms a client ({low:.1f} to {high:.1f})")
    print(f"  sequential / vectorized = {milliseconds['sequential'] / milliseconds['vectorized']:.2f}")
    if "by torch" in milliseconds:
        ratio = milliseconds["sequential"] / milliseconds["by torch"]
        print(f"  sequential / vectorized by torch's operations = {ratio:.2f}")
    if "bfloat16" in milliseconds:
        print(f"  sequential / vectorized in bfloat16 = {milliseconds['sequential'] / milliseconds['bfloat16']:.2f}")
    return milliseconds


def check_equal(local: LocalTraining, server: Params, client: np.ndarray) -> None:
    """Ends the benchmark where the plain loop does not compute what the engines do."""
    (last,) = sequential.train_cohort(local, server, client, 1)
    plain = plain_loop(local, server, client)
    gap = max(float((plain[name] - last.deltas[name][0]).abs().max()) for name in plain)
    print(f"largest difference of a delta from the plain loop's: {gap:.1e}")
    if gap > 1e-5:
        raise SystemExit("the loops do not compute the same")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=188)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", default="ml-100k", help="ml-100k (fedmm data fetch ml-100k) or movielens-small")
    parser.add_argument("--memory", action="store_true", help="memory experts, too, against the pooled ones")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    machine = describe()
    print(f"{headline(machine)}; {arguments.data}")
    config = DataConfig(name=arguments.data)
    data = load_dataset(config)
    split = make_split(data, config)
    found: dict[str, object] = {"machine": machine, "clients": arguments.clients, "data": arguments.data}
    models = {
        "backbone": (ModelConfig(fusion="backbone", dropout=0.0), FederationConfig(local_steps=5, exclude_seen=False)),
        "residual": (ModelConfig(experts="pooled"), FederationConfig(local_steps=5)),
    }
    if arguments.memory:
        models["memory"] = (ModelConfig(experts="memory"), FederationConfig(local_steps=5))
    times: dict[str, float] = {}
    for name, (model, federation) in models.items():
        recommender = Recommender.build(model, split.num_items, data.features)
        server = recommender.init(torch_stream(0, "benchmark"))
        local = LocalTraining.build(recommender, federation, split.train, 0)
        clients = numpy_stream(0, "benchmark").permutation(local.windows.trainable)[: arguments.clients]
        if name == "backbone":
            check_equal(local, server, clients[-1:])
        found[name] = milliseconds = compare(name, local, server, clients, arguments.repeats)
        times[name] = milliseconds["vectorized"]
        if name == "backbone":
            rate = useful_flops(local, clients) / (milliseconds["vectorized"] * len(clients) / 1000)
            limit = tall_skinny_rate()
            found["useful_share_of_tall_skinny"] = rate / limit
            print(f"  sequential / plain loop = {milliseconds['sequential'] / milliseconds['plain loop']:.2f}")
            print(
                f"  useful {rate / 1e9:.0f} of {limit / 1e9:.0f} GFLOP/s of a tall-skinny product: {rate / limit:.0%}"
            )
    if arguments.memory:
        print(f"memory / pooled, vectorized = {times['memory'] / times['residual']:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
