"""pfl-research: its federated averaging over its simulated backend.

    python run_pfl.py PROBLEM OUTCOME ROUNDS            (torchrun --nproc-per-node N run_pfl.py ... for N processes)

What was chosen in its favour:
- its own ``FederatedAveraging``, ``SimulatedBackend`` and ``PyTorchModel``: the model lives once in a process, is reset
  in place after each client, and its deltas are summed in place;
- the clients' tensors are made once and handed out by reference; no data loader stands in between;
- five local epochs over the whole client are its five steps, and clipping is its own ``local_max_grad_norm``;
- nothing is evaluated: a round with evaluation trains no client more, and ``metrics`` answers without computing;
- no postprocessor, no privacy, no callback but the one that reads the clock, no metrics printed;
- clients stand in order of falling size, so that with several processes each gets as much to do.
"""

import asyncio
import sys
from pathlib import Path

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from problem import Problem
from records import Recorder
from sasrec import SASRec
from torch import Tensor


class MeasuredSASRec(SASRec):
    """With the second method that pfl asks of a module."""

    def metrics(self, items: Tensor, rows: Tensor, targets: Tensor, candidates: Tensor) -> dict[str, Weighted]:
        """Nothing worth a forward pass."""
        del rows, targets, candidates
        return {"windows": Weighted.from_unweighted(len(items))}


class Clock(TrainingProcessCallback):
    """Tells the recorder that a round has ended."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        del aggregate_metrics, central_iteration
        self._recorder.end_round(model.variable_map)
        return False, Metrics()


def federate(problem: Problem) -> FederatedDataset:
    """Each client once a round, in the problem's order."""
    datasets = [PyTorchTensorDataset((own.items, own.rows, own.targets, own.candidates)) for own in problem.clients]
    sampler = get_user_sampler("minimize_reuse", list(range(len(datasets))))
    return FederatedDataset(datasets.__getitem__, sampler)


def main() -> None:
    """Reads the problem, runs the rounds, writes the record."""
    np.random.seed(0)  # noqa: NPY002  all processes must draw the same clients, and pfl draws from NumPy's global state
    asyncio.set_event_loop(asyncio.new_event_loop())  # pfl asks for the thread's loop and makes none
    problem = Problem.load(Path(sys.argv[1]))
    settings = problem.settings
    module = MeasuredSASRec(settings)
    module.load_state_dict(problem.start)
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    dataset = federate(problem)
    recorder = Recorder(problem.start)
    recorder.begin()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=int(sys.argv[3]),
            evaluation_frequency=2**30,
            train_cohort_size=len(problem.clients),
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=dataset, val_data=dataset),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=settings.local_steps,
            local_learning_rate=settings.learning_rate,
            local_batch_size=None,
            local_max_grad_norm=settings.clip_norm,
        ),
        callbacks=[Clock(recorder)],
        send_metrics_to_platform=False,
    )
    if pytorch_ops.distributed.global_rank == 0:
        recorder.save(Path(sys.argv[2]), ["torch", "numpy", "pfl"])


if __name__ == "__main__":
    main()
