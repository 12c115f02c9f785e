"""A finished run, read back: its settings, its result, its rounds and its model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedmm.config import ExperimentConfig
from fedmm.config.load import load_config
from fedmm.runs.folder import CONFIG_FILE, RESULT_FILE
from fedmm.runs.own_parts import require_parts_of
from fedmm.runs.result import TrainResult, read_result
from fedmm.runs.trained import TrainedModel as TrainedModel
from fedmm.runs.trained import with_runtime as with_runtime
from fedmm.utils.files import read_rounds


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, read back from its folder.

    >>> import fedmm.testing
    >>> run = fedmm.testing.tiny_run()
    >>> run.config.federation.rounds, run.result.status, len(run.rounds)
    (2, 'finished', 2)
    """

    folder: Path
    config: ExperimentConfig
    result: TrainResult
    data: Path | None = None  # where its file of interactions is now; None: where it was

    @classmethod
    def load(cls, folder: Path | str, *, data: Path | str | None = None) -> Run:
        """The run in ``folder``; ``data`` says where its file of interactions is now, if it has moved.

        Raises DataError where it holds no finished run, ConfigError where it used a part that is not registered.

        >>> import fedmm, fedmm.testing
        >>> fedmm.Run.load(fedmm.testing.tiny_run().folder).result.seed
        0
        """
        folder = Path(folder)
        require_parts_of(folder, CONFIG_FILE)
        result = read_result(folder / RESULT_FILE)
        return cls(folder, load_config([folder / CONFIG_FILE]), result, None if data is None else Path(data))

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """What was known after each round: the learning curve.

        >>> import fedmm.testing
        >>> [entry["round"] for entry in fedmm.testing.tiny_run().rounds]
        [1, 2]
        """
        return list(read_rounds(self.folder))

    @cached_property
    def model(self) -> TrainedModel:
        """The best round's model; data and parameters load when it is first asked for.

        >>> import fedmm.testing
        >>> fedmm.testing.tiny_run().model.round == fedmm.testing.tiny_run().result.best_round
        True
        """
        return TrainedModel.load(self.folder, data=self.data)
