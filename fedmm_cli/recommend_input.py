"""What ``fedmm recommend`` is asked: whose lists, read from flags and files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedmm.config.names import missing_file_hint
from fedmm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fedmm.runs.trained import TrainedModel

WAYS = ("model", "text", "image")  # of comparing items


@dataclass(frozen=True)
class Whom:
    """Users of the data, all of them, histories of somebody new, or items that others are compared with."""

    users: list[str]
    rows: list[list[str]] | None
    similar: list[str]
    everyone: bool
    numbered: bool  # histories of a file are called by their number

    @classmethod
    def read(
        cls, user: list[str], users: Path | None, history: str | None, histories: Path | None, similar: list[str],
        *, everyone: bool,
    ) -> Whom:  # fmt: skip
        """Reads the files. Raises ConfigError unless exactly one way is taken, DataError for a file without entries."""
        ways = [bool(user) or users is not None, everyone, history is not None, histories is not None, bool(similar)]
        if sum(ways) != 1:
            raise ConfigError(
                "It is not said for whom, or in more than one way.",
                "Give --user or --users, --all, --history, --histories, or --similar.",
            )
        rows = None if history is None else [_split(history)]
        if rows == [[]]:
            raise DataError(f"--history {history!r} names no item.", "Give ids: --history ID,ID,...")
        for path in (users, histories):
            if path is not None and not lines_of(path):
                raise DataError(f"{path} is empty.", "Give one entry a line.")
        if histories is not None:
            rows = [_split(line) for line in lines_of(histories)]
        return cls([*user, *lines_of(users)], rows, similar, everyone, histories is not None)

    def refuse_idle(self, of_items: Mapping[str, bool], of_lists: Mapping[str, bool]) -> None:
        """Raises ConfigError for a flag that was given and has no effect: one of comparing items where users are asked
        for, or the other way round."""
        idle, other = (of_lists, "without --similar") if self.similar else (of_items, "with --similar")
        for flag, given in idle.items():
            if given:
                raise ConfigError(f"{flag} has an effect only {other}.", f"Leave {flag} out.")

    def names(self, model: TrainedModel) -> list[str | None]:
        """Whose each list is; None for a history of the command line."""
        if self.similar:
            return [*self.similar]
        if self.rows is not None:
            return [str(number) if self.numbered else None for number in range(1, len(self.rows) + 1)]
        if self.everyone:
            return [str(name) for name in model.experiment.dataset.interactions.user_ids]
        return [*self.users]

    @staticmethod
    def users_of(names: list[str | None]) -> list[str]:
        """The names of users, of which none is None."""
        return [name for name in names if name is not None]


def require_possible(
    top: int, min_score: float | None, diversity: float | None, by: str | None, items: Path | None
) -> None:
    """Raises ConfigError for what no list can be, DataError for new items that are not there: before anything loads."""
    if top < 1:
        raise ConfigError(f"--top cannot be {top}.", "--top takes an integer of at least 1.")
    if min_score is not None and math.isnan(min_score):
        raise ConfigError("--min-score is not a number.", "Give the least score of a list.")
    if diversity is not None and not 0 <= diversity <= 1:
        raise ConfigError(f"--diversity cannot be {diversity:g}.", "Give a number from 0 (by score alone) to 1.")
    if by is not None and by not in WAYS:
        raise ConfigError(f"--by cannot be {by!r}.", f"Take one of {', '.join(WAYS)}.")
    if items is not None and not items.exists():
        raise DataError(f"There is no file {items} of item features.", missing_file_hint(items))


def lines_of(path: Path | None) -> list[str]:
    """The lines of a file that say something. Raises DataError where it cannot be read."""
    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.", missing_file_hint(path)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path} cannot be read: {reason}.", "Give a text file with one entry a line.") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
