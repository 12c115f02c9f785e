"""What may change of a run that goes on: where it is tracked and written, and how many rounds it has, if that changes
no number."""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path

from fedmm.config import UNDIGESTED, ExperimentConfig
from fedmm.config.toml import dump_toml
from fedmm.errors import ConfigError
from fedmm.utils.files import write_atomically

ROUNDS = "federation.rounds"
STEADY = "constant"  # the one schedule of the learning rate that does not ask how many rounds there will be


def require_same_settings(stored: ExperimentConfig, given: ExperimentConfig, folder: Path, reached: int = 0) -> None:
    """Raises ConfigError where a run that has ``reached`` a round would go on under settings that change its numbers.

    More rounds than before are no change: the numbers are then those of an uninterrupted run of so many rounds. Where
    they would not be, the error says why.
    """
    old, new = stored.flat(), given.flat()
    changed = [key for key in old if old[key] != new[key] and key not in UNDIGESTED and not key.startswith("tracking.")]
    if changed == [ROUNDS] and new[ROUNDS] > old[ROUNDS]:
        _require_growth(stored, given, folder, reached)
    elif changed:
        listed = ", ".join(f"{key} {old[key]} -> {new[key]}" for key in changed)
        remedy = "Resume without them, or start a new run."
        raise ConfigError(f"{folder} was started with other settings: {listed}.", remedy)


def _require_growth(stored: ExperimentConfig, given: ExperimentConfig, folder: Path, reached: int) -> None:
    before, after = stored.federation.rounds, given.federation.rounds
    schedule, every = stored.federation.learning_rate_schedule, stored.evaluation.interval
    if stored.privacy.on and stored.privacy.rounds is None:
        raise ConfigError(
            f"{folder} cannot go on from {before} to {after} rounds: its noise was set for {before}, and its budget is "
            "spent.",
            f"Start a new run with --rounds {after}.",
        )
    if schedule != STEADY:
        raise ConfigError(
            f"{folder} cannot go on from {before} to {after} rounds: federation.learning_rate_schedule {schedule!r} "
            "gave every round a rate that depends on their number.",
            f"Start a new run with --rounds {after}.",
        )
    if reached == before and reached % every:
        raise ConfigError(
            f"{folder} cannot go on from {before} to {after} rounds: its last round was validated as the last, and "
            f"evaluation.every {every} would have passed it over.",
            f"Start a new run with --rounds {after}.",
        )


def may_grow(config: ExperimentConfig) -> bool:
    """Whether a run that has finished may go on to twice its rounds with the numbers of an uninterrupted one."""
    rounds = config.federation.rounds
    more = config.model_copy(update={"federation": config.federation.model_copy(update={"rounds": 2 * rounds})})
    try:
        _require_growth(config, more, Path("the run"), rounds)
    except ConfigError:
        return False
    return True


def keep_settings(config: ExperimentConfig, file: Path) -> bool:
    """Writes the settings into the run's ``file`` where the run has more rounds now; returns whether it has."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        if tomllib.loads(file.read_text(encoding="utf-8"))["federation"]["rounds"] == config.federation.rounds:
            return False
    write_atomically(file, dump_toml(config).encode())
    return True
