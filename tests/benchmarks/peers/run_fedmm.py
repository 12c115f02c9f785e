"""fedmm's own rounds: local training by one of its engines, the plain mean, a server step of rate 1.

    python run_fedmm.py PROBLEM OUTCOME ROUNDS ENGINE [bfloat16]

``fedmm.federation.rounds.run_round`` as a run calls it, with its cohort, its ledger of bytes and its check for
divergence. Evaluation, checkpoints and tracking are no part of a round, here as with the peers. The vectorized engine
takes the compiled kernels where there are some, as ``runtime.kernels`` "auto" does.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from problem import Problem, Settings
from records import Recorder
from sasrec import name_in_fedmm

from fedmm.config import FederationConfig, ModelConfig
from fedmm.data.types import Ragged
from fedmm.engines import sequential, vectorized
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.rounds import Engine, Federation, ServerState, run_round
from fedmm.kernels.build import library
from fedmm.models.recommender import Recommender

ENGINES: dict[str, Engine] = {"vectorized": vectorized.train_cohort, "sequential": sequential.train_cohort}


def configure(settings: Settings) -> tuple[ModelConfig, FederationConfig]:
    """The settings as fedmm says them; what is not named is at its default."""
    model = ModelConfig(
        fusion="backbone",
        dropout=0.0,
        hidden_dim=settings.width,
        max_length=settings.max_length,
        num_blocks=settings.num_blocks,
        num_heads=settings.num_heads,
    )
    federation = FederationConfig(
        local_steps=settings.local_steps,
        learning_rate=settings.learning_rate,
        clip_norm=settings.clip_norm,
        num_negatives=settings.num_negatives,
        exclude_seen=False,
        aggregation="mean",
        server_optimizer="sgd",
        server_learning_rate=1.0,
    )
    return model, federation


def build(problem: Problem, engine: str, *, rounded: bool = False) -> tuple[ServerState, Federation]:
    """The federation over the problem's clients, all of them in every round."""
    model, config = configure(problem.settings)
    train = Ragged(problem.history_values, problem.history_offsets)
    recommender = Recommender.build(model, problem.settings.num_items, {})
    native = engine == "vectorized" and library() is not None
    recommender = replace(recommender, compiled=native, rounded=rounded)
    local = LocalTraining.build(recommender, config, train, 0)
    server = {name_in_fedmm(name): value for name, value in problem.start.items()}
    return ServerState(server, {}, 0), Federation(config, local, np.arange(len(train)), len(train), ENGINES[engine], 0)


def main() -> None:
    """Reads the problem, runs the rounds, writes the record."""
    problem = Problem.load(Path(sys.argv[1]))
    state, federation = build(problem, sys.argv[4], rounded="bfloat16" in sys.argv[5:])
    recorder = Recorder(problem.start)
    recorder.begin()
    for _ in range(int(sys.argv[3])):
        state, _, _ = run_round(state, NO_STATES, federation)
        recorder.end_round({name: state.params[name_in_fedmm(name)] for name in problem.start})
    recorder.save(Path(sys.argv[2]), ["torch", "numpy"])


if __name__ == "__main__":
    main()
