"""A split that somebody has made: files of training, validation and test events, read as one table in three parts.

What such files say is believed only as far as it can be asked honestly: an event that two of them hold, and a question
that comes before what its user trains on, are refused; whatever cannot be asked is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedmm.config import DataConfig
from fedmm.data.preparation import NUM_PARTS, RawInteractions
from fedmm.data.readers import read_interactions
from fedmm.data.readers.folders import join
from fedmm.data.types import BoolArray, IntArray
from fedmm.errors import DataError

PARTS = ("training", "validation", "test")
TRAINING = ("train", "training")
NAMES = {"validation": ("valid", "validation", "val", "dev"), "test": ("test", "testing")}
ALIKE = "One file and --split leave_one_out or temporal splits them anew."


@dataclass(frozen=True)
class SplitFiles:
    """Where the parts are; without a validation file each user's last training event is asked about."""

    training: Path
    validation: Path | None
    test: Path

    @property
    def all(self) -> list[Path]:
        """The files that are there, in the order of time."""
        return [path for path in (self.training, self.validation, self.test) if path is not None]


def split_files(config: DataConfig) -> SplitFiles:
    """The files of ``config``; those that it does not name are looked for beside the training file or in its folder:
    ``x.valid.csv`` and ``x.test.csv`` beside ``x.train.csv``, ``valid.csv`` and ``test.csv`` beside ``train.csv``.

    Raises DataError where there is no test file.
    """
    assert config.path is not None
    given = config.path.expanduser()
    training = given
    if given.is_dir() and config.test is None:
        found = [entry for entry in sorted(given.iterdir()) if _is_training(entry)]
        if len(found) != 1:
            raise DataError(
                f"{given} holds {len(found)} files called train, so no split that is made.",
                "Give the files: --data TRAIN --validation FILE --test FILE.",
            )
        training = found[0]
    beside = {part: _given(getattr(config, part)) or _beside(training, names) for part, names in NAMES.items()}
    test = beside["test"]
    if test is None:
        raise DataError(
            f"There is no file of test events beside {training}.",
            "Give it: --test FILE (and --validation FILE).",
        )
    return SplitFiles(training, beside["validation"], test)


def siblings_of(path: Path) -> list[Path]:
    """The files beside a training file that seem to be the other parts of its split."""
    if not _is_training(path):
        return []
    found = [_beside(path, names) for names in NAMES.values()]
    return [one for one in found if one is not None] if found[-1] is not None else []


def read_premade(config: DataConfig) -> RawInteractions:
    """The rows of all files, with the part of each. Raises DataError as ``read_interactions`` does, and where the parts
    contradict each other."""
    files = split_files(config)
    raws = [read_interactions(path, config) for path in files.all]
    raws = [raws[0], *(raw if raw.from_lists is None else raw.take(~raw.from_lists) for raw in raws[1:])]
    for column, lacking in (("timestamps", [raw.timestamps is None for raw in raws]),):
        if any(lacking) and not all(lacking):
            have, lack = files.all[lacking.index(False)], files.all[lacking.index(True)]
            raise DataError(
                f"{have} has {column} and {lack} has none.", "Name the column: --set data.timestamp_column=NAME."
            )
    places = [0, 1, 2] if files.validation is not None else [0, 2]
    parts = np.repeat(np.array(places, np.int64), [len(raw) for raw in raws])
    raw = replace(join(raws, str(files.training)), parts=parts)
    _refuse_shared(raw, files, config)
    _refuse_earlier(raw, files)
    notes = [note for own in raws for note in own.notes]
    if files.validation is None:
        parts, lone = _last_to_validation(raw)
        raw = replace(raw, parts=parts)
        notes.append("no validation file: each user's last training event is asked on validation and not trained on")
        if lone:
            notes.append(f"{lone} users with one training event are not asked on validation")
    return replace(raw, notes=tuple(notes))


def _given(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser()


def _words(path: Path) -> list[str]:
    """``mini.train.inter`` as mini, train, inter."""
    return path.name.lower().split(".")


def _is_training(path: Path) -> bool:
    return any(word in TRAINING for word in _words(path)[:-1])


def _beside(training: Path, names: Sequence[str]) -> Path | None:
    """The file beside ``training`` with one of ``names`` where its name says that it is of training."""
    words = training.name.split(".")
    for place, word in enumerate(words[:-1]):
        if word.lower() not in TRAINING:
            continue
        for name in names:
            found = training.with_name(".".join([*words[:place], name, *words[place + 1 :]]))
            if found.exists():
                return found
    return None


def _refuse_shared(raw: RawInteractions, files: SplitFiles, config: DataConfig) -> None:
    """Raises DataError where an event stands in two files: what is asked would be known."""
    if raw.timestamps is None and config.repeats == "keep":
        return  # the same user and item may be another event
    assert raw.parts is not None
    events = raw.users * np.int64(len(raw.item_ids)) + raw.items
    if raw.timestamps is not None:
        _, moments = np.unique(raw.timestamps, return_inverse=True)
        _, pairs = np.unique(events, return_inverse=True)
        events = pairs * np.int64(moments.max(initial=0) + 1) + moments
    own = [events[raw.parts == part] for part in range(NUM_PARTS)]
    paths = [files.training, files.validation, files.test]
    for late in (1, 2):
        for early in range(late):
            shared = int(np.isin(own[late], own[early]).sum())
            if shared:
                raise DataError(
                    f"{shared} of {len(own[late])} {PARTS[late]} events in {paths[late]} stand in {paths[early]} as "
                    f"well, the {PARTS[early]} events: what is asked would be known.",
                    f"Leave them in one of the files. {ALIKE}"
                    + ("" if raw.timestamps is not None else " Where events come again: --set data.repeats=keep."),
                )


def _refuse_earlier(raw: RawInteractions, files: SplitFiles) -> None:
    """Raises DataError where a user is asked about an event before one that the file before holds: its history would
    hold what came later."""
    if raw.timestamps is None:
        return
    assert raw.parts is not None
    last = np.full(len(raw.user_ids), -np.inf)
    paths = [files.training, files.validation, files.test]
    for part in range(NUM_PARTS):
        rows = raw.parts == part
        users, times = raw.users[rows], raw.timestamps[rows]
        early = times < last[users]
        if early.any():
            number, name = len(np.unique(users[early])), str(raw.user_ids[users[early.argmax()]])
            raise DataError(
                f"{number} of {len(np.unique(users))} users have events in {paths[part]} that lie before some of the "
                f"files before it, such as user {name!r}: histories would hold what came after the question.",
                f"Split each user's events by time. {ALIKE}",
            )
        np.maximum.at(last, users, times)


def _last_to_validation(raw: RawInteractions) -> tuple[IntArray, int]:
    """The parts with each user's last training event, where there are two, in validation; how many have one alone."""
    assert raw.parts is not None
    rows = np.flatnonzero(raw.parts == 0)
    times = rows.astype(np.float64) if raw.timestamps is None else raw.timestamps[rows]
    order = rows[np.lexsort((rows, times, raw.users[rows]))]
    owner = raw.users[order]
    last: BoolArray = np.concatenate([owner[1:] != owner[:-1], np.ones(min(1, len(owner)), np.bool_)])
    first = np.concatenate([np.ones(min(1, len(owner)), np.bool_), owner[1:] != owner[:-1]])
    parts = raw.parts.copy()
    parts[order[last & ~first]] = 1
    return parts, int((last & first).sum())
