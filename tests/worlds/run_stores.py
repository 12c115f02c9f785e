"""A tracking store in memory, and a look into MLflow's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fedmm.tracking.messages import Artifact, Finish, Message, Metrics, Tags


@dataclass
class MemoryStore:
    """Takes every message, unless ``before`` raises."""

    before: Callable[[Message], object] = lambda message: None
    uri: str = "memory"
    run_id: str | None = "run-1"
    messages: list[Message] = field(default_factory=list)
    asked_for: list[str | None] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        """The last round there."""
        return max(self.steps, default=-1)

    @property
    def steps(self) -> list[int]:
        """The rounds, as logged."""
        return [
            message.step for message in self.messages if isinstance(message, Metrics) and "train/loss" in message.values
        ]

    @property
    def endings(self) -> list[str]:
        """How the run was closed, each time."""
        return [message.status for message in self.messages if isinstance(message, Finish)]

    @property
    def tags(self) -> dict[str, str]:
        """What was set after the run began."""
        return {
            key: value
            for message in self.messages
            if isinstance(message, Tags)
            for key, value in message.values.items()
        }

    @property
    def artifacts(self) -> list[str]:
        """Paths of what was handed over."""
        return [message.path for message in self.messages if isinstance(message, Artifact)]

    def connect(self) -> None:
        """Nothing to do."""

    def send(self, message: Message) -> None:
        """Keeps it."""
        self.before(message)
        self.messages.append(message)

    def refused(self, error: Exception) -> bool:
        """A failure is the store's, never the message's."""
        return False


def mlflow_run(uri: str, run_id: str) -> Any:
    """The run as MLflow has it."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri).get_run(run_id)


def mlflow_steps(uri: str, run_id: str, key: str = "train/loss") -> list[int]:
    """The rounds that MLflow has, as often as it has them."""
    from mlflow import MlflowClient

    return [metric.step for metric in MlflowClient(tracking_uri=uri).get_metric_history(run_id, key)]
