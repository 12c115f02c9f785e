"""Flower's client. A module of its own, so that Ray sends its name and not its code with each message."""

import os
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from problem import Problem
from sasrec import SASRec, local_steps

app = ClientApp()


@lru_cache(maxsize=1)
def workshop() -> tuple[Problem, SASRec, torch.optim.Optimizer]:
    """What an actor keeps from client to client: the data, one module and one optimizer."""
    torch.set_num_threads(1)
    problem = Problem.load(Path(os.environ["PEERS_PROBLEM"]))
    model = SASRec(problem.settings)
    return problem, model, torch.optim.SGD(model.parameters(), lr=problem.settings.learning_rate)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Local training of the client whose number is the node's partition."""
    problem, model, optimizer = workshop()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    local_steps(model, optimizer, problem.clients[int(context.node_config["partition-id"])], problem.settings)
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)
