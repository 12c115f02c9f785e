"""The model that is served, and the newer one that takes its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fedmm.errors import CheckpointError, FedmmError
from fedmm.recommendation.choosing import Choice, Chooser
from fedmm.runs.checkpoint import BEST, FOLDER, META_FILE
from fedmm.runs.folder import RESULT_FILE
from fedmm.runs.trained import TrainedModel, with_runtime

Say = Callable[[str], None]
Stamp = tuple[str, int]  # of which folder, and when its model was written


@dataclass(frozen=True, eq=False)
class Served:
    """One loaded model. It never changes: requests that began with it end with it."""

    model: TrainedModel
    chooser: Chooser
    folder: Path
    stamp: Stamp
    since: float = field(default_factory=time.time)  # seconds since 1970

    @classmethod
    def load(cls, path: Path) -> Served:
        """The model that ``path`` stands for now. Raises what ``TrainedModel.load`` raises."""
        folder = newest(path)
        stamp = stamp_of(folder)
        # The full protocol draws no negatives, which would take a while and are not asked for here.
        model = TrainedModel.load(folder, change=with_runtime(protocols=("full",)))
        served = cls(model, Chooser(model.experiment, model.snapshot, fold_from=0), folder, stamp)
        served.warm_up()
        return served

    def warm_up(self) -> None:
        """Answers once, so that the first one who asks does not wait longer than others."""
        asked = self.chooser.asked([self.model.item_ids[0]], None, None, None, None)
        list(self.chooser.each(asked, Choice(1, keep_seen=True), None))

    @property
    def name(self) -> str:
        """The folder's own name, without where it lies."""
        return self.folder.resolve().name


class Current:
    """Holds the model that is served; ``renew`` exchanges it where a newer one is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.served = Served.load(path)
        self._refused: Stamp | None = None  # newer, but not to be read: not tried again until it changes

    def renew(self, say: Say) -> bool:
        """Whether there was a newer model that is served from now on. One that cannot be read is said once, and the
        one before goes on."""
        try:
            stamp = stamp_of(newest(self.path))
            if stamp in (self.served.stamp, self._refused):
                return False
            self._refused = stamp
            self.served = Served.load(self.path)
        except FedmmError as error:
            say(f"The model in {self.path} cannot be read, the one before is served: {error}")
            return False
        except OSError:
            return False  # it is being written
        say(f"{self.served.name}, round {self.served.model.round}, is served from now on.")
        return True


def newest(path: Path) -> Path:
    """``path`` itself where it is a run or a checkpoint; of a folder of runs, the run that finished last.

    Raises CheckpointError where there is none.
    """
    if (path / FOLDER).exists() or (path / META_FILE).exists() or (path / BEST).exists():
        return path
    finished = [found.parent for found in path.glob(f"*/{RESULT_FILE}") if (found.parent / FOLDER).exists()]
    if not finished:
        raise CheckpointError(f"{path} is no run and holds none.", "Give the folder of a run, or of several.")
    return max(finished, key=lambda run: ((run / RESULT_FILE).stat().st_mtime_ns, run.name))


def stamp_of(folder: Path) -> Stamp:
    """Which model a run folder or checkpoint holds now."""
    written = [folder / FOLDER / BEST / META_FILE, folder / BEST / META_FILE, folder / META_FILE]
    found = next((path for path in written if path.exists()), folder)
    return str(folder.resolve()), found.stat().st_mtime_ns
