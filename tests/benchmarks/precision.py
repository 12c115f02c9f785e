"""What ``runtime.precision`` bfloat16 saves and costs: a client's cross-entropy with its gradients, by width and
catalogue, in processor time; with ``--seeds`` also what whole runs at both precisions come to on validation.

    python tests/benchmarks/precision.py [--repeats 5] [--seeds 5] [--data movielens-small ml-100k]

Ratios in one run, medians; one thread; by the compiled kernels where there are some (``--kernels torch``: without).
Needs hardware that multiplies bfloat16 by itself.
"""

import argparse
import statistics
import time

import torch
from machine import describe, headline

from fedmm.config import ExperimentConfig
from fedmm.experiment import Experiment
from fedmm.kernels.build import library
from fedmm.models.losses.softmax import Questions, cross_entropy
from fedmm.models.scores import Scores, Term
from fedmm.models.workspace import Workspace
from fedmm.utils.devices import require_precision
from fedmm.utils.seeding import torch_stream

SIZES = ((64, 1683), (128, 1683), (256, 1683), (64, 12_102), (256, 12_102))  # widths and catalogues
PRECISIONS = ("float32", "bfloat16")
CLIENTS, ROWS = 8, 96


def microseconds(width: int, size: int, repeats: int, *, compiled: bool) -> dict[str, float]:
    """Of one client with ``ROWS`` rows, by precision; in turns."""
    stream = torch_stream(0, "precision")
    queries = torch.randn(CLIENTS, ROWS, width, generator=stream, requires_grad=True)
    keys = (torch.randn(CLIENTS, size, width, generator=stream) / width**0.5).requires_grad_()
    targets = torch.randint(1, size, (CLIENTS, ROWS), generator=stream)
    questions = Questions(targets, torch.full((CLIENTS, ROWS), 1 / ROWS))
    spaces = {precision: Workspace() for precision in PRECISIONS}
    taken: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for repeat in range(1 + repeats):
        for precision in PRECISIONS:
            scores = Scores((Term(queries, keys),), rounded=precision == "bfloat16", compiled=compiled)
            began = time.process_time()
            cross_entropy(scores, questions, spaces[precision])
            if repeat:
                taken[precision].append((time.process_time() - began) / CLIENTS * 1e6)
    return {precision: statistics.median(values) for precision, values in taken.items()}


def validated(data: str, seed: int, precision: str) -> tuple[float, float]:
    """NDCG@10 of the last round on validation, and seconds of processor time for all rounds."""
    given = {"data.name": data, "runtime.seed": seed, "runtime.precision": precision, "evaluation.protocols": ("full",)}
    experiment = Experiment.prepare(ExperimentConfig().with_values({**given, "evaluation.every": 30}))
    began = time.process_time()
    *_, (last, _) = experiment.rounds(experiment.initial_state())
    taken = time.process_time() - began
    return experiment.evaluate(last.snapshot, "validation", intervals=False).metrics["full"]["ndcg_at_10"], taken


def compare_runs(data: str, seeds: int) -> None:
    """Differences of runs with equal seeds, relative to float32, with the interval of their mean (Student's t)."""
    from scipy.stats import t

    differences, seconds = [], []
    for seed in range(seeds):
        (exact, slow), (rounded, quick) = (validated(data, seed, precision) for precision in PRECISIONS)
        differences.append(rounded / exact - 1)
        seconds.append(slow / quick)
        print(f"  {data}, seed {seed}: NDCG@10 {exact:.4f} {rounded:.4f}, time {slow / quick:.2f}x", flush=True)
    mean, ratio = statistics.mean(differences), statistics.median(seconds)
    wide = t.ppf(0.975, seeds - 1) * statistics.stdev(differences) / seeds**0.5 if seeds > 1 else float("nan")
    print(f"{data}: bfloat16 {mean:+.2%} (95% {mean - wide:+.2%} to {mean + wide:+.2%}), rounds {ratio:.2f}x as fast")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--data", nargs="+", default=["movielens-small", "ml-100k"])
    parser.add_argument("--kernels", choices=("auto", "torch"), default="auto", help="of single losses")
    arguments = parser.parse_args()
    require_precision("bfloat16", torch.device("cpu"))
    torch.set_num_threads(1)
    print(headline(describe()))
    compiled = arguments.kernels == "auto" and library() is not None
    print("by the compiled kernels" if compiled else "by torch's operations")
    for width, size in SIZES:
        found = microseconds(width, size, arguments.repeats, compiled=compiled)
        exact, rounded = (found[precision] for precision in PRECISIONS)
        print(
            f"D = {width:>3}, V = {size:>6,}: {exact:8.0f} {rounded:8.0f} us a client, {exact / rounded:.2f}x",
            flush=True,
        )
    for data in arguments.data if arguments.seeds else ():
        compare_runs(data, arguments.seeds)


if __name__ == "__main__":
    main()
