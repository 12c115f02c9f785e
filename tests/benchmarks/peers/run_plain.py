"""A plain PyTorch loop: one module, one optimizer, the server's parameters copied in for each client.

    python run_plain.py PROBLEM OUTCOME ROUNDS

Neither the module nor the optimizer is built anew for a client, tensors are made once, and the sum is kept in place:
faster than the loop with a deep copy a client that one meets in tutorials.
"""

import sys
from pathlib import Path

import torch
from problem import Problem
from records import Recorder
from sasrec import SASRec, local_steps


def run_round(
    problem: Problem, model: SASRec, optimizer: torch.optim.Optimizer, server: dict[str, torch.Tensor]
) -> None:
    """Trains every client from ``server`` and moves ``server`` by the mean of their deltas."""
    total = {name: torch.zeros_like(value) for name, value in server.items()}
    for client in problem.clients:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(server[name])
        local_steps(model, optimizer, client, problem.settings)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                total[name].add_(parameter).sub_(server[name])
    for name, value in server.items():
        value.add_(total[name], alpha=1 / len(problem.clients))


def main() -> None:
    """Reads the problem, runs the rounds, writes the record."""
    problem = Problem.load(Path(sys.argv[1]))
    model = SASRec(problem.settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=problem.settings.learning_rate)
    server = {name: value.clone() for name, value in problem.start.items()}
    recorder = Recorder(problem.start)
    recorder.begin()
    for _ in range(int(sys.argv[3])):
        run_round(problem, model, optimizer, server)
        recorder.end_round(server)
    recorder.save(Path(sys.argv[2]), ["torch", "numpy"])


if __name__ == "__main__":
    main()
