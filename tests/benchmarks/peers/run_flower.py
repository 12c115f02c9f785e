"""Flower's simulation: its FedAvg strategy over the Ray back end.

    python run_flower.py PROBLEM OUTCOME ROUNDS ACTORS

What was chosen in its favour:
- as many actors as cores, each with one CPU and one torch thread (its default of two CPUs an actor would leave one
  actor on two cores);
- an actor keeps data, module and optimizer between clients; the message carries parameters and nothing else, by
  Flower's own ``ArrayRecord``; the client lives in an importable module, so its code does not travel;
- there are as many nodes as clients of a round, and no others for Flower to look through;
- no evaluation (``fraction_evaluate`` 0), no telemetry, no dashboard, logs at the level of errors;
- clients stand in order of falling size, so that no actor waits long for the other at the end of a round.
The clock is read by ``evaluate_fn``, which the strategy calls before the first round and after each.
"""

import logging
import os
import sys
from pathlib import Path

HERE = str(Path(__file__).parent)


def main() -> None:
    """Reads the problem, runs the rounds, writes the record."""
    # Before ray and flwr load: actors inherit the environment.
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "PEERS_PROBLEM": sys.argv[1]}
    import flower_client
    from flwr.app import ArrayRecord, Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation
    from problem import Problem
    from records import Recorder

    logging.getLogger("flwr").setLevel(logging.ERROR)
    problem = Problem.load(Path(sys.argv[1]))
    recorder = Recorder(problem.start)
    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        del context

        def read_clock(number: int, arrays: ArrayRecord) -> None:
            if number:
                recorder.end_round(arrays.to_torch_state_dict())
            else:
                recorder.begin()

        FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=len(problem.clients)).start(
            grid, ArrayRecord(problem.start), num_rounds=int(sys.argv[3]), evaluate_fn=read_clock
        )

    actors = int(sys.argv[4])
    run_simulation(
        server,
        flower_client.app,
        num_supernodes=len(problem.clients),
        backend_config={
            "init_args": {"num_cpus": actors, "include_dashboard": False, "log_to_driver": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    recorder.save(Path(sys.argv[2]), ["torch", "numpy", "flwr", "ray"])


if __name__ == "__main__":
    main()
